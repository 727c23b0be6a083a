"""A guest copy is filed under the local number; everything else in the object stays as the source sent it."""

import io
import struct
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import FileDataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.hospital.filing import Filing, check_instance, file_under, header_of, other_numbers_of

# pydicom warns of what other makers wrote; it is read all the same.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

AT = datetime(2026, 11, 21, 10, 0, 0, 5, tzinfo=UTC)
FILING = Filing("77", "PARHON", PatientIdentifier("SF-SPIRIDON", "_7"), "Spitalul „Sf. Spiridon” Iași", AT)
OURS = {"PatientID", "IssuerOfPatientID", "OtherPatientIDsSequence", "OriginalAttributesSequence"}
PIXELS = (struct.pack("<HH", 0x7FE0, 0x10), struct.pack(">HH", 0x7FE0, 0x10))


def readable(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcmread(path, stop_before_pixels=True)
        except Exception:  # noqa: BLE001 - whatever pydicom raises, such a file is not for this test
            return False
    return True


FILES = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
OBJECTS = [path for path in FILES if readable(path) and path.name != "meta_missing_tsyntax.dcm"]


def read(data: bytes) -> FileDataset:
    return dcmread(io.BytesIO(data))


def raw(dataset: Dataset) -> dict[int, Any]:
    """Return each element as it stands in the file, without those we set and the retired group lengths."""
    ours = {tag_for_keyword(keyword) for keyword in OURS}
    return {int(tag): dataset.get_item(tag) for tag in dataset._dict if tag.element and tag not in ours}


def same_but_for_the_patient(before: bytes, after: bytes) -> None:
    """Check that nothing else changed: elements byte for byte, sequences by content."""
    one, other = read(before), read(after)
    assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID
    elements, others = raw(one), raw(other)
    assert elements.keys() == others.keys()
    for tag, element in elements.items():
        if isinstance(element, RawDataElement) and isinstance(others[tag], RawDataElement) and element.VR != "SQ":
            assert (element.VR, element.value) == (others[tag].VR, others[tag].value)
        else:
            assert one[tag] == other[tag]


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_every_kind_of_object_is_filed_and_otherwise_unchanged(path: Path) -> None:
    before = path.read_bytes()
    after = file_under(before, FILING)
    filed = read(after)
    assert (filed.PatientID, filed.IssuerOfPatientID) == ("77", "PARHON")
    same_but_for_the_patient(before, after)
    pixels = next((before.index(mark) for mark in PIXELS if before.count(mark) == 1), None)
    if pixels is not None:
        assert after.endswith(before[pixels:]), "from the pixel data on the file is the same, byte for byte"
    # What was filed can be filed again by the next hospital.
    again = read(file_under(after, Filing("5", "", PatientIdentifier("PARHON", "77"), "Parhon", AT)))
    assert again.PatientID == "5"
    assert "IssuerOfPatientID" not in again
    assert [one.PatientID for one in again.OtherPatientIDsSequence][-2:] == ["_7", "77"]


def instance(syntax: str = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """Make a small image under any transfer syntax."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4.5"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.PatientID, dataset.PatientName = "_7", "Popescu^Ana"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored = 4, 4, 8, 8
    dataset.SamplesPerPixel, dataset.PixelRepresentation, dataset.HighBit = 1, 0, 7
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(dataset, name, value)
    pixels = bytes(range(16))
    dataset.PixelData = encapsulate([pixels]) if syntax == RLELossless else pixels
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = syntax == RLELossless
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
            RLELossless]  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_what_stands_where_afterwards(syntax: str) -> None:
    filed = read(file_under(instance(syntax, IssuerOfPatientID="SF-SPIRIDON"), FILING))
    assert filed.file_meta.TransferSyntaxUID == syntax
    # PS3.3 C.7.1.1
    other = filed.OtherPatientIDsSequence[0]
    assert (other.PatientID, other.IssuerOfPatientID) == ("_7", "SF-SPIRIDON")
    # PS3.3 C.12.1.1.9
    original = filed.OriginalAttributesSequence[0]
    before = original.ModifiedAttributesSequence[0]
    assert (before.PatientID, before.IssuerOfPatientID) == ("_7", "SF-SPIRIDON")
    assert original.AttributeModificationDateTime == "20261121100000.000005+0000"
    assert original.ModifyingSystem == "USMED"
    assert original.SourceOfPreviousValues == "Spitalul ?Sf. Spiridon? Ia?i"
    assert original.ReasonForTheAttributeModification == "COERCE"
    plain = bytes(range(16))
    assert plain in filed.PixelData
    if syntax == DeflatedExplicitVRLittleEndian:
        assert filed.PixelData == plain


def test_an_object_that_is_filed_right_already_stays_as_it_is() -> None:
    data = instance(PatientID="77")
    assert file_under(data, FILING) is data


@pytest.mark.parametrize("number", ["77 ", "077", " 77", "7", "77@X"])
def test_a_number_that_only_looks_like_the_local_one_is_replaced(number: str) -> None:
    filed = read(file_under(instance(PatientID=number), FILING))
    # A space at the end is DICOM's padding, not another number.
    assert filed.PatientID == "77"
    assert ("OtherPatientIDsSequence" in filed) is (number != "77 ")


def test_sequences_that_were_there_keep_what_they_say() -> None:
    other, earlier, values = Dataset(), Dataset(), Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = "2800101221145", "RO-CNP", "TEXT"
    values.PatientID = "old"
    earlier.ModifiedAttributesSequence = [values]
    earlier.ReasonForTheAttributeModification = "CORRECT"
    for syntax in SYNTAXES:
        data = instance(syntax, OtherPatientIDsSequence=[other], OriginalAttributesSequence=[earlier])
        filed = read(file_under(data, FILING))
        assert [one.PatientID for one in filed.OtherPatientIDsSequence] == ["2800101221145", "_7"]
        assert filed.OtherPatientIDsSequence[0] == other
        assert [one.ReasonForTheAttributeModification for one in filed.OriginalAttributesSequence] == [
            "CORRECT", "COERCE",
        ]  # fmt: skip
        assert filed.OriginalAttributesSequence[0] == earlier


def test_empty_sequences_are_filled() -> None:
    filed = read(file_under(instance(OtherPatientIDsSequence=[], OriginalAttributesSequence=[]), FILING))
    assert len(filed.OtherPatientIDsSequence) == len(filed.OriginalAttributesSequence) == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Stefanescu^Ion"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 101", "Ştefănescu^Ţuţa"),
        ("ISO_IR 192", "Ștefănescu^Țuța"),
        (["", "ISO 2022 IR 101"], "Ştefănescu^Ion"),
        ("ISO_IR 144", "Иванов^Иван"),
        ("GB18030", "王^小东"),
    ],
    ids=str,
)
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_names_keep_their_letters_and_bytes(syntax: str, charset: Any, name: str) -> None:
    data = instance(syntax, **({"SpecificCharacterSet": charset} if charset else {}), PatientName=name)
    after = file_under(data, FILING)
    filed = read(after)
    assert filed.get("SpecificCharacterSet") == read(data).get("SpecificCharacterSet")
    assert str(filed.PatientName) == name
    same_but_for_the_patient(data, after)


def test_private_elements_stay() -> None:
    dataset = read(instance())
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", bytes(range(64)))
    block.add_new(0x11, "UN", b"\0\1\2\3")
    out = io.BytesIO()
    dataset.save_as(out)
    same_but_for_the_patient(out.getvalue(), file_under(out.getvalue(), FILING))


def test_a_number_that_the_object_cannot_write_is_refused() -> None:
    """Written with question marks it would be another patient's."""
    filing = Filing("Ș7", "", PatientIdentifier("A", "_7"), "A", AT)
    assert read(file_under(instance(SpecificCharacterSet="ISO_IR 192"), filing)).PatientID == "Ș7"
    for charset in (None, "ISO_IR 100"):
        data = instance(**({"SpecificCharacterSet": charset} if charset else {}))
        with pytest.raises(PeerDataError, match="character set"):
            file_under(data, filing)
        with pytest.raises(PeerDataError, match="character set"):
            file_under(data, Filing("7", "IAȘI", PatientIdentifier("A", "_7"), "A", AT))
        with pytest.raises(PeerDataError, match="character set"):
            file_under(data, Filing("7", "", PatientIdentifier("IAȘI", "_7"), "A", AT))


# ---- the instance is the one that was announced ----

EXPECTED = {"study_instance_uid": "1.2.3", "sop_instance_uid": "1.2.3.4.5", "patient_id": "_7"}


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_the_right_instance_passes_and_any_other_does_not(syntax: str) -> None:
    data = instance(syntax)
    check_instance(data, **EXPECTED)
    check_instance(instance(syntax, PatientID="_7 "), **EXPECTED)
    for name, value in (("study_instance_uid", "1.2.30"), ("sop_instance_uid", "1.2.3.4.50"), ("patient_id", "%7")):
        with pytest.raises(PeerDataError, match="another study, or another patient"):
            check_instance(data, **{**EXPECTED, name: value})


def test_header_of() -> None:
    data = instance(IssuerOfPatientID="A", StudyDate="20200131", Modality="CT", PatientBirthDate="19630615")
    header = header_of(data)
    wanted = {"PatientID": "_7", "IssuerOfPatientID": "A", "StudyInstanceUID": "1.2.3", "StudyDate": "20200131",
              "Modality": "CT", "PatientBirthDate": "19630615", "PatientSex": ""}  # fmt: skip
    assert {name: header[name] for name in wanted} == wanted
    assert header_of(instance())["Modality"] == ""


def test_other_numbers_of() -> None:
    assert other_numbers_of(instance()) == []
    items = [Dataset(), Dataset(), Dataset()]
    items[0].PatientID, items[0].IssuerOfPatientID = "1800101221144 ", "RO-CNP"
    items[1].PatientID = "7"
    items[2].IssuerOfPatientID = "A"
    assert other_numbers_of(instance(OtherPatientIDsSequence=items)) == [("RO-CNP", "1800101221144"), ("", "7")]


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 128 + b"DICM", b"x" * 500, b"GIF89a" + bytes(200)], ids=len)
def test_what_is_no_dicom_file_is_refused(data: bytes) -> None:
    with pytest.raises(PeerDataError):
        check_instance(data, **EXPECTED)


WHOLE = {syntax: instance(syntax, OtherPatientIDsSequence=[Dataset()]) for syntax in SYNTAXES}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SYNTAXES), st.data())
def test_a_damaged_file_is_filed_or_refused_never_another_error(syntax: str, data: st.DataObject) -> None:
    whole = WHOLE[syntax]
    start = data.draw(st.integers(128, len(whole)))
    damaged = bytearray(
        whole[:start] + data.draw(st.binary(max_size=12)) + whole[start + data.draw(st.integers(0, 12)) :]
    )
    with warnings.catch_warnings(), suppress(PeerDataError):
        warnings.simplefilter("ignore")
        other_numbers_of(bytes(damaged))
        check_instance(bytes(damaged), **EXPECTED)
        # Without a PatientID the archive files it under another identifier, which the pull notices.
        assert read(file_under(bytes(damaged), FILING)).get("PatientID") in ("77", None)


def test_a_file_cut_anywhere_is_filed_or_refused() -> None:
    for whole in WHOLE.values():
        for length in range(0, len(whole), 7):
            with suppress(PeerDataError):
                file_under(whole[:length], FILING)
