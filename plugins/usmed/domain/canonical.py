"""One sequence of bytes for one JSON value: what gets signed, hashed and compared (RFC 8785)."""

import base64
import binascii
import hashlib
import json
import math
import re
from typing import Any

import rfc8785

from usmed.domain.errors import PeerDataError

MAXIMUM_DEPTH = 32


def canonical_json(value: Any) -> bytes:
    """Return the canonical UTF-8 bytes of a JSON value (RFC 8785, JSON Canonicalization Scheme).

    Raises:
        PeerDataError: the value holds something JSON cannot carry exactly (NaN, integers over 2^53, other types).
    """
    try:
        if _is_plain(value):
            return _ENCODER.encode(value).encode("utf-8")
        data: bytes = rfc8785.dumps(value)
        return data
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise PeerDataError(f"not representable as canonical JSON: {error}") from error


# Writes plain values as RFC 8785 does, several times as fast as the library, which is written in Python: every lookup
# and every audit record needs it.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _is_plain(value: Any) -> bool:
    """Tell whether Python's encoder is right about a value: no floats, names in ASCII (their order is everywhere the
    same), integers that are exact, none but JSON's own types."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is dict:
        # Loops, because this looks at every value that is signed: a generator takes twice as long.
        for name, one in value.items():  # noqa: SIM110
            if not (type(name) is str and name.isascii() and _is_plain(one)):
                return False
        return True
    if kind is list:
        for one in value:  # noqa: SIM110
            if not _is_plain(one):
                return False
        return True
    return kind is int and -(2**53) < value < 2**53


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_decode(text: str) -> bytes:
    """Decode unpadded base64url (RFC 7515 §2).

    Raises:
        PeerDataError: another alphabet, padding, or bits left over that another text would decode to as well.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise PeerDataError("not base64url") from error
    if base64url(data) != text:
        raise PeerDataError("not base64url in its one canonical form")
    return data


def parse_json(data: bytes, *, limit_bytes: int) -> Any:
    """Parse JSON from outside, strictly.

    Args:
        data: the bytes received.
        limit_bytes: the most that is accepted.

    Raises:
        PeerDataError: too large, not UTF-8, not JSON, nested deeper than 32, NaN, infinite, a member named twice
            (RFC 8259 §4 leaves the meaning open, so two readers could see two documents), half a character.
    """
    if len(data) > limit_bytes:
        raise PeerDataError(f"JSON of {len(data)} bytes is over the limit of {limit_bytes}")
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PeerDataError("JSON is not UTF-8") from error
    except RecursionError as error:
        raise PeerDataError("JSON is nested too deeply") from error
    except ValueError as error:
        raise PeerDataError(f"not JSON: {error}") from error
    _check_depth(value)
    if re.search(rb"\\u[dD][89a-fA-F]", data):
        _check_characters(value)
    return value


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    # 1e999 is JSON, but Python reads it as infinity, which no caller expects of a number.
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_finite
)


def _check_characters(value: Any) -> None:
    """Refuse a lone surrogate, which JSON can escape (RFC 8259 §8.2) but nothing here can store."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise PeerDataError("JSON escapes half a character") from error


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAXIMUM_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise PeerDataError(f"JSON is nested deeper than {MAXIMUM_DEPTH}")
