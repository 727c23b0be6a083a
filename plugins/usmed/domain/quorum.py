"""Documents that several members sign: the same canonical bytes, one signature each, k of n needed.

A general JWS in JSON serialization (RFC 7515 §7.2.1) with EdDSA over Ed25519 (RFC 8037). Nothing here decides whom to
trust: the caller gives the keys that count and how many of them are needed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url, base64url_decode, canonical_json, parse_json
from usmed.domain.errors import PeerDataError

ALGORITHM = "Ed25519"
MAXIMUM_SIGNATURES = 32
SIGNATURE_BYTES = 64

_REGISTRY = jws.JWSRegistry(algorithms=[ALGORITHM], strict_check_header=True)
# `limit_bytes` says what is too large: the library's own 128,000 bytes are less than a large region's manifest has.
_REGISTRY.max_payload_length = 4 << 20

Keys = Callable[[str], OKPKey | None]


@dataclass(frozen=True, slots=True)
class Signature:
    """One member's signature: the protected header and the signature, as the JWS writes them."""

    signer: str
    protected: str
    signature: str

    def to_json(self) -> dict[str, str]:
        """Return the element of the JWS's `signatures`."""
        return {"protected": self.protected, "signature": self.signature}


@dataclass(frozen=True, slots=True)
class Quorum:
    """What the check of a document's signatures found.

    Attributes:
        document: what was signed, parsed.
        payload: its canonical bytes.
        threshold: how many signatures are needed.
        signers: members whose signature is valid, each counted once.
        rejected: why each of the other signatures does not count.
    """

    document: Any
    payload: bytes
    threshold: int
    signers: frozenset[str]
    rejected: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Return how many signatures are still needed."""
        return max(0, self.threshold - len(self.signers))


class QuorumError(PeerDataError):
    """Fewer valid signatures than needed; the message says how many, and why others do not count."""


def sign(key: OKPKey, *, signer: str, document: Any) -> Signature:
    """Sign the canonical bytes of a document.

    Args:
        key: the signer's private Ed25519 key.
        signer: its id, which becomes the header's `kid`.
        document: any JSON value.

    Raises:
        PeerDataError: the document is not representable as canonical JSON.
    """
    header = {"alg": ALGORITHM, "kid": signer}
    token = jws.serialize_compact(header, canonical_json(document), key, registry=_REGISTRY)
    protected, _, signature = token.split(".")
    return Signature(signer, protected, signature)


def assemble(document: Any, signatures: Iterable[Signature]) -> dict[str, Any]:
    """Return the signed document: a general JWS."""
    ordered = sorted(signatures, key=lambda one: one.signer)
    return {"payload": base64url(canonical_json(document)), "signatures": [one.to_json() for one in ordered]}


def read_signature(element: Any, *, document: Any, key: OKPKey, signer: str) -> Signature:
    """Take one member's signature over a document that is known.

    Raises:
        PeerDataError: it is not that member's, or over other bytes.
    """
    protected, signature = _members(element)
    found = _signer(protected)
    if found != signer:
        raise PeerDataError(f"the signature is by {found!r}, not by {signer!r}")
    _check(protected, base64url(canonical_json(document)), signature, key)
    return Signature(signer, protected, signature)


def verify_quorum(signed: Any, keys: Keys, *, threshold: int, limit_bytes: int) -> Quorum:
    """Check the signatures of a document.

    Args:
        signed: the parsed general JWS.
        keys: finds the current public key of a member whose signature counts; None for anybody else.
        threshold: how many members must have signed, 1 or more.
        limit_bytes: the largest document that is accepted.

    Returns:
        What was signed and by whom. Ask `require` for the error if it is not enough.

    Raises:
        PeerDataError: not such a JWS, too many signatures, or a document that is not in canonical form.
    """
    if threshold < 1:
        raise PeerDataError("a threshold below one would need no signature")
    if not isinstance(signed, dict) or set(signed) != {"payload", "signatures"}:
        raise PeerDataError("a signed document has exactly the members payload and signatures")
    text, elements = signed["payload"], signed["signatures"]
    if not isinstance(text, str) or len(text) > limit_bytes * 4 // 3 + 4:
        raise PeerDataError(f"the signed document is no text or over the limit of {limit_bytes} bytes")
    if not isinstance(elements, list) or not 1 <= len(elements) <= MAXIMUM_SIGNATURES:
        raise PeerDataError(f"a signed document has 1 to {MAXIMUM_SIGNATURES} signatures")
    payload = base64url_decode(text)
    document = parse_json(payload, limit_bytes=limit_bytes)
    if canonical_json(document) != payload:
        # Two readers must never see two documents in the same bytes (RFC 8785 §1).
        raise PeerDataError("the signed document is not in canonical form")
    signers: set[str] = set()
    rejected = []
    for element in elements:
        try:
            signers.add(_verified(element, text, keys, signers))
        except PeerDataError as error:
            rejected.append(str(error))
    return Quorum(document, payload, threshold, frozenset(signers), tuple(rejected))


def require(quorum: Quorum, what: str) -> None:
    """Make sure that enough members have signed.

    Raises:
        QuorumError: too few.
    """
    if quorum.missing:
        reasons = f" ({'; '.join(quorum.rejected)})" if quorum.rejected else ""
        raise QuorumError(
            f"{what} has {len(quorum.signers)} of the {quorum.threshold} signatures that it needs{reasons}"
        )


def _verified(element: Any, payload: str, keys: Keys, earlier: set[str]) -> str:
    protected, signature = _members(element)
    signer = _signer(protected)
    key = keys(signer)
    if key is None:
        raise PeerDataError(f"{signer!r} is nobody whose signature counts")
    if signer in earlier:
        raise PeerDataError(f"{signer!r} has signed twice, which counts once")
    _check(protected, payload, signature, key)
    return signer


def _members(element: Any) -> tuple[str, str]:
    if not isinstance(element, dict) or set(element) != {"protected", "signature"}:
        # An unprotected header (`header`) could be altered on the way.
        raise PeerDataError("a signature has exactly the members protected and signature")
    protected, signature = element["protected"], element["signature"]
    if not isinstance(protected, str) or not isinstance(signature, str) or len(protected) > 512:
        raise PeerDataError("a signature's members are not text")
    if len(base64url_decode(signature)) != SIGNATURE_BYTES:
        raise PeerDataError(f"a signature has not {SIGNATURE_BYTES} bytes")
    return protected, signature


def _signer(protected: str) -> str:
    raw = base64url_decode(protected)
    header: Mapping[str, Any] = parse_json(raw, limit_bytes=512)
    if not isinstance(header, dict) or set(header) != {"alg", "kid"} or header["alg"] != ALGORITHM:
        raise PeerDataError(f"a signature's header is not exactly alg {ALGORITHM} and kid")
    signer = header["kid"]
    if not isinstance(signer, str) or not 1 <= len(signer) <= 64 or canonical_json(header) != raw:
        raise PeerDataError("a signature's header is not in canonical form")
    return signer


def _check(protected: str, payload: str, signature: str, key: OKPKey) -> None:
    try:
        jws.deserialize_compact(f"{protected}.{payload}.{signature}", key, registry=_REGISTRY)
    except (JoseError, ValueError) as error:
        raise PeerDataError(f"the signature of {_signer(protected)!r} does not verify") from error
