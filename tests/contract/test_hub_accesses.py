"""Who had what: a source speaks of itself and its patients only, nothing is lost and nothing is there twice."""

from datetime import timedelta
from typing import Any

import pytest

from contract.hub_region import CNP, Region, study
from contract.test_hub_invitations import refusal, together
from usmed.domain.consent import Purpose
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import accesses as module
from usmed.hub.accesses import Access, Accesses

PATH = "/v1/accesses"
OWN = PatientIdentifier("SF-SPIRIDON", "7")
NATIONAL = PatientIdentifier("RO-CNP", CNP)


def accesses(region: Region, **changes: Any) -> Accesses:
    return Accesses(region.database, lambda: region.manifest, region.clock, **changes)


def access(region: Region, sequence: int, patient: PatientIdentifier = OWN, **changes: Any) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "at": int(region.clock().timestamp()),
        "patient": {"issuer": patient.issuer, "value": patient.value},
        "recipient": "bacau",
        "role": "radiolog",
        "purpose": "TREAT",
        "study_instance_uid": f"1.{sequence}",
        "consents": ["consent-1", "consent-2"],
        **changes,
    }


def send(region: Region, *documents: Any, hospital: str = "iasi") -> int:
    return int(region.post(hospital, PATH, {"accesses": list(documents)})["taken"])


def test_the_patient_sees_who_had_what_the_newest_first(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    now = int(region.clock().timestamp())
    emergency = access(region, 2, NATIONAL, purpose="ETREAT", consents=[], at=now - 60, role="")
    assert send(region, access(region, 1), emergency, access(region, 3, at=now - 120)) == 3
    found = accesses(region).of([OWN, NATIONAL])
    assert [one.study_instance_uid for one in found] == ["1.1", "1.2", "1.3"]
    assert found[0] == Access(
        id=found[0].id,
        at=region.clock(),
        source="iasi",
        recipient="bacau",
        role="radiolog",
        purpose=Purpose.TREAT,
        study_instance_uid="1.1",
        patient=OWN,
        consents=("consent-1", "consent-2"),
    )
    assert (found[1].purpose, found[1].consents, found[1].role) == (Purpose.ETREAT, (), "")
    assert [one.study_instance_uid for one in accesses(region).of([NATIONAL])] == ["1.2"]
    assert accesses(region).of([PatientIdentifier("SF-SPIRIDON", "07"), PatientIdentifier("BACAU", "7")]) == []
    assert accesses(region).of([]) == []


def test_pages_leave_nothing_out_where_many_happened_in_one_second(region: Region) -> None:
    now = int(region.clock().timestamp())
    # Two in each second, sent in no order of time.
    documents = [access(region, n, at=now - (n * 7 % 25) // 2) for n in range(1, 26)]
    assert send(region, *documents) == 25
    book, pages, before = accesses(region), list[list[Access]](), None
    while page := book.of([OWN], limit=4, before=before):
        pages.append(page)
        before = page[-1].id
    found = [one for page in pages for one in page]
    assert [len(page) for page in pages] == [4, 4, 4, 4, 4, 4, 1]
    assert sorted(one.study_instance_uid for one in found) == sorted(f"1.{n}" for n in range(1, 26))
    assert [one.at for one in found] == sorted((one.at for one in found), reverse=True)
    assert found == book.of([OWN])
    assert book.of([OWN], before=10**9) == []
    assert len(book.of([OWN], limit=0)) == 1


def test_what_is_sent_again_is_there_once_also_at_once(region: Region) -> None:
    documents = [access(region, n) for n in range(40)]
    assert send(region, *documents) == 40
    assert send(region, *reversed(documents), access(region, 40)) == 41
    iasi, problems = region.manifest.hospitals["iasi"], list[Any]()
    more = [access(region, n) for n in range(30, 90)]
    together(6, lambda number: problems.append(accesses(region).take(iasi, more if number % 2 else more[::-1])))
    assert problems == [[]] * 6
    assert len(accesses(region).of([OWN], limit=500)) == 90


def test_a_node_restored_from_a_backup_hides_nothing_and_two_sources_count_apart(region: Region) -> None:
    region.feed("bacau", study("1.1", ("BACAU", "9"), ("RO-CNP", CNP)))
    assert send(region, access(region, 1)) == 1
    assert send(region, access(region, 1, study_instance_uid="1.99")) == 1
    assert send(region, access(region, 1, NATIONAL, recipient="iasi"), hospital="bacau") == 1
    found = accesses(region).of([OWN, NATIONAL])
    assert sorted((one.source, one.study_instance_uid) for one in found) == [
        ("bacau", "1.1"),
        ("iasi", "1.1"),
        ("iasi", "1.99"),
    ]


def test_a_source_names_its_own_patients_only(region: Region) -> None:
    # The index knows that iasi's 7 is bacau's 9; bacau's 10 is nobody whom iasi has.
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("RO-CNP", CNP)), study("2.2", ("BACAU", "10")))
    bacau = [PatientIdentifier("BACAU", value) for value in ("9", "10", "11")]
    documents = [access(region, n, one) for n, one in enumerate([*bacau, PatientIdentifier("LABOR", "1"), OWN])]
    assert send(region, *documents) == 2
    assert {one.patient for one in accesses(region).of([*bacau, OWN])} == {bacau[0], OWN}
    (event,) = [one for one in region.audit.tail() if one["detail"].get("what") == "accesses"]
    assert (event["agent"], event["outcome"]) == ("iasi", "partial")
    assert event["detail"] == {"what": "accesses", "taken": 2, "left_out": 3}
    assert event["reason"] == "3 of a patient whom iasi has no number of"


def test_who_never_had_a_patient_invents_no_access_by_the_national_number(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    assert send(region, access(region, 1, NATIONAL), hospital="suceava") == 0
    assert region.audit.tail()[-1]["reason"] == "1 of a patient whom suceava has no number of"
    assert send(region, access(region, 1, NATIONAL)) == 1
    assert [one.source for one in accesses(region).of([NATIONAL, OWN])] == ["iasi"]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipient": "spitalul-inventat"},
        {"recipient": "hub"},
        {"sequence": -1},
        {"sequence": "1"},
        {"sequence": True},
        {"at": -1},
        {"at": 1.5},
        {"at": 1 << 40},
        {"patient": {"issuer": "SF-SPIRIDON"}},
        {"patient": {"issuer": "SF-SPIRIDON", "value": "a\\b"}},
        {"recipient": ""},
        {"recipient": "x" * 65},
        {"recipient": "a\u202eb"},
        {"role": "a\nb"},
        {"role": None},
        {"purpose": "CURIOSITY"},
        {"purpose": []},
        {"study_instance_uid": "1.x"},
        {"study_instance_uid": None},
        {"consents": "c"},
        {"consents": [1]},
        {"consents": ["c"] * 101},
        {"consents": ["c" * 65]},
        {"source": "bacau"},
    ],
)
def test_one_that_is_wrong_does_not_hold_up_the_others(region: Region, changes: dict[str, Any]) -> None:
    assert send(region, access(region, 1), {**access(region, 2), **changes}, access(region, 3)) == 2
    assert sorted(one.study_instance_uid for one in accesses(region).of([OWN])) == ["1.1", "1.3"]
    event = region.audit.tail()[-1]
    assert (event["event"], event["outcome"], event["detail"]["left_out"]) == ("feed", "partial", 1)
    assert event["reason"]
    assert "SF-SPIRIDON" not in event["reason"]


def test_what_is_dated_in_the_future_is_left_out(region: Region) -> None:
    now = int(region.clock().timestamp())
    assert send(region, access(region, 1, at=now + 60), access(region, 2, at=now + 61)) == 1


def test_the_sender_is_told_which_were_not_taken_and_whether_to_try_again(region: Region) -> None:
    now = int(region.clock().timestamp())
    documents = [
        access(region, 1), access(region, 2, at=now + 61), access(region, 3, NATIONAL), access(region, 4, role="a\nb"),
    ]  # fmt: skip
    answer = region.post("iasi", PATH, {"accesses": documents})
    assert answer["taken"] == 1
    assert [(one["place"], one["again"]) for one in answer["problems"]] == [(1, True), (2, True), (3, False)]
    assert "clocks" in answer["problems"][0]["reason"]
    # The patient is announced meanwhile, and the clocks agree.
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.clock.advance(60)
    assert region.post("iasi", PATH, {"accesses": documents[1:3]}) == {"taken": 2, "problems": []}


def opened(region: Region, sequence: int, hospital: str = "suceava", **changes: Any) -> dict[str, Any]:
    emergency = {"purpose": "ETREAT", "recipient": hospital, "study_instance_uid": "", "consents": [], "role": "staff"}
    return access(region, sequence, NATIONAL, **emergency | changes)


def test_an_emergency_that_was_opened_is_there_though_nothing_was_given(region: Region) -> None:
    # Nobody has announced this patient.
    assert send(region, opened(region, 1), hospital="suceava") == 1
    (one,) = accesses(region).of([NATIONAL])
    assert (one.source, one.recipient, one.purpose, one.study_instance_uid) == ("suceava", "suceava", "ETREAT", "")


@pytest.mark.parametrize("changes", [{"recipient": "bacau"}, {"purpose": "TREAT"}, {"consents": ["c"]}])
def test_a_hospital_says_of_itself_only_that_it_opened_an_emergency(region: Region, changes: dict[str, Any]) -> None:
    assert send(region, opened(region, 1, **changes), hospital="suceava") == 0


def test_how_many_emergencies_a_hospital_says_a_day_is_bounded(region: Region) -> None:
    assert send(region, *(opened(region, n) for n in range(60)), hospital="suceava") == 50
    assert send(region, opened(region, 99, "bacau"), hospital="bacau") == 1
    region.clock.advance(86401)
    assert send(region, opened(region, 100), hospital="suceava") == 1


def test_more_than_five_hundred_at_once_are_refused(region: Region) -> None:
    documents = [access(region, n) for n in range(501)]
    assert refusal(region, PATH, {"accesses": documents}) == (400, "bad-request")
    assert send(region, *documents[:500]) == 500
    assert len(accesses(region).of([OWN], limit=10_000)) == 500


def test_what_is_too_old_goes_in_steps_with_each_announcement(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNED_AT_ONCE", 2)
    assert send(region, *(access(region, n) for n in range(1, 4))) == 3
    region.clock.advance(timedelta(days=3654).total_seconds())

    def held() -> int:
        with region.database.read() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM patient_access").scalar_one())

    assert send(region, access(region, 4)) == 1
    assert held() == 2
    assert send(region, access(region, 5)) == 1
    assert held() == 2
    # Looked at once an hour where nothing is left.
    region.clock.advance(timedelta(minutes=59).total_seconds())
    assert send(region, access(region, 6)) == 1
    assert held() == 3


def test_an_access_is_shown_for_ten_years_and_then_forgotten(region: Region) -> None:
    assert send(region, access(region, 1)) == 1
    region.clock.advance(timedelta(days=3652).total_seconds())
    assert len(accesses(region).of([OWN])) == 1
    region.clock.advance(timedelta(days=2).total_seconds())
    assert accesses(region).of([OWN]) == []
    assert send(region, access(region, 2)) == 1
    assert [one.study_instance_uid for one in accesses(region, kept=timedelta(days=9999)).of([OWN])] == ["1.2"]
