"""What an ADT message says of a patient, in DICOM's terms."""

from datetime import date

import pytest

from support.hl7 import adt
from usmed.domain.adt import Adt, Authorities, Event, Merge, read_adt
from usmed.domain.arrival import Prefetch, Source, settled, united
from usmed.domain.hl7_message import MessageError, read_header, read_message
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.domain.pull import State

NAMING = Naming("SPIRIDON", NationalNumber("RO-CNP"))
AUTHORITIES = Authorities(NAMING, {"HIS": "SPIRIDON", "CNP": "RO-CNP", "1.2.3": "SPIRIDON"})
TODAY = date(2026, 11, 22)
OWN, CNP = PatientIdentifier("SPIRIDON", "1042"), PatientIdentifier("RO-CNP", "1800101221144")


def read(content: bytes, authorities: Authorities = AUTHORITIES) -> Adt:
    message = read_message(content, read_header(content), processing_id="P", character_set="UNICODE UTF-8")
    return read_adt(message, authorities, TODAY)


def fault(content: bytes) -> tuple[str, str]:
    with pytest.raises(MessageError) as refusal:
        read(content)
    assert refusal.value.acknowledgement == "AE"
    return refusal.value.code.value, refusal.value.location


def test_an_admission() -> None:
    told = read(adt())
    arrival = told.arrival
    assert told.event is Event.ARRIVED
    assert arrival is not None
    assert (arrival.identifier, arrival.identifiers) == (OWN, {OWN, CNP})
    assert (arrival.name, arrival.birth_date, arrival.sex) == ("Țîrlea^Ștefan^Ion^Dr", "19800101", "M")
    assert (arrival.day, arrival.time, arrival.place) == (date(2026, 11, 22), "1025", "UPU 2 1")
    assert arrival.source is Source.HL7


@pytest.mark.parametrize(
    ("pid3", "expected"),
    [
        ("7^^^HIS", {PatientIdentifier("SPIRIDON", "7")}),
        ("7^^^SPIRIDON", {PatientIdentifier("SPIRIDON", "7")}),
        ("7^^^&1.2.3&ISO", {PatientIdentifier("SPIRIDON", "7")}),
        # without an authority, as of a Patient ID in DICOM
        ("7", {PatientIdentifier("SPIRIDON", "7")}),
        ("1800101221144", {CNP}),
        # numbers of others are not ours to say anything by
        ("7^^^HIS~8^^^ASIGURARI~~9^^^&9.9.9&ISO", {PatientIdentifier("SPIRIDON", "7")}),
        # no national number, or not this patient's
        ("7^^^HIS~0000000000000^^^CNP~2900101221145^^^CNP", {PatientIdentifier("SPIRIDON", "7")}),
        ("007^^^HIS", {PatientIdentifier("SPIRIDON", "007")}),
    ],
)
def test_numbers(pid3: str, expected: set[PatientIdentifier]) -> None:
    assert read(adt(pid={3: pid3})).person.identifiers == expected


def test_a_number_without_an_authority_may_have_an_issuer_of_its_own() -> None:
    authorities = Authorities(NAMING, {}, without="OTHER")
    assert read(adt(pid={3: "7"}), authorities).person.identifier == PatientIdentifier("OTHER", "7")


@pytest.mark.parametrize(
    ("pid5", "expected"),
    [
        ("", ""),
        ("Pop", "Pop"),
        ("Pop&de&Pop^Ion", "Pop^Ion"),
        ("Pop^Ion^Radu^Jr^Dr", "Pop^Ion^Radu^Dr^Jr"),
        ("Pop^Ioana~Ionescu^Ioana^^^^^L", "Ionescu^Ioana"),
        (r"A\S\B=C^D\E\E", "A B C^D E"),
    ],
)
def test_names(pid5: str, expected: str) -> None:
    assert read(adt(pid={5: pid5})).person.name == expected


@pytest.mark.parametrize(
    ("pid7", "expected"),
    [("", ""), ("19800101", "19800101"), ("198001011230", "19800101"), ("1980", ""), ("19800101+0200", "19800101")],
)
def test_birth_dates(pid7: str, expected: str) -> None:
    assert read(adt(pid={3: "7", 7: pid7})).person.birth_date == expected


@pytest.mark.parametrize(("pid8", "expected"), [("M", "M"), ("f", "F"), ("", ""), ("U", ""), ("A", "O"), ("N", "O")])
def test_sexes(pid8: str, expected: str) -> None:
    assert read(adt(pid={3: "7", 8: pid8})).person.sex == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (adt(pid={3: ""}), ("101", "PID^1^3")),
        (adt(pid={3: '""'}), ("101", "PID^1^3")),
        (adt(pid={3: "7^^^ELSEWHERE"}), ("204", "PID^1^3")),
        (adt(pid={3: "x" * 65}), ("102", "PID^1^3")),
        (adt(pid={3: "~".join(f"{n}^^^HIS" for n in range(21))}), ("102", "PID^1^3")),
        (adt(pid={7: "19800230"}), ("102", "PID^1^7")),
        (adt(pid={7: "01.01.1980"}), ("102", "PID^1^7")),
        (adt(pid={7: "1980-1-1"}), ("102", "PID^1^7")),
        (adt(pid={8: "X"}), ("103", "PID^1^8")),
        (adt(pv1={44: "20261301"}), ("102", "PV1^1^44")),
        (adt(pv1={44: "202611222460"}), ("102", "PV1^1^44")),
        (adt(pv1={44: "today"}), ("102", "PV1^1^44")),
        (adt(pv1={44: "20280101"}), ("102", "PV1^1^44")),
        (adt(more=("PID|2||8^^^HIS",)), ("100", "PID^2")),
        (adt().replace(b"PID|", b"ZID|"), ("100", "PID")),
        (adt("A40"), ("100", "MRG")),
        (adt("A40", more=("MRG|",)), ("101", "MRG^1^1")),
        (adt("A40", more=("MRG|1042^^^HIS",)), ("102", "MRG^1^1")),
    ],
)
def test_what_is_wrong_is_said_with_its_place(content: bytes, expected: tuple[str, str]) -> None:
    assert fault(content) == expected


def test_when() -> None:
    def moment(**fields: dict[int, str]) -> tuple[date, str]:
        arrival = read(adt(**fields)).arrival  # type: ignore[arg-type]
        assert arrival is not None
        return arrival.day, arrival.time

    assert moment(pv1={44: ""}) == (TODAY, "1027")
    assert moment(pv1={44: "20261123"}) == (date(2026, 11, 23), "")
    assert moment(pv1={44: "20261122235959.1234-0500"}) == (TODAY, "2359")


def test_a_merge() -> None:
    told = read(adt("A40", more=("MRG|77^^^HIS~9^^^ELSEWHERE",)))
    assert told.event is Event.MERGED
    assert told.arrival is None
    assert told.merges == (Merge(OWN, frozenset({PatientIdentifier("SPIRIDON", "77")})),)


def test_merges_of_several_patients_in_one_message() -> None:
    told = read(adt("A40", more=("MRG|77^^^HIS", "PID|2||8^^^HIS||B", "MRG|9^^^HIS")))
    assert [(one.surviving.value, {each.value for each in one.prior}) for one in told.merges] == [
        ("1042", {"77"}), ("8", {"9"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pulls", "expected"),
    [
        ([None], Prefetch.HERE),
        ([None, State.COMPLETE], Prefetch.HERE),
        ([State.COMPLETE, State.QUEUED], Prefetch.ARRIVING),
        ([State.FAILED, State.RUNNING], Prefetch.ARRIVING),
        ([State.WAITING], Prefetch.ARRIVING),
        ([State.COMPLETE, State.FAILED], Prefetch.FAILED),
        ([State.REFUSED], Prefetch.FAILED),
        ([State.LEAVING], Prefetch.FAILED),
    ],
)
def test_how_far_a_prefetch_is(pulls: list[State | None], expected: Prefetch) -> None:
    assert settled(pulls) is expected


def test_modalities_are_united() -> None:
    assert united("MR\\CT", "CT") == "CT\\MR"
    assert united("", "") == ""
