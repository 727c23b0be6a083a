"""The manifest says what is sent, the frames bring exactly that: every altered byte is refused."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.manifest import (
    MAXIMUM_INSTANCE_BYTES,
    PIECE_BYTES,
    ManifestEntry,
    StudyManifest,
    frame_end,
    frame_header,
    in_pieces,
    parse_manifest,
    read_frames,
)

FILES = [b"first", b"s" * 300, b"\0\xff" * 7]
ENTRIES = tuple(ManifestEntry(f"1.2.{n}", f"1.1.{n // 2}", len(data), sha256_hex(data)) for n, data in enumerate(FILES))
MANIFEST = StudyManifest(
    "sf-spiridon", "parhon", "1.2.3", PatientIdentifier("SF-SPIRIDON", "_7"), "19800101", "F", "c1", ENTRIES
)


def read(document: Any) -> StudyManifest:
    return parse_manifest(document, source="sf-spiridon", requester="parhon", study_instance_uid="1.2.3")


def test_a_manifest_travels() -> None:
    document = parse_json(canonical_json(MANIFEST.to_json()), limit_bytes=1 << 20)
    assert read(document) == MANIFEST
    assert MANIFEST.size_bytes == sum(map(len, FILES))


ENTRY = ["1.2.9", "1.1", 1, "a" * 64]
FAULTS: list[tuple[str, Any]] = [
    ("source", "regional"),
    ("source", None),
    ("requester", "regional"),
    ("study_instance_uid", "1.2.4"),
    ("identifier", {"issuer": "A"}),
    ("identifier", {"issuer": "A", "value": ""}),
    ("identifier", "A:1"),
    ("birth_date", None),
    ("sex", 1),
    ("consent_id", "x" * 201),
    ("consent_id", ...),
    ("entries", ...),
    ("entries", []),
    ("entries", None),
    ("entries", 3),
    ("entries", "1234"),
    ("entries", [[]]),
    ("entries", [[*ENTRY, 1]]),
    ("entries", [ENTRY, ENTRY]),
    ("entries", [["1.x", *ENTRY[1:]]]),
    ("entries", [[None, *ENTRY[1:]]]),
    ("entries", [[["1.2.9"], *ENTRY[1:]]]),
    ("entries", [["1.2.9", "", *ENTRY[2:]]]),
    ("entries", [["1.2.9", "1.1", 0, "a" * 64]]),
    ("entries", [["1.2.9", "1.1", -1, "a" * 64]]),
    ("entries", [["1.2.9", "1.1", True, "a" * 64]]),
    ("entries", [["1.2.9", "1.1", 1.5, "a" * 64]]),
    ("entries", [["1.2.9", "1.1", MAXIMUM_INSTANCE_BYTES + 1, "a" * 64]]),
    ("entries", [["1.2.9", "1.1", 1, "a" * 63]]),
    ("entries", [["1.2.9", "1.1", 1, "A" * 64]]),
    ("entries", [["1.2.9", "1.1", 1, ["a"] * 64]]),
    ("entries", [["1.2.9", "1.1", 1, None]]),
]


@pytest.mark.parametrize(("member", "value"), FAULTS, ids=lambda one: str(one)[:40])
def test_a_faulty_manifest_is_refused(member: str, value: Any) -> None:
    document = MANIFEST.to_json()
    if value is ...:
        del document[member]
    else:
        document[member] = value
    with pytest.raises(PeerDataError, match=r"manifest|identifier"):
        read(document)


@pytest.mark.parametrize("document", [None, [], "x", 1, {}])
def test_no_manifest_at_all(document: Any) -> None:
    with pytest.raises(PeerDataError, match="malformed"):
        read(document)


# ---- frames ----


def stream(*indexes: int) -> bytes:
    return b"".join(frame_header(n, len(FILES[n])) + FILES[n] for n in indexes) + frame_end()


def receive(data: bytes, expected: list[int], chunk: int = 1 << 20) -> list[tuple[int, bytes]]:
    source = io.BytesIO(data)
    return list(read_frames(lambda size: source.read(min(size, chunk)), ENTRIES, expected))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1], []], ids=str)
def test_what_was_asked_for_arrives_in_that_order(order: list[int], chunk: int) -> None:
    assert receive(stream(*order), order, chunk) == [(index, FILES[index]) for index in order]


def test_every_single_altered_byte_is_refused() -> None:
    whole = stream(0, 1, 2)
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x01
        with pytest.raises(PeerDataError):
            receive(bytes(altered), [0, 1, 2])


def test_a_stream_cut_anywhere_is_refused() -> None:
    whole = stream(0, 1, 2)
    for length in range(len(whole)):
        with pytest.raises(PeerDataError, match="cut short"):
            receive(whole[:length], [0, 1, 2])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_alteration_is_accepted(data: st.DataObject) -> None:
    whole = stream(0, 1, 2)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 400)))
    altered = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    if altered == whole:
        return
    try:
        received = receive(altered, [0, 1, 2])
    except PeerDataError:
        return
    # The only thing not read is what a sender adds behind the end, and nothing of it is stored.
    assert altered.startswith(whole)
    assert received == [(index, FILES[index]) for index in (0, 1, 2)]


def test_what_came_before_the_altered_instance_counts() -> None:
    altered = bytearray(stream(0, 1))
    altered[-20] ^= 1
    source = io.BytesIO(bytes(altered))
    frames = read_frames(source.read, ENTRIES, [0, 1])
    assert next(frames) == (0, FILES[0])
    with pytest.raises(PeerDataError, match=r"instance 1\.2\.1 was altered"):
        next(frames)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (stream(1, 0), "something else than instance 1.2.0"),
        (stream(0, 0), "something else than instance 1.2.1"),
        (stream(0), "something else than instance 1.2.1"),
        (stream(0, 1, 2), "goes on after its end"),
        (frame_header(0, 6) + b"firstx" + stream(1), "something else"),
        (frame_header(0, 5) + b"tsrif" + stream(1), r"1.2.0 was altered"),
        (struct.pack(">IQ", 0, 1 << 63), "something else"),
    ],
    ids=["swapped", "twice", "missing", "more", "longer", "altered", "huge"],
)
def test_another_instance_or_size_is_refused_before_it_is_read(data: bytes, message: str) -> None:
    with pytest.raises(PeerDataError, match=message):
        receive(data, [0, 1])


@given(st.lists(st.binary(max_size=3 * PIECE_BYTES // 2), max_size=12))
def test_pieces_are_the_same_bytes(frames: list[bytes]) -> None:
    assert b"".join(in_pieces(frames)) == b"".join(frames)


def test_what_is_small_travels_together() -> None:
    frames = [b"x" * 1000] * 1000

    pieces = list(in_pieces(frames))

    assert len(pieces) == 16
    assert all(PIECE_BYTES <= len(one) < PIECE_BYTES + 1000 for one in pieces[:-1])


def test_what_is_large_is_not_copied() -> None:
    large = bytes(PIECE_BYTES)

    pieces = list(in_pieces([b"before", large, b"behind"]))

    assert pieces == [b"before", large, b"behind"]
    assert pieces[1] is large


def test_one_read_brings_many_small_instances() -> None:
    reads = 0
    source = io.BytesIO(stream(0, 1, 2))

    def counted(size: int) -> bytes:
        nonlocal reads
        reads += 1
        return source.read(size)

    assert [index for index, _ in read_frames(counted, ENTRIES, [0, 1, 2])] == [0, 1, 2]
    assert reads == 1
