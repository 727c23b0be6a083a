"""Key servers tell each other what was proved to them, and notice when one of them has rewritten its log."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from joserfc.jwk import OKPKey

from contract.key_servers import Servers, running_servers, signed_region
from contract.test_key_servers import CNP, LOCAL, SERVERS
from support.phone import Phone
from usmed.__main__ import main
from usmed.domain.audit import ChainHead, chain_record
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.log_head import countersign, sign_head
from usmed.keyserver.exchange import PATH
from usmed.keyserver.store import CHAIN, RecordStore
from usmed.platform.storage import PLATFORM_CHAIN, _engine, _parse, migrate, open_database


def held(servers: Servers, name: str, patient: PatientIdentifier = CNP) -> list[tuple[str, int]]:
    found = RecordStore(servers.databases[name]).person([patient]).records
    return [(one.record.consent.id, one.record.consent.version) for one in found]


def rewrite(servers: Servers, name: str, *, sequence: int = 1, keep: int | None = None) -> None:
    """Give a record another content, and recompute the whole chain and its head, as who owns the database can."""
    with servers.databases[name].write() as connection:
        rows = connection.execute(sa.text("SELECT sequence, content FROM audit_record ORDER BY sequence")).all()
        head = ChainHead()
        for row in rows[:keep]:
            event = json.loads(row.content)["event"]
            if row.sequence == sequence:
                event["agent"] = "somebody-else"
            record = chain_record(event, head)
            head = ChainHead(record.sequence, record.hash)
            connection.execute(
                sa.text(
                    "UPDATE audit_record SET hash = :hash, content = :content, agent = :agent"
                    " WHERE sequence = :sequence"
                ),
                {
                    "hash": record.hash, "content": record.content.decode(), "sequence": record.sequence,
                    "agent": record.columns["agent"],
                },
            )
        connection.execute(sa.text("DELETE FROM audit_record WHERE sequence > :last"), {"last": head.count})
        connection.execute(
            sa.text("UPDATE audit_head SET count = :count, hash = :hash"), {"count": head.count, "hash": head.hash}
        )


# ---- What was proved to one is soon known to all ----


def test_a_server_that_was_cut_off_soon_knows_the_withdrawal(servers: Servers) -> None:
    given = [servers.record("consent-1", to="iasi")]
    link = [servers.enrolment(CNP, LOCAL)]
    servers.give(records=given, enrolments=link)
    withdrawal = servers.record("consent-1", version=2, to="iasi", status="inactive")
    servers.give("keys-1", records=[withdrawal])
    ticket = servers.propose("iasi", given).to_json()
    assert servers.ask("iasi", "keys-3", ticket, given)[0] == 200
    assert servers.ask("keys-3", "keys-1")
    status, answer = servers.ask("iasi", "keys-3", ticket, given)
    assert (status, answer["error"]) == (403, "no-consent")
    assert held(servers, "keys-3") == [("consent-1", 2)]
    events = servers.audits["keys-3"].tail()
    assert [(one["agent"], one["detail"]["what"]) for one in events if one["event"] == "consent"] == [
        ("iasi", "recorded"),
        ("keys-1", "withdrawn"),
    ]


def test_a_new_server_learns_everything_in_pages_and_what_is_read_is_not_read_again(servers: Servers) -> None:
    patients = [PatientIdentifier("BACAU", str(number)) for number in range(130)]
    given = [servers.record(f"consent-{one.value}", one, by="bacau") for one in patients]
    link = [servers.enrolment(CNP, LOCAL)]
    for start in (0, 65):
        servers.give("keys-1", records=given[start : start + 65], enrolments=link)
    # What an amendment has replaced need not travel.
    longer = {"period": {"start": "2026-11-01", "end": "2027-07-01"}}
    servers.give("keys-1", records=[servers.record("consent-3", patients[3], 2, by="bacau", provision=longer)])
    assert servers.ask("keys-2", "keys-1")
    assert [held(servers, "keys-2", one) for one in patients] == [
        [(f"consent-{one.value}", 2 if one.value == "3" else 1)] for one in patients
    ]
    assert len(RecordStore(servers.databases["keys-2"]).person([CNP]).enrolments) == 1
    answers = [answer for sender, *_, answer in servers.sent if sender == "keys-2"]
    assert [len(one["records"]) for one in answers] == [98, 32]
    # Also after a start.
    servers.rewire("keys-2")
    servers.give("keys-1", records=[servers.record("consent-new", CNP)])
    before = len(servers.sent)
    assert servers.ask("keys-2", "keys-1")
    ((_, _, question, answer),) = servers.sent[before:]
    assert question["since"] == 132
    assert (len(answer["records"]), answer["position"], answer["more"]) == (1, 133, False)


def test_a_revocation_travels_and_what_was_signed_before_travels_with_it(servers: Servers) -> None:
    lost = Phone(b"lost")
    enrolled = servers.enrolment(CNP, credentials=[lost.credential])
    servers.give("keys-1", "keys-2", enrolments=[enrolled])
    servers.give("keys-1", records=[servers.signed(lost, "consent-1", to="iasi")])
    servers.give("keys-1", enrolments=[servers.enrolment(CNP, revoked=[lost.id])])
    after = servers.signed(lost, "consent-2", to="iasi")
    assert "was revoked" in servers.give("keys-1", records=[after])[0]
    servers.round()
    for server in SERVERS:
        assert held(servers, server) == [("consent-1", 1)]
        assert "was revoked" in servers.give(server, records=[after], enrolments=[enrolled])[0]
        assert "was revoked" in servers.give(server, records=[servers.signed(lost, "consent-1", 2, to="bacau")])[0]


def test_pages_are_bounded_in_bytes(servers: Servers) -> None:
    store = RecordStore(servers.databases["keys-1"])
    servers.give("keys-1", records=[servers.record(f"consent-{number}") for number in range(5)])
    pages = []
    position, more = 0, True
    while more:
        page = store.arrived_after(position, limit=100, limit_bytes=2500)
        pages.append(len(page.records))
        position, more = page.position, page.more
    assert sum(pages) == 5
    assert len(pages) > 1
    assert len(store.arrived_after(0, limit=100, limit_bytes=1).records) == 1
    # Who has read more than there is learns it.
    assert store.arrived_after(99, limit=100, limit_bytes=1000).position == 5


def test_nobodys_word_is_believed(servers: Servers) -> None:
    given = [servers.record("consent-1", to="iasi")]
    servers.give("keys-1", records=given)
    forged = servers.record("consent-2", to="iasi", by="keys-1")
    altered = servers.record("consent-3", to="iasi")
    altered["document"]["version"] = 2
    mine = servers.enrolment(CNP, LOCAL, by="keys-1")

    def lie(answer: Any) -> Any:
        return {**answer, "records": [forged, altered, None, *answer["records"]], "enrolments": [mine, 7]}

    servers.liars["keys-1"] = lie
    assert servers.ask("keys-2", "keys-1")
    assert held(servers, "keys-2") == [("consent-1", 1)]
    assert RecordStore(servers.databases["keys-2"]).person([CNP]).enrolments == []


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: None,
        lambda answer: [],
        lambda answer: {**answer, "more": 1},
        lambda answer: {**answer, "position": -1},
        lambda answer: {**answer, "extra": 1},
        lambda answer: {**answer, "records": [{} for _ in range(101)]},
        lambda answer: {**answer, "head": {}},
        lambda answer: {**answer, "head": {"payload": "e30", "signatures": answer["head"]["signatures"]}},
    ],
)
def test_a_peer_that_answers_nonsense_harms_nobody(on_sqlite: Servers, lie: Callable[[Any], Any]) -> None:
    servers = on_sqlite
    servers.give("keys-1", "keys-3", records=[servers.record("consent-1", to="iasi")])
    servers.liars["keys-1"] = lie
    assert not servers.ask("keys-2", "keys-1")
    assert servers.wired["keys-2"].exchange.states()["keys-1"].failures == 1
    assert held(servers, "keys-2") == []
    assert servers.ask("keys-2", "keys-3")
    assert held(servers, "keys-2") == [("consent-1", 1)]
    del servers.liars["keys-1"]
    assert servers.ask("keys-2", "keys-1")
    assert servers.wired["keys-2"].exchange.states()["keys-1"].failures == 0


def test_a_peer_that_says_there_is_more_for_ever_is_left(servers: Servers) -> None:
    servers.liars["keys-1"] = lambda answer: {**answer, "more": True}
    assert servers.ask("keys-2", "keys-1")
    assert len(servers.sent) == 1


def test_only_key_servers_are_served_here_and_only_hospitals_elsewhere(servers: Servers) -> None:
    question = {"since": 0, "seen": None}
    assert servers.send("keys-2", "keys-1", PATH, question).status_code == 200
    for stranger in ("iasi", "hub"):
        assert servers.send(stranger, "keys-1", PATH, question).status_code == 403
    for path, body in (
        ("/v1/records", {"records": [], "enrolments": []}),
        ("/v1/records/for", {"identifiers": [{"issuer": "BACAU", "value": "1"}]}),
        ("/v1/tickets", {"wish": {}, "records": [], "enrolments": []}),
    ):
        assert servers.send("keys-2", "keys-1", path, body).status_code == 403, path
    own = servers.send("keys-2", "keys-1", PATH, question).json["head"]
    for body in (
        {}, {"since": 0}, {**question, "since": -1}, {**question, "since": True}, {**question, "since": "0"},
        {**question, "since": 2**53 - 1, "more": 1}, {**question, "seen": []}, {**question, "seen": {}},
        {**question, "seen": own}, {**question, "seen": {**own, "signatures": own["signatures"] * 2}},
    ):  # fmt: skip
        assert servers.send("keys-2", "keys-1", PATH, body).status_code == 400, body
    assert servers.heads("keys-1").countersigned() == []


def test_who_was_unreachable_is_told_and_asked_again(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    servers.down = {"keys-1"}
    assert [servers.ask("keys-2", "keys-1") for _ in range(3)] == [False] * 3
    state = servers.wired["keys-2"].exchange.states()["keys-1"]
    assert (state.failures, state.succeeded, state.reason) == (3, None, "keys-1 was not reached")
    servers.down = set()
    assert servers.ask("keys-2", "keys-1")
    assert servers.wired["keys-2"].exchange.states()["keys-1"].succeeded == servers.clock()
    assert [one.message for one in caplog.records if one.name.endswith("exchange")] == [
        "exchange with keys-1 failed: keys-1 was not reached",
        "exchange with keys-1 goes on",
    ]


def test_what_could_not_be_taken_is_asked_for_again(new_database_url: Callable[[], str]) -> None:
    """A new hospital's record comes before the manifest that names it; and what came with a wrong clock."""
    with running_servers(new_database_url, without=frozenset({"bacau"})) as servers:
        key = OKPKey.generate_key("Ed25519", private=True)
        old = servers.manifest
        servers.change_region(with_={"bacau": key})
        servers.give("keys-1", records=[servers.record("consent-1", LOCAL, by="bacau")])
        new, servers.manifest = servers.manifest, old
        assert servers.ask("keys-2", "keys-1")
        assert held(servers, "keys-2", LOCAL) == []
        servers.manifest = new
        assert servers.ask("keys-2", "keys-1")
        assert held(servers, "keys-2", LOCAL) == [("consent-1", 1)]
        before = len(servers.sent)
        servers.ask("keys-2", "keys-1")
        servers.clock.advance(timedelta(days=1).total_seconds())
        servers.ask("keys-2", "keys-1")
        servers.ask("keys-2", "keys-1")
        assert [one[2]["since"] for one in servers.sent[before:]] == [1, 0, 1]


def test_a_peer_restored_from_a_backup_is_read_anew(servers: Servers) -> None:
    servers.give("keys-1", records=[servers.record(f"consent-{number}", to="iasi") for number in (1, 2, 3)])
    servers.ask("keys-2", "keys-1")
    with servers.databases["keys-1"].write() as connection:
        for table, column in (("consent_record", "id"), ("consent_patient", "id"), ("arrival", "record_id")):
            connection.execute(sa.text(f"DELETE FROM {table} WHERE {column} <> 'consent-1'"))
    # In the place of one that was read already.
    servers.give("keys-1", records=[servers.record("consent-4", to="iasi")])
    for _ in range(2):
        servers.ask("keys-2", "keys-1")
    assert [id for id, _ in held(servers, "keys-2")] == ["consent-1", "consent-2", "consent-3", "consent-4"]


def test_a_peer_whose_log_is_another_one_is_read_anew(servers: Servers) -> None:
    """An older copy that has caught up has other records in places that were read."""
    grown(servers)
    rewrite(servers, "keys-1")
    with servers.databases["keys-1"].write() as connection:
        for table, column in (("consent_record", "id"), ("consent_patient", "id"), ("arrival", "record_id")):
            connection.execute(sa.text(f"DELETE FROM {table} WHERE {column} <> 'consent-0'"))
    servers.give("keys-1", records=[servers.record(f"consent-{number}") for number in (5, 6)])
    for _ in range(2):
        servers.ask("keys-2", "keys-1")
    assert {"consent-5", "consent-6"} <= {id for id, _ in held(servers, "keys-2")}


def test_a_peer_that_fails_half_way_is_read_on_from_there(servers: Servers) -> None:
    patients = [PatientIdentifier("BACAU", str(number)) for number in range(101)]
    given = [servers.record(f"consent-{one.value}", one, by="bacau") for one in patients]
    servers.give("keys-1", records=given[:100])
    servers.give("keys-1", records=given[100:])

    def fail(answer: Any) -> Any:
        return answer if answer["position"] == 100 else None

    servers.liars["keys-1"] = fail
    assert not servers.ask("keys-2", "keys-1")
    servers.liars.clear()
    before = len(servers.sent)
    assert servers.ask("keys-2", "keys-1")
    assert [question["since"] for _, _, question, _ in servers.sent[before:]] == [100]


def test_what_was_there_before_has_its_place(new_database_url: Callable[[], str]) -> None:
    """A key server of the version before keeps what it has, and hands it out."""
    with running_servers(new_database_url) as servers:
        servers.give("keys-1", records=[servers.record("consent-1")], enrolments=[servers.enrolment(CNP, LOCAL)])
        store = RecordStore(servers.databases["keys-1"])
        (record,), (enrolment,) = store.person([CNP]).records, store.person([CNP]).enrolments
        with servers.databases["keys-1"].read() as connection:
            rows = {
                table: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()]
                for table in ("enrolment", "enrolment_patient", "consent_record", "consent_patient")
            }
    # Once, what an enrolment says was there a second time.
    rows["enrolment"][0]["content"] = "{}"
    url = new_database_url()
    engine = _engine(_parse(url))
    with engine.begin() as connection:
        migrate(connection, [PLATFORM_CHAIN])
        migrate(connection, [CHAIN], "r0001")
        for table, found in rows.items():
            connection.execute(sa.table(table, *map(sa.column, found[0])).insert(), found)
    engine.dispose()
    database = open_database(url, [CHAIN])
    page = RecordStore(database).arrived_after(0, limit=100, limit_bytes=1 << 20)
    assert RecordStore(database).person([LOCAL]).enrolments == [enrolment]
    database.close()
    assert page.records == [record.document]
    assert page.enrolments == [enrolment.document]
    assert (page.position, page.more) == (2, False)


# ---- A rewritten past shows ----


@pytest.fixture
def verify(servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return `usmed audit verify` of a server's database: exit code, and what it says."""
    file = tmp_path / "region.yaml"
    file.write_bytes(signed_region(servers.keys))

    def run(name: str, *options: str) -> tuple[int, str]:
        arguments = ["audit", "verify", "--database", servers.urls[name], *(options or ("--region", str(file)))]
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def grown(servers: Servers) -> None:
    """Let every log grow, and every server see the others'."""
    for number in range(3):
        servers.give(records=[servers.record(f"consent-{number}")])
        servers.round()
        servers.clock.advance(1800)
    servers.round()


def test_heads_are_countersigned_and_verified(servers: Servers, verify: Callable[..., tuple[int, str]]) -> None:
    grown(servers)
    code, said = verify("keys-1")
    assert code == 0
    assert "unbroken" in said
    assert "keys-2 countersigned 2 head(s) that are in this log, the last one record 3 on 2026-11-21 11:00" in said
    assert "keys-3 countersigned 2 head(s)" in said
    assert "no head" not in said
    code, said = verify("keys-1", "--database", servers.urls["keys-1"])
    assert (code, "with --region FILE" in said) == (0, True)
    for name in SERVERS:
        assert servers.health(name) == {"status": "ok", "version": "0.1.0", "reasons": []}
    # An exchange that brings nothing adds nothing: otherwise two idle servers would write for ever.
    count = servers.audits["keys-1"].head().count
    servers.round()
    assert servers.audits["keys-1"].head().count == count


def test_a_rewritten_log_is_noticed_by_verify_and_by_the_others(
    servers: Servers, verify: Callable[..., tuple[int, str]]
) -> None:
    grown(servers)
    rewrite(servers, "keys-1", sequence=2)
    assert servers.audits["keys-1"].verify().unbroken
    code, said = verify("keys-1")
    assert code == 1
    assert "this is not the log that others saw" in said
    for witness in ("keys-2", "keys-3"):
        assert f"{witness} countersigned record 3 as the last one on 2026-11-21 11:00" in said
        assert "that record has another hash now: the log was rewritten or cut off since then" in said
        assert f"up to record 1 (2026-11-21 10:00:00 UTC) it is as {witness} saw it" in said

    # The others, though it goes on as if nothing were; records still flow.
    withdrawal = servers.record("consent-1", version=2, status="inactive")
    servers.give("keys-1", records=[withdrawal])
    assert servers.ask("keys-2", "keys-1")
    assert ("consent-1", 2) in held(servers, "keys-2")
    health = servers.health("keys-2")
    assert health["status"] == "degraded"
    assert "keys-2 saw the log of keys-1 end with record 3" in health["reasons"][0]
    (alarm,) = [one for one in servers.audits["keys-2"].tail() if one["event"] == "alarm"]
    assert (alarm["peer"], alarm["outcome"]) == ("keys-1", "failure")
    # Who runs keys-1 in good faith learns it too.
    assert servers.health("keys-1")["status"] == "degraded"
    assert servers.health("keys-3")["status"] == "ok"
    # Once, however often it is asked; and what was seen before is not forgotten.
    for _ in range(3):
        servers.clock.advance(3600)
        servers.round()
    assert [len(servers.heads(name).alarms()) for name in SERVERS] == [1, 1, 1]
    assert servers.heads("keys-2").last_seen("keys-1")[0].sequence == 3  # type: ignore[index]


def test_an_alarm_lasts_until_it_is_acknowledged(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(servers)
    rewrite(servers, "keys-1")
    servers.round()
    servers.rewire("keys-2")
    assert servers.health("keys-2")["status"] == "degraded"
    monkeypatch.setenv("USMED_DATABASE_URL", servers.urls["keys-2"])
    assert main(["keyserver", "alarms"]) == 0
    assert "1 alarm(s)" in capsys.readouterr().out
    assert main(["keyserver", "acknowledge", "9", "--by", "A. Doi", "--why", "x"]) == 1
    command = ["keyserver", "acknowledge", "1", "--by", "A. Doi", "--why", "restored from a backup, see minutes 12"]
    assert main(command) == 0
    assert main(command) == 1
    assert "acknowledged before" in capsys.readouterr().err
    assert main(["keyserver", "alarms"]) == 0
    assert main(["keyserver", "alarms", "--all"]) == 0
    said = capsys.readouterr().out
    assert "0 alarm(s)" in said
    assert "acknowledged by A. Doi: restored" in said
    assert servers.health("keys-2")["status"] == "ok"
    last = servers.audits["keys-2"].tail(1)[0]
    assert (last["agent"], last["peer"], last["detail"]["what"]) == ("A. Doi", "keys-1", "acknowledged")
    # keys-1 has acknowledged its own alarm, though others have not: the same is not told again.
    servers.heads("keys-1").acknowledge(1, by="A. Unu", why="see above", now=servers.clock())
    servers.ask("keys-3", "keys-1")
    servers.ask("keys-2", "keys-1")
    assert servers.health("keys-1")["status"] == "ok"
    # It is believed anew, and the next time is another alarm.
    servers.round()
    assert servers.health("keys-2")["status"] == "ok"
    rewrite(servers, "keys-1", sequence=2)
    servers.ask("keys-2", "keys-1")
    assert servers.health("keys-2")["status"] == "degraded"


def test_a_log_that_was_cut_off_is_noticed(servers: Servers, verify: Callable[..., tuple[int, str]]) -> None:
    grown(servers)
    rewrite(servers, "keys-1", sequence=0, keep=2)
    code, said = verify("keys-1")
    assert code == 1
    assert "the log has no such record any more" in said
    assert "up to record 1 (2026-11-21 10:00:00 UTC) it is as keys-2 saw it" in said
    servers.ask("keys-2", "keys-1")
    assert "has no such record any more" in servers.health("keys-2")["reasons"][0]


def test_who_remembers_the_old_hash_cannot_hide_a_shorter_log(servers: Servers) -> None:
    grown(servers)
    seen, _ = servers.heads("keys-2").last_seen("keys-1")  # type: ignore[misc]

    def lie(answer: Any) -> Any:
        shorter = replace(seen, sequence=2, hash="ab" * 32)
        return {**answer, "then": seen.hash, "head": sign_head(servers.keys["keys-1"], shorter)}

    servers.liars["keys-1"] = lie
    servers.ask("keys-2", "keys-1")
    assert "had 3 record(s) and has 2 now" in servers.health("keys-2")["reasons"][0]


def test_a_countersignature_that_was_altered_or_is_by_another_key_does_not_count(
    servers: Servers, verify: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    grown(servers)
    other = {**servers.keys, "keys-2": OKPKey.generate_key("Ed25519", private=True)}
    changed = tmp_path / "changed.yaml"
    changed.write_bytes(signed_region(other, 2))
    code, said = verify("keys-1", "--region", str(changed))
    assert code == 1
    assert "a countersigned head does not count: the signature of 'keys-2' does not verify" in said
    # With the manifest of before beside it, it does.
    assert verify("keys-1", "--region", str(changed), "--region", str(tmp_path / "region.yaml"))[0] == 0
    with servers.databases["keys-1"].write() as connection:
        connection.execute(sa.text("UPDATE log_head_countersigned SET signed = '{}' WHERE witness = 'keys-3'"))
    code, said = verify("keys-1")
    assert code == 1
    assert "a signed document has exactly the members payload and signatures" in said


def test_a_witness_cannot_countersign_a_head_that_was_never_there(servers: Servers) -> None:
    """Otherwise one key server could make another's log look rewritten: its own signature is needed as well."""
    grown(servers)
    head, _ = servers.heads("keys-2").last_seen("keys-1")  # type: ignore[misc]
    invented = replace(head, hash="cd" * 32)
    forged = sign_head(servers.keys["keys-2"], invented)
    element = countersign(servers.keys["keys-2"], witness="keys-2", head=invented)
    seen = {"payload": forged["payload"], "signatures": [*forged["signatures"], element]}
    assert servers.send("keys-2", "keys-1", PATH, {"since": 0, "seen": seen}).status_code == 400
    assert servers.health("keys-1")["status"] == "ok"
    with pytest.raises(PeerDataError):
        servers.heads("keys-1").acknowledge(1, by="x", why="x", now=servers.clock())
