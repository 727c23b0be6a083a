"""On what a source decides: on the ticket that a request carries, verified here, or in a region without key servers on
the hub's registry.

Nobody is asked about a ticket. What this hospital has been told since it was signed, a withdrawal or a denial, counts.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from joserfc.jwk import OKPKey

from usmed.domain.consent import AccessRequest, Decision, Purpose, decide
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import AccessTicket, verify_ticket
from usmed.hospital.archive import Study
from usmed.hospital.changes import Changes
from usmed.hospital.consents import Consents, ConsentUnknownError
from usmed.hospital.tickets import NoTicketError, Tickets

NO_TICKET = "no-ticket"


class Permission(Protocol):
    """What one request, or one sending, may have."""

    @property
    def ticket_id(self) -> str:
        """Return the ticket's `jti`; empty without one."""
        ...

    def holds(self, study: Study, source: str) -> bool:
        """Tell whether a study that was permitted still is. Cheap: asked for each instance that is sent."""
        ...

    def covers(self, identifiers: Collection[PatientIdentifier]) -> frozenset[PatientIdentifier]:
        """Return those of these numbers that may be asked about."""
        ...

    def decide(self, study: Study, source: str) -> Decision:
        """Decide about one study; `source` is the hospital that made it. Never raises: the reason says why not."""
        ...


class Permissions(Protocol):
    """Finds the permission."""

    def of_request(self, sender: str, ticket: Any, purpose: Purpose) -> Permission:
        """Return what a request of another hospital may have.

        Args:
            sender: the hospital that signed the request, verified.
            ticket: the request's member of that name, as it came.
            purpose: what the request says it is for.

        Raises:
            RefusedError: nothing; the reason is for this hospital's audit log, not for the sender.
        """
        ...

    def to_send(self, study: Study, recipient: str | None, purpose: Purpose, agent: str) -> Permission:
        """Return what may be sent to another hospital; None is a system that no hospital of the region has.

        Raises:
            RefusedError: nothing, and why.
        """
        ...


# ---- With key servers ----


@dataclass(frozen=True, slots=True)
class _TicketPermission:
    ticket: AccessTicket
    naming: Naming
    changes: Changes
    clock: Callable[[], datetime]
    generation: int

    @property
    def ticket_id(self) -> str:
        return self.ticket.jti

    def holds(self, study: Study, source: str) -> bool:
        if self.generation == self.changes.generation:
            # Nobody has told anything since: only time can have ended it.
            return self.clock() < self.ticket.expires
        return self.decide(study, source).permitted

    def covers(self, identifiers: Collection[PatientIdentifier]) -> frozenset[PatientIdentifier]:
        return self.ticket.patient.intersection(identifiers)

    def decide(self, study: Study, source: str) -> Decision:
        try:
            own = study.identifiers(self.naming)
        except PeerDataError as error:
            return Decision(False, "", str(error))
        if not self.ticket.patient.intersection(own):
            return Decision(False, "", "the access ticket is another patient's")
        now, facts = self.clock(), study.facts(source)
        if changed := self.changes.overtaken(self.ticket):
            return Decision(False, changed, "the patient has changed this consent, or taken it back")
        denials = self.changes.denials(self.ticket.patient.union(own))
        request = AccessRequest(self.ticket.requester, self.ticket.purpose)
        denied = decide(denials, request, facts, now)
        return denied if denied.consent_id else self.ticket.decide(facts, now)


class TicketPermissions:
    """Every request carries its permission: a ticket that k key servers have signed.

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
        """See `Permissions.of_request`."""
        if ticket is None:
            raise RefusedError(NO_TICKET, "the request carries no access ticket")
        key = self._region().hospital_key(sender)
        if key is None:
            raise RefusedError(NO_TICKET, f"{sender} is no hospital of the region")
        return self._verified(ticket, sender, key, purpose)

    def to_send(self, study: Study, recipient: str | None, purpose: Purpose, agent: str) -> Permission:
        """See `Permissions.to_send`."""
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
        return _TicketPermission(ticket, self._naming, self._changes, self._clock, self._changes.generation)


# ---- Without ----


@dataclass(frozen=True, slots=True)
class _RegistryPermission:
    consents: Consents
    request: AccessRequest
    naming: Naming
    clock: Callable[[], datetime]

    @property
    def ticket_id(self) -> str:
        return ""

    def holds(self, study: Study, source: str) -> bool:
        # The next request is decided anew; there is nothing here that would tell of a change meanwhile.
        return True

    def covers(self, identifiers: Collection[PatientIdentifier]) -> frozenset[PatientIdentifier]:
        return frozenset(identifiers)

    def decide(self, study: Study, source: str) -> Decision:
        try:
            consents = self.consents.of(study.identifier(self.naming))
        except (PeerDataError, ConsentUnknownError) as error:
            return Decision(False, "", str(error))
        return decide(consents, self.request, study.facts(source), self.clock())


class RegistryPermissions:
    """A region without key servers: what the hub's registry says of the study's patient."""

    def __init__(self, consents: Consents, naming: Naming, clock: Callable[[], datetime]) -> None:
        self._consents = consents
        self._naming = naming
        self._clock = clock

    def of_request(self, sender: str, ticket: Any, purpose: Purpose) -> Permission:
        """See `Permissions.of_request`."""
        if ticket is not None:
            raise PeerDataError("ticket: must be null, this region has no key servers")
        return _RegistryPermission(self._consents, AccessRequest(sender, purpose), self._naming, self._clock)

    def to_send(self, study: Study, recipient: str | None, purpose: Purpose, agent: str) -> Permission:
        """See `Permissions.to_send`."""
        return _RegistryPermission(self._consents, AccessRequest(recipient, purpose), self._naming, self._clock)


@dataclass(frozen=True, slots=True)
class CurrentPermissions:
    """The one or the other, as the region manifest is now."""

    region: Callable[[], RegionManifest]
    tickets: TicketPermissions
    registry: RegistryPermissions

    def of_request(self, sender: str, ticket: Any, purpose: Purpose) -> Permission:
        """See `Permissions.of_request`."""
        return self._current().of_request(sender, ticket, purpose)

    def to_send(self, study: Study, recipient: str | None, purpose: Purpose, agent: str) -> Permission:
        """See `Permissions.to_send`."""
        return self._current().to_send(study, recipient, purpose, agent)

    def _current(self) -> Permissions:
        return self.tickets if self.region().key_servers else self.registry
