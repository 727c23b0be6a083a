"""What a lookup asks, whether it names one patient, and how local and remote answers become one.

Levels and keys carry DICOM's own names (PS3.4 C.6). A lookup that names no single patient never leaves the
hospital; one that does is put to the hospitals that hold something of that patient.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming, PatientIdentifier, is_single_value, is_uid


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    @property
    def orthanc(self) -> str:
        """Return Orthanc's word for the level."""
        return {"IMAGE": "Instance"}.get(self.value, self.value.capitalize())


ONLINE = "ONLINE"
NEARLINE = "NEARLINE"
"""InstanceAvailability (0008,0056): here, or to be brought from another hospital first (PS3.3 C.4.23.1)."""

UNIQUE_KEYS: Mapping[Level, str] = {
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}

Tags = dict[str, Any]
"""DICOM keyword (or `gggg,eeee`) to value, as Orthanc's JSON writes them: text, or a list of Tags for a sequence."""


@dataclass(frozen=True, slots=True)
class Query:
    """A lookup.

    Attributes:
        level: what is listed.
        keys: matching keys with a value, by DICOM keyword.
        tags: return keys, by DICOM keyword.
        case_sensitive: values match with their case, names as the archive that is asked has it (PS3.4 C.2.2.2.1);
            otherwise nothing does.
    """

    level: Level
    keys: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    case_sensitive: bool = True


@dataclass(frozen=True, slots=True)
class Selector:
    """What in a lookup names one patient: exactly one of the three is set."""

    identifier: PatientIdentifier | None = None
    study_instance_uid: str = ""
    accession_number: str = ""

    def __str__(self) -> str:
        if self.identifier is not None:
            return f"patient:{self.identifier}"
        return f"study:{self.study_instance_uid}" if self.study_instance_uid else f"accession:{self.accession_number}"

    def to_json(self) -> dict[str, Any]:
        """Return it as the hub's `resolve` takes it."""
        if self.identifier is not None:
            return {"identifier": {"issuer": self.identifier.issuer, "value": self.identifier.value}}
        if self.study_instance_uid:
            return {"study_instance_uid": self.study_instance_uid}
        return {"accession_number": self.accession_number}


def select_patient(keys: Mapping[str, Any], naming: Naming) -> Selector | None:
    """Tell by what a lookup names one patient.

    Args:
        keys: matching keys by DICOM keyword.
        naming: how this hospital reads a bare PatientID.

    Returns:
        None for a lookup that names no single patient: lists, wild cards, universal matching.
    """

    def single(keyword: str) -> str:
        value = keys.get(keyword)
        return value if isinstance(value, str) and is_single_value(value) else ""

    patient_id, issuer = single("PatientID"), single("IssuerOfPatientID")
    if patient_id:
        if keys.get("IssuerOfPatientID") and not issuer:
            return None
        try:
            return Selector(identifier=naming.identify(patient_id, issuer))
        except PeerDataError:
            return None
    if keys.get("PatientID"):
        return None
    study = single("StudyInstanceUID")
    if study and is_uid(study):
        return Selector(study_instance_uid=study)
    accession = single("AccessionNumber")
    if accession and not keys.get("StudyInstanceUID"):
        return Selector(accession_number=accession.strip(" "))
    return None


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """One match at another hospital.

    Attributes:
        holder: the hospital's id.
        identifier: the patient's identifier there.
        study_instance_uid: the study that the match is, or belongs to.
        tags: its tags as the source gave them.
        instances: how many instances the holder has of the study.
    """

    holder: str
    identifier: PatientIdentifier
    study_instance_uid: str
    tags: Mapping[str, Any]
    instances: int


@dataclass(frozen=True, slots=True)
class RemoteAnswers:
    """What the region answered, and what it did not.

    Attributes:
        answers: one for each entity, whoever holds it.
        missing: hospitals that should have been asked or did not answer, each with the reason in plain words.
        identifiers: what the person is known by, as far as this hospital may know.
        permitted: whether hospitals were asked by a ticket. Without one nothing tells whether there is anything.
    """

    answers: tuple[RemoteAnswer, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    identifiers: frozenset[PatientIdentifier] = frozenset()
    permitted: bool = False


def merge_holders(level: Level, answers: Iterable[RemoteAnswer]) -> list[RemoteAnswer]:
    """Keep one answer for each entity: where several hospitals hold it, the one with the most instances.

    Ties go to the first in order of the hospitals' ids, so that two nodes come to the same choice.
    """
    key = UNIQUE_KEYS.get(level, "StudyInstanceUID")
    best: dict[str, RemoteAnswer] = {}
    for answer in sorted(answers, key=lambda one: (-one.instances, one.holder)):
        best.setdefault(str(answer.tags.get(key, answer.study_instance_uid)), answer)
    return sorted(best.values(), key=lambda one: (one.holder, one.study_instance_uid, str(one.tags.get(key, ""))))


def only_remote(
    level: Level, answers: Sequence[RemoteAnswer], local_uids: Iterable[str], incomplete_studies: Iterable[str] = ()
) -> list[RemoteAnswer]:
    """Leave out what the hospital has already; local answers come first, the rest by its unique key.

    Args:
        level: the level of the lookup.
        answers: one for each entity.
        local_uids: unique keys of the level, of what is here whole.
        incomplete_studies: studies of which only a part is here: they count as not here.
    """
    here, partial = set(local_uids), set(incomplete_studies)
    key = UNIQUE_KEYS[level]
    return [one for one in answers if one.study_instance_uid in partial or one.tags.get(key) not in here]
