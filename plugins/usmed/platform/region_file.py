"""The region manifest on disk: a general JWS (RFC 7515 §7.2.1) over the manifest's canonical JSON.

Before anybody has signed it, it is a draft, in JSON or YAML.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.region import RegionManifest, parse_region
from usmed.domain.region_chain import follow

LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RegionFile:
    """What a file says.

    Attributes:
        manifest: the region. Signed by enough of its own administrators, but whether it may follow another is open.
        signed: the signed document, parsed.
    """

    manifest: RegionManifest
    signed: dict[str, Any]


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML leaves open what a key named twice means (YAML 1.2 §3.2.1.3 forbids it); PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key[1]!r} is there twice", node.value[number][0].start_mark
                )
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def load_region(path: Path) -> RegionManifest:
    """Read and check a region manifest.

    Raises:
        ConfigurationError: as `read_region`.
    """
    return read_region(path).manifest


def read_region(path: Path) -> RegionFile:
    """Read and check a region manifest, with its signatures.

    Raises:
        ConfigurationError: unreadable, neither YAML nor a signed document, wrong (every fault is listed), signed by too
            few of its administrators, or unsigned.
    """
    document = read_document(path)
    if is_signed(document):
        try:
            return RegionFile(follow(document, str(path), None).manifest, document)
        except PeerDataError as error:
            raise ConfigurationError(str(path), [str(error).removeprefix(f"{path}: ")]) from error
    parse_region(document, str(path))
    raise ConfigurationError(
        str(path),
        [
            "has to be signed by the administrators of its key servers (with: usmed region sign):"
            " this file is a draft without signatures"
        ],
    )


def read_document(path: Path) -> Any:
    """Return a file's document, unchecked: a manifest, or a signed one.

    Raises:
        ConfigurationError: unreadable, or neither YAML nor a signed document.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    if len(data) > LIMIT_BYTES:
        raise ConfigurationError(str(path), [f"has {len(data)} bytes, more than {LIMIT_BYTES}"])
    if data.lstrip()[:1] == b"{":
        try:
            # Not as YAML: it takes what JSON does not, and two readers could see two documents.
            return parse_json(data, limit_bytes=LIMIT_BYTES)
        except PeerDataError:
            # YAML may begin so too.
            pass
    try:
        # S506 sees no safe loader: ours is one, which refuses a key named twice besides.
        document = yaml.load(data, Loader=_StrictLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigurationError(str(path), [f"is not YAML: {error}"]) from error
    if is_signed(document):
        raise ConfigurationError(str(path), ["is a signed manifest, but not JSON as RFC 8259 has it"])
    return document


def is_signed(document: Any) -> bool:
    """Tell whether a document is a signed one (which may be wrong all the same) and not a manifest."""
    return isinstance(document, dict) and "payload" in document and "region" not in document


def signed_bytes(signed: Any) -> bytes:
    """Return a signed manifest as it goes into a file: canonical JSON, and an end of line."""
    return canonical_json(signed) + b"\n"
