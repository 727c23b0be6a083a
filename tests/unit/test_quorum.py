"""Documents with several signatures: what counts, what does not, and that nothing else ever counts."""

import copy
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url, base64url_decode, canonical_json
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import (
    MAXIMUM_SIGNATURES,
    QuorumError,
    Signature,
    assemble,
    read_signature,
    require,
    sign,
    verify_quorum,
)

SERVERS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("keys-1", "keys-2", "keys-3")}
STRANGER = OKPKey.generate_key("Ed25519", private=True)
DOCUMENT = {"typ": "test", "n": 1, "text": "ăîș"}
LIMIT = 4096


def keys(name: str) -> OKPKey | None:
    return SERVERS.get(name)


def signed(*names: str, document: Any = None) -> dict[str, Any]:
    document = DOCUMENT if document is None else document
    return assemble(document, [sign(SERVERS[name], signer=name, document=document) for name in names])


def reached(document: Any, threshold: int = 2) -> bool:
    return not verify_quorum(document, keys, threshold=threshold, limit_bytes=LIMIT).missing


def test_enough_signatures() -> None:
    quorum = verify_quorum(signed("keys-1", "keys-3"), keys, threshold=2, limit_bytes=LIMIT)
    assert quorum.document == DOCUMENT
    assert quorum.payload == canonical_json(DOCUMENT)
    assert quorum.signers == {"keys-1", "keys-3"}
    assert (quorum.missing, quorum.rejected) == (0, ())
    require(quorum, "it")


def test_one_signature_too_few_is_told_with_the_number() -> None:
    quorum = verify_quorum(signed("keys-2"), keys, threshold=2, limit_bytes=LIMIT)
    assert quorum.missing == 1
    with pytest.raises(QuorumError, match="the ticket has 1 of the 2 signatures that it needs"):
        require(quorum, "the ticket")


def test_the_order_of_signing_makes_no_difference() -> None:
    assert signed("keys-1", "keys-2") == signed("keys-2", "keys-1")


def test_signatures_can_be_collected_one_by_one() -> None:
    collected = []
    for name in ("keys-2", "keys-1"):
        sent = json.loads(json.dumps(sign(SERVERS[name], signer=name, document=DOCUMENT).to_json()))
        collected.append(read_signature(sent, document=DOCUMENT, key=SERVERS[name], signer=name))
    assert reached(assemble(DOCUMENT, collected))
    with pytest.raises(PeerDataError, match="is by 'keys-1', not by 'keys-2'"):
        read_signature(collected[1].to_json(), document=DOCUMENT, key=SERVERS["keys-2"], signer="keys-2")
    with pytest.raises(PeerDataError, match="does not verify"):
        read_signature(collected[0].to_json(), document={**DOCUMENT, "n": 2}, key=SERVERS["keys-2"], signer="keys-2")


def header(alg: Any = "Ed25519", kid: Any = "keys-2", **more: Any) -> str:
    return base64url(canonical_json({"alg": alg, "kid": kid, **more}))


def mac(payload: str) -> dict[str, str]:
    """Sign with HS256, the public key as the secret, as an attacker would: it is public."""
    protected, secret = header("HS256"), base64url_decode(SERVERS["keys-2"].as_dict(private=False)["x"])
    code = hmac.digest(secret, f"{protected}.{payload}".encode(), "sha256")
    # Doubled to the length of a signature, so that the algorithm is what it fails by.
    return {"protected": protected, "signature": base64url(code * 2)}


def by(key: OKPKey, name: str, document: Any = None) -> dict[str, str]:
    return sign(key, signer=name, document=DOCUMENT if document is None else document).to_json()


SECOND: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the same server twice": lambda one: one["signatures"][0],
    "the same server twice, signed anew": lambda one: by(SERVERS["keys-1"], "keys-1"),
    "a stranger": lambda one: by(STRANGER, "keys-9"),
    "a stranger under a server's name": lambda one: by(STRANGER, "keys-2"),
    "one server under another's name": lambda one: by(SERVERS["keys-1"], "keys-2"),
    "over another document": lambda one: by(SERVERS["keys-2"], "keys-2", {**DOCUMENT, "n": 2}),
    "alg none": lambda one: {"protected": header("none"), "signature": ""},
    "alg none with 64 bytes": lambda one: {"protected": header("none"), "signature": base64url(bytes(64))},
    "HS256 with the public key": lambda one: mac(one["payload"]),
    "EdDSA by its older name": lambda one: {**by(SERVERS["keys-2"], "keys-2"), "protected": header("EdDSA")},
    "an unprotected header": lambda one: {**by(SERVERS["keys-2"], "keys-2"), "header": {"kid": "keys-2"}},
    "a longer signature": lambda one: {"protected": header(), "signature": base64url(bytes(65))},
    "a shorter signature": lambda one: {"protected": header(), "signature": base64url(bytes(63))},
    "no signature": lambda one: {"protected": header()},
    "a header with more": lambda one: {"protected": header(crit=["exp"]), "signature": base64url(bytes(64))},
    "a header with an embedded key": lambda one: {"protected": header(jwk={}), "signature": base64url(bytes(64))},
    "a kid that is no text": lambda one: {"protected": header(kid=2), "signature": base64url(bytes(64))},
    "text": lambda one: "keys-2",
    "nothing": lambda one: None,
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_what_does_not_count_as_a_second_signature(second: Callable[[dict[str, Any]], Any]) -> None:
    document = signed("keys-1")
    document["signatures"].append(second(document))
    quorum = verify_quorum(document, keys, threshold=2, limit_bytes=LIMIT)
    assert quorum.signers == {"keys-1"}
    assert len(quorum.rejected) == 1
    with pytest.raises(QuorumError):
        require(quorum, "it")


def payload(data: bytes) -> dict[str, Any]:
    return {**signed("keys-1", "keys-2"), "payload": base64url(data)}


MALFORMED: dict[str, Any] = {
    "a compact JWS": "a.b.c",
    "no signatures": {"payload": signed("keys-1")["payload"]},
    "an empty list": {**signed("keys-1"), "signatures": []},
    "too many": {**signed("keys-1"), "signatures": signed("keys-1")["signatures"] * (MAXIMUM_SIGNATURES + 1)},
    "one member more": {**signed("keys-1"), "header": {}},
    "a payload that is no text": {**signed("keys-1"), "payload": 5},
    "padding": {**signed("keys-1"), "payload": signed("keys-1")["payload"] + "="},
    "not JSON": payload(b"{"),
    "spaces": payload(b'{"a": 1}'),
    "another order": payload(b'{"b":1,"a":1}'),
    "a member twice": payload(b'{"a":1,"a":1}'),
    "a number in another form": payload(b'{"a":1.0}'),
    "an escape that is not needed": payload(b'{"a":"\\u0061"}'),
    "not UTF-8": payload(b'{"a":"\xff"}'),
    "too large": signed("keys-1", "keys-2", document={"a": "x" * LIMIT}),
    "too deep": payload(b"[" * 40 + b"]" * 40),
}


@pytest.mark.parametrize("document", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_signed_document(document: Any) -> None:
    with pytest.raises(PeerDataError):
        verify_quorum(document, keys, threshold=1, limit_bytes=LIMIT)


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(PeerDataError, match="threshold"):
        verify_quorum(signed("keys-1"), keys, threshold=0, limit_bytes=LIMIT)


@given(position=st.integers(0, 10_000), flip=st.integers(1, 127))
@settings(max_examples=300, deadline=None)
def test_no_altered_byte_leaves_two_signatures_over_another_document(position: int, flip: int) -> None:
    text = json.dumps(signed("keys-1", "keys-2"))
    index = position % len(text)
    altered = text[:index] + chr((ord(text[index]) ^ flip) % 128) + text[index + 1 :]
    try:
        quorum = verify_quorum(json.loads(altered), keys, threshold=2, limit_bytes=LIMIT)
    except (ValueError, PeerDataError):
        return
    assert quorum.missing or quorum.document == DOCUMENT


@given(st.sets(st.sampled_from([*SERVERS, "stranger"])), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_it_is_reached_exactly_when_enough_servers_have_signed(names: set[str], threshold: int) -> None:
    signatures = [sign(SERVERS.get(name, STRANGER), signer=name, document=DOCUMENT) for name in sorted(names)]
    document = copy.deepcopy(assemble(DOCUMENT, signatures))
    if not names:
        with pytest.raises(PeerDataError):
            reached(document, threshold)
        return
    assert reached(document, threshold) == (len(names & set(SERVERS)) >= threshold)


def test_a_signature_is_what_it_was_read_from() -> None:
    one = sign(SERVERS["keys-1"], signer="keys-1", document=DOCUMENT)
    assert one == Signature("keys-1", one.protected, one.signature)


def test_a_large_document_is_signed_and_verified() -> None:
    """A region of a hundred hospitals with their certificates is larger than what the library allows by itself."""
    key = OKPKey.generate_key("Ed25519", private=True)
    document = {"certificates": ["x" * 2000] * 400}
    signed = assemble(document, [sign(key, signer="a", document=document)])
    assert verify_quorum(signed, lambda _: key, threshold=1, limit_bytes=1 << 20).signers == {"a"}
    with pytest.raises(PeerDataError, match="over the limit"):
        verify_quorum(signed, lambda _: key, threshold=1, limit_bytes=1 << 19)
