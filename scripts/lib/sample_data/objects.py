"""The other objects: real examinations that pydicom carries as example files, given to our persons.

An allow list says what is kept of each: how image, waveform or plan were acquired and what they hold.
Everything about the person, the visit and the place they once belonged to is left out, private elements too.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.data
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RTDoseStorage, RTPlanStorage

from sample_data.dicom import describe, name_instance, uid
from sample_data.errors import SampleDataError
from sample_data.persons import Study


@dataclass(frozen=True, slots=True)
class Source:
    """An example file.

    Attributes:
        file: its name among pydicom's test files.
        modality: Modality.
        description: SeriesDescription, in Romanian.
        origin: who made it public.
        window: WindowCenter and WindowWidth for a file that has none.
        keep_transfer_syntax: stays compressed as it is, instead of being Explicit VR Little Endian.
        dropped: attributes that the allow list would keep but that make no sense without one it leaves out.
    """

    file: str
    modality: str
    description: str
    origin: str
    window: tuple[int, int] | None = None
    keep_transfer_syntax: bool = False
    dropped: frozenset[str] = frozenset()


_NEMA = "NEMA WG04"
SOURCES = {
    "ct-spine": Source("CT_small.dcm", "CT", "Toracal, fereastră osoasă", _NEMA, window=(400, 1800)),
    "mr-detail": Source("MR_small.dcm", "MR", "T2 3D, detaliu", _NEMA),
    "mr-abdomen": Source("examples_overlay.dcm", "MR", "T1 VIBE FS, reconstrucție MPR", "GDCM"),
    "us-node": Source("examples_rgb_color.dcm", "US", "Ganglion limfatic, Doppler", _NEMA),
    "us-node-j2k": Source("examples_jpeg2k.dcm", "US", "Ganglion limfatic, Doppler", _NEMA, keep_transfer_syntax=True),
    "nm-bone": Source(
        "JPGExtended.dcm",
        "NM",
        "Corp întreg, anterior",
        _NEMA,
        keep_transfer_syntax=True,
        dropped=frozenset({"FrameIncrementPointer", "NumberOfFrames"}),
    ),
    "ecg": Source("waveform_ecg.dcm", "ECG", "Ritm și bătaie mediană", "pydicom"),
    "rt-plan": Source("rtplan.dcm", "RTPLAN", "Plan", "pydicom"),
    "rt-dose": Source("rtdose.dcm", "RTDOSE", "Doză", "pydicom"),
}

_KEPT_GROUPS = frozenset({0x0018, 0x0028, 0x3004, 0x300A, 0x300C, 0x5400, 0x6000, 0x7FE0})
_KEPT = frozenset(
    {
        "AcquisitionContextSequence",
        "AcquisitionNumber",
        "ConversionType",
        "DerivationCodeSequence",
        "DerivationDescription",
        "FrameOfReferenceUID",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "ImageType",
        "Manufacturer",
        "ManufacturerModelName",
        "NumberOfStages",
        "NumberOfViewsInStage",
        "PatientOrientation",
        "PositionReferenceIndicator",
        "SOPClassUID",
        "SliceLocation",
        "StageNumber",
        "ViewNumber",
        "WaveformAnnotationSequence",
    }
)
_DROPPED = frozenset({"BodyPartExamined", "DeviceSerialNumber"})


def names(study: Study) -> list[str]:
    """Return the name of each of a study's objects, in order."""
    return list(study.objects)


def instances(study: Study) -> Iterator[tuple[str, Dataset]]:
    """Make a study's objects, one series each.

    Yields:
        Each name, and its object.

    Raises:
        SampleDataError: pydicom's example files are not installed.
    """
    plan: UID | None = None
    for number, name in enumerate(study.objects, start=1):
        dataset = _instance(study, name, SOURCES[name], number)
        if dataset.SOPClassUID == RTPlanStorage:
            plan = dataset.SOPInstanceUID
        elif dataset.SOPClassUID == RTDoseStorage and plan is not None:
            # The two files come from different plans; in our study the dose is the plan's.
            dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = plan
        yield name, dataset


def _instance(study: Study, name: str, source: Source, series_number: int) -> Dataset:
    dataset = pydicom.dcmread(_path(source.file))
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    with warnings.catch_warnings():
        # pydicom warns of values that break the standard, such as a UID in rtdose.dcm; we replace those.
        warnings.simplefilter("ignore", UserWarning)
        _keep_content(dataset, source)
        _rename_uids(dataset, study)
    describe(
        dataset,
        study,
        modality=source.modality,
        series_number=series_number,
        series_description=source.description,
    )
    dataset.InstanceNumber = 1
    if "Rows" in dataset:
        dataset.ImageComments = f"Sample data. Image: pydicom {source.file} ({source.origin})"
    if source.window is not None:
        dataset.WindowCenter, dataset.WindowWidth = source.window
    if source.modality != "RTPLAN":
        dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    # Type 2 and 2C of the modules concerned (PS3.3 C.8.8.1, C.7.3.1): present, though nothing is known.
    if source.modality in ("RTPLAN", "RTDOSE"):
        dataset.OperatorsName = ""
    elif not study.body_part:
        dataset.Laterality = ""
    if source.modality == "ECG":
        dataset.AcquisitionDateTime = dataset.StudyDate + dataset.StudyTime
    name_instance(dataset, study, name, syntax if source.keep_transfer_syntax else ExplicitVRLittleEndian)
    return dataset


def _keep_content(dataset: Dataset, source: Source) -> None:
    """Delete everything that the allow list does not name; it names no group of private elements."""
    for element in list(dataset):
        kept = element.tag.group in _KEPT_GROUPS or element.keyword in _KEPT
        if not kept or element.keyword in _DROPPED | source.dropped:
            del dataset[element.tag]


def _rename_uids(dataset: Dataset, study: Study) -> None:
    """Give every UID that names an instance or a frame of reference a new one, equal ones the same."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _rename_uids(item, study)
        elif element.keyword in ("FrameOfReferenceUID", "ReferencedSOPInstanceUID"):
            element.value = uid(study.key, "was", str(element.value))


def _path(file: str) -> Path:
    # get_testdata_file() would look further on the Internet; only what is installed is meant here.
    path = Path(pydicom.data.__file__).parent / "test_files" / file
    if not path.is_file():
        raise SampleDataError(
            f"pydicom's example file {file} is not installed ({path.parent}). Install Debian's "
            "python3-pydicom, or pydicom from PyPI."
        )
    return path
