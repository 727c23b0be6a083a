"""What a hospital tells the hub of one study, and how both tell whether they still agree.

Node and hub have to come to the same bytes, so both use this module: a record has one canonical form, a study
belongs to one of 256 buckets, and a bucket has one digest, which a record joins or leaves without the others.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import MAXIMUM_LENGTH, PatientIdentifier, is_text, is_uid, patient_identifier

MAXIMUM_IDENTIFIERS = 20
MAXIMUM_MODALITIES = 50
MAXIMUM_NAME = 256
"""Longest PatientName in characters: VR PN has up to three groups of 64 (PS3.5 §6.2), and some makers write more."""

_SEXES = ("M", "F", "O", "")
_MEMBERS = {"study_instance_uid", "patient", "accession_number", "study_date", "modalities"}
_PATIENT_MEMBERS = {"identifiers", "name", "birth_date", "sex"}


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One study, as the hospital that made it announces it.

    Attributes:
        study_instance_uid: StudyInstanceUID.
        identifiers: all the numbers of the patient that the study names, sorted, without repetition.
        name: PatientName (VR PN) as the study has it, or empty. It names nobody, and is never written to a log.
        birth_date, study_date: DICOM DA (YYYYMMDD), or empty when unknown.
        sex: PatientSex (M, F, O), or empty when unknown.
        accession_number: AccessionNumber, or empty.
        modalities: ModalitiesInStudy, sorted, without repetition.
    """

    study_instance_uid: str
    identifiers: tuple[PatientIdentifier, ...]
    birth_date: str
    sex: str
    accession_number: str
    study_date: str
    modalities: tuple[str, ...]
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as it travels."""
        return {
            "study_instance_uid": self.study_instance_uid,
            "patient": {
                "identifiers": [{"issuer": one.issuer, "value": one.value} for one in self.identifiers],
                "name": self.name,
                "birth_date": self.birth_date,
                "sex": self.sex,
            },
            "accession_number": self.accession_number,
            "study_date": self.study_date,
            "modalities": list(self.modalities),
        }


def study_record(
    study_instance_uid: str,
    identifiers: Iterable[PatientIdentifier],
    *,
    name: str = "",
    birth_date: str = "",
    sex: str = "",
    accession_number: str = "",
    study_date: str = "",
    modalities: Iterable[str] = (),
) -> StudyRecord:
    """Make a record in its canonical form: padding stripped (PS3.5 §6.2), lists sorted.

    Raises:
        PeerDataError: values that DICOM would not allow, listing all of them. (What comes from DICOM can
            be dirty: pass empty instead of a name or birth date that is none.)
    """
    record = StudyRecord(
        study_instance_uid=study_instance_uid.strip(" \0"),
        identifiers=tuple(sorted(set(identifiers))),
        birth_date=birth_date.strip(" "),
        sex=sex.strip(" "),
        accession_number=accession_number.strip(" "),
        study_date=study_date.strip(" "),
        modalities=tuple(sorted({modality.strip(" ") for modality in modalities})),
        name=name.strip(" "),
    )
    problems = [text for fault, text in _faults(record) if fault]
    if problems:
        raise PeerDataError("; ".join(problems))
    return record


def parse_study_record(value: Any) -> StudyRecord:
    """Read a record from JSON.

    Raises:
        PeerDataError: not a record.
    """
    if not isinstance(value, dict) or set(value) != _MEMBERS:
        raise PeerDataError(f"a study record has exactly the members {', '.join(sorted(_MEMBERS))}")
    patient = value["patient"]
    if not isinstance(patient, dict) or set(patient) != _PATIENT_MEMBERS:
        raise PeerDataError(f"patient has exactly the members {', '.join(sorted(_PATIENT_MEMBERS))}")
    return study_record(
        _text(value, "study_instance_uid"),
        [parse_identifier(one) for one in _list(patient, "identifiers")],
        name=_text(patient, "name"),
        birth_date=_text(patient, "birth_date"),
        sex=_text(patient, "sex"),
        accession_number=_text(value, "accession_number"),
        study_date=_text(value, "study_date"),
        modalities=[_text({"modalities": one}, "modalities") for one in _list(value, "modalities")],
    )


def parse_identifier(value: Any) -> PatientIdentifier:
    """Read `{"issuer", "value"}`.

    Raises:
        PeerDataError: not an identifier.
    """
    if not isinstance(value, dict) or set(value) != {"issuer", "value"}:
        raise PeerDataError("an identifier has exactly the members issuer, value")
    return patient_identifier(value["issuer"], value["value"])


def bucket_of(study_instance_uid: str) -> str:
    """Return the bucket of a study: the first byte of its SHA-256, two hexadecimal digits."""
    return sha256_hex(study_instance_uid.encode("utf-8"))[:2]


def record_digest(record: StudyRecord) -> bytes:
    """Return the SHA-256 of a record's canonical JSON (RFC 8785)."""
    return hashlib.sha256(canonical_json(record.to_json())).digest()


NO_RECORDS = "0" * 64
"""The digest of an empty bucket."""


def changed_digest(digest: str, records: Iterable[bytes]) -> str:
    """Return a bucket's digest once these records have joined it, or left it: the exclusive or of all.

    It finds what was lost on the way. It is no proof: who may choose records could make two sets that look the same,
    but a hospital chooses only its own, which it may announce or not as it likes.

    Args:
        digest: 64 hexadecimal digits.
        records: the `record_digest` of each.
    """
    value = int(digest, 16)
    for one in records:
        value ^= int.from_bytes(one)
    return f"{value:064x}"


def digests(records: Iterable[StudyRecord]) -> dict[str, str]:
    """Return the digest of every bucket that is not empty. No study may be there twice."""
    buckets: dict[str, list[bytes]] = {}
    for record in records:
        buckets.setdefault(bucket_of(record.study_instance_uid), []).append(record_digest(record))
    return {bucket: changed_digest(NO_RECORDS, members) for bucket, members in buckets.items()}


def is_date(text: str) -> bool:
    """Tell whether `text` is a day as DICOM DA writes it (PS3.5 §6.2): YYYYMMDD."""
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def is_person_name(text: str) -> bool:
    """Tell whether `text` can be a value of VR PN (PS3.5 §6.2): bounded, one value, no control characters."""
    return len(text) <= MAXIMUM_NAME and "\\" not in text and all(is_text(one) for one in text)


def _faults(record: StudyRecord) -> Sequence[tuple[bool, str]]:
    return (
        (not is_uid(record.study_instance_uid), "study_instance_uid is not a UID"),
        (not record.identifiers, "patient.identifiers is empty"),
        (
            len(record.identifiers) > MAXIMUM_IDENTIFIERS,
            f"patient.identifiers has more than {MAXIMUM_IDENTIFIERS}",
        ),
        (not is_person_name(record.name), "patient.name is not a value of VR PN"),
        (bool(record.birth_date) and not is_date(record.birth_date), "patient.birth_date is not YYYYMMDD"),
        (bool(record.study_date) and not is_date(record.study_date), "study_date is not YYYYMMDD"),
        (record.sex not in _SEXES, "patient.sex is not M, F, O or empty"),
        (not _is_short_text(record.accession_number), "accession_number is not a value of VR SH"),
        (
            len(record.modalities) > MAXIMUM_MODALITIES,
            f"modalities has more than {MAXIMUM_MODALITIES}",
        ),
        (
            any(not one or len(one) > 16 or not _is_short_text(one) for one in record.modalities),
            "modalities holds a value that is not of VR CS",
        ),
    )


def _is_short_text(text: str) -> bool:
    # VR SH allows 16 characters (PS3.5 §6.2), but longer accession numbers are seen and must be found again.
    return len(text) <= MAXIMUM_LENGTH and text.isprintable() and "\\" not in text


def _text(element: dict[str, Any], name: str) -> str:
    value = element[name]
    if not isinstance(value, str):
        raise PeerDataError(f"{name} is not text")
    return value


def _list(element: dict[str, Any], name: str) -> list[Any]:
    value = element[name]
    if not isinstance(value, list):
        raise PeerDataError(f"{name} is not a list")
    return value
