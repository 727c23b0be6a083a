"""The MR head: one axial image for each layer of the MNI152 template.

Where the template comes from is in `template`. The images are what a scanner would have written for that
volume, as far as a template can say: it has no repetition time, and its intensities have no unit.
"""

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from sample_data.dicom import describe, name_instance, uid
from sample_data.errors import SampleDataError
from sample_data.persons import Study
from sample_data.template import Volume

NAME = "mr-head"
SMALL_STEP = 16
"""A small run writes every so many of the layers, the same files as a full run."""

_NOTICE = "Sample data. Image: MNI152 (ICBM 2009a), (C) 1993-2004 Louis Collins, MNI, McGill University"


def names(volume: Volume, *, small: bool) -> list[str]:
    """Return the name of each image, from the lowest layer to the highest.

    Args:
        volume: the template.
        small: every `SMALL_STEP`th layer only.

    Raises:
        SampleDataError: fewer layers than a head has.
    """
    layers = volume.voxels.shape[2]
    if layers < 170:
        raise SampleDataError(f"the template has {layers} axial layers, not at least 170: is it the 1 mm one?")
    return [_name(k) for k in range(0, layers, SMALL_STEP if small else 1)]


def images(study: Study, volume: Volume, *, small: bool) -> Iterator[tuple[str, Dataset]]:
    """Make the MR series.

    Args:
        study: the study that it becomes part of.
        volume: the template, whole numbers from 0 to 4095.
        small: as for `names`.

    Yields:
        Each of `names`, and its object.
    """
    window_width = int(volume.voxels.max()) + 1
    for k in range(0, volume.voxels.shape[2], SMALL_STEP if small else 1):
        yield _name(k), _image(study, volume, k, window_width)


def _name(k: int) -> str:
    return f"{NAME}-{k + 1:03}"


def _image(study: Study, volume: Volume, k: int, window_width: int) -> Dataset:
    columns, rows, _ = volume.voxels.shape
    (x, y, z), (dx, dy, dz) = volume.origin_mm, volume.spacing_mm
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    describe(dataset, study, modality="MR", series_number=1, series_description="T1 3D axial")
    name_instance(dataset, study, _name(k))
    dataset.InstanceNumber = k + 1
    dataset.AcquisitionNumber = 1
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    dataset.ImageComments = _NOTICE
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.DerivationDescription = "Average of 152 persons' heads, brain extracted; intensities without unit"
    dataset.Manufacturer = "MNI152 template"

    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "SP"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = None
    dataset.EchoTime = None
    dataset.EchoTrainLength = None
    dataset.PatientPosition = "HFS"

    # NIfTI counts mm to the right, forward and up, DICOM to the left, backward and up (PS3.3 C.7.6.2.1.1).
    # Columns run from the person's right to the left and rows from front to back, so both in-plane axes turn
    # round and the first pixel is the voxel with the largest i and j.
    dataset.FrameOfReferenceUID = uid(study.key, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = [-(x + (columns - 1) * dx), -(y + (rows - 1) * dy), z + k * dz]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = z + k * dz
    dataset.PixelSpacing = [dy, dx]
    dataset.SliceThickness = dz

    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = window_width // 2, window_width
    dataset.PixelData = np.ascontiguousarray(volume.voxels[::-1, ::-1, k].T.astype("<u2")).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset
