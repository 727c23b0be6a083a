"""The requester's side of access tickets: wished for here, built and signed by key servers, remembered until they end.

As many key servers as are needed are asked at once, and another one for each that is slow, away or refuses. The first k
that sign the same bytes make the ticket. Where they differ, each is brought what the others hold, once.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import Signature, assemble, read_signature
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import EMERGENCY_LIFE, LIFE, AccessTicket, Staff, parse_ticket
from usmed.domain.ticket_decision import DENIED_BY_PATIENT, NO_CONSENT, NOT_ONE_PERSON
from usmed.domain.ticket_wish import TicketWish
from usmed.hospital.circuit import Circuit
from usmed.hospital.identities import Poster

log = logging.getLogger(__name__)

TICKETS_PATH = "/v1/tickets"
RECORDS_PATH = "/v1/records/for"
KEY_SERVERS = "key-servers"
"""Stands for all of them where the members that did not answer are listed."""

UNAVAILABLE = "too-few-key-servers"
EXPIRED_REGION = "region-expired"
NO_CONSENT_SECONDS = 1.5
"""How long "no consent" is believed: one that is given at the desk must show at the next look."""

RENEWAL = 1 / 3
"""Of its life, what is left of a ticket when the next one is got beside."""

HEDGE_S = 0.15
"""How long is waited for those who were asked before another key server is asked too."""

UNHURRIED_S = 10.0
"""The deadline where nobody waits."""

MAXIMUM_RECORDS = 100
MAXIMUM_REMEMBERED = 20_000
LIMIT_BYTES = 8 << 20


class NoTicketError(UsmedError):
    """There is no ticket; `code` is NO_CONSENT, UNAVAILABLE, EXPIRED_REGION or a key server's own code.

    Attributes:
        nothing_permitted: as many key servers as sign a ticket say that the patient permits nothing; none signs one.
    """

    def __init__(self, code: str, message: str, *, nothing_permitted: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.nothing_permitted = nothing_permitted


@dataclass(frozen=True, slots=True)
class SignedTicket:
    """A ticket as it is carried: what it says, and the general JWS."""

    ticket: AccessTicket
    signed: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Key:
    patient: frozenset[PatientIdentifier]
    recipient: str
    staff: Staff
    purpose: Purpose = Purpose.TREAT
    confirmed_by: Staff | None = None
    reason: str = ""


@dataclass(slots=True)
class _Answers:
    """What a round of questions brought: answers, and why others gave none."""

    given: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, RefusedError] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Tickets:
    """Gets access tickets for this hospital, or for another one to which it sends.

    Args:
        hospital, key: this hospital and its public key in the region manifest.
        deadline_s: the longest that all of it may take when nobody says otherwise.
    """

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        client: Poster,
        circuit: Circuit,
        clock: Callable[[], datetime],
        deadline_s: float,
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._region = region
        self._client = client
        self._circuit = circuit
        self._clock = clock
        self._deadline_s = deadline_s
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="tickets")
        # Apart: a renewal waits for what it has put into the pool.
        self._renewals = ThreadPoolExecutor(max_workers=4, thread_name_prefix="renewals")
        self._lock = threading.Lock()
        self._tickets: dict[_Key, SignedTicket] = {}
        self._emergencies: list[SignedTicket] = []
        self._renewing: set[_Key] = set()
        self._none: dict[_Key, tuple[float, NoTicketError]] = {}

    def get(
        self,
        patient: Collection[PatientIdentifier],
        agent: str,
        *,
        recipient: str = "",
        deadline_s: float | None = None,
    ) -> SignedTicket:
        """Return a ticket for a patient; one that is remembered costs nothing.

        Args:
            patient: the numbers that the person is believed to be known by. The ticket covers those, and others that
                are proved to be the same person's, on which a consent rests. While an emergency is open for one of
                them, it is the emergency's.
            agent: on whose behalf (AE title or user).
            recipient: the hospital that is to receive; this one if empty.
            deadline_s: the longest that it may take.

        Raises:
            NoTicketError: with a code and, in plain words, why.
        """
        key = _Key(frozenset(patient), recipient or self._hospital, _staff(agent))
        emergency = self.emergency(key.patient) if key.recipient == self._hospital else None
        if emergency is not None:
            if emergency.ticket.patient >= key.patient:
                return emergency
            # It is about some of these numbers: it must not hide what a consent opens under the others.
            with contextlib.suppress(NoTicketError):
                return self._ordinary(key, deadline_s)
            return emergency
        return self._ordinary(key, deadline_s)

    def _ordinary(self, key: _Key, deadline_s: float | None) -> SignedTicket:
        now = self._clock()
        with self._lock:
            held = self._tickets.get(key)
            none = self._none.get(key)
        if held is not None and now < held.ticket.expires:
            if held.ticket.expires - now < (held.ticket.expires - held.ticket.issued) * RENEWAL:
                self._renew(key)
            return held
        if none is not None and time.monotonic() < none[0]:
            raise none[1]
        return self._learn(key, self._deadline_s if deadline_s is None else deadline_s)

    def fresh(self, patient: Collection[PatientIdentifier], staff: Staff) -> AccessTicket:
        """Return what key servers sign for a patient now, whatever is remembered, and without an emergency.

        Raises:
            NoTicketError: there is none; `nothing_permitted` tells whether that is what the patient says.
        """
        key = _Key(frozenset(patient), self._hospital, staff)
        try:
            return self._obtain(key, time.monotonic() + UNHURRIED_S).ticket
        except (RuntimeError, CancelledError) as error:
            raise NoTicketError(UNAVAILABLE, "this node is stopping") from error

    def records(self, patient: Collection[PatientIdentifier]) -> dict[str, list[Any]]:
        """Return what key servers hold of a patient, with its proofs: `records` and `enrolments`.

        Raises:
            NoTicketError: fewer answered than can be sure to know of every change.
        """
        region = self._region()
        try:
            held, asked = self._held(region, patient, time.monotonic() + UNHURRIED_S)
        except (RuntimeError, CancelledError) as error:
            raise NoTicketError(UNAVAILABLE, "this node is stopping") from error
        # A change is done once n - k + 1 hold it: among any k there is one of these.
        self._check_reach(region, len(asked.given), asked.failed | dict.fromkeys(asked.refused, "refused"))
        return held

    def open_emergency(
        self, patient: PatientIdentifier, staff: Staff, confirmed_by: Staff, reason: str
    ) -> SignedTicket:
        """Get a ticket without consent, and use it for everything about this patient until it ends.

        Raises:
            NoTicketError: with a code: `denied-by-patient`, `over-rate`, UNAVAILABLE…, and, in plain words, why.
        """
        key = _Key(frozenset({patient}), self._hospital, staff, Purpose.ETREAT, confirmed_by, reason)
        ticket = self._learn(key, self._deadline_s)
        with self._lock:
            self._emergencies.append(ticket)
        return ticket

    def emergency(self, patient: Collection[PatientIdentifier]) -> SignedTicket | None:
        """Return the ticket of an emergency that is open for whoever these numbers name."""
        if not self._emergencies:
            return None
        now = self._clock()
        with self._lock:
            self._emergencies = [one for one in self._emergencies if now < one.ticket.expires]
            return next((one for one in self._emergencies if one.ticket.patient.intersection(patient)), None)

    def forget(self, patient: Collection[PatientIdentifier]) -> None:
        """Drop what is remembered about whoever these numbers name: a consent changed."""
        numbers = frozenset(patient)
        with self._lock:
            for key, held in list(self._tickets.items()):
                if key.patient & numbers or held.ticket.patient & numbers:
                    del self._tickets[key]
            for key in [one for one in self._none if one.patient & numbers]:
                del self._none[key]

    def close(self) -> None:
        """Ask no more."""
        self._renewals.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _renew(self, key: _Key) -> None:
        with self._lock:
            if key in self._renewing:
                return
            self._renewing.add(key)
        try:
            self._renewals.submit(self._renewed, key)
        except RuntimeError:
            log.info("not renewed: the node is stopping")

    def _renewed(self, key: _Key) -> None:
        try:
            self._learn(key, self._deadline_s)
        except NoTicketError as error:
            log.info("a ticket was not renewed: %s", error)
            if error.code == NO_CONSENT:
                # Whoever asks next gets the new answer, not what is left of the old ticket.
                with self._lock:
                    self._tickets.pop(key, None)
        finally:
            with self._lock:
                self._renewing.discard(key)

    def _learn(self, key: _Key, deadline_s: float) -> SignedTicket:
        try:
            ticket = self._obtain(key, time.monotonic() + deadline_s)
        except (RuntimeError, CancelledError) as error:
            raise NoTicketError(UNAVAILABLE, "this node is stopping") from error
        except NoTicketError as error:
            if error.code == NO_CONSENT:
                with self._lock:
                    if len(self._none) >= MAXIMUM_REMEMBERED:
                        self._none.clear()
                    self._none[key] = (time.monotonic() + NO_CONSENT_SECONDS, error)
            raise
        with self._lock:
            if len(self._tickets) >= MAXIMUM_REMEMBERED:
                self._tickets.clear()
            self._tickets[key] = ticket
        return ticket

    def _obtain(self, key: _Key, end: float) -> SignedTicket:
        region = self._region()
        held: dict[str, list[Any]] = {"records": [], "enrolments": []}
        for last in (False, True):
            wish = TicketWish(
                jti=secrets.token_urlsafe(18),
                recipient=key.recipient,
                staff=key.staff,
                patient=key.patient,
                purpose=key.purpose,
                issued=self._clock().replace(microsecond=0),
                life=EMERGENCY_LIFE if key.purpose is Purpose.ETREAT else LIFE,
                confirmed_by=key.confirmed_by,
                reason=key.reason,
            )
            try:
                return self._sign(region, wish, held, end)
            except _DifferError as error:
                if last:
                    raise NoTicketError(
                        error.code, str(error), nothing_permitted=error.nothing_permitted
                    ) from error
                # Half of what is left, so that something is left for asking again.
                held, _ = self._held(region, key.patient, (time.monotonic() + end) / 2)
        raise AssertionError

    def _sign(
        self, region: RegionManifest, wish: TicketWish, held: Mapping[str, list[Any]], end: float
    ) -> SignedTicket:
        """Get k signatures over the same bytes.

        Raises:
            _DifferError: those who answered know different things.
            NoTicketError: too few answer, or enough of them refuse.
        """
        signed: dict[str, dict[str, Signature]] = {}
        tickets: dict[str, AccessTicket] = {}

        def check(server: str, answer: Any) -> None:
            ticket, signature = _read_answer(region, server, answer, wish, self._key)
            digest = sha256_hex(canonical_json(ticket.to_json()))
            tickets[digest] = ticket
            signed.setdefault(digest, {})[server] = signature

        def enough(_answers: _Answers) -> bool:
            return any(len(one) >= region.threshold for one in list(signed.values()))

        request = {"wish": wish.to_json(), **held}
        asked = self._ask(region, TICKETS_PATH, request, end, at_once=region.threshold, enough=enough, check=check)
        for digest, signatures in list(signed.items()):
            if len(signatures) >= region.threshold:
                ticket = tickets[digest]
                chosen = [signatures[one] for one in sorted(signatures)][: region.threshold]
                return SignedTicket(ticket, assemble(ticket.to_json(), chosen))
        self._check_reach(region, len(asked.given) + len(asked.refused), asked.failed)
        say_nothing = [one for one in asked.refused.values() if one.code in (NO_CONSENT, DENIED_BY_PATIENT)]
        nothing_permitted = not asked.given and len(say_nothing) >= region.threshold
        if asked.given or len({one.code for one in asked.refused.values()}) > 1:
            said = [f"{one}: {error}" for one, error in sorted(asked.refused.items())]
            raise _DifferError(
                next((one.code for one in asked.refused.values() if one.code not in _ABOUT_CONSENT), NO_CONSENT),
                "; ".join(said) or "the key servers know different consents of this patient",
                nothing_permitted=nothing_permitted,
            )
        first = next(iter(asked.refused.values()))
        reasons = "; ".join(sorted({str(one) for one in asked.refused.values()}))
        raise NoTicketError(first.code, reasons, nothing_permitted=nothing_permitted)

    def _check_reach(self, region: RegionManifest, answered: int, failed: Mapping[str, str]) -> None:
        if answered < region.threshold:
            why = "; ".join(f"{region.key_servers[one].name}: {reason}" for one, reason in sorted(failed.items()))
            raise NoTicketError(
                UNAVAILABLE,
                f"{answered} of the region's {len(region.key_servers)} key servers can be reached and"
                f" {region.threshold} have to agree, so no hospital releases anything now. Local studies are not"
                f" concerned. ({why})",
            )

    def _held(
        self, region: RegionManifest, patient: Iterable[PatientIdentifier], end: float
    ) -> tuple[dict[str, list[Any]], _Answers]:
        """Return what all key servers together hold of a patient, as it came: each of them checks the proofs itself."""
        document = {"identifiers": [{"issuer": one.issuer, "value": one.value} for one in sorted(patient)]}
        every = len(region.key_servers)
        asked = self._ask(region, RECORDS_PATH, document, end, at_once=every, enough=lambda _: False)
        held: dict[str, list[Any]] = {}
        for name in ("records", "enrolments"):
            found = [one for answer in asked.given.values() for one in _elements(answer, name)]
            held[name] = list({canonical_json(one): one for one in found}.values())[:MAXIMUM_RECORDS]
        return held, asked

    def _ask(
        self,
        region: RegionManifest,
        path: str,
        document: Any,
        end: float,
        *,
        at_once: int,
        enough: Callable[[_Answers], bool],
        check: Callable[[str, Any], None] = lambda _server, _answer: None,
    ) -> _Answers:
        """Ask key servers until enough have answered, all have, or the time is over.

        Args:
            at_once: how many are asked at first, in an order of chance; another one is asked for each that does not
                give what is wanted, or that takes longer than HEDGE_S.
        """
        answers = _Answers()
        order = sorted(region.key_servers, key=lambda _: secrets.randbits(32))
        rest = [one for one in order if self._circuit.is_closed(one)]
        for server in order:
            if server not in rest:
                if self._circuit.admits(server):
                    # Perhaps it is back. It is tried beside the others, and nobody waits for it longer.
                    at_once += 1
                    rest.insert(0, server)
                else:
                    answers.failed[server] = self._circuit.reason(server) or "it did not answer a moment ago"
        asked: dict[Future[Any], str] = {}
        waiting: set[Future[Any]] = set()

        def ask_next(count: int) -> None:
            for _ in range(min(count, len(rest))):
                server = rest.pop(0)
                future = self._pool.submit(self._one, server, path, document, end, check)
                asked[future] = server
                waiting.add(future)

        ask_next(at_once)
        while waiting and not enough(answers) and (left_s := end - time.monotonic()) > 0:
            done, _ = wait(waiting, timeout=min(left_s, HEDGE_S if rest else left_s), return_when=FIRST_COMPLETED)
            waiting -= done
            for future in done:
                server = asked[future]
                try:
                    answers.given[server] = future.result()
                except RefusedError as error:
                    answers.refused[server] = error
                except UsmedError as error:
                    answers.failed[server] = str(error)
            if not done or not waiting or len(answers.refused) + len(answers.failed):
                # Somebody is slow, or is no help; or those who were asked know different things.
                ask_next(1 if not enough(answers) else 0)
        for future in waiting:
            answers.failed[asked[future]] = "it has not answered in time"
        return answers

    def _one(self, server: str, path: str, document: Any, end: float, check: Callable[[str, Any], None]) -> Any:
        if time.monotonic() >= end:
            raise TransportError("there was no time left to ask it")
        try:
            answer = self._client.post(
                server, path, document, deadline_s=max(0.01, end - time.monotonic()), limit_bytes=LIMIT_BYTES
            )
            check(server, answer)
        except RefusedError as error:
            if error.code == "unavailable":
                self._circuit.failed(server, str(error))
                raise TransportError(str(error)) from error
            self._circuit.succeeded(server)
            raise
        except (TransportError, PeerDataError) as error:
            self._circuit.failed(server, str(error))
            raise
        self._circuit.succeeded(server)
        return answer


_ABOUT_CONSENT = (NO_CONSENT, NOT_ONE_PERSON)


class _DifferError(UsmedError):
    """Key servers know different consents, or refuse for different reasons; `code` is what weighs most of them."""

    def __init__(self, code: str, message: str, *, nothing_permitted: bool) -> None:
        super().__init__(message)
        self.code = code
        self.nothing_permitted = nothing_permitted


def _read_answer(
    region: RegionManifest, server: str, answer: Any, wish: TicketWish, key: OKPKey
) -> tuple[AccessTicket, Signature]:
    """Read a server's ticket and signature; what it built must be for the wish, whatever else it says.

    Raises:
        PeerDataError: it is not.
    """
    server_key = region.key_server_key(server)
    if server_key is None or not isinstance(answer, dict) or not {"ticket", "signature"} <= set(answer):
        raise PeerDataError(f"{server} answered without a ticket")
    ticket = parse_ticket(answer["ticket"])
    if not wish.is_granted_by(ticket, region.region, key):
        raise PeerDataError(f"{server} signed another ticket than the one asked for")
    return ticket, read_signature(answer["signature"], document=ticket.to_json(), key=server_key, signer=server)


def _elements(answer: Any, name: str) -> list[Any]:
    found = answer.get(name) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else []


def _staff(agent: str) -> Staff:
    name = "".join(one for one in agent if one.isprintable()).strip()[:64]
    return Staff(name or "unknown", "staff")


