"""Emergencies, rates and approvals on real key servers: what is signed, what waits for people, and what never is."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from werkzeug.test import Client

from contract.test_key_servers import RATES, SERVERS, STAFF, KeyRegion, region
from usmed.domain.approval import Change, Kind, Operation, State, short_digest
from usmed.domain.consent import Purpose
from usmed.domain.errors import RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import assemble, read_signature
from usmed.domain.region import HUB
from usmed.domain.ticket import EMERGENCY_LIFE, Staff, verify_ticket
from usmed.domain.ticket_decision import propose
from usmed.keyserver.approvals import MOST_PENDING, Approvals
from usmed.keyserver.settings import KeyServerSettings
from usmed.keyserver.store import RecordStore
from usmed.keyserver.wsgi import build
from usmed.platform.mail import MailServer
from usmed.platform.notices import Outbox

__all__ = ["region"]  # a fixture

PURPOSE = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason"}
MAIL = MailServer("mail.example", 587, "starttls", "keys@example.org", ("admin@example.org",))
REASON = "Accident feroviar la Pașcani, 40 de răniți"


def patient(number: int) -> PatientIdentifier:
    return PatientIdentifier("BACAU", str(number))


def emergency(region: KeyRegion, number: int = 1, sender: str = "iasi", **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "staff": STAFF, "confirmed_by": Staff("popa", "nurse"), "reason": "Politraumatism, inconștient", **changes,
    }  # fmt: skip
    return propose(
        jti=f"emergency-{number:04}-{sender}", region="moldova", requester=sender, requester_key=region.keys[sender],
        patient=frozenset({patient(number)}), purpose=Purpose.ETREAT, records=[], enrolments=[], issued=region.clock(),
        life=EMERGENCY_LIFE, **arguments,
    )  # fmt: skip


def operation(region: KeyRegion, **changes: Any) -> Operation:
    arguments: dict[str, Any] = {
        "kind": Kind.PATIENTS, "requester": "iasi", "nonce": "nonce-of-operation-1", "issued": region.clock(),
        "expires": region.clock() + timedelta(hours=8), "further": 2, "until_s": 6 * 3600, **changes,
    }  # fmt: skip
    until = int(arguments["issued"].timestamp()) + arguments.pop("until_s")
    particulars = {"further": arguments.pop("further"), "until": until, "reason": REASON}
    return Operation(particulars=particulars, **arguments)


def proposed(region: KeyRegion, one: Operation, server: str = "keys-1", sender: str = "iasi") -> tuple[int, Any]:
    answer = region.send(sender, server, "/v1/approvals", {"operation": one.to_json()})
    return answer.status_code, answer.json


def approvals(region: KeyRegion, server: str = "keys-1") -> Approvals:
    database = region.databases[server]
    return Approvals(
        server=server, database=database, store=RecordStore(database), outbox=Outbox(database), clock=region.clock
    )


def signed(region: KeyRegion, number: int, server: str = "keys-1") -> str:
    """Ask for an ordinary ticket of one of Bacau's patients for iasi."""
    one = patient(number)
    given = [region.record(f"consent-{number:04}", one, by="bacau", to="iasi")]
    status, answer = region.ask("iasi", server, region.propose("iasi", given, one).to_json(), given)
    return "signed" if status == 200 else str(answer["error"])


def in_emergency(region: KeyRegion, number: int, sender: str = "iasi") -> str:
    status, answer = region.ask(sender, "keys-1", emergency(region, number, sender).to_json())
    return "signed" if status == 200 else str(answer["error"])


def events(region: KeyRegion, kind: str, server: str = "keys-1") -> list[Any]:
    return [one for one in region.audits[server].tail(200) if one["event"] == kind]


# ---- Emergencies ----


def test_an_emergency_needs_no_consent_but_k_servers(region: KeyRegion) -> None:
    ticket = emergency(region)
    signatures = []
    for server in SERVERS[:2]:
        status, answer = region.ask("iasi", server, ticket.to_json())
        assert status == 200, answer
        key = region.manifest.key_server_key(server)
        assert key is not None
        signatures.append(read_signature(answer["signature"], document=ticket.to_json(), key=key, signer=server))
    believed = verify_ticket(
        assemble(ticket.to_json(), signatures), region.manifest.key_server_key, threshold=2, region="moldova",
        requester="iasi", requester_key=region.keys["iasi"], now=region.clock(),
    )  # fmt: skip
    assert believed == ticket
    (event,) = events(region, "emergency")
    assert (event["outcome"], event["agent"], event["patient"]) == ("success", "iasi", "BACAU:1")
    assert {name: event["detail"][name] for name in ("staff", "confirmed_by", "why")} == {
        "staff": "ionescu", "confirmed_by": "popa", "why": "Politraumatism, inconștient",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("purposes", "expected"), [(["ETREAT"], "denied-by-patient"), ([], "denied-by-patient"), (["TREAT"], "signed")]
)
def test_the_patients_refusal_wins_on_the_server_that_knows_it(
    region: KeyRegion, purposes: Sequence[str], expected: str
) -> None:
    provision = {"purpose": [{**PURPOSE, "code": one} for one in purposes]} if purposes else {}
    denial = region.record("consent-9", patient(1), by="bacau", type="deny", provision=provision)
    if not purposes:
        del denial["document"]["resource"]["provision"]["purpose"]
        denial = region.attested(denial["document"], by="bacau")
    assert region.give(records=[denial]) == []
    assert in_emergency(region, 1) == expected
    (event,) = events(region, "emergency")
    assert event["outcome"] == ("success" if expected == "signed" else "denied")


def test_emergencies_have_a_rate_of_their_own_for_each_hospital(region: KeyRegion) -> None:
    assert [in_emergency(region, number) for number in range(1, 8)] == ["signed"] * 5 + ["over-rate"] * 2
    assert in_emergency(region, 1) == "signed"
    assert in_emergency(region, 6, "bacau") == "signed"
    # Neither rate uses up the other.
    assert signed(region, 1) == "signed"
    region.clock.advance(3600)
    assert in_emergency(region, 6) == "signed"
    status, answer = region.ask("iasi", "keys-2", emergency(region, 1, "bacau").to_json())
    assert (status, answer["error"]) == (403, "malformed")


def test_a_day_of_emergencies(region: KeyRegion) -> None:
    for hour in range(4):
        assert [in_emergency(region, 10 * hour + number) for number in range(5)] == ["signed"] * 5
        region.clock.advance(3600)
    assert in_emergency(region, 99) == "over-rate"
    region.clock.advance(21 * 3600)
    assert in_emergency(region, 99) == "signed"


def test_the_administrator_is_told_of_each_emergency_without_anything_medical(region: KeyRegion) -> None:
    settings = KeyServerSettings("keys-1", region.keys["keys-1"], rates=RATES, mail=MAIL)
    region.clients["keys-1"] = Client(
        build(settings, lambda: region.manifest, region.databases["keys-1"], region.audits["keys-1"], region.clock)
    )
    assert in_emergency(region, 1) == "signed"
    assert in_emergency(region, 1) == "signed"
    assert proposed(region, operation(region))[0] == 200
    with region.databases["keys-1"].read() as connection:
        rows = connection.exec_driver_sql("SELECT subject, body FROM notice ORDER BY subject").all()
    assert [row.subject for row in rows] == [
        "[USMED keys-1] emergency access by iasi", "[USMED keys-1] iasi asks for patients-over-rate",
    ]  # fmt: skip
    assert short_digest(operation(region).digest) in rows[1].body
    text = " ".join(row.subject + row.body for row in rows)
    for private in ("BACAU:1", "Politraumatism", "ionescu", "popa", "Pașcani"):
        assert private not in text


# ---- Proposals ----


def test_an_operation_is_the_same_on_every_server_however_often_it_is_sent(region: KeyRegion) -> None:
    one = operation(region)
    answers = [proposed(region, one, server) for server in (*SERVERS, *SERVERS)]
    expected = {"digest": one.digest, "short": short_digest(one.digest), "state": "pending"}
    assert answers == [(200, expected)] * 6
    assert region.send("iasi", "keys-1", "/v1/approvals/state", {"nonce": one.nonce}).json == expected
    assert len(events(region, "approval")) == 1
    for sender, nonce in (("bacau", one.nonce), ("iasi", "another-operations-nonce")):
        answer = region.send(sender, "keys-1", "/v1/approvals/state", {"nonce": nonce})
        assert (answer.status_code, answer.json["error"]) == (403, "unknown")
    for nonce in ("short", None, ["x"]):
        answer = region.send("iasi", "keys-1", "/v1/approvals/state", {"nonce": nonce})
        assert (answer.status_code, answer.json["error"]) == (400, "bad-request")


def test_bait_and_switch(region: KeyRegion) -> None:
    bait, switched = operation(region), operation(region, further=100_000)
    assert proposed(region, bait)[0] == 200
    approvals(region).decide(bait.digest, Change.APPROVE, by="test")
    status, answer = proposed(region, switched)
    assert (status, answer["error"]) == (403, "nonce-taken")
    event = events(region, "approval")[-1]
    assert (event["outcome"], event["detail"]["sha256"]) == ("denied", switched.digest)
    with pytest.raises(RefusedError, match="no such operation"):
        approvals(region).decide(switched.digest, Change.APPROVE, by="test")
    # Another hospital's nonce is its own affair.
    assert proposed(region, operation(region, requester="bacau"), sender="bacau")[0] == 200


def test_what_is_not_taken(region: KeyRegion) -> None:
    now = region.clock()
    for one, code in (
        (operation(region, requester="bacau"), "malformed"),
        (operation(region, issued=now - timedelta(hours=9), expires=now), "expired"),
        (operation(region, issued=now + timedelta(minutes=2), expires=now + timedelta(hours=7)), "malformed"),
    ):
        status, answer = proposed(region, one)
        assert (status, answer["error"]) == (403, code)
    for document in (None, [], {}, {**operation(region).to_json(), "more": 1}):
        answer = region.send("iasi", "keys-1", "/v1/approvals", {"operation": document})
        assert answer.status_code == 400
    assert len(events(region, "approval")) == 3
    assert len(events(region, "refused")) == 4
    for path, document in (("/v1/approvals", {"operation": operation(region).to_json()}), ("/v1/tickets", {})):
        assert region.send(HUB, "keys-1", path, document).status_code == 403
    assert len(events(region, "refused")) == 6
    for number in range(MOST_PENDING):
        assert proposed(region, operation(region, nonce=f"nonce-of-operation-{number:04}"))[0] == 200
    assert proposed(region, operation(region, nonce="one-too-many-of-them"))[1]["error"] == "too-many"
    assert proposed(region, operation(region, requester="bacau"), sender="bacau")[0] == 200
    assert region.audits["keys-1"].verify().unbroken


def test_refused_stays_refused_and_expired_stays_expired(region: KeyRegion) -> None:
    refused, expired = operation(region), operation(region, nonce="nonce-of-operation-2")
    for one in (refused, expired):
        proposed(region, one)
    approvals(region).decide(refused.digest, Change.REFUSE, by="test")
    assert proposed(region, refused)[1]["state"] == "refused"
    for change in (Change.APPROVE, Change.REFUSE, Change.EXPIRE):
        with pytest.raises(RefusedError, match="refused already, which is final"):
            approvals(region).decide(refused.digest, change, by="test")
    region.clock.advance(8 * 3600)
    assert proposed(region, expired)[1]["state"] == "expired"
    # A clock that goes back brings nothing back.
    region.clock.advance(-8 * 3600)
    assert proposed(region, expired)[1]["state"] == "expired"
    assert proposed(region, refused)[1]["state"] == "refused"
    with pytest.raises(RefusedError, match="expired already"):
        approvals(region).decide(expired.digest, Change.APPROVE, by="test")
    assert events(region, "approval")[-1]["outcome"] == "denied"
    assert approvals(region).counts() == {State.PENDING: 0, State.APPROVED: 0, State.REFUSED: 1, State.EXPIRED: 1}


# ---- What an approval allows ----


def test_an_approved_rate_is_for_that_many_patients_of_that_hospital_until_then(region: KeyRegion) -> None:
    one = operation(region)
    assert [signed(region, number) for number in range(1, 5)] == ["signed"] * 3 + ["over-rate"]
    assert proposed(region, one)[1]["state"] == "pending"
    assert signed(region, 4) == "over-rate"
    approvals(region).decide(one.digest, Change.APPROVE, by="test")
    assert proposed(region, one)[1]["state"] == "approved"
    # Emergencies are another kind.
    assert [in_emergency(region, number) for number in range(1, 7)] == ["signed"] * 5 + ["over-rate"]
    assert [signed(region, number) for number in range(4, 8)] == ["signed"] * 2 + ["over-rate"] * 2
    # Who was asked for already may be asked for again, and is not counted again.
    assert [signed(region, number) for number in (4, 5, 1)] == ["signed"] * 3
    assert events(region, "decision")[-3]["reason"] == f"signed, approved by {one.digest}"
    # Another server has approved nothing.
    assert [signed(region, number, "keys-2") for number in range(1, 5)] == ["signed"] * 3 + ["over-rate"]
    # What was approved does not come back in the next hour, and did not fill it either: 3 an hour, 5 a day.
    region.clock.advance(3600)
    assert [signed(region, number) for number in range(6, 9)] == ["signed"] * 2 + ["over-rate"]
    # It ends at its time.
    assert signed(region, 4) == "signed"
    region.clock.advance(5 * 3600)
    assert signed(region, 4) == "over-rate"


def test_what_another_hospital_was_allowed_helps_nobody_else(region: KeyRegion) -> None:
    theirs = operation(region, requester="bacau")
    proposed(region, theirs, sender="bacau")
    approvals(region).decide(theirs.digest, Change.APPROVE, by="test")
    assert [signed(region, number) for number in range(1, 5)] == ["signed"] * 3 + ["over-rate"]


def test_emergencies_beyond_the_rate(region: KeyRegion) -> None:
    assert [in_emergency(region, number) for number in range(1, 7)] == ["signed"] * 5 + ["over-rate"]
    answer = region.ask("iasi", "keys-1", emergency(region, 6).to_json())[1]
    assert "emergencies-over-rate" in answer["message"]
    assert "/v1/approvals" in answer["message"]
    one = operation(region, kind=Kind.EMERGENCIES, further=1)
    proposed(region, one)
    approvals(region).decide(one.digest, Change.APPROVE, by="test")
    assert [in_emergency(region, number) for number in (6, 7, 6)] == ["signed", "over-rate", "signed"]
    # Over the rate means over the rate, not past the patient.
    denial = region.record(
        "consent-9", patient(6), by="bacau", type="deny", provision={"purpose": [{**PURPOSE, "code": "ETREAT"}]}
    )
    region.give(records=[denial])
    assert in_emergency(region, 6) == "denied-by-patient"
