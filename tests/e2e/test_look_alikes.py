"""Two patients whose numbers look alike are never mixed, in either direction, by any of the interfaces.

In each row two persons, P and Q, are known at A and at B, with a study of each at both. Their numbers at a hospital
differ by one thing only, and in most rows they are exchanged at the other one: what is P's number at A is Q's at B.
Who is who is told by their national numbers alone. Everybody has agreed to everything, so only identity decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from e2e import dcmtk, signed
from e2e.conftest import World
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from support.region import Hospital, eventually, permit
from usmed.domain.identifiers import orthanc_id

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Person:
    """One of the two: their numbers and their study at A and B (index 0 and 1)."""

    cnp: str
    numbers: tuple[str, str]
    studies: tuple[Study, Study]


@dataclass(frozen=True)
class Row:
    """Two persons whose numbers differ by one thing.

    `contradictory`: what the hospitals say cannot all be true. Then the persons may not be found elsewhere, until
    somebody has looked into it; they are not mixed either.
    """

    name: str
    p: Person
    q: Person
    contradictory: bool = False

    @property
    def persons(self) -> tuple[tuple[Person, Person], tuple[Person, Person]]:
        """Return each person with the other one."""
        return (self.p, self.q), (self.q, self.p)


def _row(
    index: int, name: str, p: tuple[str, str], q: tuple[str, str], *, contradictory: bool = False
) -> Row:
    def person(who: int, numbers: tuple[str, str]) -> Person:
        cnp = national_number(400 + 2 * index + who)
        patients = [Patient(number, name=f"Asemenea^{'PQ'[who]}").also(NATIONAL_ISSUER, cnp) for number in numbers]
        a, b = (Study(f"{name} {'PQ'[who]} {'AB'[i]}", patient, instances=1) for i, patient in enumerate(patients))
        return Person(cnp, numbers, (a, b))

    return Row(name, person(0, p), person(1, q), contradictory)


def _exchanged(index: int, name: str, one: str, other: str) -> Row:
    return _row(index, name, (one, other), (other, one))


ROWS = [
    _exchanged(0, "_ for any character", "LA0195", "LA01_5"),
    _exchanged(1, "_ before", "LA0295", "_LA0295"),
    _exchanged(2, "% for any characters", "LA0395", "LA03%"),
    _exchanged(3, "% before", "LA0495", "%LA0495"),
    _exchanged(4, "* for any characters", "LA0595", "LA05*"),
    _exchanged(5, "? for any character", "LA0695", "LA06?5"),
    _exchanged(6, "case", "LA07ab", "LA07AB"),
    _exchanged(7, "zero padding", "8000195", "0008000195"),
    _exchanged(8, "a space inside", "LA0895", "LA08 95"),
    _exchanged(9, "diacritics", "LA09șt", "LA09st"),
    _exchanged(10, "case of diacritics", "LA10ș", "LA10Ș"),
    _exchanged(11, "a quotation mark", "LA1195", "LA1195' OR '1'='1"),
    _exchanged(12, "a slash", "LA1295", "LA12/95"),
    _exchanged(13, "percent encoding", "LA13/95", "LA13%2F95"),
    _exchanged(14, "a second sign", "LA14-95", "LA14--95"),
    _row(15, "issuer only", ("LA1595", "LA15-P"), ("LA15-Q", "LA1595")),
    _row(16, "the number with the issuer behind", ("LA1695", "LA16-P"), ("LA16-Q", "LA1695@SPIRIDON")),
    _row(
        17, "one's number the other's national number",
        (national_number(480), "LA17-P"), ("LA17-Q", national_number(480)), contradictory=True,
    ),
]


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store everybody's studies at both hospitals; everybody agrees."""
    persons = [person for row in ROWS for person in (row.p, row.q)]
    world.place((hospital, one.studies[i]) for one in persons for i, hospital in enumerate((world.a, world.b)))
    world.region.consent(*(permit(NATIONAL_ISSUER, one.cnp) for one in persons))
    for row in ROWS:
        for one in () if row.contradictory else (row.p, row.q):
            for issuer, number in zip(ISSUERS, one.numbers, strict=True):
                world.region.same_person((issuer, number), (NATIONAL_ISSUER, one.cnp))


def is_pattern(number: str) -> bool:
    """Tell whether a C-FIND key with this number is a pattern (PS3.4 C.2.2.2.4), not a patient."""
    return "*" in number or "?" in number


type Look = Callable[[World, int, Person], set[str]]
"""Looks one person up at a hospital (0: A, 1: B) by their number there; returns the Study Instance UIDs."""

LOOKS: dict[str, Look] = {
    "C-FIND": lambda world, at, one: dcmtk.find(
        _hospital(world, at), "STUDY", {"PatientID": one.numbers[at], "StudyInstanceUID": ""}
    ).studies,
    "C-FIND at SERIES level": lambda world, at, one: dcmtk.find(
        _hospital(world, at), "SERIES",
        {"PatientID": one.numbers[at], "StudyInstanceUID": one.studies[1 - at].uid, "SeriesInstanceUID": ""},
    ).studies | {one.studies[at].uid},
    "/tools/find": lambda world, at, one: {
        found["MainDicomTags"]["StudyInstanceUID"]
        for found in _hospital(world, at).find("Study", {"PatientID": one.numbers[at]}, CaseSensitive=True)
    },
    "QIDO": lambda world, at, one: {
        found["0020000D"]["Value"][0]
        for found in _hospital(world, at).get("/dicom-web/studies", params={"PatientID": one.numbers[at]}).json()
    },
}  # fmt: skip


def _hospital(world: World, at: int) -> Hospital:
    return (world.a, world.b)[at]


ISSUERS = ("SPIRIDON", "PARHON")

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def _check(row: Row, found: set[str], expected: set[str], here: set[str] | None = None) -> None:
    """Check what a look at one person gave; `here` is what must be there in any case."""
    if row.contradictory:
        assert (here or set()) <= found <= expected
    else:
        assert found == expected


@rows
@pytest.mark.parametrize("look", LOOKS)
def test_a_lookup_by_the_own_number_finds_one_person(world: World, row: Row, look: str) -> None:
    for at in (0, 1):
        for one, other in row.persons:
            found = LOOKS[look](world, at, one)
            if is_pattern(one.numbers[at]):
                # Plain Orthanc's answer: what is here and matches, nothing from elsewhere.
                assert found <= {one.studies[at].uid, other.studies[at].uid}
            else:
                _check(row, found, {study.uid for study in one.studies}, {one.studies[at].uid})


BY_ISSUER: dict[str, Look] = {
    "C-FIND": lambda world, at, one: dcmtk.find(
        _hospital(world, at), "STUDY",
        {"PatientID": one.numbers[1 - at], "IssuerOfPatientID": ISSUERS[1 - at], "StudyInstanceUID": ""},
    ).studies,
    "/tools/find": lambda world, at, one: {
        found["MainDicomTags"]["StudyInstanceUID"]
        for found in _hospital(world, at).find(
            "Study", {"PatientID": one.numbers[1 - at], "IssuerOfPatientID": ISSUERS[1 - at]}
        )
    },
    "QIDO": lambda world, at, one: {
        found["0020000D"]["Value"][0]
        for found in _hospital(world, at).get(
            "/dicom-web/studies", params={"PatientID": one.numbers[1 - at], "IssuerOfPatientID": ISSUERS[1 - at]}
        ).json()
    },
}  # fmt: skip


@rows
@pytest.mark.parametrize("look", BY_ISSUER)
def test_a_lookup_by_the_other_hospitals_number_finds_one_person(world: World, row: Row, look: str) -> None:
    for at in (0, 1):
        for one, _ in row.persons:
            expected = set() if is_pattern(one.numbers[1 - at]) else {one.studies[1 - at].uid}
            _check(row, BY_ISSUER[look](world, at, one), expected)


@rows
def test_the_panel_shows_one_person(world: World, row: Row) -> None:
    for at in (0, 1):
        hospital = _hospital(world, at)
        for one, _ in row.persons:
            for path in (
                f"/usmed/patients/{quote(one.numbers[at], safe='')}",
                f"/usmed/patients/{quote(one.numbers[1 - at], safe='')}?issuer={ISSUERS[1 - at]}",
                f"/usmed/orthanc-patients/{orthanc_id(one.numbers[at])}",
            ):
                shown = hospital.get(path).json()["studies"]
                _check(row, {study["StudyInstanceUID"] for study in shown}, {one.studies[1 - at].uid})


@rows
def test_another_hospital_gets_one_person(world: World, row: Row) -> None:
    for at in (0, 1):
        asker, holder = _hospital(world, at), _hospital(world, 1 - at)

        def asked(identifiers: list[tuple[str, str]]) -> set[str]:
            answer = signed.send(asker, holder, signed.LOOKUP, signed.lookup(identifiers))  # noqa: B023
            return {one["study_instance_uid"] for one in answer.json()["answers"]}

        for one, other in row.persons:
            named = [(ISSUERS[1 - at], one.numbers[1 - at])]
            _check(row, asked(named), {one.studies[1 - at].uid})
            assert asked([(ISSUERS[at], one.numbers[at])]) == set()
            mine, not_mine = (
                signed.send(asker, holder, signed.MANIFEST, signed.of_study(who.studies[1 - at].uid, named))
                for who in (one, other)
            )
            assert not_mine.status_code == 404
            assert mine.status_code == 200 or row.contradictory


@rows
def test_the_hub_tells_of_one_person(world: World, row: Row) -> None:
    for at in (0, 1):
        hospital = _hospital(world, at)
        for one, _ in row.persons:
            everything = {(NATIONAL_ISSUER, one.cnp), *zip(ISSUERS, one.numbers, strict=True)}
            for issuer, value in everything:
                question = {"identifier": {"issuer": issuer, "value": value}, "purpose": "TREAT"}
                told = signed.send(hospital, world.hub, "/v1/resolve", question).json()
                _check(row, {(n["issuer"], n["value"]) for n in told["identifiers"]}, everything)
                holder = _hospital(world, 1 - at).id
                _check(row, {n["hospital"] for n in told["holders"]}, {holder})


@rows
def test_what_is_fetched_is_filed_under_one_person(world: World, row: Row) -> None:
    for at in (0, 1):
        hospital = _hospital(world, at)
        for one, other in row.persons:
            theirs = one.studies[1 - at]
            hospital.post("/usmed/fetch", {"StudyInstanceUID": theirs.uid}, headers=JSON)
            eventually(lambda: _settled(hospital, theirs), 20, "the transfer")  # noqa: B023
            # One who is known by two national numbers may be filed under the other one: it is theirs too.
            also = {one.cnp} if row.contradictory else set()
            _check(row, _patients_of(hospital, theirs), {one.numbers[at], *also})
            assert _patients_of(hospital, other.studies[at]) == {other.numbers[at]}


@rows
def test_a_move_of_a_patient_sends_one_person(world: World, row: Row) -> None:
    """Runs last: what was fetched and what is elsewhere alike."""
    for at in (0, 1):
        for one, _ in row.persons:
            world.third.empty()
            dcmtk.move(_hospital(world, at), "THIRD", "PATIENT", {"PatientID": one.numbers[at]}, model="-P")
            sent = {str(instance.SOPInstanceUID) for instance in world.third.received()}
            everything = {uid for study in one.studies for uid in study.sop_uids}
            _check(row, sent, everything, one.studies[at].sop_uids)
    world.third.empty()


# ---- Padding carries no meaning (PS3.5 §6.2), so here the same number is at one hospital given twice ----


def _padded(index: int, number: str, padded: str) -> tuple[Person, Person]:
    row = _row(index, f"padding {index}", (number, f"{number}-P"), (padded, f"{number}-Q"))
    return row.p, row.q


PADDED = [_padded(20, "LA2095", "LA2095 "), _padded(21, "LA2195", " LA2195")]


@pytest.mark.parametrize(("p", "q"), PADDED, ids=["a space behind", "a space before"])
def test_a_number_given_twice_is_nobodys(world: World, p: Person, q: Person) -> None:
    """A has given one number to two persons; their national numbers tell them apart."""
    world.place((hospital, one.studies[i]) for one in (p, q) for i, hospital in enumerate((world.a, world.b)))
    world.region.consent(*(permit(NATIONAL_ISSUER, one.cnp) for one in (p, q)))
    for one in (p, q):
        # At B, where both have numbers of their own, neither sees the other's study.
        for look in LOOKS.values():
            assert look(world, 1, one) <= {study.uid for study in one.studies}
        named = [(ISSUERS[0], p.numbers[0])]
        for study in (p.studies[0], q.studies[0]):
            direct = signed.send(world.b, world.a, signed.LOOKUP, signed.lookup(named, study=study.uid)).json()
            assert direct["answers"] == []
            # With the access ticket of one, by the number of both: not the other's.
            both = [*named, (NATIONAL_ISSUER, one.cnp)]
            direct = signed.send(world.b, world.a, signed.LOOKUP, signed.lookup(both, study=study.uid)).json()
            assert bool(direct["answers"]) is (study is one.studies[0])
        # At A nothing of one falls together with the other.
        theirs = one.studies[1]
        world.a.post("/usmed/fetch", {"StudyInstanceUID": theirs.uid}, headers=JSON)
        eventually(lambda: _settled(world.a, theirs), 20, "the transfer")  # noqa: B023
        others = _patients_of(world.a, (q if one is p else p).studies[0])
        assert _patients_of(world.a, theirs).isdisjoint(others)


def test_padding_does_not_hide_a_patient(world: World) -> None:
    """The same person, once with padding: found, and filed under the number as B writes it."""
    row = _row(22, "padding 22", ("LA2295 ", "LA22-P "), ("LA22-Q", "LA2296"))
    one = row.p
    world.place((hospital, one.studies[i]) for i, hospital in enumerate((world.a, world.b)))
    world.region.consent(permit(NATIONAL_ISSUER, one.cnp))
    for number in ("LA22-P", "LA22-P ", " LA22-P"):
        found = dcmtk.find(world.b, "STUDY", {"PatientID": number, "StudyInstanceUID": ""})
        assert one.studies[0].uid in found.studies
    world.b.post("/usmed/fetch", {"StudyInstanceUID": one.studies[0].uid}, headers=JSON)
    eventually(lambda: _settled(world.b, one.studies[0]), 20, "the transfer")
    assert _patients_of(world.b, one.studies[0]) == {"LA22-P"} == _patients_of(world.b, one.studies[1])


# ---- Issuers written into the object ----


def test_a_number_that_an_object_says_is_another_hospitals_links_nothing(world: World) -> None:
    """What A says of B's numbers neither shows A's study to B under them, nor B's to A."""
    number = "LA2395"
    at_b = Study("issuer own", Patient(number, name="Altul^Unu"), instances=1)
    at_a = Study("issuer other", Patient(number, name="Altul^Doi", issuer="PARHON"), instances=1)
    # First, so that its announcement is over when that of B's study is.
    world.a.store(at_a.files()[0])
    world.place([(world.b, at_b)])
    world.region.consent(permit("PARHON", number))
    for key in ({"PatientID": number}, {"PatientID": number, "IssuerOfPatientID": "SPIRIDON"}):
        found = dcmtk.find(world.b, "STUDY", {**key, "StudyInstanceUID": ""})
        assert at_a.uid not in found.studies
    for one in ("PARHON", "SPIRIDON"):
        shown = world.b.get(f"/usmed/patients/{number}?issuer={one}").json()["studies"]
        assert shown == []
        direct = signed.send(world.b, world.a, signed.LOOKUP, signed.lookup([(one, number)])).json()
        assert direct["answers"] == []
    assert world.b.post("/usmed/fetch", {"StudyInstanceUID": at_a.uid}, headers=JSON).status_code == 404
    # And A, looking up its own bare number, is not shown B's patient.
    found = dcmtk.find(world.a, "STUDY", {"PatientID": number, "StudyInstanceUID": ""})
    assert found.studies == {at_a.uid}


def test_a_second_number_without_issuer_links_nothing(world: World) -> None:
    """Another number in the object could be anybody's unless it is said whose it is."""
    theirs = Study("no issuer b", Patient("LA2495"), instances=1)
    mine = Study("no issuer a", Patient("LA24-A").also("", "LA2495").also("PARHON", "LA2495"), instances=1)
    world.place([(world.b, theirs), (world.a, mine)])
    world.region.consent(permit("PARHON", "LA2495"), permit("SPIRIDON", "LA24-A"))
    assert dcmtk.find(world.b, "STUDY", {"PatientID": "LA2495", "StudyInstanceUID": ""}).studies == {theirs.uid}
    assert dcmtk.find(world.a, "STUDY", {"PatientID": "LA24-A", "StudyInstanceUID": ""}).studies == {mine.uid}


def test_a_number_that_two_share_here_takes_nobody_in(world: World) -> None:
    """B has given one number to two persons; a study from A of one of them would fall together with the other's."""
    p, q = (
        _row(index, f"shared {index}", (f"LA{index}-A", "LA2595"), ("LA25-X", "LA25-Y")).p for index in (25, 26)
    )
    world.place([(world.a, p.studies[0]), (world.b, p.studies[1]), (world.b, q.studies[1])])
    world.region.consent(permit(NATIONAL_ISSUER, p.cnp), permit(NATIONAL_ISSUER, q.cnp))
    world.b.post("/usmed/fetch", {"StudyInstanceUID": p.studies[0].uid}, headers=JSON)
    eventually(lambda: _settled(world.b, p.studies[0]), 20, "the transfer")
    assert _patients_of(world.b, p.studies[0]) == set()
    transfer = world.b.get(f"/usmed/transfers/{p.studies[0].uid}").json()
    assert transfer["State"] == "failed"
    assert "national number" in transfer["Reason"]


def _settled(hospital: Hospital, study: Study) -> bool:
    answer = hospital.get(f"/usmed/transfers/{study.uid}")
    return answer.status_code == 404 or not answer.json()["Unfinished"]


def _patients_of(hospital: Hospital, study: Study) -> set[str]:
    """Return the PatientIDs under which a study is in a hospital's archive, however often it is there."""
    found = [hospital.get(f"/studies/{one}").json() for one in hospital.get("/studies").json()]
    return {
        one["PatientMainDicomTags"]["PatientID"]
        for one in found
        if one["MainDicomTags"]["StudyInstanceUID"] == study.uid
    }
