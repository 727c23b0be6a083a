"""Asking a patient for consent: a member of staff here asks, the patient reads it on the region's portal and answers.

The hub takes every request alike, whether anybody has that number or not, and tells only that it was answered; whether
the patient agreed shows in what the hospital may see then. One request of a patient is open at a time.

Whoever asks holds one of Orthanc's HTTP threads. So few wait for the hub at a time, and one alone where it did not
answer a moment ago; all others are told at once to try again.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB
from usmed.hospital.circuit import Circuit
from usmed.hospital.identities import Poster
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database

ASK_PATH, STATE_PATH = "/v1/requests", "/v1/requests/state"
DEADLINE_S = 5.0
ASKED_EVERY_S = 3.0
"""How often the hub is asked about one request, however many pages show it."""

AT_ONCE = 4
"""How many may wait for the hub at a time."""

LONGEST_DEPARTMENT = 64
ROLE = "staff"

_request = sa.table(
    "patient_request", *map(sa.column, ("issuer", "value", "id", "department", "staff", "asked", "state"))
)


class RequestState(StrEnum):
    """Where a request stands. UNSENT: the hub may not have it. EXPIRED: the hub knows it no more, or it went
    unanswered."""

    UNSENT = "unsent"
    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"


STATES_OF_THE_HUB = {
    "open": RequestState.OPEN,
    "answered": RequestState.ANSWERED,
    "expired": RequestState.EXPIRED,
    "unknown": RequestState.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class PatientRequest:
    """The last request to a patient, named by the number that it was made under; `asked` is aware UTC."""

    id: str
    patient: PatientIdentifier
    department: str
    staff: str
    asked: datetime
    state: RequestState


class PatientRequests:
    """The use case of members of staff.

    Args:
        possible: whether the region has a portal now, where patients could answer.
        circuit: the hub's, which lookups use too.
    """

    def __init__(
        self,
        *,
        possible: Callable[[], bool],
        database: Database,
        client: Poster,
        circuit: Circuit,
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self.possible = possible
        self._database = database
        self._client = client
        self._circuit = circuit
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: set[PatientIdentifier | str] = set()
        self._looked: dict[str, float] = {}

    def ask(self, patient: PatientIdentifier, department: str, staff: str) -> PatientRequest:
        """Ask a patient for consent to treatment; while a request waits for its answer, that one is returned.

        Args:
            patient: the number, with its issuer.
            department: who asks, in words that the patient understands, 1 to 64 characters.
            staff: who asks; the patient is told the department alone.

        Raises:
            PeerDataError: the department is none.
            RefusedError: the region has no portal; or the hub refuses, with its code.
            TransportError: the hub was not reached, or is just being asked; ask again.
            UsmedError: it answered with something unusable, or nothing could be stored; ask again.
        """
        department = department.strip()
        if not 1 <= len(department) <= LONGEST_DEPARTMENT or not department.isprintable():
            raise PeerDataError(f"Department: who asks, in 1 to {LONGEST_DEPARTMENT} characters")
        if not self.possible():
            raise RefusedError("no-portal", "the region has no portal where patients could answer")
        held = self._held(patient)
        if held is not None and held.state is RequestState.OPEN:
            return held
        with self._turn(patient):
            held = self._held(patient)
            if held is not None and held.state is RequestState.OPEN:
                return held
            if held is None or held.state is not RequestState.UNSENT or held.department != department:
                # Otherwise the same is sent again: the hub may have it, and only its answer was lost.
                held = PatientRequest(str(uuid4()), patient, department, staff, self._clock(), RequestState.UNSENT)
                self._save(held)
            try:
                self._post(ASK_PATH, _document(held))
            except UsmedError as error:
                denied = isinstance(error, RefusedError)
                self._record(held, staff, Outcome.DENIED if denied else Outcome.FAILURE, str(error))
                raise
            held = replace(held, state=RequestState.OPEN)
            self._record(held, staff, Outcome.SUCCESS)
            self._save(held)
        return held

    def last(self, patient: PatientIdentifier) -> PatientRequest | None:
        """Return the last request under this number as it was known last. Asks nobody."""
        return self._held(patient)

    def look(self, patient: PatientIdentifier) -> PatientRequest | None:
        """As `last`, as it is now. A hub that does not answer changes nothing: the next look tells."""
        held = self._held(patient)
        if held is None or held.state is not RequestState.OPEN or not self._is_due(held.id):
            return held
        try:
            with self._turn(held.id):
                answer = self._post(STATE_PATH, {"ids": [held.id]})
            state = STATES_OF_THE_HUB[answer["states"][held.id]]
        except (UsmedError, KeyError, TypeError):
            return held
        if state is not held.state:
            held = replace(held, state=state)
            # By its id: another one may have taken its place meanwhile.
            changed = sa.update(_request).where(_request.c.id == held.id).values(state=state.value)
            with self._database.write() as connection:
                connection.execute(changed)
        return held

    @contextmanager
    def _turn(self, about: PatientIdentifier | str) -> Iterator[None]:
        """Be the only one who asks the hub about this, and one of few who ask it anything; waits for nobody.

        Raises:
            TransportError: somebody does already, or enough do.
        """
        with self._lock:
            if about in self._waiting or len(self._waiting) >= AT_ONCE:
                raise TransportError("the regional hub is just being asked: try again in a moment")
            self._waiting.add(about)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(about)

    def _post(self, path: str, document: Any) -> Any:
        if not self._circuit.admits(HUB):
            reason = self._circuit.reason(HUB) or "it did not answer a moment ago"
            raise TransportError(f"the regional hub is away: try again in a moment ({reason})")
        try:
            answer = self._client.post(HUB, path, document, deadline_s=DEADLINE_S)
        except TransportError as error:
            self._circuit.failed(HUB, str(error))
            raise
        except UsmedError:
            # It is there.
            self._circuit.succeeded(HUB)
            raise
        self._circuit.succeeded(HUB)
        return answer

    def _is_due(self, id: str) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._looked.get(id, -ASKED_EVERY_S) < ASKED_EVERY_S:
                return False
            if len(self._looked) > 1000:
                self._looked.clear()
            self._looked[id] = now
        return True

    def _held(self, patient: PatientIdentifier) -> PatientRequest | None:
        query = sa.select(_request).where(_request.c.issuer == patient.issuer, _request.c.value == patient.value)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        asked = datetime.fromtimestamp(row.asked, UTC)
        return PatientRequest(row.id, patient, row.department, row.staff, asked, RequestState(row.state))

    def _save(self, one: PatientRequest) -> None:
        values = {
            "id": one.id,
            "department": one.department,
            "staff": one.staff,
            "asked": int(one.asked.timestamp()),
            "state": one.state.value,
        }
        insert = self._database.insert(_request).values(issuer=one.patient.issuer, value=one.patient.value, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["issuer", "value"], set_=values))

    def _record(self, one: PatientRequest, staff: str, outcome: Outcome, reason: str = "") -> None:
        self._audit.append(
            AuditEvent(
                self._clock(),
                AuditEventType.CONSENT,
                staff,
                patient=str(one.patient),
                outcome=outcome,
                reason=reason,
                detail={"what": "asked the patient", "request": one.id, "department": one.department},
            )
        ).wait()


def _document(one: PatientRequest) -> dict[str, Any]:
    return {
        "id": one.id,
        "identifier": {"issuer": one.patient.issuer, "value": one.patient.value},
        "purpose": Purpose.TREAT.value,
        "department": one.department,
        "role": ROLE,
    }
