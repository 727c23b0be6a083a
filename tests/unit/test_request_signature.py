"""A signed request: each claim, the header and the key are checked, and nothing else passes."""

import base64
import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url, base64url_decode, canonical_json
from usmed.domain.errors import PeerDataError
from usmed.domain.request_signature import (
    CLOCK_TOLERANCE,
    LIMIT_BYTES,
    SignedRequest,
    sign_answer,
    sign_document,
    sign_request,
    verify_answer,
    verify_document,
    verify_request,
)

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
A, B, STRANGER = (OKPKey.generate_key("Ed25519", private=True) for _ in range(3))
PUBLIC = {name: OKPKey.import_key(key.as_dict(private=False)) for name, key in (("a", A), ("b", B))}
JTI = "0123456789abcdef01234567"
BODY = b'{"study":"1.2.3"}'
RECEIVED: dict[str, Any] = {
    "receiver": "b", "method": "POST", "target": "/v1/x?y=1", "body": BODY, "now": NOW,
}  # fmt: skip


def keys(sender: str) -> OKPKey | None:
    return PUBLIC.get(sender)


def header(key: OKPKey = A, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "sender": "a", "receiver": "b", "method": "POST", "target": "/v1/x?y=1", "body": BODY, "now": NOW, "jti": JTI,
    }  # fmt: skip
    return sign_request(key, **{**arguments, **changes})


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def signed(claims: Any, head: Mapping[str, Any] | None = None, key: Any = A, algorithm: str = "Ed25519") -> str:
    """Sign any claims under any header: what no honest sender would send."""
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    protected = dict(head) if head is not None else {"alg": algorithm, "kid": "a"}
    return "USMED " + jws.serialize_compact(protected, payload, key, registry=registry)


def refused(value: str, message: str = ".", **changes: Any) -> None:
    with pytest.raises(PeerDataError, match=message):
        verify_request(value, keys, **{**RECEIVED, **changes})


def test_a_signed_request_is_who_it_says() -> None:
    assert verify_request(header(), keys, **RECEIVED) == SignedRequest("a", JTI, NOW)
    assert verify_request(header(body=b""), keys, **{**RECEIVED, "body": b""}).sender == "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"receiver": "c"}, "another receiver"),
        ({"method": "GET"}, "another method"),
        ({"method": "post"}, "another method"),
        ({"target": "/v1/x?y=2"}, "another path"),
        ({"target": "/v1/x"}, "another path"),
        ({"target": "/v1/x?y=1&"}, "another path"),
        ({"target": "/v1/%78?y=1"}, "another path"),
        ({"body": BODY + b" "}, "another body"),
        ({"body": b""}, "another body"),
    ],
)
def test_a_signature_is_for_one_request_only(change: dict[str, Any], message: str) -> None:
    refused(header(), message, **change)
    refused(header(**change), message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "not signed"),
        ("USMED", "not signed"),
        ("USMED ", "not signed"),
        ("Bearer x.y.z", "not signed"),
        ("usmed x.y.z", "not signed"),
        ("USMED x", "not a JWS"),
        ("USMED x.y", "not a JWS"),
        ("USMED x.y.z", "not a JWS"),
        ("USMED ..", "not a JWS"),
        ("USMED é.é.é", "not a JWS"),
        ("USMED W10.W10.W10", "not a JWS"),
        ("USMED bnVsbA.W10.W10", "not a JWS"),
        ("USMED " + "a" * (LIMIT_BYTES * 4 // 3 + 1025), "not a JWS"),
    ],
)
def test_what_is_no_signature(value: str, message: str) -> None:
    refused(value, message)


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "Ed25519"},
        {"alg": "Ed25519", "kid": "a", "typ": "JWT"},
        {"alg": "Ed25519", "kid": "a", "b64": False, "crit": ["b64"]},
        # An id of its own: two processes of one run make different keys.
        pytest.param({"alg": "Ed25519", "kid": "a", "jwk": STRANGER.as_dict(private=False)}, id="jwk"),
        {"alg": "Ed25519", "kid": ["a"]},
        {"alg": "Ed25519", "kid": None},
    ],
    ids=str,
)
def test_another_header_is_refused(head: dict[str, Any]) -> None:
    token = header().partition(" ")[2]
    rest = token.partition(".")[2]
    forged = base64url(json.dumps(head).encode())
    refused(f"USMED {forged}.{rest}", "header is not the one agreed on|not a JWS")


def test_no_algorithm_but_the_one_is_accepted() -> None:
    claims = claims_of(header())
    payload = base64url(canonical_json(claims))
    for algorithm in ("none", "None", "", "EdDSA", "HS256"):
        head = base64url(canonical_json({"alg": algorithm, "kid": "a"}))
        refused(f"USMED {head}.{payload}.", "header is not the one agreed on|not a JWS")
    # RFC 8725 §2.1: the public key taken as the secret of a MAC, by name and in disguise.
    for algorithm in ("HS256", "Ed25519"):
        content = base64url(canonical_json({"alg": algorithm, "kid": "a"})) + "." + payload
        for secret in (PUBLIC["a"].as_pem(private=False), base64url_decode(PUBLIC["a"].as_dict()["x"])):
            mac = base64url(hmac.digest(secret, content.encode(), "sha256"))
            refused(f"USMED {content}.{mac}", "header is not the one agreed on|does not verify")


def test_another_key_is_refused() -> None:
    refused(header(STRANGER), "does not verify")
    refused(header(B), "does not verify")
    refused(header(sender="c"), "not in the region manifest")
    refused(header(STRANGER, sender="hub"), "not in the region manifest")


def test_nobody_signs_in_anothers_name() -> None:
    claims = claims_of(header())
    refused(signed(claims, {"alg": "Ed25519", "kid": "b"}, key=B), "claims are not the ones agreed on")


CLAIMS: list[tuple[str, Any, str]] = [
    ("iss", "b", "claims"),
    ("iss", ..., "claims"),
    ("aud", "c", "another receiver"),
    ("aud", ["b"], "claims"),
    ("htm", "GET", "another method"),
    ("htu", "/", "another path"),
    ("htu", None, "claims"),
    ("ath", "", "another body"),
    ("iat", ..., "claims"),
    ("iat", str(int(NOW.timestamp())), "claims"),
    ("iat", NOW.timestamp() + 0.5, "claims"),
    ("iat", True, "claims"),
    ("iat", 10**18, "not a time"),
    ("iat", -(10**18), "not a time"),
    ("jti", "", "16 to 64"),
    ("jti", "x" * 15, "16 to 64"),
    ("jti", "x" * 65, "16 to 64"),
    ("jti", 1, "claims"),
    ("more", "x", "claims"),
]


@pytest.mark.parametrize(("name", "value", "message"), CLAIMS, ids=lambda one: str(one)[:30])
def test_each_claim_is_checked(name: str, value: Any, message: str) -> None:
    claims = claims_of(header())
    assert verify_request(signed(claims), keys, **RECEIVED).sender == "a"
    if value is ...:
        del claims[name]
    else:
        claims[name] = value
    refused(signed(claims), message)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"x", b'{"iss":"a","iss":"a"}', b"\xff", b"[" * 4000],
    ids=lambda one: ascii(one)[:20],
)
def test_a_payload_that_is_no_set_of_claims_is_refused(payload: bytes) -> None:
    refused(signed(payload))


@pytest.mark.parametrize(
    ("offset_s", "accepted"),
    [(0, True), (60, True), (-60, True), (61, False), (-61, False), (600, False), (-600, False)],
)
def test_the_clocks_may_be_a_minute_apart(offset_s: int, accepted: bool) -> None:
    value = header(now=NOW + timedelta(seconds=offset_s))
    if accepted:
        assert verify_request(value, keys, **RECEIVED).issued == NOW + timedelta(seconds=offset_s)
    else:
        # A plus: the signer's clock is ahead of this one.
        refused(value, re.escape(f"signed {offset_s:+d} s from this clock") + ".*check both clocks")


def test_any_altered_character_is_refused() -> None:
    value = header()
    start = value.index(" ") + 1
    for position in range(start, len(value)):
        other = "A" if value[position] != "A" else "B"
        refused(value[:position] + other + value[position + 1 :])
        refused(value[:position] + value[position + 1 :])


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("USMED .eyJ=_-\0é"), max_size=40) | st.text(max_size=40))
def test_any_text_is_refused(text: str) -> None:
    refused(text)
    refused("USMED " + text)


# ---- answers ----

ANSWER: dict[str, Any] = {"sender": "b", "receiver": "a", "jti": JTI, "status": 200, "body": b"{}"}


def test_an_answer_is_of_this_sender_to_this_request() -> None:
    token = sign_answer(B, **ANSWER)
    verify_answer(token, keys, **ANSWER)
    changes = ({"sender": "a"}, {"receiver": "b"}, {"jti": "x"}, {"status": 404}, {"body": b"{} "})
    for change in changes:
        with pytest.raises(PeerDataError, match="another answer"):
            verify_answer(token, keys, **{**ANSWER, **change})
    with pytest.raises(PeerDataError, match="not signed"):
        verify_answer("", keys, **ANSWER)
    with pytest.raises(PeerDataError, match="does not verify"):
        verify_answer(sign_answer(A, **ANSWER), keys, **ANSWER)
    # A request is no answer, though the same key signed it.
    with pytest.raises(PeerDataError, match="claims"):
        verify_answer(header(B, sender="b").partition(" ")[2], keys, **ANSWER)
    with pytest.raises(PeerDataError, match="another answer"):
        verify_answer(sign_answer(A, **{**ANSWER, "sender": "a"}), keys, **ANSWER)


# ---- documents ----


def test_a_document_is_evidence_of_its_signer() -> None:
    document = {"entries": [["1.2", "1.1", 5, "ab"]], "source": "a", "letters": "ăâîșț"}
    token = sign_document(A, sender="a", document=document)
    assert verify_document(token, keys, sender="a", limit_bytes=1000) == document
    with pytest.raises(PeerDataError, match="somebody else"):
        verify_document(token, keys, sender="b", limit_bytes=1000)
    with pytest.raises(PeerDataError, match="does not verify"):
        verify_document(sign_document(STRANGER, sender="a", document=document), keys, sender="a", limit_bytes=1000)
    with pytest.raises(PeerDataError, match="over the limit"):
        verify_document(token, keys, sender="a", limit_bytes=50)
    with pytest.raises(PeerDataError, match="not a JWS"):
        verify_document(sign_document(A, sender="a", document={"x": "x" * 5000}), keys, sender="a", limit_bytes=1000)


def test_the_tolerance_is_what_nonces_are_remembered_for() -> None:
    assert timedelta(seconds=60) == CLOCK_TOLERANCE
