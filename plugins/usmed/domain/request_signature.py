"""Signed requests between actors: who sent it, to whom, what exactly, when, and only once.

A compact JWS (RFC 7515) with EdDSA over Ed25519 (RFC 8037) in `Authorization: USMED <JWS>`; its claims bind method,
path with query, and body, as DPoP does (RFC 9449 §4.2). The answer is signed too and bound to the request's `jti`.
This module builds and checks claims; that a `jti` is new is for the caller's store to say.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url, canonical_json, parse_json
from usmed.domain.errors import PeerDataError

SCHEME = "USMED"
ANSWER_HEADER = "X-USMED-Signature"
ALGORITHM = "Ed25519"
CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far two clocks may be apart; a nonce has to be remembered for twice as long."""
LIMIT_BYTES = 8192


class _Registry(jws.JWSRegistry):
    """What the library accepts. Its own limit of 128,000 would refuse the manifest of a study of 480 instances."""

    # No limit: callers' limits are checked before anything is decoded.
    max_payload_length = 1 << 62


_REGISTRY = _Registry(algorithms=[ALGORITHM], strict_check_header=True)
_MEMBERS = {"iss": str, "aud": str, "htm": str, "htu": str, "ath": str, "iat": int, "jti": str}
_ANSWER_MEMBERS = {"iss": str, "aud": str, "jti": str, "status": int, "ath": str}

Keys = Callable[[str], OKPKey | None]
"""Finds the current public key of a sender by its id in the region manifest; None for a stranger."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A verified request: `sender` has signed exactly this, at `issued` (aware UTC); `jti` is its nonce."""

    sender: str
    jti: str
    issued: datetime


def sign_request(
    key: OKPKey, *, sender: str, receiver: str, method: str, target: str, body: bytes, now: datetime, jti: str
) -> str:
    """Return the value of the Authorization header.

    Args:
        key: the sender's private Ed25519 key.
        sender, receiver: ids in the region manifest.
        method, target: the HTTP method, and path with query exactly as sent.
        body: exactly as sent, possibly empty.
        now: aware UTC.
        jti: a nonce that is used once, 22 characters or more of randomness.
    """
    claims = {
        "iss": sender,
        "aud": receiver,
        "htm": method,
        "htu": target,
        "ath": _digest(body),
        "iat": int(now.timestamp()),
        "jti": jti,
    }
    return f"{SCHEME} {_sign(key, sender, claims)}"


def verify_request(
    header: str, keys: Keys, *, receiver: str, method: str, target: str, body: bytes, now: datetime
) -> SignedRequest:
    """Check everything about a request except that its nonce is new.

    Raises:
        PeerDataError: unsigned, a stranger, altered, meant for another receiver, or more than a minute off.
    """
    scheme, _, token = header.partition(" ")
    if scheme != SCHEME or not token:
        raise PeerDataError("the request is not signed")
    claims = _verify(token, keys, _MEMBERS)
    expected = {"aud": receiver, "htm": method, "htu": target, "ath": _digest(body)}
    for name, value in expected.items():
        if claims[name] != value:
            raise PeerDataError(f"the signature is for another {_PLAIN[name]}")
    try:
        issued = datetime.fromtimestamp(claims["iat"], UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise PeerDataError("the signature's time is not a time") from error
    offset = issued - now
    if abs(offset) > CLOCK_TOLERANCE:
        raise PeerDataError(
            f"the request was signed {offset.total_seconds():+.0f} s from this clock, more than"
            f" {CLOCK_TOLERANCE.total_seconds():.0f} s: check both clocks"
        )
    if not 16 <= len(claims["jti"]) <= 64:
        raise PeerDataError("the nonce has not 16 to 64 characters")
    return SignedRequest(claims["iss"], claims["jti"], issued)


def sign_answer(key: OKPKey, *, sender: str, receiver: str, jti: str, status: int, body: bytes) -> str:
    """Return the value of the answer's signature header; `jti` is that of the request it answers."""
    return _sign(key, sender, {"iss": sender, "aud": receiver, "jti": jti, "status": status, "ath": _digest(body)})


def verify_answer(token: str, keys: Keys, *, sender: str, receiver: str, jti: str, status: int, body: bytes) -> None:
    """Check that `sender` gave exactly this answer to the request with this `jti`.

    Raises:
        PeerDataError: unsigned, altered, somebody else's, or the answer to another request.
    """
    if not token:
        raise PeerDataError("the answer is not signed")
    claims = _verify(token, keys, _ANSWER_MEMBERS)
    expected = {"iss": sender, "aud": receiver, "jti": jti, "status": status, "ath": _digest(body)}
    if claims != expected:
        raise PeerDataError("the answer's signature is for another answer")


def sign_document(key: OKPKey, *, sender: str, document: Any) -> str:
    """Return a compact JWS over the canonical JSON of a document that is kept as evidence (a study manifest)."""
    return _sign(key, sender, document)


def verify_document(token: str, keys: Keys, *, sender: str, limit_bytes: int) -> Any:
    """Return the document that `sender` signed.

    Raises:
        PeerDataError: not signed by `sender`, altered, or larger than `limit_bytes`.
    """
    signer, payload = _payload(token, keys, limit_bytes)
    if signer != sender:
        raise PeerDataError("the document is signed by somebody else")
    return parse_json(payload, limit_bytes=limit_bytes)


def signed_at(value: Any, now: datetime) -> datetime:
    """Return the time (aware UTC) that a document that is kept as evidence says it was signed at, in Unix seconds.

    Raises:
        PeerDataError: not a time, or more than a minute in the future.
    """
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise PeerDataError("the time of a signature is not a time in seconds")
    moment = datetime.fromtimestamp(min(value, 253_402_300_799), UTC)
    if moment > now + CLOCK_TOLERANCE:
        raise PeerDataError("it was signed in the future: check the clocks")
    return moment


_PLAIN = {"aud": "receiver", "htm": "method", "htu": "path", "ath": "body"}


def _digest(body: bytes) -> str:
    return base64url(hashlib.sha256(body).digest())


def _sign(key: OKPKey, sender: str, claims: Mapping[str, Any]) -> str:
    header = {"alg": ALGORITHM, "kid": sender}
    return jws.serialize_compact(header, canonical_json(dict(claims)), key, registry=_REGISTRY)


def _payload(token: str, keys: Keys, limit_bytes: int) -> tuple[str, bytes]:
    if len(token) > limit_bytes * 4 // 3 + 1024 or not token.isascii():
        raise PeerDataError("the signature is not a JWS")
    try:
        signed = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
        header = signed.headers()
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise PeerDataError("the signature is not a JWS") from error
    sender = header.get("kid")
    if set(header) != {"alg", "kid"} or header["alg"] != ALGORITHM or not isinstance(sender, str):
        raise PeerDataError("the signature's header is not the one agreed on")
    key = keys(sender)
    if key is None:
        raise PeerDataError("the sender is not in the region manifest")
    try:
        valid = jws.validate_compact(signed, key, registry=_REGISTRY)
    except (JoseError, ValueError) as error:
        raise PeerDataError("the signature does not verify") from error
    if not valid:
        raise PeerDataError("the signature does not verify")
    return sender, signed.payload


def _verify(token: str, keys: Keys, members: Mapping[str, type]) -> dict[str, Any]:
    sender, payload = _payload(token, keys, LIMIT_BYTES)
    claims = parse_json(payload, limit_bytes=LIMIT_BYTES)
    if (
        not isinstance(claims, dict)
        or set(claims) != set(members)
        or any(type(claims[name]) is not kind for name, kind in members.items())
        or claims["iss"] != sender
    ):
        raise PeerDataError("the signature's claims are not the ones agreed on")
    return claims
