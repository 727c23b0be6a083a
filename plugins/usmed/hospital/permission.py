"""On what a source decides: on the ticket that a request carries, verified here.

Nobody is asked about it. What this hospital has been told since it was signed, a withdrawal or a denial, counts.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.audit import Detail
from usmed.domain.consent import AccessRequest, Decision, Purpose, decide
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.domain.study_record import is_date
from usmed.domain.ticket import AccessTicket, verify_ticket
from usmed.hospital.archive import Study
from usmed.hospital.changes import Changes
from usmed.hospital.tickets import NoTicketError, Tickets

NO_TICKET = "no-ticket"


@dataclass(frozen=True, slots=True)
class Permission:
    """What one request, or one sending, may have."""

    ticket: AccessTicket
    naming: Naming
    own_issuers: Collection[str]
    changes: Changes
    clock: Callable[[], datetime]
    generation: int

    def holds(self, study: Study, source: str) -> bool:
        """Tell whether a study that was permitted still is. Cheap: asked for each instance that is sent."""
        if self.generation == self.changes.generation:
            # Nobody has told anything since: only time can have ended it.
            return self.clock() < self.ticket.expires
        return self.decide(study, source).permitted

    def covers(self, identifiers: Collection[PatientIdentifier]) -> frozenset[PatientIdentifier]:
        """Return those of these numbers that may be asked about."""
        return self.ticket.patient.intersection(identifiers)

    def decide(self, study: Study, source: str) -> Decision:
        """Decide about one study; `source` is the hospital that made it. Never raises: the reason says why not."""
        try:
            own = study.identifiers(self.naming)
        except PeerDataError as error:
            return Decision(False, "", str(error))
        if self._number(own, study) is None:
            return Decision(False, "", "the access ticket is another patient's")
        now, facts = self.clock(), study.facts(source)
        if changed := self.changes.overtaken(self.ticket):
            return Decision(False, changed, "the patient has changed this consent, or taken it back")
        denials = self.changes.denials(self.ticket.patient.union(own))
        request = AccessRequest(self.ticket.requester, self.ticket.purpose)
        denied = decide(denials, request, facts, now)
        return denied if denied.consent_id else self.ticket.decide(facts, now)

    def recorded(self, study: Study, decision: Decision) -> dict[str, Detail]:
        """Return what the audit record of a release tells of the permission. `granted_for` is the number by which the
        study is the ticket's patient's: by that the patient is told who received it."""
        try:
            number = self._number(study.identifiers(self.naming), study)
        except PeerDataError:
            number = None
        return {
            "consent": decision.consent_id,
            "ticket": self.ticket.jti,
            "purpose": self.ticket.purpose.value,
            "role": self.ticket.staff.role,
            "granted_for": {"issuer": number.issuer, "value": number.value} if number is not None else None,
        }

    def _number(self, own: Collection[PatientIdentifier], study: Study) -> PatientIdentifier | None:
        return next((one for one in own if one in self.ticket.patient and self._counts(one, study)), None)

    def _counts(self, number: PatientIdentifier, study: Study) -> bool:
        """Tell whether a number says whose a study is. What an object says of other hospitals' numbers, as one from an
        imported disc does, makes nobody its patient; nor does a national number that is another person's."""
        national = self.naming.national
        if national is not None and number.issuer == national.issuer:
            birth_date = study.birth_date if is_date(study.birth_date) else ""
            return national.accepts(number.value, birth_date, study.sex if study.sex in ("M", "F", "O") else "")
        return number.issuer in self.own_issuers


class Permissions:
    """Finds the permission. Every request carries its permission: a ticket that k key servers have signed.

    Args:
        hospital, key: this hospital and its public key, for what it sends itself.
    """

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        naming: Naming,
        region: Callable[[], RegionManifest],
        tickets: Tickets,
        changes: Changes,
        clock: Callable[[], datetime],
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._naming = naming
        self._region = region
        self._tickets = tickets
        self._changes = changes
        self._clock = clock

    def of_request(self, sender: str, ticket: Any, purpose: Purpose) -> Permission:
        """Return what a request of another hospital may have.

        Args:
            sender: the hospital that signed the request, verified.
            ticket: the request's member of that name, as it came.
            purpose: what the request says it is for.

        Raises:
            RefusedError: nothing; the reason is for this hospital's audit log, not for the sender.
        """
        if ticket is None:
            raise RefusedError(NO_TICKET, "the request carries no access ticket")
        key = self._region().hospital_key(sender)
        if key is None:
            raise RefusedError(NO_TICKET, f"{sender} is no hospital of the region")
        return self._verified(ticket, sender, key, purpose)

    def to_send(self, study: Study, recipient: str | None, purpose: Purpose, agent: str) -> Permission:
        """Return what may be sent to another hospital; None is a system that no hospital of the region has.

        Raises:
            RefusedError: nothing, and why.
        """
        if recipient is None:
            raise RefusedError(NO_TICKET, "it is a system of no hospital of the region, so nobody can sign for it")
        try:
            held = self._tickets.get(study.identifiers(self._naming), agent, recipient=recipient)
        except (NoTicketError, PeerDataError) as error:
            raise RefusedError(NO_TICKET, str(error)) from error
        return self._verified(held.signed, recipient, self._key, purpose)

    def _verified(self, signed: Any, recipient: str, key: OKPKey, purpose: Purpose) -> Permission:
        region, now = self._region(), self._clock()
        if region.is_expired(now):
            raise RefusedError(NO_TICKET, f"the region manifest expired at {region.expires:%Y-%m-%d %H:%M} UTC")
        try:
            ticket = verify_ticket(
                signed,
                region.key_server_key,
                threshold=region.threshold,
                region=region.region,
                requester=recipient,
                requester_key=key,
                now=now,
            )
        except PeerDataError as error:
            raise RefusedError(NO_TICKET, str(error)) from error
        if ticket.purpose is not purpose:
            raise RefusedError(NO_TICKET, f"the access ticket is for {ticket.purpose}, the request for {purpose}")
        # Before anything is decided: what is told from now on is another generation.
        here = region.hospitals.get(self._hospital)
        if here is None:
            raise RefusedError(NO_TICKET, "this hospital has left the region")
        return Permission(ticket, self._naming, here.issuers, self._changes, self._clock, self._changes.generation)
