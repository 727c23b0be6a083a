"""What a key server does: takes in what is proved to it, and signs tickets that follow from what it holds.

How many it signs for one hospital is bounded; what goes beyond is in `approvals`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from joserfc.jwk import OKPKey

from usmed.domain.approval import Kind
from usmed.domain.audit import AuditEvent, AuditEventType, Detail, Outcome, records_refused
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import ConsentRecord, check_attested_numbers, read_record
from usmed.domain.enrolment import (
    Credential,
    Enrolment,
    enrolment_event,
    given_enrolment,
    one_person_fault,
    valid_credentials,
)
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import sign
from usmed.domain.region import Hospital, RegionManifest
from usmed.domain.ticket import AccessTicket
from usmed.domain.ticket_decision import NOT_ONE_PERSON, grant
from usmed.domain.ticket_wish import TicketWish, parse_wish
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.store import RecordStore, patient_key, person_in
from usmed.platform.audit_log import append_in
from usmed.platform.notices import Notice, Outbox

OVER_RATE = "over-rate"
REGION_EXPIRED = "region-expired"
MAXIMUM_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Rates:
    """How many patients one hospital may ask for before administrators have to agree."""

    per_hour: int = 60
    per_day: int = 400
    emergencies_per_hour: int = 5
    emergencies_per_day: int = 20

    def of(self, purpose: Purpose) -> tuple[int, int]:
        """Return the rates of a purpose, for an hour and for a day."""
        if purpose is Purpose.ETREAT:
            return self.emergencies_per_hour, self.emergencies_per_day
        return self.per_hour, self.per_day


class KeyServer:
    """The use cases of one key server.

    Args:
        id: its id in the region manifest.
        key: its private Ed25519 key.
        approvals: what administrators allow beyond the rates.
        outbox: where the notice of an emergency goes.
    """

    def __init__(
        self,
        *,
        id: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        store: RecordStore,
        clock: Callable[[], datetime],
        rates: Rates,
        approvals: Approvals,
        outbox: Outbox,
    ) -> None:
        self._id = id
        self._key = key
        self._region = region
        self._store = store
        self._clock = clock
        self._rates = rates
        self._approvals = approvals
        self._outbox = outbox

    def take(self, sender: str, records: Sequence[Any], enrolments: Sequence[Any]) -> list[str]:
        """Take in consents, withdrawals and enrolments; what is answered is durable.

        Args:
            sender: who brings them, verified: whom nothing is believed but the proofs.
            records: consent records as JSON.
            enrolments: `{"hospital": …, "token": …}` each.

        Returns:
            Why some were not taken; empty if all were, or were held already. One that is wrong does not hold up others.
        """
        if len(records) > MAXIMUM_RECORDS or len(enrolments) > MAXIMUM_RECORDS:
            raise PeerDataError(f"at most {MAXIMUM_RECORDS} consents and enrolments at once")
        problems: list[str] = []
        adding: list[tuple[Enrolment, str]] = []
        revoking: list[tuple[Enrolment, str]] = []
        region, now = self._region(), self._clock()
        for one in enrolments:
            try:
                enrolment, token = given_enrolment(
                    one, keys=region.hospital_key, spoken_for=region.spoken_for, now=now
                )
                (revoking if enrolment.revoked else adding).append((enrolment, token))
            except PeerDataError as error:
                problems.append(f"enrolment: {error}")
        problems += [f"enrolment: {error}" for _, error in _each(adding, lambda one: self._enrol(sender, *one))]
        refused = _each(records, lambda one: self._take_record(sender, one))
        if revoking:
            # After the records: what a passkey has proved before it was lost stays proved, also on a server that hears
            # of both at once. Whoever would abuse that could as well leave the revocation out.
            problems += [f"enrolment: {error}" for _, error in _each(revoking, lambda one: self._enrol(sender, *one))]
            # It may have brought the passkey that takes the lost one's place.
            refused = _each([one for one, _ in refused], lambda one: self._take_record(sender, one))
        problems += [f"consent: {error}" for _, error in refused]
        if problems:
            with self._store.changing() as connection:
                append_in(connection, [records_refused(problems, sender, now)])
        return problems

    def held(self, patient: Collection[PatientIdentifier]) -> dict[str, Any]:
        """Return what is held about a person, with its proofs, for a requester that lacks some of it."""
        person = self._store.person(patient)
        return {
            "records": [one.document for one in person.records],
            "enrolments": [one.document for one in person.enrolments],
        }

    def sign_ticket(self, sender: Hospital, document: Any) -> dict[str, Any]:
        """Decide about a wish and sign the ticket.

        Returns:
            `{"ticket", "signature"}`: the ticket's document and the element of its `signatures`. The decision is on
            disk in the audit log by then.

        Raises:
            PeerDataError: no wish.
            RefusedError: `no-consent`, `not-one-person`, `denied-by-patient`, `over-rate`, `region-expired` or
                `malformed`.
        """
        wish = parse_wish(document)
        now = self._clock()

        def decide(connection: sa.Connection) -> AccessTicket | RefusedError:
            try:
                ticket = self._grant(connection, wish, sender, now)
                approval, first = self._count(connection, ticket, sender.id, now)
            except RefusedError as error:
                reason = f"{error.code}: {error}"
                append_in(connection, [self._decision(wish, sender.id, now, Outcome.DENIED, reason)])
                return error
            if first and ticket.purpose is Purpose.ETREAT:
                # One notice a patient and hour: the audit log has every ticket.
                self._outbox.put_in(connection, self._emergency(ticket, sender), now)
            reason = f"signed, approved by {approval}" if approval else "signed"
            append_in(connection, [self._decision(ticket, sender.id, now, Outcome.SUCCESS, reason)])
            return ticket

        decided = self._store.together(decide)
        if isinstance(decided, RefusedError):
            raise decided
        signed = decided.to_json()
        return {"ticket": signed, "signature": sign(self._key, signer=self._id, document=signed).to_json()}

    def _count(self, connection: sa.Connection, ticket: AccessTicket, sender: str, now: datetime) -> tuple[str, bool]:
        """Count a patient; return the digest of the approval that was needed, if one was, and whether it is a new one.

        Raises:
            RefusedError: `over-rate`.
        """
        emergency = ticket.purpose is Purpose.ETREAT
        per_hour, per_day = self._rates.of(ticket.purpose)
        this_hour, day = self._store.patients_asked_for(
            connection, sender, ticket.patient, now, emergency=emergency
        )
        if this_hour < per_hour and day < per_day:
            return "", self._store.note_patient(connection, sender, ticket.patient, now, emergency=emergency)
        kind = Kind.EMERGENCIES if emergency else Kind.PATIENTS
        # What was approved is used up by itself and not counted to the rate, which it would fill for later.
        approval, first = self._approvals.use(connection, sender, kind, patient_key(ticket.patient), now)
        if not approval:
            raise RefusedError(
                OVER_RATE,
                f"{sender} has asked for {this_hour} patients{' in emergencies' if emergency else ''} in this hour and"
                f" {day} in a day, of {per_hour} and {per_day}: propose the operation {kind} to every key server"
                " (POST /v1/approvals), have administrators of as many servers as a ticket needs approve it, and ask"
                " again",
            )
        return approval, first

    def _emergency(self, ticket: AccessTicket, sender: Hospital) -> Notice:
        return Notice(
            f"[USMED {self._id}] emergency access by {sender.id}",
            f"{sender.name} ({sender.id}) has used emergency access: no consent of the patient was needed.\n\n"
            f"Time: {ticket.issued:%Y-%m-%d %H:%M:%S} UTC\nTicket: {ticket.jti}\n\n"
            f"Who, for whom and why is in the audit log of this key server, under {AuditEventType.EMERGENCY}.\n",
        )

    def _grant(self, connection: sa.Connection, wish: TicketWish, sender: Hospital, now: datetime) -> AccessTicket:
        region = self._region()
        if region.is_expired(now):
            # Whoever keeps the next manifest away from this server must not gain by it.
            raise RefusedError(
                REGION_EXPIRED,
                f"the region manifest, version {region.version}, expired at {region.expires:%Y-%m-%d %H:%M} UTC: its"
                " administrators have to sign a new one",
            )
        person = person_in(connection, wish.patient)
        if fault := one_person_fault(person.identifiers, region.national_number):
            raise RefusedError(NOT_ONE_PERSON, fault)
        return grant(
            wish,
            region=region.region,
            recipients=region.hospitals.keys(),
            sender=sender.id,
            sender_key=sender.key,
            records=[one.record for one in person.records],
            enrolments=[one.enrolment for one in person.enrolments],
            now=now,
        )

    def _enrol(self, sender: str, enrolment: Enrolment, token: str) -> None:
        now, national = self._clock(), self._region().national_number
        with self._store.changing() as connection:
            # With all that it would join: one hospital must not make one patient of many, under one emergency.
            if fault := one_person_fault(person_in(connection, enrolment.patient).identifiers, national):
                raise PeerDataError(fault)
            if self._store.enrol(connection, enrolment, token, now):
                append_in(connection, [enrolment_event(enrolment, sender, now)])

    def _take_record(self, sender: str, document: Any) -> None:
        now = self._clock()
        record = read_record(
            document,
            keys=self._region().hospital_key,
            credentials=self._credentials,
            relying_party=self._region().relying_party,
            now=now,
        )
        check_attested_numbers(record, self._region().spoken_for)
        with self._store.changing() as connection:
            self._store.take(connection, record, document, now, _taken(record, sender, now))

    def _credentials(self, identifier: PatientIdentifier) -> list[Credential]:
        held = self._store.person([identifier]).enrolments
        return valid_credentials([one.enrolment for one in held], self._clock())

    def _decision(
        self, asked: AccessTicket | TicketWish, sender: str, now: datetime, outcome: Outcome, reason: str
    ) -> AuditEvent:
        emergency = asked.purpose is Purpose.ETREAT
        more: dict[str, Detail] = {}
        if asked.confirmed_by is not None:
            more = {"confirmed_by": asked.confirmed_by.id, "why": asked.reason}
        if isinstance(asked, AccessTicket):
            more |= {
                "consents": [one.id for one in asked.consents],
                "ticket_sha256": sha256_hex(canonical_json(asked.to_json())),
            }
        return AuditEvent(
            now,
            AuditEventType.EMERGENCY if emergency else AuditEventType.DECISION,
            sender,
            patient=str(min(asked.patient)),
            outcome=outcome,
            reason=reason,
            detail={
                "jti": asked.jti,
                "purpose": asked.purpose.value,
                "staff": asked.staff.id,
                "role": asked.staff.role,
                **more,
            },
        )


def _each[T](items: Iterable[T], take: Callable[[T], None]) -> list[tuple[T, PeerDataError]]:
    """Take each; return those that were not taken, and why."""
    refused = []
    for one in items:
        try:
            take(one)
        except PeerDataError as error:
            refused.append((one, error))
    return refused


def _taken(record: ConsentRecord, sender: str, now: datetime) -> AuditEvent:
    consent = record.consent
    return AuditEvent(
        now,
        AuditEventType.CONSENT,
        sender,
        patient=str(min(consent.patient)),
        detail={
            "what": "recorded" if consent.active else "withdrawn",
            "consent": consent.id,
            "version": consent.version,
            "proof": record.kind.value,
            "by": record.by,
            "sha256": record.digest,
        },
    )
