"""Who a patient is by the hospital's own archive; and that an archive which contradicts itself tells of nobody."""

from datetime import date
from typing import Any

import pytest

from support.shelf import Shelf
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.hospital.archive import GUEST_LABEL
from usmed.hospital.patient_record import PatientRecord, PatientRecords, age, birthday

CNP = "1630615123457"
OWN, NATIONAL = PatientIdentifier("BACAU", "9"), PatientIdentifier("RO-CNP", CNP)
NAMING = Naming("BACAU", NationalNumber("RO-CNP"))
SPOKEN_FOR = frozenset({"BACAU", "BACAU-2", "RO-CNP"})


def record(shelf: Shelf, number: str = "9", issuer: str = "") -> PatientRecord:
    return PatientRecords(shelf, NAMING, lambda: SPOKEN_FOR).of(number, issuer)  # type: ignore[arg-type]


def code(shelf: Shelf, number: str = "9", issuer: str = "") -> str:
    with pytest.raises(RefusedError) as refusal:
        record(shelf, number, issuer)
    # It may be read by others than the clerk.
    assert "Popescu" not in str(refusal.value)
    return refusal.value.code


def shelf_of(*studies: dict[str, Any], number: str = "9") -> Shelf:
    shelf = Shelf()
    for one in studies:
        shelf.put(**{"number": number, **one})
    return shelf


def test_a_record_has_name_birth_date_and_the_numbers_of_all_studies() -> None:
    shelf = shelf_of(
        {"name": "Popescu^Ion Marian^^Dr.=POPESCU"},
        {"other_identifiers": (("RO-CNP", CNP), ("ELSEWHERE", "5")), "name": "POPESCU^ION-MARIAN^^DR"},
        {"other_identifiers": (("BACAU-2", "A-1"),), "name": ""},
    )
    found = record(shelf)
    assert found.name == "Popescu Ion Marian Dr."
    assert (found.birth_date, found.sex) == ("19630615", "M")
    assert found.numbers == (OWN, NATIONAL, PatientIdentifier("BACAU-2", "A-1"))


def test_a_patient_is_opened_by_the_national_number_too() -> None:
    assert record(shelf_of({}, number=CNP), CNP).numbers == (NATIONAL,)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Șuteu^Ana-Maria", "SUTEU^ANA MARIA"), ("Popescu^Ion", "Popescu^Ion^^^"), ("Popescu^Ion", "popescu ion")],
)
def test_one_name_in_two_spellings_is_one_name(first: str, second: str) -> None:
    assert record(shelf_of({"name": first}, {"name": second})).name


@pytest.mark.parametrize(
    "other",
    [
        {"name": "Popescu^Ioana"},
        {"birth_date": "19630616"},
        {"sex": "F"},
    ],
)
def test_two_people_under_one_number_are_nobody(other: dict[str, Any]) -> None:
    assert code(shelf_of({}, other)) == "contradiction"


@pytest.mark.parametrize(
    "other",
    [
        {"name": "Ionescu^Maria"},
        {"birth_date": "19800101"},
        {"sex": "F"},
        {"other_identifiers": (("RO-CNP", "1630615123465"),)},
    ],
)
@pytest.mark.parametrize("further", [("BACAU", "10"), ("BACAU-2", "10")])
def test_a_further_number_under_which_somebody_else_is_filed_is_a_contradiction(
    other: dict[str, Any], further: tuple[str, str]
) -> None:
    shelf = shelf_of({"other_identifiers": (("RO-CNP", CNP), further)})
    shelf.put("10", **{"issuer": further[0], **other})
    assert code(shelf) == "contradiction"
    # Also where a study under the further number is the one that names it.
    shelf = shelf_of({"other_identifiers": (("RO-CNP", CNP), ("BACAU", "8"))})
    shelf.put("8", other_identifiers=(further,))
    shelf.put("10", **{"issuer": further[0], **other})
    assert code(shelf) == "contradiction"


def test_what_is_filed_under_a_further_number_of_the_same_person_belongs_to_the_record() -> None:
    shelf = shelf_of({"other_identifiers": (("BACAU", "10"),), "birth_date": "", "sex": ""})
    shelf.put("10", other_identifiers=(("RO-CNP", CNP),))
    # The same value of another issuer, and a copy, are nothing to it.
    shelf.put("10", "Ionescu^Maria", issuer="DISC")
    shelf.put("10", "Ionescu^Maria", labels=frozenset({GUEST_LABEL}))
    found = record(shelf)
    assert (found.opened, found.birth_date) == (OWN, "19630615")
    assert found.numbers == (OWN, PatientIdentifier("BACAU", "10"), NATIONAL)


def test_a_chain_of_numbers_without_end_is_a_contradiction() -> None:
    shelf = Shelf()
    for one in range(9, 99):
        shelf.put(str(one), other_identifiers=(("BACAU", str(one + 1)),))
    assert code(shelf) == "contradiction"


def test_two_national_numbers_are_a_contradiction() -> None:
    first, second = (("RO-CNP", CNP),), (("RO-CNP", "1630615123465"),)
    assert NAMING.national is not None
    assert all(NAMING.national.accepts(one[0][1], "19630615", "M") for one in (first, second))
    assert code(shelf_of({"other_identifiers": first}, {"other_identifiers": second})) == "contradiction"


def test_a_study_whose_birth_date_contradicts_its_national_number_is_not_left_out() -> None:
    assert code(shelf_of({}, {"birth_date": "19630616"}, number=CNP), CNP) == "contradiction"


def test_a_national_number_that_does_not_fit_is_not_offered() -> None:
    shelf = shelf_of({"other_identifiers": (("RO-CNP", CNP),), "birth_date": "19700101"})
    assert record(shelf).numbers == (OWN,)


def test_what_is_missing_contradicts_nothing() -> None:
    found = record(shelf_of({"birth_date": "", "sex": "", "name": ""}, {"birth_date": "1963", "sex": "X"}))
    assert (found.birth_date, found.sex) == ("", "")


def test_copies_from_other_hospitals_do_not_count() -> None:
    guest = {"labels": frozenset({GUEST_LABEL}), "name": "Ionescu^Dan"}
    assert record(shelf_of({}, guest)).name == "Popescu Ion"
    assert code(shelf_of(guest)) == "no-patient"


def test_a_number_of_another_issuer_is_another_patient() -> None:
    shelf = shelf_of({}, {"issuer": "DISC", "name": "Ionescu^Dan", "birth_date": "19500101"})
    assert record(shelf).name == "Popescu Ion"
    assert record(shelf, "9", "BACAU").name == "Popescu Ion"
    assert code(shelf, "9", "DISC") == "no-number"
    assert code(shelf, "9", "NOWHERE") == "no-patient"
    assert code(shelf, "10") == "no-patient"
    with pytest.raises(PeerDataError):
        record(shelf, "")


@pytest.mark.parametrize(
    ("born", "today", "years"),
    [
        ("20081122", date(2026, 11, 21), 17),
        ("20081122", date(2026, 11, 22), 18),
        ("20080229", date(2026, 2, 28), 17),
        ("20080229", date(2026, 3, 1), 18),
    ],
)
def test_age_and_birthday_agree(born: str, today: date, years: int) -> None:
    assert age(born, today) == years
    assert (today >= birthday(born, 18)) is (years >= 18)
