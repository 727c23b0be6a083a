"""Elements are found where pydicom finds them, in what real software wrote; anything odd is left to pydicom."""

import io
import struct
import warnings
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from usmed.hospital.dicom_elements import UnusualError, find_elements

TAGS = (0x00080005, 0x00080018, 0x00100020, 0x00100021, 0x00101002, 0x0020000D, 0x04000561)
FILES = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))


def written(syntax: str, *, undefined_length: bool = False) -> bytes:
    """Return a small file with a nested sequence before the elements that are looked for."""
    dataset = Dataset()
    dataset.SOPInstanceUID, dataset.PatientID, dataset.StudyInstanceUID = "1.2.3", "77", "1.2"
    inner, item = Dataset(), Dataset()
    inner.CodeValue = "1"
    item.PurposeOfReferenceCodeSequence = Sequence([inner, Dataset()])
    dataset.ReferencedImageSequence = Sequence([item, Dataset()])
    if undefined_length:
        for one in (dataset["ReferencedImageSequence"], item["PurposeOfReferenceCodeSequence"]):
            one.is_undefined_length = True
            for part in one.value:
                part.is_undefined_length_sequence_item = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


SMALL = written(ExplicitVRLittleEndian)


def handled(path: Path) -> bool:
    try:
        find_elements(path.read_bytes(), TAGS)
    except UnusualError:
        return False
    return True


HANDLED = [path for path in FILES if handled(path)]


def test_most_files_are_handled() -> None:
    """Else everything would be slow, and no other test would notice."""
    assert len(HANDLED) > len(FILES) / 2
    assert {"CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "rtplan.dcm"} <= {path.name for path in HANDLED}


@pytest.mark.parametrize("path", HANDLED, ids=lambda path: path.name)
def test_elements_are_where_pydicom_finds_them(path: Path) -> None:
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(io.BytesIO(data), defer_size=None)
    found = find_elements(data, TAGS)
    assert found.implicit == dataset.original_encoding[0]
    for tag, place in zip(TAGS, found.places, strict=True):
        element = dataset.get_item(tag)
        assert (place.end > place.start) is (element is not None)
        if isinstance(element, RawDataElement):
            assert element.value_tell == place.value
            assert data[place.value : place.end] == (element.value or b"")
    # Where an element is missing, it would stand between its neighbours.
    order = [place.start for place in found.places]
    assert order == sorted(order)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined_length", [False, True])
def test_sequences_are_passed_whole(syntax: str, undefined_length: bool) -> None:
    """The elements inside are not the file's own."""
    found = find_elements(written(syntax, undefined_length=undefined_length), TAGS)
    assert [found.text(index).rstrip(" \0") for index in (1, 2, 5)] == ["1.2.3", "77", "1.2"]
    assert found.text(3) == ""


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_left_to_pydicom(syntax: str) -> None:
    with pytest.raises(UnusualError):
        find_elements(written(syntax), TAGS)


@pytest.mark.parametrize("value", [b"\xc8\x98", b"1\\2", b"~1", b"\x1b(J1"])
def test_a_value_that_needs_its_character_set_is_left_to_pydicom(value: bytes) -> None:
    data = SMALL.replace(b"LO\x02\x0077", b"LO" + struct.pack("<H", len(value)) + value)
    with pytest.raises(UnusualError):
        find_elements(data, TAGS).text(TAGS.index(0x00100020))


def test_a_group_length_is_left_to_pydicom() -> None:
    """It would be wrong after an exchange of elements."""
    at = find_elements(SMALL, TAGS).places[2].start
    with pytest.raises(UnusualError):
        find_elements(SMALL[:at] + struct.pack("<HH2sHI", 0x10, 0, b"UL", 4, 10) + SMALL[at:], TAGS)


def test_a_file_cut_anywhere_is_refused_or_read_up_to_there() -> None:
    for size in range(len(SMALL)):
        for count in range(1, len(TAGS)):
            try:
                found = find_elements(SMALL[:size], TAGS[:count])
            except UnusualError:
                continue
            assert all(place.end <= size for place in found.places)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    original=st.sampled_from([SMALL, written(ImplicitVRLittleEndian, undefined_length=True)]),
)
def test_damage_is_refused_never_another_error(data: st.DataObject, original: bytes) -> None:
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = find_elements(bytes(damaged), TAGS)
    except UnusualError:
        return
    assert all(place.end <= len(damaged) for place in found.places)
