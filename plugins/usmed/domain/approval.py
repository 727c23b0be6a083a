"""Operations that administrators have to approve by hand: their documents, what people compare, and their states.

An operation is one canonical document that the requester sends to every key server in its own signed request. Each
administrator approves on their own server, and only that server then acts on it: since a ticket or a released secret
needs k servers, so it needs k administrators. What does not depend on a database or a clock is here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import Keys, require, verify_quorum

TYPE = "usmed-operation"
DECISION_TYPE = "usmed-approval"
APPROVED_TYPE = "usmed-operation-approved"
APPROVED_BYTES = 1024
LONGEST_LIFE = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(seconds=60)
MOST_PATIENTS = 100_000
SHORTEST_REASON, LONGEST_REASON = 10, 500


class Kind(StrEnum):
    """What is asked for."""

    PATIENTS = "patients-over-rate"
    EMERGENCIES = "emergencies-over-rate"
    REIDENTIFICATION = "re-identification"
    SECRET_RELEASE = "secret-release"  # noqa: S105 - a kind of operation


RATES = frozenset({Kind.PATIENTS, Kind.EMERGENCIES})

_PARTICULARS: Mapping[Kind, frozenset[str]] = {
    Kind.PATIENTS: frozenset({"further", "until", "reason"}),
    Kind.EMERGENCIES: frozenset({"further", "until", "reason"}),
    Kind.REIDENTIFICATION: frozenset({"project", "pseudonym", "reason"}),
    Kind.SECRET_RELEASE: frozenset({"secret", "node", "reason"}),
}


class State(StrEnum):
    """Where an operation stands on one server."""

    PENDING = "pending"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"


class Change(StrEnum):
    """What can happen to it: a person decides, or its time is over."""

    APPROVE = "approve"
    REFUSE = "refuse"
    EXPIRE = "expire"


TRANSITIONS: Mapping[tuple[State, Change], State] = {
    (State.PENDING, Change.APPROVE): State.APPROVED,
    (State.PENDING, Change.REFUSE): State.REFUSED,
    (State.PENDING, Change.EXPIRE): State.EXPIRED,
    (State.APPROVED, Change.EXPIRE): State.EXPIRED,
}
"""Every change that there is. Refused and expired are final."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What administrators are asked to approve.

    Attributes:
        kind: what is asked for.
        requester: the hospital that asks.
        nonce: names the operation, once and for all: 16 to 64 characters.
        particulars: all that there is to know; which members depends on the kind. For rates: `further` patients
            `until` a time (seconds since 1970); for a secret: its id, and the `node` that is to receive it, which is
            the requester; for all: the `reason`.
        issued, expires: aware UTC, whole seconds, at most LONGEST_LIFE apart.
    """

    kind: Kind
    requester: str
    nonce: str
    particulars: Mapping[str, str | int]
    issued: datetime
    expires: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the document whose digest is approved."""
        return {
            "typ": TYPE,
            "kind": self.kind.value,
            "requester": self.requester,
            "nonce": self.nonce,
            "particulars": dict(self.particulars),
            "issued": int(self.issued.timestamp()),
            "expires": int(self.expires.timestamp()),
        }

    @property
    def digest(self) -> str:
        """Return the SHA-256 of its canonical bytes, hexadecimal."""
        return sha256_hex(canonical_json(self.to_json()))

    @property
    def further(self) -> int:
        """Return how many further patients are asked for; 0 if it is about something else."""
        return int(self.particulars["further"]) if self.kind in RATES else 0

    @property
    def until(self) -> datetime:
        """Return when what was approved ends."""
        if self.kind in RATES:
            return min(self.expires, datetime.fromtimestamp(int(self.particulars["until"]), UTC))
        return self.expires


def short_digest(digest: str) -> str:
    """Return what people compare: the first 80 bits of a digest in Crockford's base 32, as four groups of four.

    The same on every server. Nothing is decided by it: a server binds an approval to the whole digest.

    Args:
        digest: a SHA-256, hexadecimal.
    """
    number = int(digest[:20], 16)
    text = "".join(_CROCKFORD[number >> shift & 31] for shift in range(75, -1, -5))
    return "-".join(text[at : at + 4] for at in range(0, 16, 4))


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def decision_challenge(*, server: str, digest: str, change: Change) -> bytes:
    """Return what an administrator's passkey signs: this operation, this server, approve or refuse (32 bytes).

    A signature for one can never stand for the other, nor on another server; a second one changes nothing, because an
    operation is decided once.
    """
    document = {"typ": DECISION_TYPE, "server": server, "operation": digest, "decision": change.value}
    return bytes.fromhex(sha256_hex(canonical_json(document)))


def approved_document(digest: str) -> dict[str, str]:
    """Return what each key server signs whose administrator has approved an operation."""
    return {"typ": APPROVED_TYPE, "operation": digest}


def approved_operation(signed: Any, keys: Keys, *, threshold: int) -> str:
    """Return the digest of the operation that enough key servers say they have approved.

    A server that gives a part of something (a share) asks for this: parts that were given under several operations,
    each approved by fewer than k, would add up otherwise.

    Args:
        signed: `approved_document`, a general JWS with one signature of each such server.
        keys: the key servers' current keys.
        threshold: how many have to have approved it.

    Raises:
        QuorumError: too few have signed.
        PeerDataError: not such a document.
    """
    quorum = verify_quorum(signed, keys, threshold=threshold, limit_bytes=APPROVED_BYTES)
    document = quorum.document
    if not isinstance(document, dict) or not isinstance(document.get("operation"), str):
        raise PeerDataError("the document is no statement that an operation is approved")
    if document != approved_document(document["operation"]) or not _is_digest(document["operation"]):
        raise PeerDataError("the document is no statement that an operation is approved")
    require(quorum, "the approval")
    return str(document["operation"])


def after(state: State, change: Change) -> State | None:
    """Return the state after a change; None if the change is impossible there."""
    return TRANSITIONS.get((state, change))


def is_over(operation: Operation, now: datetime) -> bool:
    """Tell whether an operation's time is over."""
    return now >= operation.expires


def parse_operation(document: Any) -> Operation:
    """Read the document of an operation.

    Raises:
        PeerDataError: not such a document, with the first fault.
    """
    if not isinstance(document, dict) or set(document) != _MEMBERS:
        raise PeerDataError(f"operation: has exactly the members {', '.join(sorted(_MEMBERS))}")
    if document["typ"] != TYPE:
        raise PeerDataError("operation: typ is another one")
    try:
        kind = Kind(_text(document, "kind", 1, 32))
    except ValueError as error:
        raise PeerDataError(f"operation: kind is one of {', '.join(Kind)}") from error
    issued, expires = _instant(document, "issued"), _instant(document, "expires")
    if not issued < expires <= issued + LONGEST_LIFE:
        raise PeerDataError(f"operation: ends after it begins, at most {LONGEST_LIFE // timedelta(hours=1)} hours")
    particulars = _particulars(kind, document["particulars"])
    if kind is Kind.SECRET_RELEASE and particulars["node"] != document["requester"]:
        raise PeerDataError("operation: the node that is to receive the secret is the requester")
    if kind in RATES and not issued < _instant(particulars, "until") <= expires:
        raise PeerDataError("operation: until lies between issued and expires")
    return Operation(
        kind, _text(document, "requester", 1, 32), _text(document, "nonce", 16, 64), particulars, issued, expires
    )


_MEMBERS = {"typ", "kind", "requester", "nonce", "particulars", "issued", "expires"}


def _particulars(kind: Kind, value: Any) -> dict[str, str | int]:
    names = _PARTICULARS[kind]
    if not isinstance(value, dict) or set(value) != names:
        raise PeerDataError(f"operation: particulars of {kind} are exactly {', '.join(sorted(names))}")
    _text(value, "reason", SHORTEST_REASON, LONGEST_REASON)
    for name in names - {"reason", "further", "until"}:
        _text(value, name, 1, 128)
    if "further" in names and (type(value["further"]) is not int or not 1 <= value["further"] <= MOST_PATIENTS):
        raise PeerDataError(f"operation: further is a whole number from 1 to {MOST_PATIENTS}")
    return dict(value)


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _text(element: Mapping[str, Any], name: str, shortest: int, longest: int) -> str:
    value = element[name]
    if not isinstance(value, str) or not shortest <= len(value) <= longest or not value.isprintable():
        raise PeerDataError(f"operation: {name} is text of {shortest} to {longest} characters on one line")
    if value != value.strip():
        raise PeerDataError(f"operation: {name} is padded")
    return value


def _instant(element: Mapping[str, Any], name: str) -> datetime:
    value = element[name]
    # Up to the year 9999 (RFC 3339), so that whatever shows it can.
    if type(value) is not int or not 0 <= value <= 253_402_300_799:
        raise PeerDataError(f"operation: {name} is a time in seconds since 1970")
    return datetime.fromtimestamp(value, UTC)
