"""Region manifests while they are made: drafts and files that some have signed, read and written whole."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usmed.domain import region_draft as draft
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.quorum import verify_quorum
from usmed.domain.region import RegionManifest, parse_region
from usmed.domain.region_chain import LIMIT_BYTES
from usmed.platform.region_file import is_signed, read_document


@dataclass(frozen=True, slots=True)
class RegionDocument:
    """A manifest's document as a file has it: a draft, perhaps not complete, or with signatures.

    Attributes:
        document: the manifest, without faults but for `missing`.
        signed: the general JWS; None for a draft. Whether its signatures are enough is open.
        missing: what a draft still lacks.
    """

    path: Path
    document: dict[str, Any]
    signed: dict[str, Any] | None
    missing: list[str]

    def manifest(self) -> RegionManifest:
        """Return it as a manifest.

        Raises:
            ConfigurationError: it is a draft that lacks something.
        """
        if self.missing:
            raise ConfigurationError(str(self.path), self.missing)
        return parse_region(self.document, str(self.path))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes, which are what is signed."""
        return sha256_hex(canonical_json(self.document))


def draft_bytes(document: Any) -> bytes:
    """Return a draft as it goes into a file: readable JSON."""
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


def read_region_document(path: Path) -> RegionDocument:
    """Read a manifest, signed or not, complete or not.

    Raises:
        ConfigurationError: unreadable, or with faults that no draft may have.
    """
    document = read_document(path)
    signed = None
    if is_signed(document):
        signed = document
        try:
            document = verify_quorum(signed, lambda _: None, threshold=1, limit_bytes=LIMIT_BYTES).document
        except PeerDataError as error:
            raise ConfigurationError(str(path), [str(error)]) from error
    document = draft.json_values(document)
    hard, missing = draft.faults(document, str(path))
    if hard or (signed is not None and missing):
        raise ConfigurationError(str(path), [*hard, *missing])
    return RegionDocument(path, document, signed, missing)


def is_json(path: Path) -> bool:
    """Tell whether a file is one that these commands wrote, and may write again without losing comments."""
    return path.read_bytes().lstrip()[:1] == b"{"


def write_whole(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigurationError: it exists and may not be replaced, or it cannot be written.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            if replace:
                Path(temporary).replace(path)
            else:
                # Unlike a rename, this fails if somebody else has just made one.
                os.link(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
    except FileExistsError as error:
        raise ConfigurationError(str(path), ["exists already: name another file, or say --replace"]) from error
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be written: {error.strerror}"]) from error
