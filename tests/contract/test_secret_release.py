"""Secrets that administrators release: k of them, the same operation, one secret, one hospital, for a while."""

import re
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from contract.key_server_process import Server, install, now
from contract.key_servers import SERVERS, Servers
from contract.test_approvals import approvals, proposed
from contract.test_console import Administrator
from contract.test_secret_shares import client
from usmed.domain.approval import Change, Kind, Operation, State, approved_document, short_digest
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.quorum import assemble, sign
from usmed.domain.secret_sharing import Release, SharesMissingError
from usmed.platform.approval_client import Standing
from usmed.platform.sealing import new_receiver
from usmed.platform.secret_client import SecretClient
from usmed.platform.signed_http import Identity

ID, REASON = "iasi/archive", "Restaurarea arhivei după incendiu, proces-verbal 12"
FOR_BACAU = {"secret": ID, "node": "bacau", "reason": REASON}


@pytest.fixture
def secret() -> bytes:
    return secrets.token_bytes(32)


def put(servers: Servers, secret: bytes, name: str = "archive", nodes: tuple[str, ...] = ("bacau", "iasi")) -> None:
    client(servers, "iasi").put(name, secret, nodes=nodes, release=Release.APPROVAL)


def decide(servers: Servers, operation: Operation, *names: str, change: Change = Change.APPROVE) -> None:
    for name in names:
        approvals(servers, name).decide(operation.digest, change, by="test")


def approved(servers: Servers, hospital: str, *names: str, id: str = ID) -> Standing:
    """Propose a release, approve it on these servers, and return how it stands."""
    operation = client(servers, hospital).propose(id, REASON).operation
    decide(servers, operation, *names)
    return client(servers, hospital).approvals.standing(operation)


def share_of(servers: Servers, hospital: str, server: str, approval: Any, id: str = ID) -> tuple[int, str]:
    """Ask one server by hand; return the status, and the error's code or how many versions came."""
    question = {"id": id, "to": new_receiver().as_dict(private=False)["x"], "approval": approval}
    answer = servers.send(hospital, server, "/v1/secrets/shares", question)
    return answer.status_code, answer.json.get("error") or str(len(answer.json["versions"]))


def recorded(servers: Servers, name: str, event: str) -> list[tuple[str, str, str]]:
    return [
        (one["agent"], one["detail"]["what"], one["outcome"])
        for one in servers.audits[name].tail(200)
        if one["event"] == event
    ]


def last(servers: Servers, name: str) -> tuple[str, str, str]:
    """Return agent, outcome and code of the last record about a share."""
    one = [one for one in servers.audits[name].tail(200) if one["event"] == "share"][-1]
    return one["agent"], one["outcome"], one.get("reason", "").partition(":")[0]


# ---- What is granted ----


def test_k_administrators_release_a_secret_and_one_fewer_do_not(servers: Servers, secret: bytes) -> None:
    put(servers, secret)
    bacau = client(servers, "bacau")
    standing = bacau.propose(ID, REASON)
    assert standing.states == dict.fromkeys(SERVERS, State.PENDING)
    assert short_digest(standing.operation.digest) in str(standing)
    decide(servers, standing.operation, "keys-1")
    standing = bacau.approvals.standing(standing.operation)
    assert not standing.is_approved
    assert not standing.is_hopeless
    with pytest.raises(RefusedError, match="1 of the 2 key servers that it needs have approved it") as refused:
        bacau.get(ID, standing)
    assert refused.value.code == "needs-approval"
    # Not even the server whose administrator agreed gives its share: it would keep until another agrees to another.
    assert share_of(servers, "bacau", "keys-1", standing.statement()) == (403, "needs-approval")
    assert last(servers, "keys-1") == ("bacau", "denied", "needs-approval")

    decide(servers, standing.operation, "keys-3")
    standing = bacau.approvals.standing(standing.operation)
    assert standing.is_approved
    assert bacau.get(ID, standing).secret == secret
    assert share_of(servers, "bacau", "keys-2", standing.statement()) == (403, "needs-approval")
    for name in ("keys-1", "keys-3"):
        assert recorded(servers, name, "approval") == [
            ("bacau", "proposed", "success"), ("test", "approved", "success"), ("bacau", "used", "success"),
        ]  # fmt: skip
        assert last(servers, name) == ("bacau", "success", "")
        record = [one for one in servers.audits[name].tail(200) if one["event"] == "share"][-1]
        assert record["detail"]["operation"] == standing.operation.digest
        assert approvals(servers, name).find(standing.operation.digest).used == 1
    assert recorded(servers, "keys-2", "approval") == [("bacau", "proposed", "success")]

    # An answer may be lost on its way: until its time is over it can be asked for again, after a start too.
    for name in SERVERS:
        servers.rewire(name)
    assert bacau.get(ID, bacau.approvals.standing(standing.operation)).secret == secret
    assert len(recorded(servers, "keys-1", "approval")) == 3
    assert all(servers.audits[name].verify().unbroken for name in SERVERS)


def test_an_owner_shares_anew_what_administrators_release(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret)
    owner = client(on_sqlite, "iasi")
    with pytest.raises(RefusedError, match="only after administrators agreed"):
        owner.share_anew(ID)
    standing = approved(on_sqlite, "iasi", "keys-1", "keys-2")
    assert owner.share_anew(ID, standing).record.version == 2
    assert owner.get(ID, standing).secret == secret


# ---- What is not ----


def test_it_is_for_one_hospital_and_one_secret(servers: Servers, secret: bytes) -> None:
    put(servers, secret)
    put(servers, secrets.token_bytes(32), "other")
    standing = approved(servers, "iasi", *SERVERS)
    statement = standing.statement()
    for hospital, id in (("bacau", ID), ("iasi", "iasi/other"), ("bacau", "iasi/other")):
        for name in SERVERS:
            assert share_of(servers, hospital, name, statement, id) == (403, "needs-approval")
            assert last(servers, name) == (hospital, "denied", "needs-approval")
        with pytest.raises(RefusedError) as refused:
            client(servers, hospital).get(id, standing)
        assert refused.value.code == "needs-approval"
    assert client(servers, "iasi").get(ID, standing).secret == secret


def test_whom_the_owner_did_not_name_no_administrator_can_give_it_to(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret, nodes=("iasi",))
    standing = approved(on_sqlite, "bacau", *SERVERS)
    with pytest.raises(RefusedError) as refused:
        client(on_sqlite, "bacau").get(ID, standing)
    assert refused.value.code == "not-permitted"
    assert last(on_sqlite, "keys-2") == ("bacau", "denied", "not-permitted")


def test_it_ends_at_its_time_and_a_clock_that_goes_back_brings_nothing_back(servers: Servers, secret: bytes) -> None:
    put(servers, secret)
    bacau = client(servers, "bacau")
    operation = bacau.propose(ID, REASON, life=timedelta(hours=1)).operation
    decide(servers, operation, *SERVERS)
    standing = bacau.approvals.standing(operation)
    servers.clock.advance(3599)
    assert bacau.get(ID, standing).secret == secret
    servers.clock.advance(1)
    for back in (0, -1800):
        servers.clock.advance(back)
        for name in SERVERS:
            assert share_of(servers, "bacau", name, standing.statement()) == (403, "needs-approval")
            assert last(servers, name) == ("bacau", "denied", "needs-approval")
    over = bacau.approvals.standing(operation)
    assert over.states == dict.fromkeys(SERVERS, State.EXPIRED)
    assert over.is_hopeless


def test_refused_stays_refused(servers: Servers, secret: bytes) -> None:
    put(servers, secret)
    bacau = client(servers, "bacau")
    operation = bacau.propose(ID, REASON).operation
    decide(servers, operation, "keys-1", change=Change.REFUSE)
    decide(servers, operation, "keys-2", "keys-3")
    standing = bacau.approvals.standing(operation)
    # What the others signed does not make up for it on the server that refused.
    assert share_of(servers, "bacau", "keys-1", standing.statement()) == (403, "needs-approval")
    assert last(servers, "keys-1") == ("bacau", "denied", "needs-approval")
    assert bacau.get(ID, standing).secret == secret

    again = bacau.propose(ID, REASON).operation
    decide(servers, again, "keys-1", "keys-2", change=Change.REFUSE)
    with pytest.raises(RefusedError, match="refused already, which is final"):
        decide(servers, again, "keys-1")
    standing = bacau.approvals.standing(again)
    assert standing.is_hopeless
    with pytest.raises(RefusedError) as refused:
        bacau.get(ID, standing)
    assert refused.value.code == "needs-approval"


def test_bait_and_switch(servers: Servers, secret: bytes) -> None:
    """What was approved is changed afterwards: the reason, the secret, the hospital, the time."""
    put(servers, secret)
    put(servers, secrets.token_bytes(32), "other")
    standing = approved(servers, "bacau", *SERVERS)
    bait = standing.operation
    for changes in (
        {"particulars": {**FOR_BACAU, "secret": "iasi/other"}},
        {"particulars": {**FOR_BACAU, "reason": "Un alt motiv decât cel aprobat"}},
        {"expires": bait.expires - timedelta(seconds=1)},
    ):
        switched = Operation(**{
            "kind": Kind.SECRET_RELEASE, "requester": "bacau", "nonce": bait.nonce, "particulars": FOR_BACAU,
            "issued": bait.issued, "expires": bait.expires, **changes,
        })  # type: ignore[arg-type]  # fmt: skip
        id = str(switched.particulars["secret"])
        for name in SERVERS:
            status, answer = proposed(servers, switched, name, "bacau")
            assert (status, answer["error"]) == (403, "nonce-taken")
            assert recorded(servers, name, "approval")[-1] == ("bacau", "proposed", "denied")
        # Nor with signatures of one's own, with the servers' over the other one, or with theirs under this document.
        document, key = approved_document(switched.digest), servers.keys["bacau"]
        forged = assemble(document, [sign(key, signer=name, document=document) for name in SERVERS])
        moved = {**standing.statement(), "payload": forged["payload"]}
        for statement in (forged, moved):
            assert share_of(servers, "bacau", "keys-1", statement, id) == (403, "needs-approval")
            assert last(servers, "keys-1") == ("bacau", "denied", "needs-approval")
        held = client(servers, "bacau").approvals.standing(switched)
        assert (held.states, set(held.failed)) == ({}, set(SERVERS))
        assert "another operation under this nonce" in str(held)
    # To another hospital it cannot even be proposed.
    document = {**bait.to_json(), "nonce": "n" * 24, "particulars": {**FOR_BACAU, "node": "iasi"}}
    answer = servers.send("bacau", "keys-1", "/v1/approvals", {"operation": document})
    assert (answer.status_code, answer.json["error"]) == (400, "bad-request")


def test_approvals_of_several_operations_do_not_add_up(servers: Servers, secret: bytes) -> None:
    """Else one administrator today and another next week would be k, each of whom was told something else."""
    put(servers, secret)
    first = approved(servers, "bacau", "keys-1")
    second = approved(servers, "bacau", "keys-2")
    both = {**first.statement(), "signatures": [*first.statement()["signatures"], *second.statement()["signatures"]]}
    twice = {**first.statement(), "signatures": first.statement()["signatures"] * 2}
    document = approved_document(first.operation.digest)
    with_own = assemble(document, [*first.signatures, sign(servers.keys["bacau"], signer="bacau", document=document)])
    for statement in (first.statement(), second.statement(), both, twice, with_own):
        for name in SERVERS:
            assert share_of(servers, "bacau", name, statement) == (403, "needs-approval")
            assert last(servers, name) == ("bacau", "denied", "needs-approval")
    # Nor does a server give its share under an operation of which its own administrator approved another.
    third = approved(servers, "bacau", "keys-2", "keys-3")
    assert share_of(servers, "bacau", "keys-1", third.statement()) == (403, "needs-approval")
    assert share_of(servers, "bacau", "keys-2", third.statement()) == (200, "1")


def test_the_signature_of_a_key_that_was_exchanged_counts_no_more(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret)
    standing = approved(on_sqlite, "bacau", "keys-1", "keys-2")
    on_sqlite.change_region(with_={"keys-2": OKPKey.generate_key("Ed25519", private=True)})
    on_sqlite.rewire("keys-2")
    assert share_of(on_sqlite, "bacau", "keys-1", standing.statement()) == (403, "needs-approval")
    # The server still knows what its administrator has decided, and signs that with its new key.
    standing = client(on_sqlite, "bacau").approvals.standing(standing.operation)
    assert client(on_sqlite, "bacau").get(ID, standing).secret == secret


@pytest.mark.parametrize("statement", [None, [], "x", {}, {"payload": "e30", "signatures": []}, {"payload": 1}])
def test_what_is_no_statement(on_sqlite: Servers, secret: bytes, statement: Any) -> None:
    put(on_sqlite, secret)
    assert share_of(on_sqlite, "bacau", "keys-1", statement) == (400, "bad-request")
    assert on_sqlite.audits["keys-1"].tail()[-1]["event"] == "refused"


# ---- What the node asks ----


def test_a_server_that_was_away_gets_the_operation_later(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret)
    bacau = client(on_sqlite, "bacau")
    on_sqlite.down = {"keys-1"}
    standing = bacau.propose(ID, REASON)
    assert set(standing.failed) == {"keys-1"}
    on_sqlite.down = {"keys-3"}
    operation = standing.operation
    assert bacau.approvals.standing(operation).states == {"keys-1": State.PENDING, "keys-2": State.PENDING}
    decide(on_sqlite, operation, "keys-1", "keys-2")
    # As many as are needed answer: the third is not missed.
    stop = threading.Event()
    assert bacau.get(ID, bacau.approvals.wait(operation, stop)).secret == secret
    on_sqlite.down = {"keys-2", "keys-3"}
    with pytest.raises(SharesMissingError, match="has 1 of the 2"):
        bacau.get(ID, Standing(operation, {}, standing_signatures(on_sqlite, operation), {}, 2, 3))


def standing_signatures(servers: Servers, operation: Operation) -> Any:
    document = approved_document(operation.digest)
    return tuple(sign(servers.keys[name], signer=name, document=document) for name in ("keys-1", "keys-2"))


def test_waiting_ends_when_there_is_nothing_to_wait_for(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret)
    bacau, stop = client(on_sqlite, "bacau"), threading.Event()
    operation = bacau.propose(ID, REASON).operation
    decide(on_sqlite, operation, "keys-1", "keys-2", change=Change.REFUSE)
    assert bacau.approvals.wait(operation, stop).is_hopeless
    operation = bacau.propose(ID, REASON).operation
    approving = threading.Timer(0.2, decide, (on_sqlite, operation, "keys-1", "keys-3"))
    approving.start()
    assert bacau.approvals.wait(operation, stop, poll_s=0.05).is_approved
    approving.join()
    operation = bacau.propose(ID, REASON).operation
    stop.set()
    assert not bacau.approvals.wait(operation, stop).is_approved
    with pytest.raises(PeerDataError, match="reason"):
        bacau.propose(ID, "urgent")


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: None,
        lambda answer: {**answer, "more": 1},
        lambda answer: {**answer, "state": "granted"},
        lambda answer: {**answer, "state": "approved"},
        lambda answer: {**answer, "digest": "0" * 64},
        lambda answer: {**answer, "state": "approved", "signature": {"protected": "e30", "signature": "A" * 86}},
    ],
)
def test_a_server_that_says_what_it_has_not_signed(on_sqlite: Servers, lie: Callable[[Any], Any]) -> None:
    on_sqlite.liars["keys-1"] = lie
    standing = client(on_sqlite, "bacau").propose(ID, REASON)
    assert set(standing.failed) == {"keys-1"}
    assert standing.signatures == ()


# ---- What administrators see ----


def test_the_console_shows_all_that_there_is_to_know(on_sqlite: Servers, secret: bytes) -> None:
    put(on_sqlite, secret)
    standing = client(on_sqlite, "bacau").propose(ID, REASON)
    operation, ana = standing.operation, Administrator(on_sqlite)
    assert ana.register().status_code == 200
    page = ana.get(f"/approvals/{operation.digest}").text
    for shown in ("a secret to be released", ID, "Given to", "bacau", REASON, operation.nonce, operation.digest,
                  *short_digest(operation.digest).split("-")):  # fmt: skip
        assert shown in page
    assert "Carried out" not in page
    assert ana.decide(operation.digest, "approve").status_code == 200
    assert re.search(r"Carried out</dt><dd>not yet", ana.get(f"/approvals/{operation.digest}").text)
    decide(on_sqlite, operation, "keys-2")
    client(on_sqlite, "bacau").get(ID, client(on_sqlite, "bacau").approvals.standing(operation))
    assert re.search(r"Carried out</dt><dd>yes", ana.get(f"/approvals/{operation.digest}").text)


def test_over_tls_with_the_command_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes, each with a database of its own; two administrators, each at their own server's terminal."""
    from usmed.__main__ import main

    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in SERVERS}
    running, hospital = install(tmp_path, urls, threshold=2)

    def administrator(name: str, *arguments: str) -> str:
        monkeypatch.setenv("USMED_DATABASE_URL", urls[name])
        monkeypatch.setenv("USMED_KEYSERVER_ID", name)
        assert main(("keyserver", "approvals", *arguments)) == 0
        return str(capsys.readouterr().out)

    try:
        with ThreadPoolExecutor() as starting:
            list(starting.map(Server.start, running.values()))
        iasi = SecretClient(Identity("iasi", hospital.key), lambda: hospital.manifest, hospital.client.post, now)
        kept = secrets.token_bytes(32)
        iasi.put("archive", kept, nodes=["iasi"], release=Release.APPROVAL)
        operation = iasi.propose(ID, REASON).operation
        short = short_digest(operation.digest)
        for name in SERVERS:
            assert short in administrator(name, "list")
            shown = administrator(name, "show", short)
            for text in (short, operation.digest, operation.nonce, ID, "iasi", REASON, "secret-release", "pending"):
                assert text in shown
            assert re.search(r"node: +iasi\n", shown)
        administrator("keys-1", "approve", short)
        with pytest.raises(RefusedError, match="1 of the 2"):
            iasi.get(ID, iasi.approvals.standing(operation))
        administrator("keys-2", "approve", short)
        assert iasi.get(ID, iasi.approvals.standing(operation)).secret == kept
        assert re.search(r"done: +yes\n", administrator("keys-1", "show", short))
        assert re.search(r"state: +pending\n", administrator("keys-3", "show", short))
    finally:
        hospital.client.close()
        # Stopped, each would wait for the connections that the others keep.
        for one in running.values():
            if one.process is not None:
                one.kill()
    assert "Traceback" not in "".join(one.log() for one in running.values())
