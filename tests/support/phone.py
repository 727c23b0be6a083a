"""A patient's phone: a passkey in software that signs consents."""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256

from usmed.domain.canonical import base64url
from usmed.domain.consent_record import challenge
from usmed.domain.enrolment import Credential


@dataclass
class Phone:
    """A passkey in software: ES256, as every platform authenticator offers it (WebAuthn Level 2 §5.8.5).

    Attributes:
        id: the credential's.
        portal: the name of the site that it belongs to.
    """

    id: bytes = b"credential-1"
    portal: str = "portal.example"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def credential(self) -> Credential:
        """Return what is enrolled of it."""
        return Credential(self.id, cbor.encode(dict(ES256.from_cryptography_key(self.key.public_key()))))

    def sign(self, what: Any, *, rp: str = "", flags: int = 0x05, **client: Any) -> dict[str, Any]:
        """Return the proof that its owner has signed this document; what an attacker would change can be changed."""
        content = {
            "type": "webauthn.get",
            "challenge": base64url(challenge(what)),
            "origin": f"https://{self.portal}",
            "crossOrigin": False,
            **client,
        }
        data = json.dumps(content).encode()
        authenticator = hashlib.sha256((rp or self.portal).encode()).digest() + struct.pack(">BI", flags, 7)
        signature = self.key.sign(authenticator + hashlib.sha256(data).digest(), ec.ECDSA(hashes.SHA256()))
        return {
            "kind": "passkey",
            "credential": base64url(self.id),
            "authenticator_data": base64url(authenticator),
            "client_data": base64url(data),
            "signature": base64url(signature),
        }

    def record(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the document with the proof that the patient has signed it."""
        return {"document": document, "proof": self.sign(document)}
