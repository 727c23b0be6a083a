"""Small documents encrypted to one receiver: JWE, compact, ECDH-ES over X25519 with A256GCM (RFC 7516, RFC 8037)."""

from typing import Any

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url_decode, parse_json
from usmed.domain.errors import PeerDataError
from usmed.domain.request_signature import Keys, sign_document, verify_document

ALGORITHM, ENCRYPTION = "ECDH-ES", "A256GCM"
LIMIT_BYTES = 4096
ANNOUNCEMENT_TYPE = "usmed-encryption-key"

_REGISTRY = jwe.JWERegistry(algorithms=[ALGORITHM, ENCRYPTION])


def new_receiver() -> OKPKey:
    """Make a key pair, such as for one answer."""
    return OKPKey.generate_key("X25519", private=True)


def seal(data: bytes, receiver: OKPKey) -> str:
    """Encrypt to a receiver's public X25519 key."""
    return jwe.encrypt_compact({"alg": ALGORITHM, "enc": ENCRYPTION}, data, receiver, registry=_REGISTRY)


def unseal(token: Any, key: OKPKey) -> Any:
    """Decrypt a JSON document.

    Raises:
        PeerDataError: not such a token, not for this key, altered, or not JSON.
    """
    if not isinstance(token, str) or len(token) > 2 * LIMIT_BYTES:
        raise PeerDataError("it is not encrypted as agreed on")
    try:
        found = jwe.decrypt_compact(token, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise PeerDataError("it cannot be decrypted: it is for another key, or was altered") from error
    if set(found.protected) != {"alg", "enc", "epk"}:
        raise PeerDataError("it is not encrypted as agreed on")
    return parse_json(found.plaintext or b"", limit_bytes=LIMIT_BYTES)


def public_x25519(text: Any) -> OKPKey:
    """Read a public X25519 key written as base64url of its 32 bytes (RFC 8037 §2).

    Raises:
        PeerDataError: not such a key.
    """
    if not isinstance(text, str) or len(base64url_decode(text)) != 32:
        raise PeerDataError("not base64url of the 32 bytes of an X25519 public key")
    return OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": text})


def announce(signing: OKPKey, server: str, encryption: OKPKey) -> str:
    """Return a server's public encryption key, signed by its signing key: a compact JWS."""
    document = {"typ": ANNOUNCEMENT_TYPE, "server": server, "x25519": str(encryption.as_dict(private=False)["x"])}
    return sign_document(signing, sender=server, document=document)


def read_announcement(token: Any, keys: Keys, server: str) -> OKPKey:
    """Return the encryption key that a server announces.

    Raises:
        PeerDataError: not signed by that server, or no such key.
    """
    if not isinstance(token, str):
        raise PeerDataError(f"{server} announces no encryption key")
    document = verify_document(token, keys, sender=server, limit_bytes=LIMIT_BYTES)
    if (
        not isinstance(document, dict)
        or set(document) != {"typ", "server", "x25519"}
        or (document["typ"], document["server"]) != (ANNOUNCEMENT_TYPE, server)
    ):
        raise PeerDataError(f"{server} announces no encryption key")
    return public_x25519(document["x25519"])
