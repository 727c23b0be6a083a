"""Answers of C-FIND as DICOM bytes.

Orthanc's own CreateDicom takes some 4 ms an answer, pydicom 0.3 ms; a list of a hundred studies must not cost more
than without us. So they are written here (PS3.5 §7.1.2, §7.5). What a value representation cannot hold is left empty:
some of it comes from other hospitals, and one bad value must not cost the whole answer.
"""

import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian

from usmed.hospital.tag_names import is_number, number, tag_and_vr

_LONG_FORM = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUMBERS = {
    "US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "UV": "<Q", "SV": "<q", "FL": "<f", "FD": "<d",
}  # fmt: skip
_LONGEST = 0xFFFE
"""The most bytes that an element with the short form of length can hold."""
_TRANSFER_SYNTAX = ExplicitVRLittleEndian.encode("ascii") + b"\0"
_META = struct.pack("<HH2sH", 2, 0x10, b"UI", len(_TRANSFER_SYNTAX)) + _TRANSFER_SYNTAX
_SHORT_LENGTH, _LONG_LENGTH = struct.Struct("<H"), struct.Struct("<I")
_HEAD = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(_META)) + _META


def encode_answer(tags: Mapping[str, Any]) -> bytes:
    """Return a DICOM file with these tags, UTF-8, Explicit VR Little Endian.

    Args:
        tags: keyword (or `gggg,eeee`) to text, or to a list of such mappings for a sequence.
    """
    return _HEAD + _dataset(tags)


def _dataset(tags: Mapping[str, Any]) -> bytes:
    out: list[bytes] = []
    for name, vr, head in _layout(tuple(tags)):
        value = tags[name]
        if value is None:
            continue
        data = _sequence(value) if vr == "SQ" else _value(vr, "" if isinstance(value, list | dict) else str(value))
        out += (head, _LONG_LENGTH.pack(len(data)) if vr in _LONG_FORM else _SHORT_LENGTH.pack(len(data)), data)
    return b"".join(out)


# The answers of a lookup have the same tags: hundreds of times the same order and the same beginnings of elements.
@lru_cache(maxsize=256)
def _layout(names: tuple[str, ...]) -> tuple[tuple[str, str, bytes], ...]:
    """Return name, value representation and first bytes of each element, in the order of the tags (PS3.5 §7.1.2)."""
    # Two names of one element: the last is the one that counts.
    found = {known: name for name in names if (known := tag_and_vr(name) or _unknown(name)) is not None}
    return tuple(
        (name, vr, struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode()) + bytes(2 if vr in _LONG_FORM else 0))
        for (tag, vr), name in sorted(found.items())
    )


def _unknown(name: str) -> tuple[int, str] | None:
    """Return a private or unknown element, which has no other representation than UN (PS3.5 §6.2.2)."""
    return (number(name), "UN") if is_number(name) else None


def _sequence(value: Any) -> bytes:
    items = [_dataset(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)


def _value(vr: str, text: str) -> bytes:
    if vr in _NUMBERS:
        return _numbers(vr, text)
    if vr == "AT":
        tags = re.findall("([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})", text)
        return b"".join(struct.pack("<HH", int(group, 16), int(element, 16)) for group, element in tags)
    data = text.encode("utf-8", "replace")
    if vr not in _LONG_FORM and len(data) > _LONGEST:
        data = data[:_LONGEST].decode("utf-8", "ignore").encode("utf-8")
    if len(data) % 2:
        data += b"\0" if vr in ("UI", "OB", "UN") else b" "
    return data


def _numbers(vr: str, text: str) -> bytes:
    kind = float if vr in ("FL", "FD") else int
    try:
        return b"".join(struct.pack(_NUMBERS[vr], kind(one)) for one in text.split("\\") if one.strip())
    except (ValueError, OverflowError, struct.error):
        return b""
