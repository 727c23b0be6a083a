"""Invitations to enrol: who may invite whom, what a code is worth, wrong birth dates, and one answer only."""

import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from contract.hub_region import CNP, PORTAL, Region
from support.phone import Phone
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.enrolment import Credential, enrol
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import LIFE, State
from usmed.hub import invitations as module
from usmed.hub.invitations import Invitation, Invitations
from usmed.platform.storage import StorageError

BORN = "19630615"
NUMBERS = [("SF-SPIRIDON", "7"), ("RO-CNP", CNP)]
KEY = Phone().credential.public_key


def passkey() -> Credential:
    return Credential(secrets.token_bytes(32), KEY)


def invitations(region: Region) -> Invitations:
    return Invitations(region.database, lambda: region.manifest, region.clock)


class Invited:
    """An invitation as the clerk's node makes it."""

    def __init__(self, *numbers: tuple[str, str], **changes: Any) -> None:
        self.code = secrets.token_urlsafe(32)
        self.body: dict[str, Any] = {
            "id": str(uuid4()),
            "code_sha256": sha256_hex(self.code.encode()),
            "patient": [{"issuer": issuer, "value": value} for issuer, value in numbers or NUMBERS],
            "birth_date": BORN,
            "guardian": None,
            **changes,
        }
        self.id: str = self.body["id"]

    def send(self, region: Region, hospital: str = "iasi") -> Any:
        return region.post(hospital, "/v1/enrolments/invite", self.body)

    def state(self, region: Region) -> str:
        return str(region.post("iasi", "/v1/enrolments/state", {"id": self.id})["state"])


def invited(region: Region, *numbers: tuple[str, str], **changes: Any) -> Invited:
    one = Invited(*numbers, **changes)
    one.send(region)
    return one


def refusal(region: Region, path: str, body: dict[str, Any], hospital: str = "iasi") -> tuple[int, str]:
    """Return how a request is refused; it must be in the audit log, with who asked and why."""
    before = region.audit.head().count
    answer = region.send(hospital, path, canonical_json(body))
    assert answer.status_code in (400, 403)
    assert answer.json is not None
    code = str(answer.json["error"])
    (event,) = [one for one in region.audit.tail() if one["sequence"] > before]
    reason = f"{answer.status_code} POST {path}" + (f" {code}" if answer.status_code == 403 else "")
    assert (event["event"], event["agent"], event["outcome"], event["reason"]) == (
        "refused",
        hospital,
        "denied",
        reason,
    )
    return answer.status_code, code


def enrol_at(region: Region, hospital: str, patient: Collection[PatientIdentifier], *keys: Credential) -> None:
    """Enrol passkeys as a hospital's node does, and bring that to the hub."""
    now = region.clock()
    token = enrol(region.keys[hospital], hospital=hospital, patient=patient, credentials=keys, now=now)
    body = {"records": [], "enrolments": [{"hospital": hospital, "token": token}]}
    assert region.post(hospital, "/v1/consents/records", body) == {"problems": []}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as error:
        call()
    return error.value.code


def events(region: Region, name: str) -> list[dict[str, Any]]:
    return [one for one in region.audit.tail(200) if one["event"] == name]


def test_from_the_clerk_to_the_phone_and_back(region: Region) -> None:
    one, portal, key = Invited(guardian={"basis": "parent", "until": 2_000_000_000}), invitations(region), passkey()
    expires = int((region.clock() + LIFE).timestamp())
    assert one.send(region) == {"address": f"{PORTAL}/portal/enrol/", "expires": expires}
    state = {"id": one.id}
    assert region.post("iasi", "/v1/enrolments/state", state) == {"state": "waiting", "credential": None}

    seen = portal.open(one.code)
    assert (seen.id, seen.hospital, seen.state, seen.tries) == (one.id, "iasi", State.WAITING, 5)
    assert seen.patient == {PatientIdentifier(*number) for number in NUMBERS}
    assert seen.guardian is not None
    assert (seen.guardian.basis, int(seen.guardian.until.timestamp())) == ("parent", 2_000_000_000)
    assert portal.check_birth_date(one.code, BORN).state is State.WAITING

    answered = portal.answer(one.code, BORN, key)
    assert (answered.state, answered.credential) == (State.ANSWERED, key)
    told = {"id": key.id.hex(), "public_key": key.public_key.hex()}
    assert region.post("iasi", "/v1/enrolments/state", state) == {"state": "answered", "credential": told}

    enrol_at(region, "iasi", answered.patient, key)
    assert region.post("iasi", "/v1/enrolments/state", state) == {"state": "enrolled", "credential": told}
    recorded = [event for event in events(region, "identity") if event["detail"].get("invitation") == one.id]
    whats = [(event["agent"], event["detail"]["what"]) for event in recorded]
    assert whats == [("iasi", "invited"), ("portal", "answered"), ("iasi", "enrolled")]


def test_neither_the_code_nor_for_longer_than_needed_the_birth_date_is_on_disk(region: Region) -> None:
    one = invited(region)

    def stored() -> str:
        with region.database.read() as connection:
            tables = ("invitation", "invitation_number", "audit_record")
            return "".join(str(row) for name in tables for row in connection.execute(sa.text(f"SELECT * FROM {name}")))

    assert one.code not in stored()
    assert BORN in stored()
    invitations(region).answer(one.code, BORN, passkey())
    assert one.code not in stored()
    assert BORN not in stored()


def test_a_code_that_is_unknown_used_void_or_over_gives_one_answer(region: Region) -> None:
    portal, now = invitations(region), []
    used, void, over = (invited(region, ("SF-SPIRIDON", value)) for value in "123")
    portal.answer(used.code, BORN, passkey())
    region.post("iasi", "/v1/enrolments/cancel", {"id": void.id})
    with region.database.write() as connection:
        connection.execute(sa.text("UPDATE invitation SET expires = 1 WHERE id = :id"), {"id": over.id})
    wrong = secrets.token_urlsafe(32)
    before = len(events(region, "refused"))
    for code in (wrong, "", "x", "\0", "\ud800" * 30, "a" * 10_000, used.code, void.code, over.code, used.code.lower()):
        for call in (portal.open, lambda code: portal.check_birth_date(code, BORN), _answer(portal)):
            with pytest.raises(RefusedError) as error:
                call(code)
            now.append((error.value.code, str(error.value)))
    assert set(now) == {("bad-code", "this code is wrong, was used, or is over: ask the hospital for a new one")}
    recorded = events(region, "refused")[before:]
    assert len(recorded) == len(now)
    assert {(one["agent"], one["outcome"], one["reason"]) for one in recorded} == {("portal", "denied", "bad-code")}
    # What was brought is not in the log, but which invitation was meant is.
    assert {one["detail"].get("state") for one in recorded} == {None, "answered", "void", "expired"}
    assert wrong not in str(recorded)


def _answer(portal: Invitations) -> Callable[[str], Invitation]:
    return lambda code: portal.answer(code, BORN, passkey())


def test_the_fifth_wrong_birth_date_voids_it_whatever_was_right_between(region: Region) -> None:
    one, portal = invited(region), invitations(region)
    for left in (4, 3, 2, 1):
        with pytest.raises(RefusedError, match=f"{left} more") as error:
            portal.check_birth_date(one.code, "19630616")
        assert error.value.code == "wrong-birth-date"
        assert portal.check_birth_date(one.code, BORN).tries == left
    assert refused(lambda: portal.answer(one.code, "19630616", passkey())) == "wrong-birth-date"
    assert one.state(region) == "void"
    assert refused(lambda: portal.check_birth_date(one.code, BORN)) == "bad-code"
    assert refused(lambda: portal.answer(one.code, BORN, passkey())) == "bad-code"
    (void,) = [event for event in events(region, "identity") if event["detail"]["what"] == "void"]
    assert (void["agent"], void["peer"], void["reason"]) == ("portal", "iasi", "5 wrong birth dates")
    reasons = [event["reason"] for event in events(region, "refused")]
    assert reasons == ["wrong-birth-date"] * 5 + ["bad-code"] * 2


@pytest.mark.parametrize("text", ["", "1963", "19631315", "15061963", "1963-06-15", "1963061٣"])
def test_what_is_no_date_is_not_counted(region: Region, text: str) -> None:
    one, portal = invited(region), invitations(region)
    for _ in range(6):
        with pytest.raises(PeerDataError, match="YYYYMMDD"):
            portal.check_birth_date(one.code, text)
    assert portal.open(one.code).tries == 5


def together(count: int, call: Callable[[int], object]) -> list[str]:
    """Call it from so many threads at once; return the codes of the refusals, sorted, "" for a success."""
    barrier, found = threading.Barrier(count), list[str]()

    def run(number: int) -> None:
        barrier.wait()
        for _ in range(4):
            try:
                call(number)
                found.append("")
                return
            except RefusedError as error:
                found.append(error.code)
                return
            except StorageError as error:
                # A slow machine may take longer than a writer waits for its turn. Nothing was done then.
                problem = str(error)
        found.append(problem)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sorted(found)


def test_wrong_birth_dates_at_once_are_all_counted(region: Region) -> None:
    one, portal = invited(region), invitations(region)
    codes = together(12, lambda number: portal.check_birth_date(one.code, f"196306{16 + number % 10}"))
    assert codes == ["bad-code"] * 7 + ["wrong-birth-date"] * 5
    assert one.state(region) == "void"


def test_one_of_many_answers_at_once_counts(region: Region) -> None:
    one, portal = invited(region), invitations(region)
    keys = [passkey() for _ in range(10)]
    answered: list[Invitation] = []
    codes = together(10, lambda number: answered.append(portal.answer(one.code, BORN, keys[number])))
    assert codes == ["", *["bad-code"] * 9]
    (counted,) = answered
    told = region.post("iasi", "/v1/enrolments/state", {"id": one.id})["credential"]
    assert counted.credential is not None
    assert told["id"] == counted.credential.id.hex()
    assert [event["detail"]["what"] for event in events(region, "identity")] == ["invited", "answered"]


def test_one_passkey_answers_one_invitation_also_at_once(region: Region) -> None:
    ones, portal, key = [invited(region, ("SF-SPIRIDON", str(n))) for n in range(6)], invitations(region), passkey()
    codes = together(6, lambda number: portal.answer(ones[number].code, BORN, key))
    assert codes == ["", *["passkey-taken"] * 5]
    # Nor with another public key under the id; the invitation goes on waiting for another passkey.
    waiting = next(one for one in ones if one.state(region) == "waiting")
    assert refused(lambda: portal.answer(waiting.code, BORN, Credential(key.id, b"another"))) == "passkey-taken"
    assert portal.answer(waiting.code, BORN, passkey()).state is State.ANSWERED


def test_a_passkey_that_a_hospital_has_enrolled_already_answers_nothing(region: Region) -> None:
    key, one, portal = passkey(), invited(region), invitations(region)
    enrol_at(region, "bacau", {PatientIdentifier("BACAU", "9")}, key)
    assert refused(lambda: portal.answer(one.code, BORN, key)) == "passkey-taken"
    assert portal.answer(one.code, BORN, passkey()).state is State.ANSWERED


@pytest.mark.parametrize(
    "key", [Credential(b"", KEY), Credential(b"i", b""), Credential(b"i" * 1024, KEY), Credential(b"i", b"k" * 4097)]
)
def test_what_no_passkey_can_be_is_not_taken(region: Region, key: Credential) -> None:
    one, portal = invited(region), invitations(region)
    with pytest.raises(PeerDataError):
        portal.answer(one.code, BORN, key)
    assert one.state(region) == "waiting"


def test_a_newer_one_voids_the_open_one_of_the_same_patient_and_hospital(region: Region) -> None:
    portal = invitations(region)
    older, other = invited(region), invited(region, ("SF-SPIRIDON", "8"))
    elsewhere = Invited(("RO-CNP", CNP))
    elsewhere.send(region, "bacau")
    newer = invited(region, ("SF-SPIRIDON", "7"))
    assert [one.state(region) for one in (older, other, newer)] == ["void", "waiting", "waiting"]
    assert portal.open(elsewhere.code).hospital == "bacau"
    portal.answer(newer.code, BORN, passkey())
    newest = invited(region, ("SF-SPIRIDON", "7"))
    # Also when the phone had answered: the clerk began anew.
    assert region.post("iasi", "/v1/enrolments/state", {"id": newer.id}) == {"state": "void", "credential": None}
    assert newest.state(region) == "waiting"


def test_the_same_invitation_sent_again_is_the_same_and_another_under_its_id_or_code_is_refused(
    region: Region,
) -> None:
    one = Invited()
    answer = one.send(region)
    region.clock.advance(60)
    assert one.send(region) == answer
    invitations(region).answer(one.code, BORN, passkey())
    assert one.send(region) == answer
    assert one.state(region) == "answered"
    path = "/v1/enrolments/invite"
    other = Invited(("SF-SPIRIDON", "8"))
    for changed in (
        {**one.body, "patient": other.body["patient"]},
        {**one.body, "code_sha256": other.body["code_sha256"]},
        {**one.body, "guardian": {"basis": "court", "until": 2_000_000_000}},
        {**other.body, "code_sha256": one.body["code_sha256"]},
    ):
        assert refusal(region, path, changed) == (403, "id-taken")
    national = {**one.body, "patient": [{"issuer": "RO-CNP", "value": CNP}]}
    assert refusal(region, path, national, "bacau") == (403, "id-taken")


@pytest.mark.parametrize(
    "changes",
    [
        {"patient": [{"issuer": "BACAU", "value": "7"}]},
        {"patient": [{"issuer": "SF-SPIRIDON", "value": "7"}, {"issuer": "LABOR", "value": "7"}]},
        {"patient": []},
        {"patient": [{"issuer": "SF-SPIRIDON", "value": str(n)} for n in range(51)]},
        {"patient": [{"issuer": "RO-CNP", "value": "1630615123458"}]},
        {"patient": [{"issuer": "RO-CNP", "value": CNP}, {"issuer": "RO-CNP", "value": "2770214123450"}]},
        {"birth_date": "19640615"},
        {"birth_date": "19631315"},
        {"birth_date": ""},
        {"guardian": {"basis": "friend", "until": 2_000_000_000}},
        {"guardian": {"basis": "parent", "until": 1_000_000_000}},
        {"guardian": {"basis": "parent", "until": 1 << 52}},
        {"id": "1"},
        {"id": "00000000-0000-1000-8000-000000000000"},
        {"id": "00000000-0000-4000-8000-000000000000\n"},
        {"code_sha256": "0" * 63},
        {"code_sha256": "0" * 64 + "\n"},
        {"code": "x"},
    ],
)
def test_what_is_no_invitation(region: Region, changes: dict[str, Any]) -> None:
    one = Invited(**changes)
    assert refusal(region, "/v1/enrolments/invite", one.body) == (400, "bad-request")
    with region.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM invitation")).scalar_one() == 0


def test_without_a_portal_nobody_is_invited(region: Region) -> None:
    alone = Invitations(region.database, lambda: replace(region.manifest, portal=""), region.clock)
    iasi = region.manifest.hospitals["iasi"]
    body = {"id": str(uuid4()), "code_sha256": "0" * 64, "birth_date": BORN, "guardian": None}
    patient = [PatientIdentifier("SF-SPIRIDON", "7")]
    assert refused(lambda: alone.invite(iasi, patient=patient, **body)) == "no-portal"


def test_only_the_hospital_that_invited_asks_and_cancels(region: Region) -> None:
    one = invited(region)
    for path in ("/v1/enrolments/state", "/v1/enrolments/cancel"):
        assert refusal(region, path, {"id": one.id}, "bacau") == (403, "unknown-invitation")
        assert refusal(region, path, {"id": str(uuid4())}) == (403, "unknown-invitation")
    assert one.state(region) == "waiting"
    for _ in range(2):
        assert region.post("iasi", "/v1/enrolments/cancel", {"id": one.id}) == {}
    assert one.state(region) == "void"


def test_what_is_enrolled_is_not_cancelled(region: Region) -> None:
    one, portal, key = invited(region), invitations(region), passkey()
    answered = portal.answer(one.code, BORN, key)
    enrol_at(region, "iasi", answered.patient, key)
    assert refusal(region, "/v1/enrolments/cancel", {"id": one.id}) == (403, "enrolled")
    assert one.state(region) == "enrolled"


def test_another_hospitals_enrolment_or_another_passkey_enrols_nothing(region: Region) -> None:
    one, portal, key = invited(region), invitations(region), passkey()
    answered = portal.answer(one.code, BORN, key)
    for hospital, credential in (("bacau", key), ("iasi", passkey()), ("iasi", Phone(key.id).credential)):
        enrol_at(region, hospital, {PatientIdentifier("RO-CNP", CNP)}, credential)
    assert one.state(region) == "answered"
    region.post("iasi", "/v1/enrolments/cancel", {"id": one.id})
    enrol_at(region, "iasi", answered.patient, key)
    assert one.state(region) == "void"


def test_an_invitation_and_its_answer_each_wait_a_day_and_a_clock_that_goes_back_brings_nothing_back(
    region: Region,
) -> None:
    waiting, answered, portal = invited(region), invited(region, ("SF-SPIRIDON", "8")), invitations(region)
    region.clock.advance(LIFE.total_seconds() - 60)
    portal.answer(answered.code, BORN, passkey())
    region.clock.advance(60)
    assert [one.state(region) for one in (waiting, answered)] == ["expired", "answered"]
    region.clock.advance(-3600)
    assert refused(lambda: portal.open(waiting.code)) == "bad-code"
    region.clock.advance(3600 + LIFE.total_seconds())
    assert region.post("iasi", "/v1/enrolments/state", {"id": answered.id}) == {"state": "expired", "credential": None}
    expired = [one for one in events(region, "identity") if one["detail"]["what"] == "expired"]
    assert [(one["agent"], one["peer"]) for one in expired] == [("hub", "iasi")] * 2


def test_who_left_the_region_has_invited_nobody(region: Region) -> None:
    one = invited(region)
    region.manifest.hospitals.pop("iasi")  # type: ignore[attr-defined]
    assert refused(lambda: invitations(region).open(one.code)) == "bad-code"
    assert refused(lambda: invitations(region).answer(one.code, BORN, passkey())) == "bad-code"


def test_how_many_are_open_and_how_many_an_hour_is_bounded(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 3)
    monkeypatch.setattr(module, "MOST_AN_HOUR", 5)
    path = "/v1/enrolments/invite"
    ones = [invited(region, ("SF-SPIRIDON", str(n))) for n in range(3)]
    more = Invited(("SF-SPIRIDON", "9"))
    assert refusal(region, path, more.body) == (403, "too-many")
    # Others are not concerned.
    Invited(("BACAU", "9")).send(region, "bacau")
    for one in ones[:2]:
        region.post("iasi", "/v1/enrolments/cancel", {"id": one.id})
    more.send(region)
    invited(region, ("SF-SPIRIDON", "10"))
    region.post("iasi", "/v1/enrolments/cancel", {"id": more.id})
    late = Invited(("SF-SPIRIDON", "11"))
    assert refusal(region, path, late.body) == (403, "too-many")
    region.clock.advance(timedelta(hours=1).total_seconds())
    late.send(region)


def test_what_is_long_over_is_forgotten(region: Region) -> None:
    one = invited(region)
    region.clock.advance(timedelta(days=29).total_seconds())
    newer = invited(region, ("SF-SPIRIDON", "8"))
    assert one.state(region) == "expired"
    region.clock.advance(timedelta(days=2).total_seconds())
    invited(region, ("SF-SPIRIDON", "9"))
    assert refusal(region, "/v1/enrolments/state", {"id": one.id}) == (403, "unknown-invitation")
    assert newer.state(region) == "expired"
    with region.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM invitation_number")).scalar_one() == 2
