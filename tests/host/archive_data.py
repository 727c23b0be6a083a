"""The studies that two Orthancs hold alike: several modalities, character sets and oddities, small objects."""

import io
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.1539"
"""Below it all UIDs of this data."""

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "PT": "1.2.840.10008.5.1.4.1.1.128", "CR": "1.2.840.10008.5.1.4.1.1.1", "OT": "1.2.840.10008.5.1.4.1.1.7",
}  # fmt: skip


def item(**tags: Any) -> Dataset:
    """Return a sequence item."""
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


# One line for each study: number, patient, name, character set, (modality, instances) of each series, further tags.
STUDIES: list[tuple[int, str, str, Any, list[tuple[str, int]], dict[str, Any]]] = [
    (1, "1234", "Popescu^Ana", None, [("CT", 3), ("CT", 1)], {"StudyDate": "20200101", "AccessionNumber": "A1"}),
    (2, "1234", "Popescu^Ana", None, [("MR", 2)], {"StudyDate": "20200615", "AccessionNumber": "A2"}),
    (3, "_1234", "Popescu^Ion", "ISO_IR 100", [("CT", 1)], {"StudyDate": "20200101", "AccessionNumber": "A3"}),
    (4, "%1234", "Popescu^Dan", "ISO_IR 100", [("CT", 1)], {"StudyDate": "20191231", "AccessionNumber": "a1"}),
    (5, "01234", "popescu^ana", None, [("US", 1)], {"StudyDate": "20210101"}),
    (6, "ab-12", "Ştefănescu^Ţuţa", "ISO_IR 101", [("CR", 2)], {"StudyDate": "20180505", "StudyTime": "101112.123"}),
    (7, "AB-12", "Ștefănescu^Țuța", "ISO_IR 192", [("CR", 1)], {"StudyDate": "20180505", "StudyTime": "235959"}),
    (8, "Müller-1", "Müller^Jörg", "ISO_IR 100", [("CT", 1), ("PT", 2)], {"StudyDate": "20170301"}),
    (9, "2800101221145", "Brânzei^Ştefania", "ISO_IR 101", [("MR", 1)], {"StudyDate": "20230910"}),
    (10, "2800101221145", "Brânzei^Ștefania", "ISO_IR 192", [("CT", 2)], {"StudyDate": "20231102"}),
    (11, "ID 77", "Ionescu^Radu^Mihai^Dr.^jr.", None, [("OT", 1)], {"StudyDate": "20010101", "StudyID": "S11"}),
    (12, "77", "", None, [("OT", 1)], {"StudyID": ""}),
    (13, "78", "王^小东=王^小东=wáng", "ISO_IR 192", [("CT", 1)], {"StudyDate": "20220202"}),
    (14, "79", "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"], [("CT", 1)], {"StudyDate": "20220303"}),
    (15, "80", "Иванов^Иван", "ISO_IR 144", [("MR", 1)], {"StudyDate": "20220404"}),
    (16, "81", "Doe^John", "ISO_IR 101", [("CT", 1)], {"StudyDescription": "CAP fără contrast"}),
    (17, "82", "Doe^Jane", "ISO_IR 192", [("CT", 1)],
     {"RequestAttributesSequence": [item(ScheduledProcedureStepID="SPS1", ScheduledProcedureStepDescription="Cap Țț")],
      "ProcedureCodeSequence": [item(CodeValue="P1", CodingSchemeDesignator="99X", CodeMeaning="Torace")]}),
    (18, "83", "Doe^Jack", None, [("CT", 1)],
     {"IssuerOfPatientID": "NODE", "OtherPatientIDsSequence": [item(PatientID="9", IssuerOfPatientID="X")],
      "PatientComments": "a comment", "InstitutionName": "Clinica", "ReferringPhysicianName": "Ref^Erring"}),
    (19, "84", "Long^Name", None, [("CT", 1)], {"StudyDescription": "x" * 64, "PatientBirthDate": ""}),
    (20, "85", "Wild*Card^?", None, [("CT", 1)], {"AccessionNumber": "A*1"}),
    (21, "86\\87", "Back^Slash", None, [("CT", 1)], {}),
    (22, " 88 ", "Space^Before", None, [("CT", 1)], {"AccessionNumber": " A22 "}),
    (23, "89", "Private^Elements", None, [("CT", 1)], {"private": "of our own making"}),
    (24, "90", "Implicit^Syntax", "ISO_IR 101", [("MR", 1)], {"syntax": ImplicitVRLittleEndian}),
    *(
        (number, f"P-{number % 4}", f"Series^{number}", "ISO_IR 192", [("CT", 1)], {"StudyDate": f"202401{number:02d}"})
        for number in range(25, 32)
    ),
]  # fmt: skip


def uid(study: int, series: int = 0, instance: int = 0) -> str:
    """Return the UID of a study, a series or an instance."""
    return ".".join(str(part) for part in (ROOT, study, series, instance) if part or part is study)


def instances() -> Iterator[bytes]:
    """Yield every DICOM file."""
    for number, patient, name, charset, series, tags in STUDIES:
        for position, (modality, count) in enumerate(series, start=1):
            for index in range(1, count + 1):
                yield _instance(number, patient, name, charset, (position, modality), index, dict(tags))


def _instance(
    study: int, patient: str, name: str, charset: Any, series: tuple[int, str], index: int, tags: dict[str, Any]
) -> bytes:
    position, modality = series
    dataset = Dataset()
    if charset is not None:
        dataset.SpecificCharacterSet = charset
    dataset.SOPClassUID, dataset.SOPInstanceUID = SOP_CLASSES[modality], uid(study, position, index)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(study, position)
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, name, "19800101"
    dataset.PatientSex = "F" if study % 2 else "M"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, position, index
    dataset.SeriesDescription = (
        f"Serie {position}" if charset is None else f"Secțiune {position}" * (charset == "ISO_IR 192")
    )
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.SliceThickness, dataset.ImageType = "2.5", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.FrameIncrementPointer = 0x00181063
    syntax = tags.pop("syntax", ExplicitVRLittleEndian)
    private = tags.pop("private", None)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    if private:
        dataset.private_block(0x0029, "USMED TEST", create=True).add_new(0x10, "LO", private)
    dataset.PixelData = bytes(64)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()
