"""Filing a guest copy under the patient's local number, with the original kept inside the object.

The same person has another number at every hospital. A copy that kept the source's number could fall together
with a stranger who has that number here, so it is filed under the number by which this hospital knows the person
(as IHE Import Reconciliation Workflow, RAD-60, does). Pixels and all other attributes stay byte for byte.
"""

import io
from dataclasses import dataclass
from datetime import datetime

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier


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
    header = _read(dicom, specific=True)
    found = (_text(header, "StudyInstanceUID"), _text(header, "SOPInstanceUID"), _text(header, "PatientID"))
    if found != (study_instance_uid, sop_instance_uid, patient_id):
        raise PeerDataError(f"instance {sop_instance_uid} is of another study, or another patient, than announced")


def file_under(dicom: bytes, filing: Filing) -> bytes:
    """Return the DICOM file with its patient identification replaced, the original recorded.

    PatientID and IssuerOfPatientID take the local values; the source's go to OtherPatientIDsSequence (PS3.3 C.7.1.1)
    and OriginalAttributesSequence (PS3.3 C.12.1.1.9).

    Raises:
        PeerDataError: not a DICOM file.
    """
    if str(_read(dicom, specific=True).get("PatientID", "")) == filing.patient_id:
        return dicom
    source = io.BytesIO(dicom)
    dataset = _read_from(source, whole=_is_deflated(dicom))
    rest = memoryview(dicom)[source.tell() :] if not _is_deflated(dicom) else b""
    before = Dataset()
    for keyword in ("PatientID", "IssuerOfPatientID"):
        if keyword in dataset:
            before[keyword] = dataset[keyword]
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
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=False)
    out.write(rest)
    return out.getvalue()


def patient_and_study(dicom: bytes) -> tuple[str, str, str, str, str]:
    """Return PatientID, IssuerOfPatientID, StudyInstanceUID, StudyDate and Modality of a DICOM file.

    Raises:
        PeerDataError: not a DICOM file.
    """
    header = _read(dicom, specific=True)
    return (
        _text(header, "PatientID"),
        _text(header, "IssuerOfPatientID"),
        _text(header, "StudyInstanceUID"),
        _text(header, "StudyDate"),
        _text(header, "Modality"),
    )


_HEADER_TAGS = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SOPInstanceUID", "StudyDate", "Modality"]


def _read(dicom: bytes, *, specific: bool) -> FileDataset:
    try:
        return dcmread(io.BytesIO(dicom), stop_before_pixels=True, specific_tags=_HEADER_TAGS if specific else None)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise PeerDataError(f"not a DICOM file: {type(error).__name__}") from error


def _read_from(source: io.BytesIO, *, whole: bool) -> FileDataset:
    try:
        return dcmread(source, stop_before_pixels=not whole)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise PeerDataError(f"not a DICOM file: {type(error).__name__}") from error


def _is_deflated(dicom: bytes) -> bool:
    # The meta header is short and names the transfer syntax in ASCII (PS3.10 §7.1).
    return str(DeflatedExplicitVRLittleEndian).encode() + b"\0" in dicom[:1024]


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _latin(text: str) -> str:
    """The object's character set may not have our letters; the sequence item must be readable in any."""
    return text.encode("ascii", "replace").decode("ascii")[:64]
