"""The requester's side of access tickets: proposed here, signed by key servers, remembered until they are about to end.

All key servers are asked at once and the first k signatures make the ticket, so one that is slow or away costs nothing.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.consent import Purpose
from usmed.domain.consent_record import (
    ConsentRecord,
    Credential,
    Enrolment,
    RelyingParty,
    follows,
    read_enrolment,
    read_record,
)
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.fhir_consent import prepare
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import Signature, assemble, read_signature
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import AccessTicket, Staff
from usmed.domain.ticket_decision import DIFFERS, NO_CONSENT, linked, propose, records_of
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

MAXIMUM_REMEMBERED = 20_000
LIMIT_BYTES = 8 << 20


class NoTicketError(UsmedError):
    """There is no ticket; `code` is NO_CONSENT, UNAVAILABLE, EXPIRED_REGION or a key server's own code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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


@dataclass(slots=True)
class _Known:
    """What key servers told about a patient: records by id, enrolments, both also as they came, to be sent along."""

    records: dict[str, tuple[ConsentRecord, Any]] = field(default_factory=dict)
    enrolments: dict[str, tuple[Enrolment, Any]] = field(default_factory=dict)


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
        relying_party: the portal where patients sign; None where there is none.
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
        relying_party: RelyingParty | None = None,
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._region = region
        self._client = client
        self._circuit = circuit
        self._clock = clock
        self._deadline_s = deadline_s
        self._relying_party = relying_party
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="tickets")
        self._lock = threading.Lock()
        self._tickets: dict[_Key, SignedTicket] = {}
        self._renewing: set[_Key] = set()
        self._none: dict[_Key, tuple[float, NoTicketError]] = {}

    @property
    def needed(self) -> bool:
        """Tell whether this region has key servers."""
        return bool(self._region().key_servers)

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
                are proved to be the same person's, on which a consent rests.
            agent: on whose behalf (AE title or user).
            recipient: the hospital that is to receive; this one if empty.
            deadline_s: the longest that it may take.

        Raises:
            NoTicketError: with a code and, in plain words, why.
        """
        key = _Key(frozenset(patient), recipient or self._hospital, _staff(agent))
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

    def forget(self) -> None:
        """Drop what is remembered: somebody's consents changed."""
        with self._lock:
            self._tickets.clear()
            self._none.clear()

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _renew(self, key: _Key) -> None:
        with self._lock:
            if key in self._renewing:
                return
            self._renewing.add(key)
        try:
            self._pool.submit(self._renewed, key)
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
        # In a thread of Python's own: on one of Orthanc's, Python 3.14 takes its stack for used up when it compiles
        # what is imported here first ("Parser stack overflowed").
        self._pool.submit(prepare).result()
        region = self._region()
        known = _Known()
        asked = self._ask(region, RECORDS_PATH, _named(key.patient), end, enough=region.threshold)
        self._check_reach(region, len(asked.given) + len(asked.refused), asked.failed)
        if not asked.given:
            raise _refusal(asked.refused)
        self._take(region, known, asked.given.values())
        for last in (False, True):
            proposal = self._propose(region, key, known)
            try:
                return self._sign(region, proposal, known, end)
            except _DifferError as error:
                if last:
                    raise NoTicketError(NO_CONSENT, str(error)) from error
                # They know something that those who answered first did not.
                more = self._ask(region, RECORDS_PATH, _named(proposal.patient), end, enough=len(region.key_servers))
                self._take(region, known, more.given.values())
        raise AssertionError

    def _propose(self, region: RegionManifest, key: _Key, known: _Known) -> AccessTicket:
        records = [one for one, _ in known.records.values()]
        enrolments = [one for one, _ in known.enrolments.values()]
        refusal: RefusedError | None = None
        for patient in _persons(key.patient, records, enrolments):
            try:
                return propose(
                    jti=secrets.token_urlsafe(18),
                    region=region.region,
                    requester=key.recipient,
                    requester_key=self._key,
                    staff=key.staff,
                    patient=patient,
                    purpose=Purpose.TREAT,
                    records=records,
                    enrolments=enrolments,
                    issued=self._clock().replace(microsecond=0),
                )
            except RefusedError as error:
                refusal = error
        raise NoTicketError(NO_CONSENT, str(refusal or "nobody has said anything about this patient's consent"))

    def _sign(self, region: RegionManifest, ticket: AccessTicket, known: _Known, end: float) -> SignedTicket:
        document = ticket.to_json()
        of_ticket = {one.id for one in ticket.consents}
        request = {
            "ticket": document,
            "records": [sent for id, (_, sent) in known.records.items() if id in of_ticket],
            "enrolments": [sent for one, sent in known.enrolments.values() if one.patient & ticket.patient],
        }
        signatures: dict[str, Signature] = {}

        def is_signature(server: str, answer: Any) -> None:
            key = region.key_server_key(server)
            element = answer.get("signature") if isinstance(answer, dict) else None
            if key is None or element is None:
                raise PeerDataError(f"{server} answered without a signature")
            signatures[server] = read_signature(element, document=document, key=key, signer=server)

        asked = self._ask(region, TICKETS_PATH, request, end, enough=region.threshold, check=is_signature)
        if len(asked.given) >= region.threshold:
            signed = assemble(document, [signatures[one] for one in sorted(asked.given)][: region.threshold])
            return SignedTicket(ticket, signed)
        self._check_reach(region, len(asked.given) + len(asked.refused), asked.failed)
        codes = {one.code for one in asked.refused.values()}
        if codes & {DIFFERS, NO_CONSENT}:
            raise _DifferError("; ".join(map(str, asked.refused.values())))
        raise _refusal(asked.refused)

    def _check_reach(self, region: RegionManifest, answered: int, failed: Mapping[str, str]) -> None:
        if answered < region.threshold:
            why = "; ".join(f"{region.key_servers[one].name}: {reason}" for one, reason in sorted(failed.items()))
            raise NoTicketError(
                UNAVAILABLE,
                f"{answered} of the region's {len(region.key_servers)} key servers can be reached and"
                f" {region.threshold} have to agree, so no hospital releases anything now. Local studies are not"
                f" concerned. ({why})",
            )

    def _take(self, region: RegionManifest, known: _Known, answers: Iterable[Any]) -> None:
        """Take in what key servers hold: each document once, the newest of each consent, only what is proved."""

        def hospital_key(member_id: str) -> OKPKey | None:
            hospital = region.hospitals.get(member_id)
            return hospital.key if hospital else None

        def credentials(identifier: PatientIdentifier) -> list[Credential]:
            of_patient = [one for one, _ in known.enrolments.values() if identifier in one.patient]
            return [credential for one in of_patient for credential in one.credentials]

        now = self._clock()
        found = list(answers)
        for answer in found:
            for document in _elements(answer, "enrolments"):
                try:
                    token, hospital = document["token"], document["hospital"]
                    if token not in known.enrolments:
                        enrolment = read_enrolment(token, hospital=hospital, keys=hospital_key, now=now)
                        known.enrolments[token] = (enrolment, document)
                except (PeerDataError, KeyError, TypeError) as error:
                    log.warning("an enrolment that a key server holds is not accepted: %s", error)
        for answer in found:
            for document in _elements(answer, "records"):
                try:
                    record = read_record(
                        document,
                        keys=hospital_key,
                        credentials=credentials,
                        relying_party=self._relying_party,
                        now=now,
                    )
                    held = known.records.get(record.consent.id)
                    if follows(record, held[0] if held else None):
                        known.records[record.consent.id] = (record, document)
                except PeerDataError as error:
                    # Such as an older version than another server has.
                    log.info("a consent that a key server holds is not taken: %s", error)

    def _ask(
        self,
        region: RegionManifest,
        path: str,
        document: Any,
        end: float,
        *,
        enough: int,
        check: Callable[[str, Any], None] = lambda _server, _answer: None,
    ) -> _Answers:
        """Ask all key servers at once, until enough have answered, all have, or the time is over."""
        answers = _Answers()
        asked: dict[Future[Any], str] = {}
        for server in region.key_servers:
            if self._circuit.is_closed(server) or self._circuit.admits(server):
                asked[self._pool.submit(self._one, server, path, document, end, check)] = server
            else:
                answers.failed[server] = self._circuit.reason(server) or "it did not answer a moment ago"
        waiting: set[Future[Any]] = set(asked)
        while waiting and len(answers.given) < enough:
            done, waiting = wait(waiting, timeout=max(0.0, end - time.monotonic()), return_when=FIRST_COMPLETED)
            if not done:
                break
            for future in done:
                server = asked[future]
                try:
                    answers.given[server] = future.result()
                except RefusedError as error:
                    answers.refused[server] = error
                except UsmedError as error:
                    answers.failed[server] = str(error)
        for future in waiting:
            answers.failed[asked[future]] = "it has not answered in time"
        return answers

    def _one(self, server: str, path: str, document: Any, end: float, check: Callable[[str, Any], None]) -> Any:
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


class _DifferError(UsmedError):
    """Key servers know other consents than the proposal rests on."""


def _refusal(refused: Mapping[str, RefusedError]) -> NoTicketError:
    first = next(iter(refused.values()))
    return NoTicketError(first.code, "; ".join(sorted({str(one) for one in refused.values()})))


def _named(patient: Iterable[PatientIdentifier]) -> dict[str, Any]:
    return {"identifiers": [{"issuer": one.issuer, "value": one.value} for one in sorted(patient)]}


def _persons(
    patient: Iterable[PatientIdentifier], records: Sequence[ConsentRecord], enrolments: Sequence[Enrolment]
) -> list[frozenset[PatientIdentifier]]:
    """Divide numbers into those that are proved to be one person's: who has most to say first, nobody without."""
    groups: dict[tuple[str, ...], set[PatientIdentifier]] = {}
    for identifier in patient:
        found = tuple(one.consent.id for one in records_of(identifier, records, enrolments))
        if found:
            groups.setdefault(found, set()).update(linked(identifier, enrolments))
    return [frozenset(groups[one]) for one in sorted(groups, key=lambda found: (-len(found), found))]


def _elements(answer: Any, name: str) -> list[Any]:
    found = answer.get(name) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else []


def _staff(agent: str) -> Staff:
    name = "".join(one for one in agent if one.isprintable()).strip()[:64]
    return Staff(name or "unknown", "staff")


