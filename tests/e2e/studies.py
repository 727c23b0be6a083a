"""Studies for the tests of a whole region: real CT and MR objects of pydicom, under whatever patient a test needs."""

import hashlib
import io
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import PYDICOM_ROOT_UID
from stdnum.ro import cnp

NATIONAL_ISSUER = "RO-CNP"
BIRTH_DATE, SEX = "19700101", "M"
_FILES = {"CT": "CT_small.dcm", "MR": "MR_small.dcm"}


def national_number(person: int) -> str:
    """Return the valid CNP of one of up to 999 men born on BIRTH_DATE in Iași (county 22)."""
    number = f"1700101{22}{person:03d}"
    return number + str(cnp.calc_check_digit(number))


@dataclass(frozen=True)
class Patient:
    """Whose study: PatientID and IssuerOfPatientID as they stand in the object, and further numbers."""

    number: str
    name: str = "Țurcanu^Ștefan"
    issuer: str = ""
    others: tuple[tuple[str, str], ...] = ()
    birth_date: str = BIRTH_DATE
    sex: str = SEX

    def also(self, issuer: str, number: str) -> "Patient":
        """Return the patient with one more number in OtherPatientIDsSequence."""
        return replace(self, others=(*self.others, (issuer, number)))


@dataclass(frozen=True)
class Study:
    """A study made of real objects; `label` makes its UIDs, so equal labels are equal studies."""

    label: str
    patient: Patient
    modality: str = "CT"
    series: int = 1
    instances: int = 2
    date: str = "20240115"
    accession: str = ""
    attributes: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def uid(self) -> str:
        """Return its Study Instance UID."""
        return _uid("study", self.label)

    def series_uid(self, series: int) -> str:
        """Return a Series Instance UID; the first series is 1."""
        return _uid("series", self.label, series)

    def sop_uid(self, series: int, instance: int) -> str:
        """Return a SOP Instance UID; the first instance of a series is 1."""
        return _uid("instance", self.label, series, instance)

    @property
    def sop_uids(self) -> set[str]:
        """Return the SOP Instance UIDs of all its instances."""
        return {self.sop_uid(*one) for one in self._positions()}

    def files(self) -> list[bytes]:
        """Return its instances as DICOM files."""
        return [_written(self._dataset(*one)) for one in self._positions()]

    def _positions(self) -> list[tuple[int, int]]:
        return [(s + 1, i + 1) for s in range(self.series) for i in range(self.instances)]

    def _dataset(self, series: int, instance: int) -> FileDataset:
        dataset = pydicom.dcmread(io.BytesIO(_template(self.modality)))
        patient = self.patient
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientID, dataset.PatientName = patient.number, patient.name
        dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, patient.sex
        if "OtherPatientIDsSequence" in dataset:
            del dataset.OtherPatientIDsSequence
        if patient.issuer:
            dataset.IssuerOfPatientID = patient.issuer
        if patient.others:
            dataset.OtherPatientIDsSequence = [_other(*one) for one in patient.others]
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.uid, self.series_uid(series)
        dataset.SOPInstanceUID = self.sop_uid(series, instance)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyDate, dataset.AccessionNumber = self.date, self.accession
        dataset.StudyDescription = f"Studiu {self.label}"[:64]
        dataset.SeriesNumber, dataset.InstanceNumber = series, instance
        dataset.SeriesDescription = f"Serie {series}"
        for keyword, value in self.attributes.items():
            setattr(dataset, keyword, value)
        return dataset


def _uid(*names: str | int) -> str:
    """Return a UID; all are of the same length."""
    digest = hashlib.sha256(repr(names).encode()).hexdigest()
    return f"{PYDICOM_ROOT_UID}{10**36 + int(digest, 16) % 10**36}"


@cache
def _template(modality: str) -> bytes:
    path = get_testdata_file(_FILES[modality])
    assert isinstance(path, str)
    with open(path, "rb") as file:
        return file.read()


def _other(issuer: str, number: str) -> Dataset:
    item = Dataset()
    item.PatientID = number
    if issuer:
        item.IssuerOfPatientID = issuer
    return item


def _written(dataset: FileDataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def differing(one: Dataset, other: Dataset) -> set[str]:
    """Return the attributes, by keyword or tag, that two datasets do not have alike."""
    tags = set(one.keys()) | set(other.keys())
    return {
        pydicom.datadict.keyword_for_tag(tag) or str(tag)
        for tag in tags
        if tag not in one or tag not in other or one[tag] != other[tag]
    }
