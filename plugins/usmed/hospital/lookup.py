"""The main job: one lookup finds the patient's studies everywhere, within its deadline, whatever the others do."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.identifiers import Naming, PatientIdentifier, is_uid
from usmed.domain.lookup import (
    UNIQUE_KEYS,
    Level,
    Query,
    RemoteAnswer,
    RemoteAnswers,
    Selector,
    merge_holders,
    select_patient,
)
from usmed.domain.region import HUB
from usmed.domain.study_record import parse_identifier
from usmed.domain.ticket_decision import NO_CONSENT
from usmed.hospital.circuit import Circuit
from usmed.hospital.identities import Identities, Poster, Resolution
from usmed.hospital.tickets import KEY_SERVERS, NoTicketError, SignedTicket, Tickets
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

LOOKUP_PATH = "/federation/v1/lookup"
LIMIT_BYTES = 8 << 20
MAXIMUM_ANSWERS = 5000
TICKET_SHARE = 0.5
"""What the key servers may take of the time that a lookup has left."""
NOTHING_SECONDS = 1.5
"""How long it is remembered that nobody has anything. Workstations ask the same several times in a row."""

STUDY_TAGS = ("StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "NumberOfStudyRelatedInstances")
"""What is always asked for besides the return keys: to merge, to limit pulls, to say what is missing."""


@dataclass(frozen=True, slots=True)
class _Asked:
    until: float
    result: RemoteAnswers


class FederatedLookup:
    """Asks the hospitals that hold something of one patient."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        identities: Identities,
        tickets: Tickets,
        client: Poster,
        circuit: Circuit,
        audit: AuditLog,
        clock: Callable[[], datetime],
        deadline_s: float,
        cache_s: float,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._identities = identities
        self._tickets = tickets
        self._client = client
        self._circuit = circuit
        self._audit = audit
        self._clock = clock
        self._deadline_s = deadline_s
        self._cache_s = cache_s
        self._pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="lookup")
        self._lock = threading.Lock()
        self._answers: dict[str, _Asked] = {}
        # Whose these studies are the hub does not tell, and a C-MOVE or a click names nothing but the study.
        self._in_emergencies: dict[str, frozenset[PatientIdentifier]] = {}

    def select(self, query: Query) -> Selector | None:
        """Tell which patient a lookup names, or None."""
        return select_patient(query.keys, self._naming)

    def find(self, query: Query, selector: Selector, agent: str) -> RemoteAnswers:
        """Return what the other hospitals hold and may show.

        Args:
            query: the lookup; PATIENT level is put to the others as STUDY.
            selector: the patient it names.
            agent: who asks (AE title or user), for the audit record.

        Returns:
            One answer for each entity, and which hospitals are missing. Never raises, never takes longer than the
            deadline; the same lookup repeated within seconds costs nothing.
        """
        end = time.monotonic() + self._deadline_s
        key = repr((query.level, sorted(query.keys.items()), query.tags, query.case_sensitive))
        with self._lock:
            known = self._answers.get(key)
        if known is not None and time.monotonic() < known.until:
            return known.result
        resolution = self._in_emergency(selector, self._identities.resolve(selector, end - time.monotonic()))
        if resolution.holders and resolution.identifiers:
            result = self._ask_with_ticket(query, selector, resolution, agent, end)
        else:
            # Nobody; or a study or an accession number that only the hub could have said whose it is.
            result = RemoteAnswers(missing={HUB: resolution.warning} if resolution.warning else {})
        self._record(query, selector, agent, result)
        with self._lock:
            if len(self._answers) > 2000:
                self._answers.clear()
            # An answer without some hospital is not worth remembering, and none at all not long.
            if not result.missing:
                keep_s = self._cache_s if result.answers else min(self._cache_s, NOTHING_SECONDS)
                self._answers[key] = _Asked(time.monotonic() + keep_s, result)
        return result

    def forget(self) -> None:
        """Drop remembered answers: consents changed, or a study came."""
        with self._lock:
            self._answers.clear()
        self._identities.forget()

    def unreachable(self) -> Mapping[str, str]:
        """Return the hospitals that are being left alone, with the reason."""
        reasons = {peer: self._circuit.reason(peer) for peer in (HUB, *self._identities.everybody())}
        return {peer: reason for peer, reason in reasons.items() if reason}

    def close(self) -> None:
        """Stop asking."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _in_emergency(self, selector: Selector, resolution: Resolution) -> Resolution:
        """Widen what the hub may tell to what an open emergency is about: then every hospital is asked."""
        if selector.identifier is not None:
            named = resolution.identifiers | {selector.identifier}
        else:
            # Only then: a patient who is named must never be mixed with the one whose study is named beside.
            named = resolution.identifiers | self._in_emergencies.get(selector.study_instance_uid, frozenset())
        if self._tickets.emergency(named) is None:
            return resolution
        return replace(resolution, identifiers=named, holders=self._identities.everybody())

    def _ask_with_ticket(
        self, query: Query, selector: Selector, resolution: Resolution, agent: str, end: float
    ) -> RemoteAnswers:
        left_s = end - time.monotonic()
        try:
            held = self._tickets.get(resolution.identifiers, agent, deadline_s=TICKET_SHARE * left_s)
        except NoTicketError as error:
            missing = {HUB: resolution.warning} if resolution.warning else {}
            if error.code != NO_CONSENT:
                # Without consent the answer is that about nobody. Anything else is worth telling.
                missing[KEY_SERVERS] = str(error)
            return RemoteAnswers(missing=missing, identifiers=resolution.identifiers)
        # What is proved to be the same person's, and what the hub believes to be: by these a source finds studies. It
        # gives those that name a number of the ticket themselves.
        covered = replace(resolution, identifiers=resolution.identifiers | held.ticket.patient)
        result = self._ask_all(query, selector, covered, held, end)
        if held.ticket.purpose is Purpose.ETREAT:
            if len(self._in_emergencies) > 2000:
                self._in_emergencies = {}
            self._in_emergencies |= {one.study_instance_uid: covered.identifiers for one in result.answers}
        return result

    def _ask_all(
        self, query: Query, selector: Selector, resolution: Resolution, ticket: SignedTicket, end: float
    ) -> RemoteAnswers:
        document = self._request(query, selector, resolution, ticket)
        missing: dict[str, str] = {HUB: resolution.warning} if resolution.warning else {}
        asked, tried = {}, {}
        for holder in resolution.holders:
            if self._circuit.is_closed(holder):
                asked[self._pool.submit(self._ask, holder, document, query, resolution, end)] = holder
                continue
            missing[holder] = self._circuit.reason(holder) or "it did not answer a moment ago"
            if self._circuit.admits(holder):
                # Perhaps it is back. The next lookup will know; this one does not wait.
                try_end = time.monotonic() + self._deadline_s
                tried[self._pool.submit(self._ask, holder, document, query, resolution, try_end)] = holder
        done, late = wait(asked, timeout=max(0.0, end - time.monotonic()))
        answers: list[RemoteAnswer] = []
        holders = asked | tried
        for future in [*done, *(one for one in tried if one.done())]:
            holder = holders[future]
            try:
                answers += future.result()
                missing.pop(holder, None)
            except UsmedError as error:
                missing[holder] = str(error)
        for future in late:
            holder = asked[future]
            future.cancel()
            missing[holder] = f"no answer within {self._deadline_s:g} s"
            self._circuit.failed(holder, missing[holder])
        level = Level.STUDY if query.level is Level.PATIENT else query.level
        return RemoteAnswers(tuple(merge_holders(level, answers)), missing, resolution.identifiers, permitted=True)

    def _request(
        self, query: Query, selector: Selector, resolution: Resolution, ticket: SignedTicket
    ) -> dict[str, Any]:
        level = Level.STUDY if query.level is Level.PATIENT else query.level
        # The patient is named by identifiers, each with its issuer, never by a bare number.
        keys = {k: v for k, v in query.keys.items() if k not in ("PatientID", "IssuerOfPatientID")}
        unique = [UNIQUE_KEYS[one] for one in (Level.STUDY, Level.SERIES, Level.IMAGE)]
        wanted = unique[: unique.index(UNIQUE_KEYS[level]) + 1]
        tags = sorted({*query.tags, *wanted, *(STUDY_TAGS if level is Level.STUDY else ())} - set(_OURS))
        return {
            "identifiers": [{"issuer": one.issuer, "value": one.value} for one in sorted(resolution.identifiers)],
            "study_instance_uid": selector.study_instance_uid,
            "level": level.value,
            "keys": keys,
            "tags": tags,
            "case_sensitive": query.case_sensitive,
            "purpose": ticket.ticket.purpose.value,
            "ticket": ticket.signed,
        }

    def _ask(
        self, holder: str, document: dict[str, Any], query: Query, resolution: Resolution, end: float
    ) -> list[RemoteAnswer]:
        try:
            answer = self._client.post(
                holder,
                LOOKUP_PATH,
                document,
                deadline_s=max(0.01, end - time.monotonic()),
                limit_bytes=LIMIT_BYTES,
            )
            answers = self._read(holder, answer, query, document, resolution)
        except RefusedError:
            self._circuit.succeeded(holder)
            raise
        except (TransportError, PeerDataError) as error:
            self._circuit.failed(holder, str(error))
            raise
        self._circuit.succeeded(holder)
        return answers

    def _read(
        self, holder: str, answer: Any, query: Query, document: Mapping[str, Any], resolution: Resolution
    ) -> list[RemoteAnswer]:
        try:
            elements = answer["answers"]
            if len(elements) > MAXIMUM_ANSWERS:
                raise PeerDataError(f"{len(elements)} answers")
            answers = [
                RemoteAnswer(
                    holder=holder,
                    identifier=parse_identifier(one["identifier"]),
                    study_instance_uid=one["study_instance_uid"],
                    tags=_tags(one["tags"], document["tags"]),
                    instances=_count(one["instances"]),
                )
                for one in elements
            ]
        except (KeyError, TypeError, PeerDataError) as error:
            raise PeerDataError(f"{holder} gave a malformed answer: {error}") from error
        for one in answers:
            if not is_uid(one.study_instance_uid) or one.tags.get("StudyInstanceUID") != one.study_instance_uid:
                raise PeerDataError(f"{holder} gave an answer without a valid Study Instance UID")
            if not is_uid(one.tags.get(UNIQUE_KEYS.get(query.level, "StudyInstanceUID"))):
                raise PeerDataError(f"{holder} gave an answer without the unique key of its level")
            if document["study_instance_uid"] and one.study_instance_uid != document["study_instance_uid"]:
                raise PeerDataError(f"{holder} answered with another study than the one asked for")
            # Never show one patient's study under another: whom we did not ask about is not shown.
            if resolution.identifiers and one.identifier not in resolution.identifiers:
                raise PeerDataError(f"{holder} answered with another patient than the one asked for")
        return answers

    def _record(self, query: Query, selector: Selector, agent: str, result: RemoteAnswers) -> None:
        holders = sorted({one.holder for one in result.answers})
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.LOOKUP,
                agent=agent,
                patient=str(selector.identifier or ""),
                study_instance_uid=selector.study_instance_uid,
                outcome=Outcome.PARTIAL if result.missing else Outcome.SUCCESS,
                reason="; ".join(f"{peer}: {why}" for peer, why in sorted(result.missing.items())),
                detail={"level": query.level.value, "answers": len(result.answers), "holders": holders},
            )
        )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a count is a whole number")
    return value


def _tags(value: Any, asked: Sequence[str]) -> dict[str, Any]:
    """Return what was asked for and nothing else: text, or a list of such mappings; null is as absent."""
    if not isinstance(value, dict):
        raise TypeError("tags are an object")
    return {name: _checked(value[name]) for name in asked if value.get(name) is not None}


def _checked(value: Any) -> Any:
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, dict):
                raise TypeError("a sequence has items")
            for one in item.values():
                if one is not None:
                    _checked(one)
    elif not isinstance(value, str):
        raise TypeError("a value is text or a sequence")
    return value


_OURS = frozenset(
    {"RetrieveAETitle", "InstanceAvailability", "QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveURL",
     "PatientID", "IssuerOfPatientID", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries",
     "NumberOfPatientRelatedInstances"}
)  # fmt: skip
"""Return keys that the answering node fills in itself."""


def shown_identifier(selector: Selector, naming: Naming, answers: RemoteAnswers, answer: RemoteAnswer) -> str:
    """Return the PatientID under which a remote answer is shown here.

    It is the number that was asked for, when one was; else the one under which the study would be filed.
    """
    if selector.identifier is not None:
        return selector.identifier.value
    known: frozenset[PatientIdentifier] = answers.identifiers | {answer.identifier}
    return naming.local_patient_id(known)
