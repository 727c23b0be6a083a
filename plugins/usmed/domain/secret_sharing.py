"""A secret of 32 bytes in shares: what its owner states about it, and how it is put together again, verified.

Shamir's scheme over GF(2^128), 16 bytes at a time (pycryptodome): k shares give the secret, fewer give nothing. The
owner's record commits to the secret and to each share (SHA-256 with a salt), so that a wrong share is found before it
is used, and its server is named. Making shares needs randomness and is `platform/secret_client.py`'s business.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from Cryptodome.Protocol.SecretSharing import Shamir

from usmed.domain.canonical import base64url, base64url_decode, canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import verify_quorum

TYPE = "usmed-secret"
RECEIPT_TYPE = "usmed-share-receipt"
SECRET_BYTES = 32
BLOCK_BYTES = 16
SALT_BYTES = 16
LIMIT_BYTES = 65536
MAXIMUM_NODES = 100


class Release(StrEnum):
    """Who says yes each time a node asks for shares."""

    AUTOMATIC = "automatic"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Share:
    """One server's share: its number (1 to n) and 32 bytes."""

    server: str
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """What the owner signs about a secret.

    Attributes:
        id: `owner/name`.
        version: grows with each time that the secret is shared out anew.
        region: where it is shared.
        threshold: how many shares give it back.
        nodes: the hospitals that may have it.
        release: whether they get it at once or after administrators agreed.
        salt: 16 random bytes.
        digest: commitment to the secret.
        shares: for each server, its share's number and the commitment to it.
        at: aware UTC, whole seconds.
    """

    id: str
    version: int
    region: str
    threshold: int
    nodes: frozenset[str]
    release: Release
    salt: bytes
    digest: str
    shares: Mapping[str, tuple[int, str]]
    at: datetime

    @property
    def owner(self) -> str:
        """Return the hospital whose secret it is."""
        return self.id.partition("/")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the document that is signed."""
        return {
            "typ": TYPE,
            "id": self.id,
            "version": self.version,
            "region": self.region,
            "threshold": self.threshold,
            "nodes": sorted(self.nodes),
            "release": self.release.value,
            "salt": base64url(self.salt),
            "sha256": self.digest,
            "shares": [
                {"server": server, "index": index, "sha256": digest}
                for server, (index, digest) in sorted(self.shares.items())
            ],
            "iat": int(self.at.timestamp()),
        }


class SharesMissingError(PeerDataError):
    """Fewer good shares than needed; the message names the servers whose share is missing or altered."""


@dataclass(frozen=True, slots=True)
class Combined:
    """A secret that was put together, and the servers whose share was not the one that the owner gave them."""

    secret: bytes
    altered: tuple[str, ...]


def commitment(salt: bytes, data: bytes) -> str:
    """Return the commitment to a secret or a share; its 32 bytes are random, so the hash tells nothing about them."""
    return hashlib.sha256(salt + data).hexdigest()


def join_blocks(first: Iterable[tuple[int, bytes]], second: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """Return shares of 32 bytes, by number, from the shares of the secret's two blocks."""
    ends = dict(second)
    return {index: data + ends[index] for index, data in first}


def combine(record: SecretRecord, shares: Iterable[Share]) -> Combined:
    """Put a secret together.

    Args:
        record: the owner's, believed.
        shares: what servers gave, each server once.

    Raises:
        SharesMissingError: too few shares are what the owner committed to.
        PeerDataError: they all are, and their secret is not.
    """
    good: dict[str, Share] = {}
    altered = []
    for share in shares:
        if fault_of(record, share):
            altered.append(share.server)
        else:
            good[share.server] = share
    if len(good) < record.threshold:
        missing = sorted(set(record.shares) - set(good) - set(altered))
        parts = [f"altered: {', '.join(sorted(altered))}"] if altered else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        raise SharesMissingError(
            f"the secret {record.id} has {len(good)} of the {record.threshold} shares that it needs"
            f" ({'; '.join(parts)})"
        )
    used = [good[server] for server in sorted(good)][: record.threshold]
    secret = b"".join(
        bytes(Shamir.combine([(one.index, one.data[start : start + BLOCK_BYTES]) for one in used], ssss=False))
        for start in (0, BLOCK_BYTES)
    )
    if commitment(record.salt, secret) != record.digest:
        raise PeerDataError(f"the shares of {record.id} are those of another secret than its record says")
    return Combined(secret, tuple(sorted(altered)))


def fault_of(record: SecretRecord, share: Share) -> str:
    """Say why a share is not the one that the owner gave this server; empty if it is."""
    index, digest = record.shares.get(share.server, (0, ""))
    if share.index != index:
        return f"{share.server} has no share with the number {share.index}"
    if len(share.data) != SECRET_BYTES or commitment(record.salt, share.data) != digest:
        return f"the share of {share.server} is not the one that the record commits to"
    return ""


def share_document(record: SecretRecord, share: Share) -> bytes:
    """Return what is encrypted to whom a share is for."""
    return canonical_json(
        {"id": record.id, "version": record.version, "index": share.index, "share": base64url(share.data)}
    )


def read_share(document: Any, record: SecretRecord, server: str) -> Share:
    """Read a share that was decrypted; whether it is the right one is `fault_of`'s to say.

    Raises:
        PeerDataError: not a share of this secret in this version.
    """
    if not isinstance(document, dict) or set(document) != {"id", "version", "index", "share"}:
        raise PeerDataError("a share has exactly the members id, version, index and share")
    if (document["id"], document["version"]) != (record.id, record.version) or type(document["index"]) is not int:
        raise PeerDataError("it is the share of another secret or version")
    if not isinstance(document["share"], str) or len(document["share"]) > 64:
        raise PeerDataError("a share is text")
    return Share(server, document["index"], base64url_decode(document["share"]))


def receipt_document(record: SecretRecord) -> dict[str, Any]:
    """Return what every server that holds its share of a version signs."""
    digest = sha256_hex(canonical_json(record.to_json()))
    return {"typ": RECEIPT_TYPE, "id": record.id, "version": record.version, "sha256": digest}


def enough_to_drop(servers: int, threshold: int) -> int:
    """Return how many servers have to hold a new version before the old one may go.

    So many that without them fewer than k are left, which cannot give the old version back either; and at least the k
    that give the new one back.
    """
    return max(threshold, servers - threshold + 1)


def parse_secret(document: Any) -> SecretRecord:
    """Read the owner's record.

    Raises:
        PeerDataError: not such a document, with the first fault.
    """
    names = {"typ", "id", "version", "region", "threshold", "nodes", "release", "salt", "sha256", "shares", "iat"}
    if not isinstance(document, dict) or set(document) != names:
        raise PeerDataError(f"a secret's record has exactly the members {', '.join(sorted(names))}")
    if document["typ"] != TYPE:
        raise PeerDataError("the document is no secret's record")
    id, region, at = document["id"], document["region"], document["iat"]
    if not isinstance(id, str) or not is_secret_id(id):
        raise PeerDataError("a secret's id is owner/name, the name of 1 to 64 of a-z, 0-9 and -")
    if not isinstance(region, str) or len(region) > 64:
        raise PeerDataError("a secret's region is text")
    if type(at) is not int or not 0 <= at <= 253_402_300_799:
        raise PeerDataError("the time of a secret's record is not a time in seconds")
    nodes = document["nodes"]
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= MAXIMUM_NODES or not _are_member_ids(nodes):
        raise PeerDataError(f"a secret names 1 to {MAXIMUM_NODES} hospitals that may have it, each once")
    try:
        release = Release(document["release"])
    except ValueError as error:
        raise PeerDataError("a secret is released by automatic or by approval") from error
    salt = base64url_decode(document["salt"]) if isinstance(document["salt"], str) else b""
    if len(salt) != SALT_BYTES:
        raise PeerDataError(f"a secret's salt has {SALT_BYTES} bytes")
    shares = _shares(document["shares"])
    record = SecretRecord(
        id,
        _number(document, "version", 1 << 31),
        region,
        _number(document, "threshold", len(shares)),
        frozenset(nodes),
        release,
        salt,
        _digest(document),
        shares,
        datetime.fromtimestamp(at, UTC),
    )
    if record.to_json() != document:
        raise PeerDataError("a secret's record is not in its one order")
    return record


def read_unverified(signed: Any) -> SecretRecord:
    """Read a signed record whose signature was checked when it came, or is not what it is believed for.

    Raises:
        PeerDataError: not such a record.
    """
    return parse_secret(verify_quorum(signed, lambda _: None, threshold=1, limit_bytes=LIMIT_BYTES).document)


def is_secret_id(text: str) -> bool:
    """Tell whether a text is `owner/name`."""
    return re.fullmatch(r"[a-z0-9-]{1,32}/[a-z0-9-]{1,64}", text) is not None


def _shares(elements: Any) -> dict[str, tuple[int, str]]:
    if not isinstance(elements, list) or not 1 <= len(elements) <= 32:
        raise PeerDataError("a secret has 1 to 32 shares")
    shares: dict[str, tuple[int, str]] = {}
    for one in elements:
        if not isinstance(one, dict) or set(one) != {"server", "index", "sha256"} or not isinstance(one["server"], str):
            raise PeerDataError("a share's commitment has exactly the members server, index and sha256")
        shares[one["server"]] = (_number(one, "index", len(elements)), _digest(one))
    if len(shares) != len(elements) or len({index for index, _ in shares.values()}) != len(elements):
        raise PeerDataError("a secret's shares have one server and one number each")
    return shares


def _number(element: Mapping[str, Any], name: str, highest: int) -> int:
    value = element[name]
    if type(value) is not int or not 1 <= value <= highest:
        raise PeerDataError(f"{name}: must be a whole number from 1 to {highest}")
    return value


def _digest(element: Mapping[str, Any]) -> str:
    value = element["sha256"]
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise PeerDataError("sha256: must be 64 hexadecimal digits")
    return value


def _are_member_ids(names: Collection[Any]) -> bool:
    return all(isinstance(one, str) and 1 <= len(one) <= 32 for one in names) and len(set(names)) == len(names)
