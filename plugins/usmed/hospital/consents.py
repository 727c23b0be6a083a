"""The source's own copy of consents: fresh from the hub, or not too old, or nothing is released."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from usmed.domain.consent import Consent
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB
from usmed.hospital.circuit import Circuit
from usmed.hospital.identities import Poster
from usmed.hospital.store import AnswerCache

log = logging.getLogger(__name__)

UNAVAILABLE = "unavailable"
"""The hub's code for "not now"."""


class ConsentUnknownError(UsmedError):
    """The consents of a patient cannot be known now; nothing may be released."""


class Consents:
    """What patients said, as far as the hub told this node.

    Args:
        fresh_s: how old an answer may be before the hub is asked again.
        maximum_age_s: how old it may be when the hub does not answer.
        deadline_s: how long the hub may take.
    """

    def __init__(
        self,
        *,
        client: Poster,
        cache: AnswerCache,
        circuit: Circuit,
        clock: Callable[[], datetime],
        fresh_s: float,
        maximum_age_s: float,
        deadline_s: float,
    ) -> None:
        self._client = client
        self._cache = cache
        self._circuit = circuit
        self._clock = clock
        self._fresh = timedelta(seconds=fresh_s)
        self._maximum_age = timedelta(seconds=maximum_age_s)
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._memory: dict[PatientIdentifier, tuple[datetime, tuple[Consent, ...]]] = {}

    def of(self, identifier: PatientIdentifier) -> tuple[Consent, ...]:
        """Return all consents of the person that this identifier names.

        Raises:
            ConsentUnknownError: the hub does not answer and what is remembered is too old.
        """
        now = self._clock()
        with self._lock:
            known = self._memory.get(identifier)
        if known is not None and now - known[0] < self._fresh:
            return known[1]
        if not self._circuit.is_closed(HUB):
            if self._circuit.admits(HUB):
                # Perhaps it is back. The next decision will know; this one does not wait.
                threading.Thread(target=self._try, args=(identifier,), name="hub-try", daemon=True).start()
            return self._remembered(identifier, now, self._circuit.reason(HUB) or "it did not answer a moment ago")
        try:
            return self._learn(identifier)
        except RefusedError as error:
            if error.code == UNAVAILABLE:
                return self._remembered(identifier, now, str(error))
            raise ConsentUnknownError(f"the regional hub will not tell this patient's consents: {error}") from error
        except (TransportError, PeerDataError) as error:
            return self._remembered(identifier, now, str(error))

    def forget(self) -> None:
        """Drop what is remembered in memory: the hub announced changes."""
        with self._lock:
            self._memory.clear()

    def _try(self, identifier: PatientIdentifier) -> None:
        try:
            self._learn(identifier)
        except UsmedError as error:
            log.info("the hub is still away: %s", error)

    def _learn(self, identifier: PatientIdentifier) -> tuple[Consent, ...]:
        now = self._clock()
        answer = self._ask(identifier)
        consents = _read(answer)
        stored = self._cache.load_consents(str(identifier))
        # Its age counts, so it is written again before it gets old.
        if stored is None or stored[0] != answer or now - stored[1] > self._maximum_age / 10:
            self._cache.save_consents(str(identifier), answer, now)
        with self._lock:
            if len(self._memory) > 10_000:
                self._memory.clear()
            self._memory[identifier] = (now, consents)
        return consents

    def _ask(self, identifier: PatientIdentifier) -> Any:
        try:
            answer = self._client.post(
                HUB,
                "/v1/consents/for",
                {"identifiers": [{"issuer": identifier.issuer, "value": identifier.value}]},
                deadline_s=self._deadline_s,
            )
            consents = answer["consents"]
        except (TransportError, PeerDataError) as error:
            self._circuit.failed(HUB, str(error))
            raise
        except (KeyError, TypeError) as error:
            self._circuit.failed(HUB, "its answer is malformed")
            raise PeerDataError("the hub's answer is malformed") from error
        self._circuit.succeeded(HUB)
        return consents

    def _remembered(self, identifier: PatientIdentifier, now: datetime, reason: str) -> tuple[Consent, ...]:
        stored = self._cache.load_consents(str(identifier))
        if stored is None or now - stored[1] > self._maximum_age:
            raise ConsentUnknownError(f"this patient's consents cannot be known now: {reason}")
        log.warning("deciding on remembered consents: %s", reason)
        return _read(stored[0])


def _read(answer: Any) -> tuple[Consent, ...]:
    """Read the hub's list. One consent that cannot be read makes the whole unknown: it could be the deny."""
    try:
        return tuple(
            consent_from_fhir(one["resource"], id=str(one["id"]), version=int(one["version"])) for one in answer
        )
    except (PeerDataError, KeyError, TypeError, ValueError) as error:
        raise ConsentUnknownError(f"a consent of this patient cannot be read: {error}") from error
