"""WebAuthn on the console (Level 2, §7.1 and §7.2): what the browser is asked, and what its answers prove.

The challenge of a log-in or a registration is random, carries its own end and a MAC, and is taken once. That of a
decision is the operation itself (`domain.approval.decision_challenge`). User verification is always required.
"""

import hmac
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from fido2.server import Fido2Server
from fido2.webauthn import (
    AttestedCredentialData,
    CollectedClientData,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialUserEntity,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from usmed.domain.canonical import base64url, base64url_decode
from usmed.domain.errors import PeerDataError
from usmed.keyserver.console.access import Passkey
from usmed.platform.signed_http import Nonces

LIFE = timedelta(minutes=3)
LOG_IN, REGISTER = "log-in", "register"
REQUIRED = UserVerificationRequirement.REQUIRED

_MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError, struct.error, RecursionError)


class Ceremonies:
    """The relying party.

    Args:
        server: the key server's id, as people see it.
        address: the console's, as the browser sees it: `https://host[:port]`.
        nonces: makes sure that a challenge is taken once.
    """

    def __init__(self, server: str, address: str, nonces: Nonces, clock: Callable[[], datetime]) -> None:
        self.origin = origin_of(address)
        self._server = server
        self._nonces = nonces
        self._clock = clock
        # Of this process: whoever is in the middle of a ceremony when it restarts begins anew.
        self._secret = secrets.token_bytes(32)
        party = PublicKeyCredentialRpEntity(id=urlsplit(self.origin).hostname, name=f"USMED {server}")
        self._fido = Fido2Server(party, verify_origin=lambda one: one == self.origin)

    def registration(self, name: str, known: Sequence[Passkey]) -> dict[str, Any]:
        """Return the options for `navigator.credentials.create`."""
        user = PublicKeyCredentialUserEntity(
            id=secrets.token_bytes(32), name=f"{name} ({self._server})", display_name=name
        )
        options, _ = self._fido.register_begin(
            user,
            [one.credential for one in known],
            resident_key_requirement=ResidentKeyRequirement.REQUIRED,
            user_verification=REQUIRED,
            challenge=self._challenge(REGISTER),
        )
        return dict(options)

    def registered(self, response: Any) -> AttestedCredentialData:
        """Return the passkey that a browser has made.

        Raises:
            PeerDataError: the answer proves nothing.
        """
        challenge = self._taken(response, REGISTER)
        try:
            made = self._fido.register_complete(_state(challenge), response).credential_data
        except _MALFORMED as error:
            raise PeerDataError(f"the passkey was not registered: {_words(error)}") from error
        assert made is not None
        return made

    def log_in(self) -> dict[str, Any]:
        """Return the options for `navigator.credentials.get`. They name no passkey: nobody has to know which exist."""
        options, _ = self._fido.authenticate_begin(user_verification=REQUIRED, challenge=self._challenge(LOG_IN))
        return dict(options)

    def logged_in(self, response: Any, known: Sequence[Passkey]) -> Passkey:
        """Return whose passkey has signed.

        Raises:
            PeerDataError: nobody's, or another challenge.
        """
        return self._signed(self._taken(response, LOG_IN), response, known)

    def decision(self, challenge: bytes, known: Sequence[Passkey]) -> dict[str, Any]:
        """Return the options by which one of the known passkeys signs a decision."""
        options, _ = self._fido.authenticate_begin(
            [one.credential for one in known], user_verification=REQUIRED, challenge=challenge
        )
        return dict(options)

    def decided(self, challenge: bytes, response: Any, known: Sequence[Passkey]) -> Passkey:
        """Return whose passkey has signed a decision.

        Raises:
            PeerDataError: nobody's, or another decision.
        """
        return self._signed(challenge, response, known)

    def _signed(self, challenge: bytes, response: Any, known: Sequence[Passkey]) -> Passkey:
        credentials = [one.credential for one in known]
        try:
            used = self._fido.authenticate_complete(_state(challenge), credentials, response)
        except _MALFORMED as error:
            raise PeerDataError(f"the passkey's signature does not count: {_words(error)}") from error
        return next(one for one in known if one.credential == used)

    def _challenge(self, purpose: str) -> bytes:
        body = secrets.token_bytes(16) + struct.pack(">Q", int((self._clock() + LIFE).timestamp()))
        return body + self._mac(purpose, body)

    def _taken(self, response: Any, purpose: str) -> bytes:
        """Return the challenge that was answered, if it is ours, in time, and answered for the first time."""
        try:
            challenge = CollectedClientData(base64url_decode(response["response"]["clientDataJSON"])).challenge
            body, mac = challenge[:24], challenge[24:]
            (end,) = struct.unpack(">Q", body[16:])
        except _MALFORMED as error:
            raise PeerDataError("the passkey's answer is malformed") from error
        now = self._clock()
        if not hmac.compare_digest(mac, self._mac(purpose, body)):
            raise PeerDataError("the passkey answered another question")
        expires = datetime.fromtimestamp(end, UTC)
        # As if issued at its end: remembered for longer than it is good.
        if now >= expires or not self._nonces.accept("console", base64url(body), expires, now):
            raise PeerDataError("this took too long, or was answered before: try again")
        return challenge

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + b"\0" + body, "sha256")


def origin_of(address: str) -> str:
    """Return the origin of an address as browsers write it (RFC 6454 §6.1): without its usual port."""
    parts = urlsplit(address.lower())
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    port = f":{parts.port}" if parts.port and parts.port != usual else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _state(challenge: bytes) -> Mapping[str, Any]:
    return {"challenge": base64url(challenge), "user_verification": REQUIRED}


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) and len(str(error)) < 100 else "it is malformed"
