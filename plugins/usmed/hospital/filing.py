"""Filing a guest copy under the patient's local number, with the original kept inside the object.

The same person has another number at every hospital. A copy that kept the source's number could fall together
with a stranger who has that number here, so it is filed under the number by which this hospital knows the person
(as IHE Import Reconciliation Workflow, RAD-60, does). Pixels and all other attributes stay byte for byte.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.hospital.dicom_elements import UnusualError, find_elements


@dataclass(frozen=True, slots=True)
class Filing:
    """Under which number copies are filed.

    Attributes:
        patient_id: PatientID here.
        issuer: who assigned it, empty if it is not to be said.
        original: the identifier at the source.
        source_name: the source hospital's name, for the record inside the object.
        at: when (aware UTC).
    """

    patient_id: str
    issuer: str
    original: PatientIdentifier
    source_name: str
    at: datetime


def check_instance(dicom: bytes, *, study_instance_uid: str, sop_instance_uid: str, patient_id: str) -> None:
    """Make sure that a verified file is the instance which the manifest says, of the patient it says.

    Raises:
        PeerDataError: not DICOM, or another instance, study or patient.
    """
    try:
        elements = find_elements(dicom, _IDENTIFYING)
        said = [elements.text(index).strip(" \0") for index in range(len(_IDENTIFYING))]
        if said == [sop_instance_uid, patient_id, study_instance_uid]:
            return
    except UnusualError:
        pass
    header = _read(dicom)
    found = (_text(header, "StudyInstanceUID"), _text(header, "SOPInstanceUID"), _text(header, "PatientID"))
    if found != (study_instance_uid, sop_instance_uid, patient_id):
        raise PeerDataError(f"instance {sop_instance_uid} is of another study, or another patient, than announced")


def file_under(dicom: bytes, filing: Filing) -> bytes:
    """Return the DICOM file with its patient identification replaced, the original recorded.

    PatientID and IssuerOfPatientID take the local values; the source's go to OtherPatientIDsSequence (PS3.3 C.7.1.1)
    and OriginalAttributesSequence (PS3.3 C.12.1.1.9).

    Raises:
        PeerDataError: not a DICOM file, or one whose character set lacks a letter of the number.
    """
    try:
        return _spliced(dicom, filing)
    except UnusualError:
        return _rewritten(dicom, filing)


def _spliced(dicom: bytes, filing: Filing) -> bytes:
    """Exchange the bytes of the elements that change, leave all others where they are.

    Raises:
        PeerDataError: as `file_under`.
        UnusualError: it needs a parser.
    """
    # Padding behind a value is none of it; a space before it makes another patient for Orthanc.
    if find_elements(dicom, [_PATIENT_ID]).text(0).rstrip(" \0") == filing.patient_id:
        return dicom
    found = find_elements(dicom, _CHANGING)
    old = tuple(dicom[place.start : place.end] for place in found.places)
    pieces = []
    position = 0
    for place, new in zip(found.places, _exchanged(found.implicit, old, filing), strict=True):
        pieces += [dicom[position : place.start], new]
        position = place.end
    return b"".join([*pieces, dicom[position:]])


@lru_cache(maxsize=32)
def _exchanged(implicit: bool, elements: tuple[bytes, ...], filing: Filing) -> tuple[bytes, ...]:
    """Return what `_rewritten` makes of the elements that change. They are the same in all images of a study."""
    syntax = (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian).encode()
    syntax += b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    head = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta
    written = _rewritten(head + b"".join(elements), filing)
    found = find_elements(written, _CHANGING)
    return tuple(written[place.start : place.end] for place in found.places)


def _rewritten(dicom: bytes, filing: Filing) -> bytes:
    with _translated():
        if str(_read(dicom).get("PatientID", "")).rstrip(" \0") == filing.patient_id:
            return dicom
        source = io.BytesIO(dicom)
        dataset = dcmread(source, stop_before_pixels=True)
        if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            # Compressed as one (PS3.5 §A.5): what follows the header cannot be cut off and put behind the new one.
            source.seek(0)
            dataset = dcmread(source)
        _replace_patient(dataset, filing)
        out = io.BytesIO()
        _write(out, dataset)
        out.write(memoryview(dicom)[source.tell() :])
    written = out.getvalue()
    _check_letters(written, filing)
    return written


def _replace_patient(dataset: FileDataset, filing: Filing) -> None:
    before = Dataset()
    for keyword in ("PatientID", "IssuerOfPatientID"):
        if keyword in dataset:
            # A copy: the element itself is about to take the new value.
            before[keyword] = deepcopy(dataset[keyword])
    dataset.PatientID = filing.patient_id
    if filing.issuer:
        dataset.IssuerOfPatientID = filing.issuer
    elif "IssuerOfPatientID" in dataset:
        del dataset.IssuerOfPatientID
    other = Dataset()
    other.PatientID = filing.original.value
    other.IssuerOfPatientID = filing.original.issuer
    others = list(dataset.get("OtherPatientIDsSequence") or [])
    dataset.OtherPatientIDsSequence = Sequence([*others, other])
    original = Dataset()
    original.ModifiedAttributesSequence = Sequence([before])
    original.AttributeModificationDateTime = filing.at.strftime("%Y%m%d%H%M%S.%f+0000")
    original.ModifyingSystem = "USMED"
    original.SourceOfPreviousValues = _latin(filing.source_name)
    original.ReasonForTheAttributeModification = "COERCE"
    earlier = list(dataset.get("OriginalAttributesSequence") or [])
    dataset.OriginalAttributesSequence = Sequence([*earlier, original])


def _write(out: io.BytesIO, dataset: FileDataset) -> None:
    # Some makers write implicit VR under an explicit transfer syntax, or the other way round. It stays as it is.
    implicit = next(
        (element.is_implicit_VR for element in dataset.values() if isinstance(element, RawDataElement)),
        dataset.original_encoding[0],
    )
    dcmwrite(
        out,
        dataset,
        enforce_file_format=False,
        implicit_vr=implicit,
        little_endian=dataset.original_encoding[1],
        force_encoding=True,
    )


def _check_letters(dicom: bytes, filing: Filing) -> None:
    """Make sure that the numbers could be written in the object's character set.

    pydicom writes a question mark for a letter that the character set lacks, which makes another number.

    Raises:
        PeerDataError: a letter is missing.
    """
    wanted = (filing.patient_id, filing.issuer, filing.original.value, filing.original.issuer)
    if all(text.isascii() for text in wanted):
        return
    with _translated():
        dataset = dcmread(io.BytesIO(dicom), stop_before_pixels=True)
        people = (dataset, dataset.OtherPatientIDsSequence[-1])
        written = tuple(_text(one, name) for one in people for name in ("PatientID", "IssuerOfPatientID"))
    if written != wanted:
        raise PeerDataError("the patient's number or its issuer has a letter that the object's character set lacks")


def header_of(dicom: bytes) -> dict[str, str]:
    """Return what identifies the patient and the study of a DICOM file, by keyword; empty text for what it lacks.

    Raises:
        PeerDataError: not a DICOM file.
    """
    header = _read(dicom)
    return {keyword: _text(header, keyword) for keyword in _HEADER_TAGS}


def other_numbers_of(dicom: bytes) -> list[tuple[str, str]]:
    """Return what a DICOM file has in OtherPatientIDsSequence: each number, after its issuer or empty text.

    Raises:
        PeerDataError: not a DICOM file.
    """
    with _translated():
        header = dcmread(io.BytesIO(dicom), stop_before_pixels=True, specific_tags=["OtherPatientIDsSequence"])
        items = list(header.get("OtherPatientIDsSequence") or [])
    numbers = [(_text(one, "IssuerOfPatientID"), _text(one, "PatientID")) for one in items]
    return [one for one in numbers if one[1]]


_PATIENT_ID = 0x00100020
_IDENTIFYING = (0x00080018, _PATIENT_ID, 0x0020000D)
"""SOPInstanceUID, PatientID, StudyInstanceUID."""
_CHANGING = (0x00080005, _PATIENT_ID, 0x00100021, 0x00101002, 0x04000561)
"""PatientID, IssuerOfPatientID, OtherPatientIDsSequence, OriginalAttributesSequence; in what SpecificCharacterSet."""

_HEADER_TAGS = [
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "SOPInstanceUID",
    "StudyDate", "Modality",
]  # fmt: skip


_PYDICOM_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, ValueError, LookupError, AttributeError, NotImplementedError,
    TypeError, ArithmeticError, RecursionError, OSError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on bytes that are no DICOM, or not quite (found by feeding it damaged files)."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _PYDICOM_ERRORS as error:
        raise PeerDataError(f"not a DICOM file: {type(error).__name__}") from error


def _read(dicom: bytes) -> FileDataset:
    """Read the attributes that identify an instance."""
    with _translated():
        return dcmread(io.BytesIO(dicom), stop_before_pixels=True, specific_tags=_HEADER_TAGS)


def _text(dataset: Dataset, keyword: str) -> str:
    with _translated():
        value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _latin(text: str) -> str:
    """The object's character set may not have our letters; the sequence item must be readable in any."""
    return text.encode("ascii", "replace").decode("ascii")[:64]
