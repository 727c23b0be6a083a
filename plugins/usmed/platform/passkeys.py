"""WebAuthn for pages of ours (Level 2, §7.1 and §7.2): what the browser is asked, and what its answers prove.

The challenge of a log-in or a registration is random, carries its own end and a MAC, and is taken once. That of a
signature is made from what is signed, by the caller. User verification is always required.
"""

import hmac
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from fido2 import cbor
from fido2.cose import CoseKey
from fido2.server import Fido2Server
from fido2.webauthn import (
    Aaguid,
    AttestedCredentialData,
    AuthenticatorData,
    CollectedClientData,
    PublicKeyCredentialParameters,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialType,
    PublicKeyCredentialUserEntity,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from usmed.domain.canonical import base64url, base64url_decode
from usmed.domain.enrolment import KEY_FAULTS, KEY_TYPES
from usmed.domain.errors import PeerDataError
from usmed.platform.signed_http import Nonces

LIFE = timedelta(minutes=3)
LOG_IN, REGISTER = "log-in", "register"
REQUIRED = UserVerificationRequirement.REQUIRED

_MALFORMED = (*KEY_FAULTS, AttributeError, AssertionError)


@lru_cache(maxsize=16)
def _server_of(origin: str, name: str) -> Fido2Server:
    """Return the library's server of an origin; it keeps nothing, and takes a tenth of a page's time to make."""
    party = PublicKeyCredentialRpEntity(id=urlsplit(origin).hostname, name=name)
    server = Fido2Server(party, verify_origin=lambda one: one == origin)
    # What an enrolment may add: a passkey of another algorithm would be made for nothing.
    server.allowed_algorithms = [
        PublicKeyCredentialParameters(type=PublicKeyCredentialType.PUBLIC_KEY, alg=one) for one in KEY_TYPES
    ]
    return server


class Ceremonies:
    """The relying party.

    Args:
        name: the site's, as a phone shows it beside its passkeys.
        origin: tells the pages' origin (`origin_of`); passkeys are bound to its host name.
        nonces: makes sure that a challenge is taken once.
        scope: under which name the nonces are kept.
    """

    def __init__(
        self, name: str, origin: Callable[[], str], nonces: Nonces, clock: Callable[[], datetime], *, scope: str
    ) -> None:
        self._name = name
        self._origin = origin
        self._nonces = nonces
        self._clock = clock
        self._scope = scope
        # Of this process: whoever is in the middle of a ceremony when it restarts begins anew.
        self._secret = secrets.token_bytes(32)

    @property
    def origin(self) -> str:
        """Return the origin that the pages have now."""
        return self._origin()

    def registration(self, name: str, shown: str, known: Sequence[AttestedCredentialData] = ()) -> dict[str, Any]:
        """Return the options for `navigator.credentials.create`.

        Args:
            name: tells this passkey from others of the same person, in the phone's list.
            shown: the person's name for display.
            known: passkeys that the device need not make again.
        """
        user = PublicKeyCredentialUserEntity(id=secrets.token_bytes(32), name=name, display_name=shown)
        options, _ = self._server().register_begin(
            user,
            known,
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
            _check_frame(response)
            made = self._server().register_complete(_state(challenge), response).credential_data
        except _MALFORMED as error:
            raise PeerDataError(f"the passkey was not registered: {_words(error)}") from error
        assert made is not None
        return made

    def log_in(self) -> dict[str, Any]:
        """Return the options for `navigator.credentials.get`. They name no passkey: nobody has to know which exist."""
        options, _ = self._server().authenticate_begin(user_verification=REQUIRED, challenge=self._challenge(LOG_IN))
        return dict(options)

    def logged_in(
        self, response: Any, find: Callable[[bytes], Sequence[AttestedCredentialData]]
    ) -> AttestedCredentialData:
        """Return which passkey has signed.

        Args:
            response: the browser's answer.
            find: finds passkeys by an id. Only a liar makes another one with an id that is there: each is tried.

        Raises:
            PeerDataError: none, or another challenge.
        """
        challenge = self._taken(response, LOG_IN)
        try:
            found = find(base64url_decode(response["rawId"]))
        except _MALFORMED as error:
            raise PeerDataError("the passkey's answer is malformed") from error
        for one in found[:-1]:
            with suppress(PeerDataError):
                return self.signed(challenge, response, [one])
        return self.signed(challenge, response, found[-1:])

    def signing(self, challenge: bytes, known: Sequence[AttestedCredentialData]) -> dict[str, Any]:
        """Return the options by which one of the known passkeys signs what the challenge stands for."""
        options, _ = self._server().authenticate_begin(known, user_verification=REQUIRED, challenge=challenge)
        return dict(options)

    def signed(
        self, challenge: bytes, response: Any, known: Sequence[AttestedCredentialData]
    ) -> AttestedCredentialData:
        """Return which passkey has signed the challenge.

        Raises:
            PeerDataError: none of the known, or another challenge.
        """
        try:
            _check_frame(response)
            return self._server().authenticate_complete(_state(challenge), known, response)
        except _MALFORMED as error:
            raise PeerDataError(f"the passkey's signature does not count: {_words(error)}") from error

    def _server(self) -> Fido2Server:
        return _server_of(self._origin(), self._name)

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
        if now >= expires or not self._nonces.accept(self._scope, base64url(body), expires, now):
            raise PeerDataError("this took too long, or was answered before: try again")
        return challenge

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + b"\0" + body, "sha256")


def credential_of(id: bytes, public_key: bytes) -> AttestedCredentialData:
    """Return a passkey as the ceremonies take it.

    Args:
        id: the credential's id.
        public_key: in COSE form (RFC 9052 §7).

    Raises:
        PeerDataError: not such a key.
    """
    try:
        key = CoseKey.parse(dict(cbor.decode(public_key)))  # type: ignore[arg-type]
        return AttestedCredentialData.create(bytes(Aaguid.NONE), id, key)
    except _MALFORMED as error:
        raise PeerDataError("this is no passkey's public key") from error


def counter_of(response: Any) -> int:
    """Return how often a passkey says that it has signed, in an answer that was checked (WebAuthn Level 2 §6.1.1)."""
    return int(AuthenticatorData(base64url_decode(response["response"]["authenticatorData"])).counter)


def public_key_of(credential: AttestedCredentialData) -> bytes:
    """Return a passkey's public key in COSE form (RFC 9052 §7)."""
    return cbor.encode(dict(credential.public_key))


def origin_of(address: str) -> str:
    """Return the origin of an address as browsers write it (RFC 6454 §6.1): without its usual port."""
    parts = urlsplit(address.lower())
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    port = f":{parts.port}" if parts.port and parts.port != usual else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _check_frame(response: Any) -> None:
    """Make sure that no other site shows ours in a frame (WebAuthn Level 2 §5.8.1, crossOrigin)."""
    if CollectedClientData(base64url_decode(response["response"]["clientDataJSON"])).cross_origin:
        raise ValueError("It was made in a frame of another site.")


def _state(challenge: bytes) -> Mapping[str, Any]:
    return {"challenge": base64url(challenge), "user_verification": REQUIRED}


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) and len(str(error)) < 100 else "it is malformed"
