"""Heads of audit logs, signed by their server and countersigned by others, so that a rewritten past shows.

A hash chain (`domain.audit`) shows what was altered inside it, but not that somebody who can write everything has
made it anew from some record on. What others have signed cannot be made anew: the log has to contain, for ever, each
head that another server saw. Who stores heads, and who asks whom, is not this module's business.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.audit import GENESIS
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import Keys, assemble, read_signature, require, sign, verify_quorum

TYPE = "usmed-log-head"
LIMIT_BYTES = 4096
LARGEST_SEQUENCE = 1 << 53


@dataclass(frozen=True, slots=True)
class LogHead:
    """What a server says of its log.

    Attributes:
        server: whose log.
        sequence: how many records it has.
        hash: the hash of the last (`GENESIS` for none).
        at: aware UTC, whole seconds, by the server's own clock.
    """

    server: str
    sequence: int
    hash: str
    at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the document that is signed."""
        return {
            "typ": TYPE,
            "server": self.server,
            "sequence": self.sequence,
            "hash": self.hash,
            "iat": int(self.at.timestamp()),
        }


@dataclass(frozen=True, slots=True)
class Countersigned:
    """A head of one's own log with another server's signature, as it is stored: nothing of it was checked yet."""

    witness: str
    signed: Any


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """What one witness has countersigned.

    Attributes:
        witness: the other server's id.
        heads: how many heads it has countersigned that the log contains.
        last: the last of those; None for none.
        problems: what does not fit, in plain words.
    """

    witness: str
    heads: int
    last: LogHead | None
    problems: tuple[str, ...]


def sign_head(key: OKPKey, head: LogHead) -> dict[str, Any]:
    """Return a head signed by its own server: a general JWS."""
    document = head.to_json()
    return assemble(document, [sign(key, signer=head.server, document=document)])


def read_head(signed: Any, keys: Keys, server: str) -> LogHead:
    """Read a head that its own server signed.

    Args:
        signed: the parsed general JWS.
        keys: finds the key of a key server.
        server: whose head it has to be.

    Raises:
        PeerDataError: malformed, another's, or not signed by that server.
    """
    quorum = verify_quorum(
        signed, lambda id: keys(id) if id == server else None, threshold=1, limit_bytes=LIMIT_BYTES
    )
    require(quorum, f"the log head of {server}")
    head = _parse(quorum.document)
    if head.server != server:
        raise PeerDataError(f"the log head is not of {server}")
    return head


def countersign(key: OKPKey, *, witness: str, head: LogHead) -> dict[str, str]:
    """Return a witness's signature over another server's head: an element of `signatures`."""
    return sign(key, signer=witness, document=head.to_json()).to_json()


def join(head: LogHead, own: dict[str, Any], element: Any, keys: Keys, witness: str) -> dict[str, Any]:
    """Put a witness's signature beside the server's own.

    Args:
        head: what was to be countersigned.
        own: the result of `sign_head`.
        element: what the witness answered.
        keys: finds the key of a key server.
        witness: who has to have signed.

    Raises:
        PeerDataError: it is not the witness's signature over this head.
    """
    key = keys(witness)
    if key is None:
        raise PeerDataError(f"{witness} is no key server of the region")
    signature = read_signature(element, document=head.to_json(), key=key, signer=witness)
    return {"payload": own["payload"], "signatures": [*own["signatures"], signature.to_json()]}


def check_witnessed(
    heads: Iterable[Countersigned], keys: Callable[[str], Iterable[OKPKey]], hash_at: Callable[[int], str]
) -> list[WitnessReport]:
    """Check that a log contains every head that others have countersigned.

    Args:
        heads: what is stored.
        keys: the keys that a witness has, or had.
        hash_at: the hash of the log's record with this number; empty if there is none.

    Returns:
        One report for each witness, by its id.
    """
    by_witness: dict[str, list[LogHead]] = {}
    problems: dict[str, list[str]] = {}
    for one in heads:
        try:
            by_witness.setdefault(one.witness, []).append(_witnessed(one, keys))
        except PeerDataError as error:
            problems.setdefault(one.witness, []).append(f"a countersigned head does not count: {error}")
    return [
        _report(witness, sorted(by_witness.get(witness, ()), key=lambda head: head.sequence), problems, hash_at)
        for witness in sorted({*by_witness, *problems})
    ]


def _report(
    witness: str, heads: list[LogHead], problems: dict[str, list[str]], hash_at: Callable[[int], str]
) -> WitnessReport:
    found = problems.get(witness, [])
    fits: LogHead | None = None
    count = 0
    for head in heads:
        now = hash_at(head.sequence)
        if now == head.hash:
            fits, count = head, count + 1
            continue
        before = f"up to record {fits.sequence} ({_when(fits)}) it is as {witness} saw it" if fits else (
            f"{witness} has countersigned nothing before that still fits"
        )  # fmt: skip
        what = "that record has another hash now" if now else "the log has no such record any more"
        found.append(
            f"{witness} countersigned record {head.sequence} as the last one on {_when(head)}, and {what}: the log was"
            f" rewritten or cut off since then; {before}"
        )
        break
    return WitnessReport(witness, count, fits, tuple(found))


def _witnessed(one: Countersigned, keys: Callable[[str], Iterable[OKPKey]]) -> LogHead:
    reasons: tuple[str, ...] = ("no key of it is known",)
    for key in keys(one.witness):
        quorum = verify_quorum(one.signed, {one.witness: key}.get, threshold=1, limit_bytes=LIMIT_BYTES)
        if not quorum.missing:
            return _parse(quorum.document)
        # The server's own signature is there too: it is not the one that counts.
        reasons = tuple(reason for reason in quorum.rejected if "nobody whose" not in reason) or ("it is not signed",)
    raise PeerDataError("; ".join(reasons))


def _when(head: LogHead) -> str:
    return f"{head.at:%Y-%m-%d %H:%M:%S} UTC"


def _parse(document: Any) -> LogHead:
    if not isinstance(document, dict) or set(document) != {"typ", "server", "sequence", "hash", "iat"}:
        raise PeerDataError("a log head has exactly the members typ, server, sequence, hash and iat")
    server, sequence, digest, at = (document[name] for name in ("server", "sequence", "hash", "iat"))
    if document["typ"] != TYPE or not isinstance(server, str):
        raise PeerDataError("the document is no log head")
    if type(sequence) is not int or not 0 <= sequence < LARGEST_SEQUENCE:
        raise PeerDataError("a log head's sequence is no number of records")
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise PeerDataError("a log head's hash is no SHA-256")
    if (sequence == 0) != (digest == GENESIS):
        raise PeerDataError("a log head's hash does not go with its sequence")
    if type(at) is not int or not 0 <= at <= 253_402_300_799:
        raise PeerDataError("a log head's time is not a time in seconds")
    return LogHead(server, sequence, digest, datetime.fromtimestamp(at, UTC))
