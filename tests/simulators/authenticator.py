"""A passkey in software with a real ES256 key: answers as a browser's `navigator.credentials` does (WebAuthn Level 2).

What an attacker would change can be changed: the origin, the relying party, the flags.
"""

import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256

from usmed.domain.canonical import base64url

PRESENT_AND_VERIFIED = 0x05
ATTESTED = 0x40


class Authenticator:
    """One credential of one person.

    Attributes:
        origin: where the browser is.
        flags: user presence (1) and user verification (4), WebAuthn §6.1.
        counter: how often it says that it has signed; one more each time.
    """

    def __init__(self, origin: str, credential_id: bytes = b"credential-0001!") -> None:
        self.origin = origin
        self.id = credential_id
        self.flags = PRESENT_AND_VERIFIED
        self.counter = 0
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> bytes:
        """Return its public key, a COSE_Key (RFC 9053)."""
        return cbor.encode(dict(ES256.from_cryptography_key(self._key.public_key())))

    def create(self, options: dict[str, Any], **client: Any) -> dict[str, Any]:
        """Answer `navigator.credentials.create`."""
        public = options["publicKey"]
        attested = bytes(16) + struct.pack(">H", len(self.id)) + self.id + self.public_key
        data = self._data(public["rp"]["id"], self.flags | ATTESTED) + attested
        statement = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        content = self._client("webauthn.create", public["challenge"], client)
        return self._answer(clientDataJSON=content, attestationObject=statement)

    def get(self, options: dict[str, Any], **client: Any) -> dict[str, Any]:
        """Answer `navigator.credentials.get`."""
        public = options["publicKey"]
        data = self._data(public["rpId"], self.flags)
        content = self._client("webauthn.get", public["challenge"], client)
        signature = self._key.sign(data + hashlib.sha256(content).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(clientDataJSON=content, authenticatorData=data, signature=signature)

    def _data(self, party: str, flags: int) -> bytes:
        self.counter += 1
        return hashlib.sha256(party.encode()).digest() + struct.pack(">BI", flags, self.counter)

    def _client(self, kind: str, challenge: str, changes: dict[str, Any]) -> bytes:
        content = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False, **changes}
        return json.dumps(content).encode()

    def _answer(self, **response: bytes) -> dict[str, Any]:
        written = {name: base64url(value) for name, value in response.items()}
        return {"id": base64url(self.id), "rawId": base64url(self.id), "type": "public-key", "response": written}
