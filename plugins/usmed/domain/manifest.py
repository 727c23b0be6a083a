"""The study manifest: what exactly a source is about to send, signed; and the frames in which it sends it."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, is_uid
from usmed.domain.study_record import parse_identifier

LIMIT_BYTES = 64 << 20
MAXIMUM_INSTANCES = 200_000
MAXIMUM_INSTANCE_BYTES = 4 << 30

PIECE_BYTES = 64 << 10
"""Small instances travel together, in pieces of about this size."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One SOP Instance: its UIDs, the size of its DICOM file in bytes, and the SHA-256 (hex) of that file."""

    sop_instance_uid: str
    series_instance_uid: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StudyManifest:
    """What a source holds of one study.

    Attributes:
        source: the hospital that sends.
        requester: the hospital that it is for.
        study_instance_uid: StudyInstanceUID.
        identifier: the patient's identifier at the source.
        birth_date, sex: the patient's, as DICOM writes them, or empty: the receiver checks them for contradiction.
        consent_id: the consent that permitted it.
        entries: every instance, in the order of sending.
    """

    source: str
    requester: str
    study_instance_uid: str
    identifier: PatientIdentifier
    birth_date: str
    sex: str
    consent_id: str
    entries: tuple[ManifestEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of all instances together."""
        return sum(entry.size_bytes for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """Return it as it is signed and sent."""
        return {
            "source": self.source,
            "requester": self.requester,
            "study_instance_uid": self.study_instance_uid,
            "identifier": {"issuer": self.identifier.issuer, "value": self.identifier.value},
            "birth_date": self.birth_date,
            "sex": self.sex,
            "consent_id": self.consent_id,
            "entries": [[e.sop_instance_uid, e.series_instance_uid, e.size_bytes, e.sha256] for e in self.entries],
        }


def parse_manifest(document: Any, *, source: str, requester: str, study_instance_uid: str) -> StudyManifest:
    """Read a manifest whose signature was verified.

    Args:
        document: the parsed JSON.
        source, requester, study_instance_uid: what it must be about.

    Raises:
        PeerDataError: about something else, incomplete, an instance named twice, or not what it should be.
    """
    try:
        manifest = StudyManifest(
            source=document["source"],
            requester=document["requester"],
            study_instance_uid=document["study_instance_uid"],
            identifier=parse_identifier(document["identifier"]),
            birth_date=_text(document["birth_date"]),
            sex=_text(document["sex"]),
            consent_id=_text(document["consent_id"]),
            entries=tuple(_entry(*element) for element in document["entries"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PeerDataError(f"the manifest is malformed: {error}") from error
    if (manifest.source, manifest.requester, manifest.study_instance_uid) != (source, requester, study_instance_uid):
        raise PeerDataError("the manifest is about another study, source or requester")
    if not 0 < len(manifest.entries) <= MAXIMUM_INSTANCES:
        raise PeerDataError(f"the manifest names {len(manifest.entries)} instances")
    if len({entry.sop_instance_uid for entry in manifest.entries}) != len(manifest.entries):
        raise PeerDataError("the manifest names an instance twice")
    return manifest


def _entry(sop: Any, series: Any, size: Any, digest: Any) -> ManifestEntry:
    if not (is_uid(sop) and is_uid(series)):
        raise ValueError("an instance without valid UIDs")
    if type(size) is not int or not 0 < size <= MAXIMUM_INSTANCE_BYTES:
        raise ValueError("an instance of impossible size")
    if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("an instance without a SHA-256")
    return ManifestEntry(sop, series, size, digest)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise TypeError("text expected")
    return value


# ---- Frames: index in the manifest and size, then the instance's DICOM file; the end is said, never guessed. ----

_HEADER = struct.Struct(">IQ")
_END = _HEADER.pack(0xFFFFFFFF, 0)


def frame_header(index: int, size_bytes: int) -> bytes:
    """Return the header that precedes an instance: its index in the manifest, its size in bytes."""
    return _HEADER.pack(index, size_bytes)


def frame_end() -> bytes:
    """Return what marks the end of a stream that was sent whole."""
    return _END


def in_pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Give the same bytes, what is small together: each piece that is sent costs the same, however small it is."""
    held: list[bytes] = []
    size = 0
    for one in frames:
        if len(one) >= PIECE_BYTES:
            # Never copied.
            yield from (b"".join(held), one) if held else (one,)
            held, size = [], 0
            continue
        held.append(one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def read_frames(
    read: Callable[[int], bytes], entries: tuple[ManifestEntry, ...], expected: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """Read a stream of instances and verify each against the manifest.

    Args:
        read: `read(n)` gives 1 to n bytes, b"" at the end.
        entries: the manifest's entries.
        expected: indexes in the order in which they were asked for.

    Yields:
        Index and verified DICOM file of each instance.

    Raises:
        PeerDataError: another instance, size or content than the manifest says, or a stream cut short.
    """
    stream = _Stream(read)
    for index in expected:
        entry = entries[index]
        got, size = _HEADER.unpack(stream.exactly(_HEADER.size, f"before instance {entry.sop_instance_uid}"))
        if got != index or size != entry.size_bytes:
            raise PeerDataError(f"the stream brings something else than instance {entry.sop_instance_uid}")
        data = stream.exactly(size, f"in instance {entry.sop_instance_uid}")
        if sha256_hex(data) != entry.sha256:
            raise PeerDataError(f"instance {entry.sop_instance_uid} was altered: its SHA-256 is not the manifest's")
        yield index, data
    if stream.exactly(_HEADER.size, "before its end") != _END:
        raise PeerDataError("the stream goes on after its end")


class _Stream:
    """Reads ahead: a read costs much the same whether it brings a header or a hundred small instances."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._ahead = b""
        self._position = 0

    def exactly(self, size: int, where: str) -> bytes:
        """Return the next `size` bytes.

        Raises:
            PeerDataError: the stream ends before.
        """
        start, end = self._position, self._position + size
        if end <= len(self._ahead):
            self._position = end
            return self._ahead[start:end]
        parts = [self._ahead[start:]]
        left = size - len(parts[0])
        while left > 0:
            part = self._read(min(max(left, PIECE_BYTES), 1 << 20))
            if not part:
                raise PeerDataError(f"the stream was cut short {where}")
            self._ahead, self._position = part, min(left, len(part))
            parts.append(part[:left])
            left -= len(part)
        return b"".join(parts)
