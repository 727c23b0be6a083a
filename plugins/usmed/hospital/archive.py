"""The hospital's archive as the use cases see it. `orthanc_host/archive.py` is the real one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from usmed.domain.consent import StudyFacts
from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.lookup import Query, Tags
from usmed.domain.study_record import is_date

GUEST_LABEL = "usmed-guest"
"""A copy that was pulled from another hospital."""

ARRIVING_LABEL = "usmed-arriving"
"""A guest copy of which a part is still missing."""


class ArchiveError(UsmedError):
    """Orthanc failed: its disk is full, its database is gone, or the resource does not exist."""


@dataclass(frozen=True, slots=True)
class Match:
    """One resource that a local lookup found: Orthanc's identifier, the asked tags, its labels."""

    orthanc_id: str
    tags: Tags
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a file was stored: Orthanc's identifiers of study and instance. `is_new`: it was not there before."""

    study_orthanc_id: str
    orthanc_id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance in the archive. `file_uuid` changes when it is overwritten; `size_bytes` is that of its file."""

    orthanc_id: str
    file_uuid: str
    sop_instance_uid: str
    series_instance_uid: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Study:
    """A study of the archive, with what identifies its patient and what a decision needs."""

    orthanc_id: str
    study_instance_uid: str
    patient_id: str
    issuer: str
    birth_date: str
    sex: str
    study_date: str
    accession_number: str
    modalities: tuple[str, ...]
    labels: frozenset[str]
    instances: int
    other_identifiers: tuple[tuple[str, str], ...]
    patient_name: str = ""

    @property
    def is_guest(self) -> bool:
        """Tell whether it was pulled from another hospital."""
        return GUEST_LABEL in self.labels

    def identifier(self, naming: Naming) -> PatientIdentifier:
        """Return whose study it is.

        Raises:
            PeerDataError: the object has no usable PatientID.
        """
        return naming.identify(self.patient_id, self.issuer, self.birth_date, self.sex)

    def identifiers(self, naming: Naming) -> list[PatientIdentifier]:
        """Return all identifiers that the object carries, its PatientID first.

        Raises:
            PeerDataError: the object has no usable PatientID.
        """
        found = [self.identifier(naming)]
        for issuer, value in self.other_identifiers:
            try:
                other = naming.identify(value, issuer, self.birth_date, self.sex)
            except PeerDataError:
                continue
            # A second number without an issuer could be anybody's; only a valid national number says whose it is.
            known = issuer or (naming.national is not None and other.issuer == naming.national.issuer)
            if known and other not in found:
                found.append(other)
        return found

    def facts(self, source: str) -> StudyFacts:
        """Return what a consent decision needs to know; `source` is the hospital that made the study."""
        day = self.study_date.strip(" ")
        return StudyFacts(
            study_instance_uid=self.study_instance_uid,
            source=source,
            modalities=frozenset(self.modalities),
            study_date=date.fromisoformat(day) if is_date(day) else None,
        )


class Archive(Protocol):
    """What the node asks of its Orthanc. Failures raise `ArchiveError`."""

    def find(self, query: Query, *, labels: bool = False) -> list[Match]:
        """List the resources that match, with the tags asked for."""
        ...

    def studies_of_patient(self, patient_id: str) -> list[Study]:
        """Return every study filed under exactly this PatientID."""
        ...

    def studies(self, since: int, limit: int) -> list[Study]:
        """Return one page of all studies, in a stable order."""
        ...

    def study(self, study_instance_uid: str) -> list[Study]:
        """Return the studies with this Study Instance UID: one, unless two patients share it by mistake."""
        ...

    def study_by_orthanc_id(self, orthanc_id: str) -> Study | None:
        """Return a study, or None."""
        ...

    def instances(self, study_orthanc_id: str) -> list[StoredInstance]:
        """List the instances of a study, series by series."""
        ...

    def read(self, instance_orthanc_id: str) -> bytes:
        """Return the DICOM file of an instance."""
        ...

    def read_unchecked(self, instance: StoredInstance) -> bytes:
        """Return the same file as `read`, faster: for whoever has a hash of it to compare with."""
        ...

    def store(self, dicom: bytes) -> Stored:
        """Store a DICOM file. If its instance is here already nothing changes, whatever the file holds."""
        ...

    def is_cut_short(self, instance: StoredInstance) -> bool:
        """Tell whether the file of an instance is shorter on disk than what was stored."""
        ...

    def delete_instance(self, instance_orthanc_id: str) -> None:
        """Delete an instance; one that is gone already is no error."""
        ...

    def label(self, study_orthanc_id: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Set and take away labels of a study."""
        ...

    def set_provenance(self, study_orthanc_id: str, provenance: Mapping[str, Any]) -> None:
        """Attach where a guest copy came from."""
        ...

    def clear_provenance(self, study_orthanc_id: str) -> None:
        """Take away what `set_provenance` attached; a study without it is no error."""
        ...

    def stored_by_plugins(self, study_orthanc_id: str) -> dict[str, str]:
        """Return the instances of a study that no system of the hospital has sent, as a pull stores them: Orthanc's
        identifier of each by its SOP Instance UID."""
        ...

    def delete_instances(self, instance_orthanc_ids: Sequence[str]) -> None:
        """Delete instances, and nothing besides; those that are gone already are no error."""
        ...

    def parent_studies(self, resource_orthanc_ids: Sequence[str]) -> list[Study]:
        """Return the studies that these patients, studies, series or instances belong to, each once."""
        ...

    def size_bytes(self) -> int:
        """Return what all its files take."""
        ...
