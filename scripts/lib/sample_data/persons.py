"""Who is in the sample region: persons, their numbers, their studies, and who may see each of them.

All persons are invented. A table, not a generator: a reader finds here what a lookup must answer. The
consents that lead to `visible_to` are in `consents`; how an object becomes DICOM is in `objects` and `head`.
"""

from dataclasses import dataclass, replace
from datetime import date

from stdnum.ro import cnp

UTF_8 = "ISO_IR 192"
LATIN_2 = "ISO_IR 101"
DEFAULT_REPERTOIRE = ""
"""Values of SpecificCharacterSet (PS3.3 C.12.1.1.2); no value means the default repertoire, ASCII."""

NATIONAL_ISSUER = "RO-CNP"
SPIRIDON = "sf-spiridon"
PARHON = "parhon"
REGIONAL = "regional"


@dataclass(frozen=True, slots=True)
class Hospital:
    """A hospital of the sample region: its id, the issuer of its own numbers, InstitutionName."""

    id: str
    issuer: str
    name: str


HOSPITALS = {
    hospital.id: hospital
    for hospital in (
        Hospital(SPIRIDON, "SF-SPIRIDON", "Spitalul Sf. Spiridon Iași"),
        Hospital(PARHON, "PARHON", "Spitalul Dr. C. I. Parhon Iași"),
        Hospital(REGIONAL, "REGIONAL", "Spitalul Regional de Urgență Iași"),
    )
}


def fictitious_cnp(birth_date: date, sex: str) -> str:
    """Make a valid national number that nobody has.

    The county code 48 is a district of Bucharest dissolved in 1979 and the serial 000 is never assigned
    (serials run from 001), so the number passes every check but belongs to no one. There is one such number
    per sex and birth date.

    Args:
        birth_date: from 1900 to 2099.
        sex: DICOM PatientSex, M or F.

    Returns:
        13 digits, valid by stdnum.

    Source: the structure S AALLZZ JJ NNN C of the Romanian Cod Numeric Personal.
    """
    first = {("M", 19): "1", ("F", 19): "2", ("M", 20): "5", ("F", 20): "6"}[sex, birth_date.year // 100]
    body = f"{first}{birth_date:%y%m%d}48000"
    return cnp.validate(body + cnp.calc_check_digit(body))


@dataclass(frozen=True, slots=True)
class Person:
    """An invented person.

    Attributes:
        key: names the person in files and tests; no part of any DICOM object.
        family_name, given_name: in correct Romanian spelling (ș and ț with a comma below).
        birth_date, sex: of the person; a study may state another birth date (see `Study.birth_date`).
        remark: what this person is for, in plain words.
    """

    key: str
    family_name: str
    given_name: str
    birth_date: date
    sex: str
    remark: str

    @property
    def name(self) -> str:
        """PatientName: family and given name components (PS3.5 6.2.1)."""
        return f"{self.family_name}^{self.given_name}"

    @property
    def cnp(self) -> str:
        """The person's national number."""
        return fictitious_cnp(self.birth_date, self.sex)


@dataclass(frozen=True, slots=True)
class Study:
    """One study of one person at one hospital.

    Attributes:
        person: whose it is.
        hospital: id of the hospital that holds it.
        objects: names of source objects: one of `objects.SOURCES`, or `head.NAME`.
        study_date: StudyDate.
        description: StudyDescription in Romanian.
        body_part: BodyPartExamined, or empty where it makes no sense.
        accession_number: AccessionNumber.
        patient_id: PatientID exactly as stored, padding included.
        issuer: IssuerOfPatientID, or empty: the object then says none.
        states_cnp: the CNP also stands in OtherPatientIDsSequence, with issuer RO-CNP.
        character_set: SpecificCharacterSet, or empty.
        visible_to: the other hospitals that may have it for treatment (TREAT) from 2024 on, by the consents
            alone; to find it they must still name the right person.
        birth_date: PatientBirthDate when it contradicts the person's own, else None.
    """

    person: Person
    hospital: str
    objects: tuple[str, ...]
    study_date: date
    description: str
    body_part: str
    accession_number: str
    patient_id: str
    issuer: str = ""
    states_cnp: bool = False
    character_set: str = UTF_8
    visible_to: frozenset[str] = frozenset()
    birth_date: date | None = None

    @property
    def identifiers(self) -> tuple[tuple[str, str], ...]:
        """Issuer and value of each number that the study states, PatientID's first, without padding.

        A number stated without issuer is the national number if it is the person's, else one of the
        hospital's own.
        """
        number = self.patient_id.strip(" ")
        default = NATIONAL_ISSUER if number == self.person.cnp else HOSPITALS[self.hospital].issuer
        first = (self.issuer or default, number)
        return (first, (NATIONAL_ISSUER, self.person.cnp)) if self.states_cnp else (first,)

    @property
    def key(self) -> str:
        """Names the study in files and in the entropy of its UIDs."""
        return f"{self.person.key}-{self.hospital}-{self.study_date:%Y%m%d}-{self.objects[0]}"


STEFANESCU = Person(
    "p01", "Ștefănescu", "Ioana-Măriuca", date(1974, 5, 17), "F", "permits every hospital; has the MR head"
)
TURCANU = Person(
    "p02",
    "Țurcanu",
    "Gheorghe",
    date(1958, 11, 2),
    "M",
    "other numbers at each hospital; permits only parhon",
)
BRANZEI = Person("p03", "Brânzei", "Ana-Maria", date(1989, 8, 24), "F", "permits parhon, but no MR")
MATASARU = Person("p04", "Mătăsaru", "Vasile", date(1966, 1, 30), "M", "has recorded no consent")
CAMPEANU = Person("p05", "Câmpeanu", "Elena", date(1949, 12, 6), "F", "permitted everyone until the end of 2023")
TIRLEA = Person("p06", "Țîrlea", "Ion-Cătălin", date(2001, 3, 19), "M", "permits everyone, denies regional")
DANILA = Person("p07", "Dănilă", "Mihăiță", date(1971, 9, 8), "M", "birth dates contradict: must not be linked")

_PARHON_ONLY = frozenset({PARHON})
_TO_REGION = {hospital: frozenset(HOSPITALS) - {hospital} for hospital in HOSPITALS}
"""By holder: every other hospital."""

_PATIENTS = (
    Study(STEFANESCU, SPIRIDON, ("mr-head",), date(2025, 3, 12), "RM craniu nativ, secvență T1 3D", "HEAD",
          "SPI25-00412", STEFANESCU.cnp, visible_to=_TO_REGION[SPIRIDON]),
    Study(STEFANESCU, SPIRIDON, ("ct-spine",), date(2022, 11, 8), "CT coloană toracală", "TSPINE",
          "SPI22-01977", STEFANESCU.cnp, visible_to=_TO_REGION[SPIRIDON]),
    Study(STEFANESCU, PARHON, ("us-node",), date(2023, 6, 20), "Ecografie părți moi cervicale", "NECK",
          "PAR23-00310", STEFANESCU.cnp, issuer=NATIONAL_ISSUER, visible_to=_TO_REGION[PARHON]),
    Study(STEFANESCU, REGIONAL, ("ecg",), date(2020, 1, 15), "Electrocardiogramă în 12 derivații", "HEART",
          "REG20-00051", STEFANESCU.cnp, character_set=LATIN_2, visible_to=_TO_REGION[REGIONAL]),
    Study(TURCANU, SPIRIDON, ("ct-spine",), date(2023, 2, 27), "CT coloană toracală", "TSPINE",
          "SPI23-00288", "SP004512", issuer="SF-SPIRIDON", states_cnp=True, visible_to=_PARHON_ONLY),
    Study(TURCANU, SPIRIDON, ("mr-abdomen",), date(2023, 3, 2), "RM abdomen superior cu contrast", "ABDOMEN",
          "SPI23-00301", "SP004512", issuer="SF-SPIRIDON", states_cnp=True, visible_to=_PARHON_ONLY),
    Study(TURCANU, PARHON, ("us-node",), date(2021, 9, 14), "Ecografie părți moi cervicale", "NECK",
          "PAR21-00745", "77120", states_cnp=True, character_set=LATIN_2),
    Study(BRANZEI, SPIRIDON, ("ct-spine",), date(2024, 5, 6), "CT coloană toracală", "TSPINE",
          "SPI24-00809", BRANZEI.cnp, visible_to=_PARHON_ONLY),
    Study(BRANZEI, SPIRIDON, ("mr-abdomen",), date(2024, 5, 7), "RM abdomen superior cu contrast", "ABDOMEN",
          "SPI24-00815", BRANZEI.cnp),
    Study(BRANZEI, PARHON, ("ecg",), date(2019, 10, 3), "Electrocardiogramă în 12 derivații", "HEART",
          "PAR19-01102", BRANZEI.cnp, issuer=NATIONAL_ISSUER),
    Study(MATASARU, SPIRIDON, ("ecg",), date(2022, 4, 19), "Electrocardiogramă în 12 derivații", "HEART",
          "SPI22-00563", MATASARU.cnp, character_set=LATIN_2),
    Study(MATASARU, REGIONAL, ("ct-spine",), date(2023, 8, 30), "CT coloană toracală", "TSPINE",
          "REG23-02210", MATASARU.cnp, character_set=DEFAULT_REPERTOIRE),
    Study(CAMPEANU, PARHON, ("nm-bone",), date(2021, 12, 1), "Scintigrafie osoasă, corp întreg", "WHOLEBODY",
          "PAR21-01234", CAMPEANU.cnp, character_set=LATIN_2),
    Study(CAMPEANU, REGIONAL, ("rt-plan", "rt-dose"), date(2022, 2, 10), "Plan de radioterapie", "",
          "REG22-00377", CAMPEANU.cnp, issuer=NATIONAL_ISSUER),
    Study(TIRLEA, SPIRIDON, ("ct-spine",), date(2024, 9, 18), "CT coloană toracală", "TSPINE",
          "SPI24-01650", TIRLEA.cnp, issuer=NATIONAL_ISSUER, visible_to=_PARHON_ONLY),
    Study(TIRLEA, PARHON, ("mr-detail",), date(2025, 1, 22), "RM secvență T2 3D, detaliu", "",
          "PAR25-00077", "90215", issuer="PARHON", states_cnp=True, visible_to=frozenset({SPIRIDON})),
    Study(TIRLEA, REGIONAL, ("us-node-j2k",), date(2024, 7, 5), "Ecografie părți moi cervicale", "NECK",
          "REG24-01408", TIRLEA.cnp, visible_to=_TO_REGION[REGIONAL]),
    Study(DANILA, SPIRIDON, ("ct-spine",), date(2023, 5, 11), "CT coloană toracală", "TSPINE",
          "SPI23-00702", "SP007733", issuer="SF-SPIRIDON", states_cnp=True, visible_to=_TO_REGION[SPIRIDON]),
    Study(DANILA, PARHON, ("ct-spine",), date(2024, 6, 3), "CT coloană toracală", "TSPINE",
          "PAR24-00518", "88140", issuer="PARHON", states_cnp=True, visible_to=_TO_REGION[PARHON],
          birth_date=date(1971, 8, 9)),
)  # fmt: skip

_TRAPS = (
    # key, family name, given name, birth date, sex, hospital, number, whether the object states the issuer
    ("t01", "Popa", "Ion", date(1950, 2, 11), "M", SPIRIDON, "1234", True),
    ("t02", "Popescu", "Maria", date(1962, 7, 4), "F", PARHON, "1234", False),
    ("t03", "Rusu", "Pătru", date(1944, 4, 23), "M", REGIONAL, "1234", False),
    ("t04", "Munteanu", "Rodica", date(1983, 10, 9), "F", REGIONAL, "01234", True),
    ("t05", "Sârbu", "Anișoara", date(1955, 6, 1), "F", REGIONAL, "1_34", False),
    ("t06", "Nistor", "Constanța", date(1978, 12, 12), "F", REGIONAL, "1%34", True),
    ("t07", "Ciobanu", "Dănuț", date(1991, 3, 3), "M", REGIONAL, "12*4", False),
    ("t08", "Lupașcu", "Tudor", date(1969, 5, 28), "M", REGIONAL, "12?4", True),
    ("t09", "Iftimie", "Lăcrămioara", date(1986, 1, 17), "F", REGIONAL, "AB17", False),
    ("t10", "Hrițcu", "Neculai", date(1939, 9, 25), "M", REGIONAL, "ab17", False),
)

SHARED_ACCESSION_NUMBER = "CT-0001"
"""Two persons at two hospitals have it: a lookup by it names nobody."""


def _trap_studies() -> tuple[Study, ...]:
    """One CT for each number that a careless comparison would take for another person's.

    They permit every hospital, so that nothing but their identity keeps them apart. The third, at REGIONAL,
    has a second study whose PatientID is padded with a space in front: that is the same person (PS3.5 6.2).
    """
    studies = []
    for index, (key, family, given, birth_date, sex, hospital, number, stated) in enumerate(_TRAPS):
        person = Person(key, family, given, birth_date, sex, f"number {number} at {hospital}: must not be mixed")
        accession = SHARED_ACCESSION_NUMBER if key in ("t01", "t03") else f"CT-1{index:03}"
        first = Study(
            person, hospital, ("ct-spine",), date(2023, 10, 2 + index), "CT coloană toracală", "TSPINE",
            accession, number, issuer=HOSPITALS[hospital].issuer if stated else "", visible_to=_TO_REGION[hospital],
        )  # fmt: skip
        studies.append(first)
        if key == "t03":
            studies.append(
                replace(first, patient_id=f" {number}", study_date=date(2024, 2, 14), accession_number="CT-2000")
            )
    return tuple(studies)


STUDIES = _PATIENTS + _trap_studies()
PERSONS = tuple(dict.fromkeys(study.person for study in STUDIES))
