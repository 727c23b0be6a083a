"""C-FIND answers as bytes, read back with pydicom."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import FileDataset, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from usmed.hospital.orthanc_host.answer import encode_answer, tag_and_vr
from usmed.hospital.tag_names import as_number

# Values that DICOM would not allow are carried all the same; pydicom warns of them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def read(tags: dict[str, Any]) -> FileDataset:
    dataset = dcmread(io.BytesIO(encode_answer(tags)))
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    return dataset


def test_an_answer_as_a_workstation_reads_it() -> None:
    found = read(
        {
            "StudyInstanceUID": "1.2.3", "PatientName": "Ștefănescu^Țuța", "SpecificCharacterSet": "ISO_IR 192",
            "QueryRetrieveLevel": "STUDY", "PatientID": " 007", "StudyDate": "20260131", "StudyTime": "101112.5",
            "ModalitiesInStudy": "CT\\PT", "NumberOfStudyRelatedInstances": "12", "PatientSize": "1.75",
            "StudyDescription": "", "OtherPatientNames": "Ionescu^Ana\\Popa^Ana", "RetrieveURL": "http://a/b",
            "Rows": "512", "0010,0030": "19800101",
            "PatientComments": "a\\b; " + "ă" * 300,
        }
    )  # fmt: skip
    assert found.StudyInstanceUID == "1.2.3"
    assert str(found.PatientName) == "Ștefănescu^Țuța"
    assert found.PatientID == " 007"
    assert list(found.ModalitiesInStudy) == ["CT", "PT"]
    assert (found.NumberOfStudyRelatedInstances, found.Rows) == (12, 512)
    assert [str(one) for one in found.OtherPatientNames] == ["Ionescu^Ana", "Popa^Ana"]
    assert found.PatientComments == "a\\b; " + "ă" * 300
    assert found.PatientBirthDate == "19800101"
    assert found.RetrieveURL == "http://a/b"
    assert found["StudyDescription"].is_empty
    assert list(found.keys()) == sorted(found.keys()), "elements stand in the order of their tags (PS3.5 §7.1)"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Rows", "65535", 65535),
        ("SmallestImagePixelValue", "7", 7),
        ("ReferencePixelX0", "-5", -5),
        ("RegionFlags", "4294967295", 4294967295),
        ("RecommendedDisplayFrameRateInFloat", "0.5", 0.5),
        ("RealWorldValueSlope", "1e300", 1e300),
        ("BluePaletteColorLookupTableDescriptor", "256\\0\\16", [256, 0, 16]),
        ("FrameIncrementPointer", "(0018,1063)", 0x00181063),
        ("FrameIncrementPointer", "00181063\\0018,1065", [0x00181063, 0x00181065]),
        ("ExtendedOffsetTable", "", None),
    ],
)
def test_binary_values(name: str, text: str, expected: Any) -> None:
    value = read({name: text})[name].value
    assert (list(value) if isinstance(expected, list) else value) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("Rows", "abc"), ("Rows", "65536"), ("Rows", "-1"), ("Rows", "1.5"),
     ("RecommendedDisplayFrameRateInFloat", "1e300"), ("FrameIncrementPointer", "x"), ("RealWorldValueSlope", "1\\y")],
)  # fmt: skip
def test_what_is_no_such_number_is_left_empty(name: str, text: str) -> None:
    found = read({name: text, "PatientID": "7"})
    assert found[name].is_empty
    assert found.PatientID == "7"


def test_sequences() -> None:
    found = read(
        {
            "PatientID": "7",
            "OtherPatientIDsSequence": [
                {"PatientID": "8", "IssuerOfPatientID": "Ș"},
                {"PatientID": "9", "IssuerOfPatientIDQualifiersSequence": [{"UniversalEntityID": "1.2"}]},
                {},
            ],
            "ProcedureCodeSequence": [],
            "SpecificCharacterSet": "ISO_IR 192",
            "StudyInstanceUID": "1.2.3",
        }
    )
    one, two, three = found.OtherPatientIDsSequence
    assert (one.PatientID, one.IssuerOfPatientID) == ("8", "Ș")
    assert two.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2"
    assert three == Dataset()
    assert list(found.ProcedureCodeSequence) == []
    assert found.StudyInstanceUID == "1.2.3"


def test_private_and_unknown_elements_are_bytes() -> None:
    found = read({"0029,0010": "MAKER 1", "0029,1010": "odd", "0008,9999": "", "PatientID": "7"})
    assert (found[0x0029, 0x0010].value, found[0x0029, 0x1010].value) == ("MAKER 1", b"odd\0")
    assert found[0x0008, 0x9999].is_empty
    assert found.PatientID == "7"


def test_what_does_not_fit_is_left_out_and_the_rest_stays() -> None:
    long = "ă" * 40_000
    found = read(
        {
            "NoSuchKeyword": "x", "ffff,zzzz": "x", "PatientName": None, "StudyID": ["x"],
            "AccessionNumber": {"x": 1}, "ProcedureCodeSequence": "text", "OtherPatientIDsSequence": ["x", 5, None],
            "StudyDescription": long, "ImageComments": long, "SpecificCharacterSet": "ISO_IR 192", "PatientID": "7",
        }
    )  # fmt: skip
    assert found.PatientID == "7"
    assert [found[name].is_empty for name in ("StudyID", "AccessionNumber")] == [True, True]
    assert list(found.ProcedureCodeSequence) == list(found.OtherPatientIDsSequence) == []
    # Cut between letters, never within one: LO and LT have 16 bits for their length.
    assert found.StudyDescription == found.ImageComments == "ă" * 32_767
    assert "PatientName" not in found


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("PatientID", (0x00100020, "LO")),
        ("0010,0020", (0x00100020, "LO")),
        ("0008,103E", (0x0008103E, "LO")),
        ("SmallestImagePixelValue", (0x00280106, "US")),
        ("PixelData", (0x7FE00010, "OB")),
        ("0010-0020", None),
        ("0010,00200", None),
        ("0029,1010", None),
        ("wxyz,1010", None),
        ("", None),
    ],
)
def test_names_of_attributes(name: str, known: tuple[int, str] | None) -> None:
    assert tag_and_vr(name) == known


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("PatientID", "0010,0020"),
        ("0008,103E", "0008,103e"),
        ("0029,1010", "0029,1010"),
        ("NoSuchAttribute", "NoSuchAttribute"),
        ("", ""),
    ],
)
def test_names_as_orthanc_understands_them_at_once(name: str, number: str) -> None:
    assert as_number(name) == number


VALUES = st.recursive(
    st.none()
    | st.text(max_size=12)
    | st.integers()
    | st.floats()
    | st.sampled_from(["-1", "1e9", "1\\2", "0010,0020"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["PatientID", "Rows", "0010,0030", "CodeValue", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["PatientID", "PatientName", "Rows", "FrameIncrementPointer", "OtherPatientIDsSequence", "RealWorldValueSlope",
     "StudyInstanceUID", "PixelData", "RetrieveURL", "x"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_whatever_a_peer_says_there_is_an_answer(tags: dict[str, Any]) -> None:
    found = read({**tags, "StudyDate": "20260131", "SOPInstanceUID": "1.2"})
    assert (found.StudyDate, found.SOPInstanceUID) == ("20260131", "1.2")
    assert [element.tag for element in found.iterall()]
