"""Finds top-level data elements in the bytes of a DICOM file, without decoding any (PS3.5 §7.1, PS3.10 §7.1).

A pull looks at every instance that arrives and changes four elements of most. A parser that makes objects of all
elements takes longer for that than Orthanc takes to store the file, and holds Python's lock meanwhile. What is out of
the ordinary (big endian, deflated, elements out of order, a length that does not fit) is refused, for pydicom to read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from usmed.domain.errors import UsmedError

_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAXIMUM_DEPTH = 16

_IMPLICIT = b"1.2.840.10008.1.2"
_OTHERWISE_ENCODED = frozenset({b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"})
"""Explicit VR Big Endian, Deflated Explicit VR Little Endian (PS3.6 Table A-1)."""

_TAG = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


class UnusualError(UsmedError):
    """The file is damaged, or written in a way that is not handled here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is: its first byte, the first byte of its value, the byte behind it.

    For an element that is not there all three are where it would have to be.
    """

    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements that were looked for.

    Attributes:
        dicom: the file.
        implicit: Implicit VR Little Endian; else an explicit VR.
        dataset: where the dataset begins, behind the file meta information.
        places: one for each tag, in the order of the tags.
    """

    dicom: bytes
    implicit: bool
    dataset: int
    places: tuple[Place, ...]

    def text(self, index: int) -> str:
        """Return the value of an element as it stands, padding included.

        Raises:
            UnusualError: it is not plain ASCII, which has one meaning in every character set, or has several values.
        """
        place = self.places[index]
        value = self.dicom[place.value : place.end]
        # ISO-IR 13 has other characters for \ and ~; ESC switches character sets (PS3.3 C.12.1.1.2).
        if not value.isascii() or b"\\" in value or b"~" in value or b"\x1b" in value:
            raise UnusualError("a value that needs its character set")
        return value.decode("ascii")


def find_elements(dicom: bytes, tags: Sequence[int]) -> Elements:
    """Find top-level elements.

    Args:
        dicom: a DICOM file.
        tags: in ascending order, behind group 2.

    Raises:
        UnusualError: see there.
    """
    try:
        dataset, transfer_syntax = _meta(dicom)
        implicit = transfer_syntax == _IMPLICIT
        if transfer_syntax in _OTHERWISE_ENCODED or not transfer_syntax.startswith(_IMPLICIT):
            raise UnusualError("another encoding")
        # Some makers write the one and announce the other.
        if (dicom[dataset + 4 : dataset + 6] in _SHORT | _LONG) is implicit:
            raise UnusualError("not the announced encoding")
        return Elements(dicom, implicit, dataset, _places(dicom, implicit, dataset, tags))
    except struct.error as error:
        raise UnusualError("cut short") from error


def _meta(dicom: bytes) -> tuple[int, bytes]:
    """Return where the file meta information ends, and the transfer syntax (PS3.10 §7.1: always explicit VR)."""
    if dicom[128:132] != b"DICM" or dicom[132:140] != b"\x02\0\0\0UL\x04\0":
        raise UnusualError("no file meta information with its length")
    end = 144 + int(_U32.unpack_from(dicom, 140)[0])
    position, transfer_syntax = 144, b""
    while position < end:
        tag, value, after = _element(dicom, position, False)
        if tag >> 16 != 2 or after < 0:
            raise UnusualError("an unusual file meta information")
        if tag == 0x00020010:
            transfer_syntax = dicom[value:after].rstrip(b" \0")
        position = after
    if position != end or dicom[end : end + 2] == b"\x02\0":
        raise UnusualError("a file meta information of another length")
    return end, transfer_syntax


def _places(dicom: bytes, implicit: bool, position: int, tags: Sequence[int]) -> tuple[Place, ...]:
    places: list[Place] = []
    size, before = len(dicom), -1
    while len(places) < len(tags):
        if position == size:
            places += [Place(size, size, size)] * (len(tags) - len(places))
            break
        tag = _tag_at(dicom, position)
        if tag <= before or not tag & 0xFFFF:
            # A group's length (retired, PS3.5 §7.2) would not fit any more.
            raise UnusualError("elements out of order, or a group length")
        before = tag
        while len(places) < len(tags) and tags[len(places)] < tag:
            places.append(Place(position, position, position))
        if len(places) == len(tags):
            break
        _, value, end = _element(dicom, position, implicit)
        if end < 0:
            end = _skip_sequence(dicom, value, implicit, 0)
        if end > size:
            raise UnusualError("cut short")
        if tag == tags[len(places)]:
            places.append(Place(position, value, end))
        position = end
    return tuple(places)


def _element(dicom: bytes, position: int, implicit: bool) -> tuple[int, int, int]:
    """Return tag, first byte of the value, and the byte behind it: -1 if the length is undefined."""
    group, element = _TAG.unpack_from(dicom, position)
    if implicit:
        length, value = _U32.unpack_from(dicom, position + 4)[0], position + 8
    else:
        vr = dicom[position + 4 : position + 6]
        if vr in _SHORT:
            length, value = _U16.unpack_from(dicom, position + 6)[0], position + 8
        elif vr in _LONG:
            length, value = _U32.unpack_from(dicom, position + 8)[0], position + 12
            if length == _UNDEFINED and vr != b"SQ":
                # UN would hold an implicitly encoded sequence (PS3.5 §6.2.2), OB and OW encapsulated pixels.
                raise UnusualError("an undefined length")
        else:
            raise UnusualError("an unknown value representation")
    return group << 16 | element, value, -1 if length == _UNDEFINED else value + length


def _skip_sequence(dicom: bytes, position: int, implicit: bool, depth: int) -> int:
    """Return the byte behind a sequence of undefined length (PS3.5 §7.5)."""
    if depth > _MAXIMUM_DEPTH:
        raise UnusualError("nested too deeply")
    while True:
        tag, value, end = _element(dicom, position, True)
        if tag == _SEQUENCE_END:
            return value
        if tag != _ITEM:
            raise UnusualError("no sequence item where one should be")
        position = end if end >= 0 else _skip_item(dicom, value, implicit, depth)


def _skip_item(dicom: bytes, position: int, implicit: bool, depth: int) -> int:
    while True:
        if _tag_at(dicom, position) == _ITEM_END:
            return position + 8
        _, value, end = _element(dicom, position, implicit)
        position = end if end >= 0 else _skip_sequence(dicom, value, implicit, depth + 1)


def _tag_at(dicom: bytes, position: int) -> int:
    group, element = _TAG.unpack_from(dicom, position)
    return int(group << 16 | element)
