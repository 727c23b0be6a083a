"""Who a patient is by this hospital's own archive, for a clerk to compare with an identity document.

An archive that says two things about one number is not for a clerk to choose from: then nothing is returned but what is
wrong. Copies from other hospitals do not count.
"""

import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import date

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.lookup import Level, Query
from usmed.domain.study_record import is_date
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS
from usmed.hospital.archive import Archive, Study

NOBODY, CONTRADICTION, NO_NUMBER = "no-patient", "contradiction", "no-number"


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """What the archive says of one patient.

    Attributes:
        patient_id, issuer: the number under which the patient was opened; the issuer as asked for.
        opened: the same, qualified.
        name: for people, empty if no study has one.
        birth_date: DICOM DA (YYYYMMDD), or empty.
        sex: M, F, O, or empty.
        numbers: those that this hospital can speak for; none of them is filed under contradicting studies.
    """

    patient_id: str
    issuer: str
    opened: PatientIdentifier
    name: str
    birth_date: str
    sex: str
    numbers: tuple[PatientIdentifier, ...]

    @property
    def digest(self) -> str:
        """Return what tells this patient from another one, and this record from one that has changed."""
        numbers = [[one.issuer, one.value] for one in sorted(self.numbers)]
        return sha256_hex(canonical_json([_compared(self.name), self.birth_date, self.sex, numbers]))


class PatientRecords:
    """Reads the archive.

    Args:
        spoken_for: the issuers whose numbers this hospital may speak for now.
    """

    def __init__(self, archive: Archive, naming: Naming, spoken_for: Callable[[], frozenset[str]]) -> None:
        self._archive = archive
        self._naming = naming
        self._spoken_for = spoken_for

    def of(self, patient_id: str, issuer: str = "") -> PatientRecord:
        """Return who a number of the archive names.

        Raises:
            PeerDataError: it is no number.
            RefusedError: NOBODY: no study of this hospital has it; CONTRADICTION: its studies, or those under a
                number that they name, say different things; NO_NUMBER: it is another hospital's.
        """
        patient_id, issuer = patient_id.strip(" "), issuer.strip(" ")
        opened = self._naming.identify(patient_id, issuer)
        studies = self._filed_under(opened, patient_id)
        if not studies:
            raise RefusedError(NOBODY, "no study of this hospital is filed under this number")
        names = self._names(patient_id, studies)
        looked_at = {opened}
        while True:
            name, birth_date, sex, numbers = self._one_person(studies, names)
            further = [one for one in numbers if one not in looked_at]
            if not further:
                break
            if len(numbers) > MAXIMUM_IDENTIFIERS:
                raise RefusedError(CONTRADICTION, f"the studies under this number name {len(numbers)} numbers")
            # A number that a study names beside its own may be somebody else's: what is filed under it tells.
            for one in further:
                also = self._filed_under(one, one.value)
                names |= self._names(one.value, also) if also else set()
                studies += also
            looked_at.update(further)
        if not numbers:
            raise RefusedError(NO_NUMBER, "this number is not one that this hospital gives out")
        return PatientRecord(patient_id, issuer, opened, _shown(name), birth_date, sex, tuple(numbers))

    def _one_person(
        self, studies: Collection[Study], names: Collection[str]
    ) -> tuple[str, str, str, list[PatientIdentifier]]:
        """Return the name, birth date, sex and numbers that these studies have.

        Raises:
            RefusedError: CONTRADICTION.
        """
        name = _only({_compared(one): one for one in sorted(names)}, "names")
        birth_date = _only(
            {one.birth_date: one.birth_date for one in studies if is_date(one.birth_date)}, "birth dates"
        )
        sex = _only({one.sex: one.sex for one in studies if one.sex in ("M", "F", "O")}, "sexes")
        numbers = self._numbers(studies, birth_date, sex)
        national = self._naming.national
        if national is not None:
            _only({one: one.value for one in numbers if one.issuer == national.issuer}, "national numbers")
        return name, birth_date, sex, numbers

    def _filed_under(self, number: PatientIdentifier, patient_id: str) -> list[Study]:
        return [one for one in self._archive.studies_of_patient(patient_id) if self._is_of(one, number)]

    def _is_of(self, study: Study, opened: PatientIdentifier) -> bool:
        # Without birth date and sex: a study whose own contradict its number is one more to look at, not to leave out.
        try:
            return not study.is_guest and self._naming.identify(study.patient_id, study.issuer) == opened
        except PeerDataError:
            return False

    def _names(self, patient_id: str, studies: Iterable[Study]) -> set[str]:
        wanted = {one.study_instance_uid for one in studies}
        asked = Query(Level.STUDY, {"PatientID": patient_id}, ("StudyInstanceUID", "PatientName"))
        found = [one.tags for one in self._archive.find(asked) if one.tags.get("StudyInstanceUID", "") in wanted]
        return {name for name in (str(one.get("PatientName", "")) for one in found) if _compared(name)}

    def _numbers(self, studies: Iterable[Study], birth_date: str, sex: str) -> list[PatientIdentifier]:
        spoken_for, national = self._spoken_for(), self._naming.national
        found: dict[PatientIdentifier, None] = {}
        for study in studies:
            for one in study.identifiers(self._naming):
                is_national = national is not None and one.issuer == national.issuer
                if is_national and national is not None and not national.accepts(one.value, birth_date, sex):
                    continue
                if one.issuer in spoken_for:
                    found[one] = None
        return list(found)


def age(birth_date: str, today: date) -> int:
    """Return how many years old somebody is who was born on a DICOM DA."""
    born = _day(birth_date)
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def birthday(birth_date: str, years: int) -> date:
    """Return the day on which somebody who was born on a DICOM DA becomes so old; 29 February counts as 1 March."""
    born = _day(birth_date)
    try:
        return born.replace(year=born.year + years)
    except ValueError:
        return date(born.year + years, 3, 1)


def _day(birth_date: str) -> date:
    return date(int(birth_date[:4]), int(birth_date[4:6]), int(birth_date[6:]))


def _only[K](found: dict[K, str], what: str) -> str:
    """Return the one value, empty if there is none.

    Raises:
        RefusedError: there are several. The message names none of them: it may be read by others than the clerk.
    """
    if len(found) > 1:
        raise RefusedError(
            CONTRADICTION,
            f"the studies under this number have {len(found)} different {what}: perhaps they are two people's. Have the"
            " archive corrected first",
        )
    return next(iter(found.values()), "")


def _alphabetic(name: str) -> str:
    """Return the first component group of a PN (PS3.5 §6.2.1.1)."""
    return name.partition("=")[0]


def _compared(name: str) -> str:
    """Return a name without what systems write differently: case, diacritics, hyphens, empty components."""
    plain = unicodedata.normalize("NFKD", _alphabetic(name).casefold())
    kept = "".join(one if one.isalnum() else " " for one in plain if not unicodedata.combining(one))
    return " ".join(kept.split())


def _shown(name: str) -> str:
    return " ".join(_alphabetic(name).replace("^", " ").split())
