"""Emergency access (ETREAT): two members of staff, a reason, one patient, one hour, and no consent.

One asks, another one agrees on a screen of their own; then key servers sign a ticket, within their rate for emergencies
and unless the patient forbids even that. It can be seen by all whom it concerns: it stands in the audit log here, at
every key server, whose administrators get a letter, and at every hospital that shows or sends something.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import Staff, emergency_fault
from usmed.hospital.access_feed import OPENED
from usmed.hospital.tickets import UNAVAILABLE, NoTicketError, Tickets
from usmed.platform.audit_log import AuditLog

WAITS = timedelta(minutes=10)
"""How long a request waits for the second member of staff."""

MOST_WAITING = 5
"""Of one member of staff."""


@dataclass(frozen=True, slots=True)
class Emergency:
    """An emergency: asked for, and, once somebody else has agreed, open until it ends.

    Attributes:
        confirmed_by: empty as long as it waits.
        until: when it ends, aware UTC: the wait, or the access itself.
        ticket_id: the ticket's `jti`; empty as long as it waits.
    """

    id: str
    patient: PatientIdentifier
    asked_by: str
    reason: str
    asked: datetime
    until: datetime
    confirmed_by: str = ""
    ticket_id: str = ""


class Emergencies:
    """The use cases of members of staff. A restart of the node ends what was open: two people open it again."""

    def __init__(
        self,
        *,
        tickets: Tickets,
        audit: AuditLog,
        clock: Callable[[], datetime],
        opened: Callable[[], None],
    ) -> None:
        self._tickets = tickets
        self._audit = audit
        self._clock = clock
        self._opened = opened
        self._lock = threading.Lock()
        self._known: dict[str, Emergency] = {}

    def ask(self, patient: PatientIdentifier, reason: str, staff: str) -> Emergency:
        """Ask for emergency access to a patient's studies everywhere.

        Args:
            patient: the number, with its issuer.
            reason: why, in one line: it is read by the patient and by auditors.
            staff: who asks.

        Raises:
            PeerDataError: the reason is none.
            RefusedError: too many wait already.
        """
        now = self._clock()
        if fault := emergency_fault(Staff(staff, "staff"), Staff(f"not {staff}"[:64], "staff"), reason):
            raise PeerDataError(fault)
        one = Emergency(str(uuid4()), patient, staff, reason, now, now + WAITS)
        with self._lock:
            self._drop_ended(now)
            # Each for themselves: one who asks too often must not be in the others' way.
            waiting = [one for one in self._known.values() if one.asked_by == staff and not one.confirmed_by]
            refused = len(waiting) >= MOST_WAITING
            if not refused:
                self._known[one.id] = one
        if refused:
            fault = "too many emergencies that you asked for wait to be confirmed"
            self._record(one, now, staff, f"too-many: {fault}", Outcome.DENIED)
            raise RefusedError("too-many", fault)
        self._record(one, now, staff, "asked for")
        return one

    def confirm(self, emergency_id: str, staff: str) -> Emergency:
        """Agree as the second member of staff; from now on lookups of this patient and pulls go under the emergency.

        Raises:
            PeerDataError: nothing of this id waits.
            RefusedError: the same person asked; or key servers refuse, with their code.
            NoTicketError: too few key servers answer.
        """
        now = self._clock()
        with self._lock:
            self._drop_ended(now)
            one = self._known.get(emergency_id)
        if one is None:
            raise PeerDataError("no emergency of this id waits to be confirmed")
        if one.confirmed_by:
            return one
        asking, agreeing = Staff(one.asked_by, "staff"), Staff(staff, "staff")
        if fault := emergency_fault(asking, agreeing, one.reason):
            self._record(one, now, staff, f"second-person: {fault}", Outcome.DENIED)
            raise RefusedError("second-person", fault)
        # Before it takes effect: without a record there is none.
        self._record(one, now, staff, "agreed to")
        try:
            ticket = self._tickets.open_emergency(one.patient, asking, agreeing, one.reason).ticket
        except NoTicketError as error:
            self._record(one, now, staff, f"{error.code}: {error}", Outcome.DENIED)
            if error.code == UNAVAILABLE:
                raise
            raise RefusedError(error.code, str(error)) from error
        opened = Emergency(
            one.id, one.patient, one.asked_by, one.reason, one.asked, ticket.expires, staff, ticket.jti
        )
        with self._lock:
            self._known[one.id] = opened
        self._record(opened, now, staff, OPENED)
        self._opened()
        return opened

    def all(self) -> list[Emergency]:
        """Return what waits and what is open, the newest first."""
        with self._lock:
            self._drop_ended(self._clock())
            return sorted(self._known.values(), key=lambda one: one.asked, reverse=True)

    def _drop_ended(self, now: datetime) -> None:
        self._known = {id: one for id, one in self._known.items() if now < one.until}

    def _record(
        self, one: Emergency, now: datetime, staff: str, what: str, outcome: Outcome = Outcome.SUCCESS
    ) -> None:
        self._audit.append(
            AuditEvent(
                now,
                AuditEventType.EMERGENCY,
                staff,
                patient=str(one.patient),
                outcome=outcome,
                reason=one.reason,
                detail={
                    "what": what,
                    "asked_by": one.asked_by,
                    "ticket": one.ticket_id,
                    # As in the record of a release: who is told of it needs issuer and value apart.
                    "granted_for": {"issuer": one.patient.issuer, "value": one.patient.value},
                },
            )
        ).wait()
