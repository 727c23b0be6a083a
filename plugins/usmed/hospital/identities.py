"""Who the patient is elsewhere: the hub's answer, remembered for when the hub is away."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.lookup import Selector
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.study_record import parse_identifier
from usmed.hospital.circuit import Circuit
from usmed.hospital.store import AnswerCache

log = logging.getLogger(__name__)

UNKNOWN_SECONDS = 3
"""How long "no such patient" is believed: a consent given at the desk must show at the next look."""


class Poster(Protocol):
    """Sends a signed request (`platform.signed_http.SignedClient`)."""

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = ...) -> Any:
        """Return the JSON answer."""
        ...


@dataclass(frozen=True, slots=True)
class Resolution:
    """What may be known of a patient.

    Attributes:
        identifiers: the numbers the person is known by.
        holders: hospitals to ask.
        warning: empty, or why this may be out of date, in plain words.
    """

    identifiers: frozenset[PatientIdentifier]
    holders: tuple[str, ...]
    warning: str = ""

    @property
    def unknown(self) -> bool:
        """Tell whether there is nobody to ask about."""
        return not self.identifiers or not self.holders


class Identities:
    """Resolves selectors, at the hub if need be."""

    def __init__(
        self,
        *,
        hospital: str,
        region: Callable[[], RegionManifest],
        client: Poster,
        cache: AnswerCache,
        circuit: Circuit,
        clock: Callable[[], datetime],
        fresh_s: float,
        deadline_s: float,
    ) -> None:
        self._hospital = hospital
        self._region = region
        self._client = client
        self._cache = cache
        self._circuit = circuit
        self._clock = clock
        self._fresh = timedelta(seconds=fresh_s)
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._memory: dict[str, tuple[datetime, Resolution]] = {}

    def resolve(self, selector: Selector, deadline_s: float) -> Resolution:
        """Return what may be known of the patient that `selector` names.

        Never raises: a hub that is away makes the answer older or wider (all peers are asked, and decide by
        themselves), and the warning says so.
        """
        key, now = str(selector), self._clock()
        with self._lock:
            known = self._memory.get(key)
        if known is not None:
            age = now - known[0]
            if age < (timedelta(seconds=UNKNOWN_SECONDS) if known[1].unknown else self._fresh):
                return known[1]
        if not self._circuit.is_closed(HUB):
            if self._circuit.admits(HUB):
                # Perhaps it is back. The next lookup will know; this one does not wait.
                threading.Thread(target=self._try, args=(selector,), name="hub-try", daemon=True).start()
            return self._without_hub(selector, self._circuit.reason(HUB) or "it did not answer a moment ago")
        try:
            return self._learn(selector, deadline_s)
        except (TransportError, PeerDataError, RefusedError) as error:
            return self._without_hub(selector, str(error))

    def everybody(self) -> tuple[str, ...]:
        """Return the ids of all other hospitals of the region."""
        return tuple(sorted(set(self._region().hospitals) - {self._hospital}))

    def forget(self) -> None:
        """Drop what is remembered in memory: consents changed."""
        with self._lock:
            self._memory.clear()

    def _try(self, selector: Selector) -> None:
        try:
            self._learn(selector, self._deadline_s)
        except UsmedError as error:
            log.info("the hub is still away: %s", error)

    def _learn(self, selector: Selector, deadline_s: float) -> Resolution:
        now = self._clock()
        resolution = self._ask(selector, deadline_s)
        with self._lock:
            if len(self._memory) > 10_000:
                self._memory.clear()
            self._memory[str(selector)] = (now, resolution)
        return resolution

    def _ask(self, selector: Selector, deadline_s: float) -> Resolution:
        try:
            answer = self._client.post(
                HUB,
                "/v1/resolve",
                {**selector.to_json(), "purpose": Purpose.TREAT.value},
                deadline_s=min(deadline_s, self._deadline_s),
            )
            resolution = self._read(answer)
        except RefusedError:
            # It is there and says no: nothing to wait for, nothing to leave alone.
            self._circuit.succeeded(HUB)
            raise
        except (TransportError, PeerDataError) as error:
            self._circuit.failed(HUB, str(error))
            raise
        self._circuit.succeeded(HUB)
        if not resolution.unknown:
            self._remember(str(selector), answer)
        return resolution

    def _remember(self, selector: str, answer: Any) -> None:
        try:
            stored = self._cache.load_resolution(selector)
            if stored is None or stored[0] != answer:
                self._cache.save_resolution(selector, answer, self._clock())
        except UsmedError as error:
            # A resolution that could not be kept is only missed when the hub is away.
            log.error("the hub's answer could not be kept: %s", error)

    def _read(self, answer: Any) -> Resolution:
        try:
            identifiers = frozenset(parse_identifier(one) for one in answer["identifiers"])
            holders = tuple(str(one["hospital"]) for one in answer["holders"])
        except (KeyError, TypeError) as error:
            raise PeerDataError("the hub's answer is malformed") from error
        hospitals = self._region().hospitals
        return Resolution(identifiers, tuple(h for h in holders if h in hospitals and h != self._hospital))

    def _without_hub(self, selector: Selector, reason: str) -> Resolution:
        log.warning("resolving without the hub: %s", reason)
        stored = self._cache.load_resolution(str(selector))
        identifiers: frozenset[PatientIdentifier] = frozenset()
        if stored is not None:
            identifiers = self._read(stored[0]).identifiers
        elif selector.identifier is not None:
            identifiers = frozenset({selector.identifier})
        return Resolution(
            identifiers, self.everybody(), f"the regional hub is away ({reason}); every hospital was asked"
        )
