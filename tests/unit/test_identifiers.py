"""Two patients whose numbers look alike stay two patients."""

import hashlib
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.ro import cnp

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import (
    Naming,
    NationalNumber,
    PatientIdentifier,
    is_single_value,
    is_uid,
    orthanc_id,
    patient_identifier,
)

LOOK_ALIKES = [
    "1234", "01234", "_1234", "%1234", "*1234", "1234*", "1234?", "123?", "1_34", "1%4", "12 34", "1234.", "１２３４",
    "l234", "ab12", "AB12", "Ab12", "ＡＢ12", "аb12", "é12", "e\u030112", "ß12", "ss12", "ş12", "ș12", "İ12", "i12",
    "I12", "ı12",
]  # fmt: skip
NATIONAL = NationalNumber("RO-CNP")
NAMING = Naming("PARHON", NATIONAL)


def valid_cnp(first_twelve: str) -> str:
    return first_twelve + cnp.calc_check_digit(first_twelve)


MAN_1980, WOMAN_1980, RESIDENT_1980, FOREIGNER = (valid_cnp(start + "80010122114") for start in ("1", "2", "7", "9"))


def test_look_alikes_are_never_equal() -> None:
    identifiers = [
        patient_identifier(issuer, value) for issuer in ("A", "a", "A ", "A_", "_A") for value in LOOK_ALIKES
    ]
    # "A " is "A" with DICOM's padding: the same issuer.
    assert len(set(identifiers)) == 4 * len(LOOK_ALIKES)
    assert len({str(one) for one in identifiers}) == 4 * len(LOOK_ALIKES)
    for one, other in combinations(set(identifiers), 2):
        assert one != other
        assert orthanc_id(one.value) != orthanc_id(other.value) or one.value == other.value


@settings(max_examples=150, deadline=None)
@given(*[st.tuples(st.text(max_size=6), st.text(max_size=6))] * 2)
def test_identifiers_are_equal_only_character_by_character(one: tuple[str, str], other: tuple[str, str]) -> None:
    try:
        first, second = patient_identifier(*one), patient_identifier(*other)
    except PeerDataError:
        return
    assert (first == second) is ([part.strip(" ") for part in one] == [part.strip(" ") for part in other])


def test_only_padding_is_stripped() -> None:
    assert patient_identifier(" A ", "  12 34 ") == PatientIdentifier("A", "12 34")
    assert patient_identifier("A", "\u00a01").value == "\u00a01", "a no-break space is no padding"
    assert patient_identifier("A", "007").value == "007"


@pytest.mark.parametrize(
    "value",
    ["", " ", "x" * 65, "a\\b", "a\nb", "1\0", "\x7f", "\t1", "\ud800", 1234, None, ["1"], True, b"1"],
    ids=lambda one: ascii(one)[:12],
)
def test_no_identifier(value: Any) -> None:
    with pytest.raises(PeerDataError, match="patient identifier's value"):
        patient_identifier("A", value)
    with pytest.raises(PeerDataError, match="patient identifier's issuer"):
        patient_identifier(value, "1")


def test_the_longest_identifier() -> None:
    assert patient_identifier("I" * 64, " " + "ș" * 64).value == "ș" * 64


# ---- the national number ----


@pytest.mark.parametrize("number", [MAN_1980, WOMAN_1980, RESIDENT_1980, FOREIGNER, f" {MAN_1980} "])
def test_a_valid_national_number_is_one(number: str) -> None:
    assert NATIONAL.accepts(number)
    assert NAMING.identify(number) == PatientIdentifier("RO-CNP", number.strip(" "))


@pytest.mark.parametrize(
    "number",
    [
        MAN_1980[:-1] + str((int(MAN_1980[-1]) + 1) % 10),
        MAN_1980[:-1],
        MAN_1980 + "0",
        "0" + MAN_1980[1:],
        valid_cnp("180133122114"),
        valid_cnp("180023022114"),
        MAN_1980[:1] + "-" + MAN_1980[1:],
        MAN_1980[:7] + " " + MAN_1980[7:],
        MAN_1980 + "\n",
        MAN_1980.translate({ord("0") + n: ord("０") + n for n in range(10)}),
        "",
        "0000000000000",
    ],
    ids=ascii,
)
def test_what_is_no_national_number_is_the_hospitals_own(number: str) -> None:
    assert not NATIONAL.accepts(number)
    if number.isprintable() and number:
        assert NAMING.identify(number).issuer == "PARHON"


@pytest.mark.parametrize(
    ("number", "birth_date", "sex", "fits"),
    [
        (MAN_1980, "19800101", "M", True),
        (MAN_1980, "19800101", "", True),
        (MAN_1980, "", "M", True),
        (MAN_1980, "", "O", True),
        (MAN_1980, "19800101", "F", False),
        (MAN_1980, "19800102", "M", False),
        (MAN_1980, "18800101", "M", False),
        (WOMAN_1980, "19800101", "F", True),
        (WOMAN_1980, "19800101", "M", False),
        # 7 and 8: residents, any century; 9: foreigners, of either sex
        (RESIDENT_1980, "19800101", "M", True),
        (RESIDENT_1980, "20800101", "M", True),
        (RESIDENT_1980, "19800101", "F", False),
        (RESIDENT_1980, "19810101", "M", False),
        (FOREIGNER, "19800101", "M", True),
        (FOREIGNER, "19800101", "F", True),
        (FOREIGNER, "19800201", "F", False),
        (MAN_1980, "1980", "M", False),
    ],
)
def test_a_number_that_contradicts_the_demographics_is_not_the_national_one(
    number: str, birth_date: str, sex: str, fits: bool
) -> None:
    assert NATIONAL.accepts(number, birth_date, sex) is fits
    issuer = "RO-CNP" if fits else "PARHON"
    assert NAMING.identify(number, "", birth_date, sex) == PatientIdentifier(issuer, number)


def test_an_issuer_that_is_stated_is_believed() -> None:
    assert NAMING.identify(MAN_1980, "SF-SPIRIDON") == PatientIdentifier("SF-SPIRIDON", MAN_1980)
    assert NAMING.identify("1234", " ") == PatientIdentifier("PARHON", "1234")
    assert Naming("PARHON", None).identify(MAN_1980) == PatientIdentifier("PARHON", MAN_1980)


# ---- filing under a local number ----

OWN, CNP, OTHER = (
    PatientIdentifier("PARHON", "77"), PatientIdentifier("RO-CNP", MAN_1980), PatientIdentifier("SF-SPIRIDON", "77")
)  # fmt: skip


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        ([OTHER, CNP, OWN], "77"),
        ([OTHER, CNP], MAN_1980),
        ([OTHER], "77@SF-SPIRIDON"),
        ([OTHER, PatientIdentifier("REGIONAL", "5")], "5@REGIONAL"),
    ],
)
def test_the_local_number_comes_first_and_a_foreign_one_is_marked(
    identifiers: list[PatientIdentifier], expected: str
) -> None:
    assert NAMING.local_patient_id(identifiers) == expected
    assert NAMING.local_patient_id(reversed(identifiers)) == expected


def test_numbers_of_two_hospitals_never_fall_together() -> None:
    numbers = [NAMING.local_patient_id([PatientIdentifier(issuer, "77")]) for issuer in ("PARHON", "A", "B")]
    assert len(set(numbers)) == 3


def test_no_number_to_file_under() -> None:
    with pytest.raises(PeerDataError, match="no identifier"):
        NAMING.local_patient_id([])
    with pytest.raises(PeerDataError, match="longer than PatientID may be"):
        NAMING.local_patient_id([PatientIdentifier("I" * 32, "1" * 32)])


# ---- what a query names ----


@pytest.mark.parametrize(
    ("value", "single"),
    [
        ("1234", True), ("_1234", True), ("%", True), ("12 34", True), (" 1 ", True), ("[1-3]", True),
        ("", False), ("  ", False), ("*", False), ("12*", False), ("123?", False), ("1\\2", False),
    ],
)  # fmt: skip
def test_single_values(value: str, single: bool) -> None:
    assert is_single_value(value) is single


@pytest.mark.parametrize(
    ("value", "uid"),
    [
        ("1.2.840.10008.1.1", True), ("1", True), ("0.0", True), ("1" * 64, True),
        ("", False), ("1..2", False), (".1", False), ("1.", False), ("1.2a", False), ("1" * 65, False), ("1.2 ", False),
        ("1.2\n", False), ("１.2", False), ("1.2\\1.3", False), ("1.*", False), (None, False), (12, False),
        (["1"], False),
    ],
)  # fmt: skip
def test_uids(value: Any, uid: bool) -> None:
    assert is_uid(value) is uid


# ---- Orthanc's own identifiers ----


def test_orthanc_identifiers() -> None:
    # Orthanc Book, "Orthanc identifiers"; that a real Orthanc agrees is tested in tests/host.
    digest = hashlib.sha1(b"1|2|3|4").hexdigest()
    assert orthanc_id("1", "2", "3", "4").split("-") == [digest[start : start + 8] for start in (0, 8, 16, 24, 32)]


def test_orthanc_cuts_padding_behind_but_not_before() -> None:
    assert orthanc_id("1 ", "2\0") == orthanc_id("1", "2")
    assert orthanc_id(" 1") != orthanc_id("1")
