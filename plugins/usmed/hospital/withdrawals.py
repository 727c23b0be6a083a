"""A patient's change of will reaches the copies here: what no consent in force permits any more goes.

What has to be checked is on disk before whoever tells it gets an answer. Key servers are asked once for each patient,
and nothing is deleted unless as many of them as sign a ticket have spoken; until then it is asked again. What they sign
is believed only if it does not rest on what is known here to be overtaken.
"""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import UsmedError
from usmed.domain.guest_copy import Concerned, GuestCopy, by_patient, may_stay, uncovered
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import State, backoff
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS, AccessTicket, Staff
from usmed.domain.ticket_decision import NO_CONSENT, NOT_ONE_PERSON
from usmed.hospital.changes import Changes
from usmed.hospital.guest_copies import GuestCopies
from usmed.hospital.guest_store import Check, GuestStore, Held
from usmed.hospital.tickets import NoTicketError, Tickets
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

POLL_S = 5.0
AT_ONCE = 500
GRANTED_AN_HOUR = 20
"""For how many patients an hour a ticket is asked for here, of those that key servers sign for one hospital: many
withdrawals at once must not cost care. There a refusal does not count, and a patient counts once an hour."""

KEPT, UNCHECKED = "kept", "unchecked"
US = Staff("usmed", "retention")


class NotYetError(UsmedError):
    """It cannot be decided, or not be done, now."""


class NotOnePersonError(NotYetError):
    """Key servers cannot tell whose a number is. That does not pass by itself: a person has to look at it."""


class Withdrawals:
    """Checks guest copies against what patients still permit.

    Args:
        hospital: this one.
        legal_basis: by which law copies are kept; empty: they are deleted.

    Attributes:
        stuck: why copies cannot be checked, by their Study Instance UID; a person has to look at them.
    """

    def __init__(
        self,
        *,
        hospital: str,
        guests: GuestStore,
        copies: GuestCopies,
        tickets: Tickets,
        changes: Changes,
        audit: AuditLog,
        clock: Callable[[], datetime],
        legal_basis: str,
    ) -> None:
        self._hospital = hospital
        self._guests = guests
        self._copies = copies
        self._tickets = tickets
        self._changes = changes
        self._audit = audit
        self._clock = clock
        self._legal_basis = legal_basis
        self._granted: dict[frozenset[PatientIdentifier], datetime] = {}
        self._wake = threading.Event()
        self._stopping = False
        self.stuck: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="withdrawals", daemon=True)

    def start(self) -> None:
        """Take up what an earlier process left, and go on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is not checked yet is on disk."""
        self._stopping = True
        self._wake.set()

    def look(self) -> None:
        """Something was put on the list of what has to be checked."""
        self._wake.set()

    def hint(self, numbers: Collection[PatientIdentifier]) -> None:
        """The hub says that the consents of whoever these numbers name may have changed; not how.

        Raises:
            StorageError: it is not noted; say it again.
        """
        self._guests.hint(numbers, self._clock())
        self._wake.set()

    def check(self) -> bool:
        """Work through what is due; return whether there may be more at once.

        Raises:
            UsmedError: not even the list can be read, or a deletion of before does not go on.
        """
        self._copies.finish()
        due = self._guests.due(self._clock(), AT_ONCE)
        if not due:
            return False
        every = self._guests.copies()
        held = {one.copy.study.study_instance_uid: one for one in every if one.state is not State.LEAVING}
        self.stuck = {uid: why for uid, why in self.stuck.items() if uid in held}
        for patient in by_patient([one.change for one in due], [one.copy for one in held.values()]):
            checks = [one for one in due if one.change in patient.changes]
            if self._stopping:
                return False
            try:
                self._check_patient(patient, [held[one.study.study_instance_uid] for one in patient.copies])
                self._guests.done(checks)
                concerned = {one.study.study_instance_uid for one in patient.copies}
                self.stuck = {uid: why for uid, why in self.stuck.items() if uid not in concerned}
            except NotOnePersonError as error:
                self._record_stuck(patient, error)
                self._later(checks, error)
            except UsmedError as error:
                log.warning("guest copies cannot be checked after a change of consents, tried again: %s", error)
                self._later(checks, error)
        return len(due) == AT_ONCE

    def _check_patient(self, patient: Concerned, held: Sequence[Held]) -> None:
        consents = {one.consent_id for one in patient.changes if one.consent_id}
        held = [one for one in held if not self._in_emergency(one)]
        if not held:
            return
        if len(consents) < len(patient.changes):
            # Perhaps somebody was only permitted something. What was taken back comes as a change of its own.
            self._learn_what_changed(held)
        if not consents:
            return
        asked = self._ask([one.copy for one in held])
        ended = [self._settle(one, asked[one.copy.known_by], consents) for one in held]
        if not all(ended):
            raise NotYetError("something of it is still being written, or has to be looked at by a person")

    def _settle(self, held: Held, tickets: Sequence[AccessTicket], consents: Collection[str]) -> bool:
        """Keep or delete one copy; return False if it is still being written."""
        copy, uid = held.copy, held.copy.study.study_instance_uid
        numbers = copy.known_by.union(*(one.patient for one in tickets))
        decision = may_stay(
            copy, tickets, self._changes.denials(numbers), recipient=self._hospital, now=self._clock()
        )
        if decision.permitted:
            if held.withdrawn:
                self._guests.set_withdrawn(uid, ())
            return True
        reason = f"the patient does not permit it any more: {decision.reason}"
        if not self._legal_basis:
            return self._copies.delete(uid, reason, consents)
        self._keep(held, consents)
        return self._copies.break_off(uid, reason)

    def _keep(self, held: Held, consents: Collection[str]) -> None:
        if held.withdrawn >= set(consents):
            return
        copy = held.copy
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.RETENTION,
                agent="usmed",
                peer=copy.study.source,
                patient=str(min(copy.known_by)),
                study_instance_uid=copy.study.study_instance_uid,
                reason=self._legal_basis,
                detail={"what": KEPT, "consents": sorted(consents)},
            )
        ).wait()
        self._guests.set_withdrawn(copy.study.study_instance_uid, held.withdrawn.union(consents))

    def _in_emergency(self, held: Held) -> bool:
        if held.copy.emergency:
            return True
        # On its way under an emergency that is open, and its source has not answered yet.
        return held.state is not State.COMPLETE and self._tickets.emergency(held.copy.known_by) is not None

    def _ask(self, copies: Collection[GuestCopy]) -> dict[frozenset[PatientIdentifier], list[AccessTicket]]:
        """Return what key servers sign now, by the numbers under which copies were asked for: mostly the same ones.

        Raises:
            NoTicketError: they cannot be asked, or do not agree.
            NotYetError: what they sign rests on what is overtaken, or enough was asked for this hour.
        """
        asked: dict[frozenset[PatientIdentifier], list[AccessTicket]] = {}
        for numbers in sorted({one.known_by for one in copies}, key=lambda one: (-len(one), sorted(one))):
            wider = next((one for one in asked if numbers <= one), None)
            about = [one for one in copies if one.known_by <= numbers]
            asked[numbers] = asked[wider] if wider is not None else self._sign(numbers, about)
        return asked

    def _sign(self, numbers: frozenset[PatientIdentifier], about: Collection[GuestCopy]) -> list[AccessTicket]:
        tickets: list[AccessTicket] = []
        rest = numbers
        while rest and (not tickets or uncovered(about, tickets)):
            if len(rest) > MAXIMUM_IDENTIFIERS:
                return [*tickets, *self._sign_each(rest)]
            try:
                ticket = self._signed(rest)
            except NotOnePersonError:
                return [*tickets, *self._sign_each(rest)]
            if ticket is None:
                break
            tickets.append(ticket)
            # Numbers that nobody has proved to be the same person's come one after the other.
            rest = rest - ticket.patient
        return tickets

    def _sign_each(self, numbers: Collection[PatientIdentifier]) -> list[AccessTicket]:
        """Ask number by number, for those that key servers do not take together.

        Raises:
            NotOnePersonError: they do not even take one of them alone. What it may permit or deny is not known.
        """
        tickets: list[AccessTicket] = []
        for number in sorted(numbers):
            if any(number in one.patient for one in tickets):
                continue
            if (ticket := self._signed(frozenset({number}))) is not None:
                tickets.append(ticket)
        return tickets

    def _signed(self, numbers: frozenset[PatientIdentifier]) -> AccessTicket | None:
        """Return what key servers sign now for these numbers; None if enough say that nothing is permitted."""
        now = self._clock()
        self._granted = {who: at for who, at in self._granted.items() if now - at < timedelta(hours=1)}
        if len(self._granted) >= GRANTED_AN_HOUR and numbers not in self._granted:
            raise NotYetError(f"{GRANTED_AN_HOUR} patients were asked for in an hour: care comes first")
        try:
            ticket = self._tickets.fresh(numbers, US)
        except NoTicketError as error:
            if error.nothing_permitted:
                return None
            if error.code in (NOT_ONE_PERSON, NO_CONSENT):
                # The latter if some of those asked say this and others that: together they say nothing.
                raise NotOnePersonError(str(error)) from error
            raise
        self._granted.setdefault(numbers, now)
        if changed := self._changes.overtaken(ticket):
            raise NotYetError(f"too few key servers know yet that consent {changed} was changed or taken back")
        return ticket

    def _record_stuck(self, patient: Concerned, error: NotOnePersonError) -> None:
        why = f"it cannot be checked after a change of consents until the patient's numbers are put right: {error}"
        for copy in patient.copies:
            uid = copy.study.study_instance_uid
            if uid in self.stuck:
                # Once, not at every try.
                continue
            log.error("guest copy %s: %s", uid, why)
            self._audit.append(
                AuditEvent(
                    at=self._clock(),
                    event=AuditEventType.RETENTION,
                    agent="usmed",
                    peer=copy.study.source,
                    patient=str(min(copy.known_by)) if copy.known_by else "",
                    study_instance_uid=uid,
                    outcome=Outcome.FAILURE,
                    reason=why,
                    detail={
                        "what": UNCHECKED,
                        "consents": sorted({one.consent_id for one in patient.changes if one.consent_id}),
                    },
                )
            ).wait()
            self.stuck = self.stuck | {uid: why}

    def _learn_what_changed(self, held: Sequence[Held]) -> None:
        for numbers in sorted({one.copy.known_by for one in held}, key=lambda one: (-len(one), sorted(one))):
            found = self._tickets.records(numbers)
            taken_away = [one for one in found["records"] if takes_away(one)]
            for problem in self._changes.told("key servers", taken_away, found["enrolments"]):
                log.info("a consent that key servers hold is not taken here: %s", problem)

    def _later(self, checks: Sequence[Check], error: UsmedError) -> None:
        try:
            for one in checks:
                self._guests.again([one], self._clock() + backoff(one.attempts + 1), str(error))
        except UsmedError as second:
            log.error("what has to be checked could not be put off: %s", second)

    def _run(self) -> None:
        more = True
        while not self._stopping:
            if not more:
                self._wake.wait(POLL_S)
            self._wake.clear()
            try:
                more = self.check()
            except UsmedError as error:
                more = False
                log.error("guest copies after withdrawals: %s", error)
            except Exception:
                more = False
                log.exception("guest copies after withdrawals")


def takes_away(record: Any) -> bool:
    """Tell whether a consent record, as it came, may take something away: it is no first permission."""
    document = record.get("document") if isinstance(record, dict) else None
    if not isinstance(document, dict):
        return False
    resource = document.get("resource")
    if not isinstance(resource, dict):
        return False
    return document.get("version") != 1 or resource.get("status") != "active" or _denies(resource.get("provision"))


def _denies(provision: Any) -> bool:
    if not isinstance(provision, dict):
        return False
    inner = provision.get("provision")
    return provision.get("type") == "deny" or (isinstance(inner, list) and any(map(_denies, inner)))
