"""The hub's copy of enrolments: taken for their proofs, found by number and passkey; and what patients sign by them."""

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from contract.hub_region import CNP, Region, consent, study
from support.phone import Phone
from usmed.domain.canonical import canonical_json
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.enrolment import Basis, Enrolment, Guardian, enrol, read_enrolment, valid_credentials
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB
from usmed.hub import consents, enrolments
from usmed.hub.enrolments import HeldEnrolment
from usmed.hub.tables import CHAIN
from usmed.platform.storage import PLATFORM_CHAIN, _engine, _parse, migrate, open_database

PATH = "/v1/consents/records"
PATIENT = PatientIdentifier("RO-CNP", CNP)
BACAU, IASI = PatientIdentifier("BACAU", "9"), PatientIdentifier("SF-MARIA", "3")
REFUSED = (
    "consent: the passkey is not enrolled for this patient, or was revoked, or the time of who acts for the patient is"
    " over: a hospital can enrol one"
)


def enrolment(region: Region, *patient: PatientIdentifier, by: str = "bacau", **content: Any) -> dict[str, str]:
    token = enrol(region.keys[by], hospital=by, patient=patient, now=region.clock(), **content)
    return {"hospital": by, "token": token}


def signed(phone: Phone, id: str, version: int = 1, patient: PatientIdentifier = PATIENT, **changes: Any) -> Any:
    return phone.record(consent_document(consent(patient.issuer, patient.value, **changes), id=id, version=version))


def bring(region: Region, *records: Any, enrolled: Collection[Any] = (), by: str = "bacau") -> list[str]:
    answer = region.post(by, PATH, {"records": [*records], "enrolments": [*enrolled]})
    return list(answer["problems"])


def held(region: Region, *numbers: PatientIdentifier) -> list[HeldEnrolment]:
    with region.database.read() as connection:
        return enrolments.of_numbers(connection, numbers)


def status(region: Region, id: str) -> tuple[int, str, str, str] | None:
    with region.database.read() as connection:
        one = consents.current(connection, id)
    return (one.version, one.status, one.kind.value, one.proved_by) if one else None


def test_enrolments_are_found_by_all_numbers_that_they_join_and_by_passkey(region: Region) -> None:
    phone, tablet, stranger = Phone(), Phone(b"tablet"), Phone(b"stranger")
    given = [enrolment(region, BACAU, PATIENT, credentials=[phone.credential, tablet.credential])]
    region.clock.advance(1)
    given.append(enrolment(region, PATIENT, IASI, by="iasi", credentials=[phone.credential]))
    region.clock.advance(1)
    given.append(enrolment(region, IASI, by="iasi", revoked=[tablet.id]))
    other = enrolment(region, PatientIdentifier("BACAU", "10"), credentials=[stranger.credential])
    assert bring(region, enrolled=[*reversed(given), other]) == []
    for number in (PATIENT, BACAU, IASI):
        assert [one.token for one in held(region, number)] == [one["token"] for one in given]
    assert held(region, PatientIdentifier("BACAU", "90")) == held(region) == []
    read = [read_enrolment(one["token"], hospital=one["hospital"], keys=region.manifest.key_of, now=region.clock())
            for one in given]  # fmt: skip
    assert [one.enrolment for one in held(region, BACAU)] == read
    with region.database.read() as connection:
        by_passkey = [enrolments.of_credential(connection, one.id) for one in (phone, tablet, stranger)]
        assert enrolments.of_credential(connection, b"nobody's") == []
    assert [[one.token for one in found] for found in by_passkey] == [
        [given[0]["token"], given[1]["token"]], [given[0]["token"]], [other["token"]],
    ]  # fmt: skip
    assert valid_credentials([one.enrolment for one in held(region, BACAU)], region.clock()) == [phone.credential]


def test_an_enrolment_is_taken_once_and_audited_once(region: Region) -> None:
    guardian = Guardian(Basis.COURT, region.clock() + timedelta(days=1))
    one = enrolment(region, PATIENT, credentials=[Phone().credential], guardian=guardian, revoked=[b"lost"])
    assert bring(region, enrolled=[one, one], by="iasi") == bring(region, enrolled=[one]) == []
    (event,) = [each for each in region.audit.tail() if each["event"] == "identity"]
    assert (event["agent"], event["patient"]) == ("iasi", str(PATIENT))
    assert event["detail"] == {"what": "enrolled", "by": "bacau", "passkeys": 1, "revoked": 1, "guardian": "court"}
    assert held(region, PATIENT)[0].enrolment.guardian == guardian


def test_what_is_saved_twice_is_new_once(region: Region) -> None:
    phone = Phone().credential
    one = Enrolment("bacau", frozenset({PATIENT}), (phone, phone), region.clock())
    token = enrolment(region, PATIENT, credentials=[phone])["token"]
    with region.database.write() as connection:
        assert enrolments.save(connection, one, token)
        assert not enrolments.save(connection, one, token)


def test_a_hospital_speaks_for_its_own_numbers_and_nobody_makes_one_patient_of_two(region: Region) -> None:
    passkey = {"credentials": [Phone().credential]}
    good = enrolment(region, PATIENT, BACAU, **passkey)
    assert bring(region, enrolled=[good]) == []
    second = PatientIdentifier("RO-CNP", "2800101221145")
    hub = enrol(region.keys[HUB], hospital=HUB, patient=[PATIENT], now=region.clock(), **passkey)  # type: ignore[arg-type]
    for wrong, reason in (
        (enrolment(region, BACAU, by="iasi", **passkey), "iasi does not assign numbers of BACAU"),
        (enrolment(region, BACAU, second, **passkey), "one person has one national number"),
        (enrolment(region, *(PatientIdentifier("BACAU", str(n)) for n in range(50)), **passkey), "at most 50 numbers"),
        ({**good, "hospital": "iasi"}, "signed by somebody else"),
        ({"hospital": HUB, "token": hub}, "not in the region manifest"),
        ({"hospital": "bacau", "token": "a.b.c"}, "not a JWS"),
    ):
        (problem,) = bring(region, enrolled=[wrong])
        assert problem.startswith("enrolment: ")
        assert reason in problem
    assert [one.token for one in held(region, PATIENT)] == [good["token"]]


def test_numbers_that_hospitals_join_here_permit_nothing_and_join_no_charts(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-MARIA", "3")))
    region.feed("bacau", study("2.1", ("RO-CNP", CNP), ("BACAU", "9")))
    assert bring(region, enrolled=[enrolment(region, IASI, PATIENT, by="iasi")], by="iasi") == []
    region.permit("RO-CNP", CNP)
    assert region.resolve("bacau", "RO-CNP", CNP)["holders"] == []


def test_a_patient_signs_changes_and_takes_back(region: Region) -> None:
    phone = Phone()
    given = signed(phone, "consent-1", to="bacau")
    assert bring(region, given) == [REFUSED]
    assert bring(region, given, enrolled=[enrolment(region, PATIENT, credentials=[phone.credential])]) == []
    assert status(region, "consent-1") == (1, "active", "passkey", phone.id.hex())
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    assert region.resolve("bacau", "RO-CNP", CNP)["holders"] == [{"hospital": "iasi", "studies": 1}]
    assert bring(region, signed(phone, "consent-1", 2, to="bacau", status="inactive")) == []
    assert status(region, "consent-1") == (2, "inactive", "passkey", phone.id.hex())
    assert region.resolve("bacau", "RO-CNP", CNP)["holders"] == []
    event = [one["detail"] for one in region.audit.tail() if one["event"] == "consent"][-1]
    assert (event["what"], event["proof"], event["by"]) == ("withdrawn", "passkey", phone.id.hex())


def test_a_consent_under_one_number_is_signed_with_the_passkey_of_another_of_the_same_person(region: Region) -> None:
    phone = Phone()
    enrolled = [enrolment(region, PATIENT, credentials=[phone.credential]), enrolment(region, PATIENT, BACAU)]
    record = signed(phone, "consent-1", patient=BACAU)
    assert bring(region, record, enrolled=enrolled[:1]) == [REFUSED]
    assert bring(region, record, enrolled=enrolled[1:]) == []


def test_a_passkey_that_no_longer_counts_is_refused_and_what_it_signed_stays(region: Region) -> None:
    phone, mother = Phone(), Phone(b"mother")
    until = region.clock() + timedelta(days=1)
    enrolled = [
        enrolment(region, PATIENT, credentials=[phone.credential]),
        enrolment(region, BACAU, credentials=[mother.credential], guardian=Guardian(Basis.PARENT, until)),
    ]
    records = [signed(phone, "consent-1", to="bacau"), signed(mother, "consent-2", patient=BACAU, to="iasi")]
    assert bring(region, *records, enrolled=enrolled) == []
    revoked = enrolment(region, PATIENT, by="iasi", revoked=[phone.id])
    assert bring(region, signed(phone, "consent-3"), enrolled=[revoked]) == [REFUSED]
    region.clock.advance(24 * 3600)
    assert bring(region, signed(mother, "consent-4", patient=BACAU)) == [REFUSED]
    assert [status(region, f"consent-{number}") is not None for number in (1, 2, 3, 4)] == [True, True, False, False]


def test_staff_changes_here_what_it_may_change_at_key_servers(region: Region) -> None:
    """Else the hub would tell a hospital about studies that the patient keeps from it."""
    phone = Phone()
    enrolled = [enrolment(region, PATIENT, credentials=[phone.credential])]
    denial = consent_document(consent("RO-CNP", CNP, type="deny", to="bacau"), id="denial-1", version=1)
    assert bring(region, signed(phone, "consent-1", to="iasi"), phone.record(denial), enrolled=enrolled) == []

    def on_paper(id: str, version: int, **changes: Any) -> Any:
        document = consent_document(consent("RO-CNP", CNP, **changes), id=id, version=version)
        proof = attest(region.keys["iasi"], document, hospital="iasi", staff=["ionescu", "popa"], now=region.clock())
        return {"document": document, "proof": proof}

    assert "staff can only take it back" in bring(region, on_paper("consent-1", 2, to="bacau"))[0]
    for change in ({"type": "deny", "to": "bacau", "status": "inactive"}, {"to": "bacau"}):
        (problem,) = bring(region, on_paper("denial-1", 2, **change))
        assert "only the patient, or the hospital that attested it" in problem
    assert bring(region, on_paper("consent-1", 2, to="iasi", status="inactive")) == []
    # What is late or known is no problem: the hospital's delivery is done.
    assert bring(region, signed(phone, "consent-1", 1, to="iasi"), phone.record(denial)) == []
    assert (status(region, "consent-1"), status(region, "denial-1")) == (
        (2, "inactive", "staff", "iasi"), (1, "active", "passkey", phone.id.hex()),
    )  # fmt: skip


def test_the_portal_is_the_manifests(region: Region) -> None:
    elsewhere = Phone(b"elsewhere", "other.example")
    enrolled = [enrolment(region, PATIENT, credentials=[elsewhere.credential])]
    (problem,) = bring(region, signed(elsewhere, "consent-1"), enrolled=enrolled)
    assert "another site than the region's portal" in problem


def test_a_request_without_enrolments_is_not_what_is_described(region: Region) -> None:
    for body in (
        {"records": []},
        {"enrolments": []},
        *({"records": [], "enrolments": one} for one in ({}, [1], [{}], [{"hospital": "bacau", "token": 1}])),
        {"records": [], "enrolments": [{"hospital": "bacau", "token": "x"}] * 101},
    ):
        assert region.send("iasi", PATH, canonical_json(body)).status_code == 400


def test_a_hub_of_the_version_before_keeps_its_consents(new_database_url: Callable[[], str]) -> None:
    url = new_database_url()
    engine = _engine(_parse(url))
    text = canonical_json(consent("RO-CNP", CNP)).decode()
    with engine.begin() as connection:
        migrate(connection, [PLATFORM_CHAIN])
        migrate(connection, [CHAIN], "r0002")
        values = {"id": "consent-1", "version": 1, "status": "active", "issuer": "RO-CNP", "value": CNP,
                  "current": True, "resource": text, "recorded": 7}  # fmt: skip
        connection.execute(sa.table("consent", *map(sa.column, values)).insert(), [values])
    engine.dispose()
    database = open_database(url, [CHAIN])
    with database.read() as opened:
        (one,) = consents.all_current(opened)
    database.close()
    assert (one.id, one.recorded, one.kind.value, one.proved_by, one.to_domain().active) == (
        "consent-1", 7, "staff", "", True,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
def test_ids_of_passkeys_may_be_anything(region: Region, count: int) -> None:
    odd = Phone(bytes(range(256)) * count).credential
    assert bring(region, enrolled=[enrolment(region, PATIENT, credentials=[odd])]) == []
    with region.database.read() as connection:
        assert len(enrolments.of_credential(connection, odd.id)) == 1
