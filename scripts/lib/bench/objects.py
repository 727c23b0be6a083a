"""CT images to measure with: a real header, pixels that cannot be compressed, as many different ones as needed."""

import io
import os
from collections.abc import Iterator

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from stdnum.ro import cnp

# Numbers in the template that are replaced byte by byte, so they have the width of what replaces them.
_STUDY, _SERIES, _SOP = "8111111118", "8222222228", "8333333338"
_PATIENT = "1844444444448"
_UID_ROOT = "1.2.826.0.1.3680043.8.498."


class Images:
    """Makes CT images of one size.

    Args:
        rows, columns: 16-bit pixels, so the file has 2 × rows × columns bytes and some 3 KB of header.
    """

    def __init__(self, rows: int, columns: int) -> None:
        dataset = dcmread(get_testdata_file("CT_small.dcm"))
        # Another person's other numbers would make it another patient to the region.
        for keyword in ("OtherPatientIDs", "OtherPatientIDsSequence", "IssuerOfPatientID"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.PatientID, dataset.PatientName = _PATIENT, f"Măsurătoare^{_PATIENT}"
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "M"
        dataset.AccessionNumber = ""
        dataset.StudyInstanceUID = _UID_ROOT + _STUDY
        dataset.SeriesInstanceUID = _UID_ROOT + _SERIES
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _UID_ROOT + _SOP
        dataset.Rows, dataset.Columns = rows, columns
        self._pixel_bytes = rows * columns * 2
        dataset.PixelData = bytes(self._pixel_bytes)
        for keyword in ("DataSetTrailingPadding", "SmallestImagePixelValue", "LargestImagePixelValue"):
            if keyword in dataset:
                del dataset[keyword]
        self._head = _encoded(dataset)[: -self._pixel_bytes]

    def study(self, patient: int, study: int, count: int) -> Iterator[bytes]:
        """Give the DICOM files of one study; the same numbers give the same UIDs, with other pixels."""
        for number in range(count):
            head = self._head
            for placeholder, text in (
                (_PATIENT, patient_id(patient)),
                (_STUDY, f"8{study:08d}1"),
                (_SERIES, f"8{study:08d}2"),
                (_SOP, f"8{study:05d}{number:04d}"),
            ):
                head = head.replace(placeholder.encode(), text.encode())
            yield head + os.urandom(self._pixel_bytes)


def patient_id(patient: int) -> str:
    """Return the PatientID of patient number `patient`: a valid CNP, so that all hospitals mean the same person."""
    county, serial = divmod(patient, 999)
    number = f"1700101{county + 1:02d}{serial + 1:03d}"
    return number + cnp.calc_check_digit(number)


def study_uid(study: int) -> str:
    """Return the Study Instance UID of study number `study`."""
    return f"{_UID_ROOT}8{study:08d}1"


def _encoded(dataset: Dataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()
