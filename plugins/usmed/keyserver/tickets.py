"""What a key server does: takes in what is proved to it, and signs tickets that follow from what it holds."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.consent_record import (
    ConsentRecord,
    Credential,
    Enrolment,
    RelyingParty,
    read_enrolment,
    read_record,
)
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import sign
from usmed.domain.region import HUB, Hospital, RegionManifest
from usmed.domain.ticket import AccessTicket, parse_ticket
from usmed.domain.ticket_decision import judge
from usmed.keyserver.store import HeldEnrolment, RecordStore
from usmed.platform.audit_log import AuditLog, append_in

OVER_RATE = "over-rate"
MAXIMUM_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Rates:
    """How many patients one hospital may ask for before administrators have to agree."""

    per_hour: int = 60
    per_day: int = 400


class KeyServer:
    """The use cases of one key server.

    Args:
        id: its id in the region manifest.
        key: its private Ed25519 key.
        relying_party: the portal where patients sign; None where there is none.
    """

    def __init__(
        self,
        *,
        id: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        store: RecordStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        rates: Rates,
        relying_party: RelyingParty | None,
    ) -> None:
        self._id = id
        self._key = key
        self._region = region
        self._store = store
        self._audit = audit
        self._clock = clock
        self._rates = rates
        self._relying_party = relying_party

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
        problems = []
        for one in enrolments:
            try:
                self._take_enrolment(sender, one)
            except PeerDataError as error:
                problems.append(f"enrolment: {error}")
        for one in records:
            try:
                self._take_record(sender, one)
            except PeerDataError as error:
                problems.append(f"consent: {error}")
        return problems

    def held(self, patient: Collection[PatientIdentifier]) -> dict[str, Any]:
        """Return what is held about a person, with its proofs, for a requester that lacks some of it."""
        enrolments, names = self._linked(patient)
        return {
            "records": [one.document for one in self._store.records_of(names)],
            "enrolments": [one.document for one in enrolments],
        }

    def sign_ticket(self, sender: Hospital, document: Any) -> dict[str, str]:
        """Sign a proposed ticket.

        Returns:
            The element of the ticket's `signatures`. The decision is on disk in the audit log by then.

        Raises:
            PeerDataError: no ticket.
            RefusedError: `no-consent`, `not-one-person`, `differs`, `over-rate` or `malformed`.
        """
        ticket = parse_ticket(document)
        now = self._clock()
        try:
            self._judge(ticket, sender, now)
            with self._store.changing() as connection:
                this_hour, day = self._store.patients_asked_for(connection, sender.id, ticket.patient, now)
                if this_hour >= self._rates.per_hour or day >= self._rates.per_day:
                    raise RefusedError(
                        OVER_RATE,
                        f"{sender.id} has asked for {this_hour} patients in this hour and {day} in a day:"
                        " administrators have to agree to more",
                    )
                self._store.note_patient(connection, sender.id, ticket.patient, now)
                append_in(connection, [self._decision(ticket, sender.id, now, Outcome.SUCCESS, "signed")])
        except RefusedError as error:
            self._audit.append(self._decision(ticket, sender.id, now, Outcome.DENIED, f"{error.code}: {error}")).wait()
            raise
        return sign(self._key, signer=self._id, document=ticket.to_json()).to_json()

    def _judge(self, ticket: AccessTicket, sender: Hospital, now: datetime) -> None:
        enrolments, names = self._linked(ticket.patient)
        judge(
            ticket,
            region=self._region().region,
            recipients=self._region().hospitals.keys(),
            sender_key=sender.key,
            records=[one.record for one in self._store.records_of(names)],
            enrolments=[one.enrolment for one in enrolments],
            now=now,
        )

    def _linked(
        self, patient: Collection[PatientIdentifier]
    ) -> tuple[list[HeldEnrolment], frozenset[PatientIdentifier]]:
        enrolments = self._store.enrolments_of(patient)
        return enrolments, frozenset(patient).union(*(one.enrolment.patient for one in enrolments))

    def _take_enrolment(self, sender: str, document: Any) -> None:
        if not isinstance(document, dict) or set(document) != {"hospital", "token"}:
            raise PeerDataError("has exactly the members hospital and token")
        hospital, token, now = document["hospital"], document["token"], self._clock()
        if not isinstance(hospital, str) or not isinstance(token, str):
            raise PeerDataError("its members are text")
        enrolment = read_enrolment(token, hospital=hospital, keys=self._hospital_key, now=now)
        self._check_issuers(enrolment)
        with self._store.changing() as connection:
            if self._store.enrol(connection, enrolment, token, now):
                append_in(connection, [_enrolled(enrolment, sender, now)])

    def _check_issuers(self, enrolment: Enrolment) -> None:
        """A hospital speaks for its own numbers and, having seen a document, for the national one; not for others'."""
        region = self._region()
        national = region.national_number
        own = {*region.hospitals[enrolment.hospital].issuers, *([national.issuer] if national else [])}
        if foreign := sorted({one.issuer for one in enrolment.patient} - own):
            raise PeerDataError(f"{enrolment.hospital} does not assign numbers of {', '.join(foreign)}")

    def _take_record(self, sender: str, document: Any) -> None:
        now = self._clock()
        record = read_record(
            document,
            keys=self._hospital_key,
            credentials=self._credentials,
            relying_party=self._relying_party,
            now=now,
        )
        with self._store.changing() as connection:
            self._store.take(connection, record, document, now, _taken(record, sender, now))

    def _credentials(self, identifier: PatientIdentifier) -> list[Credential]:
        held = self._store.enrolments_of([identifier])
        return [credential for one in held for credential in one.enrolment.credentials]

    def _hospital_key(self, member_id: str) -> OKPKey | None:
        """Return a hospital's key; None for the hub and the key servers, whose word proves no consent."""
        hospital = self._region().hospitals.get(member_id) if member_id != HUB else None
        return hospital.key if hospital else None

    def _decision(
        self, ticket: AccessTicket, sender: str, now: datetime, outcome: Outcome, reason: str
    ) -> AuditEvent:
        return AuditEvent(
            now,
            AuditEventType.DECISION,
            sender,
            patient=str(min(ticket.patient)),
            outcome=outcome,
            reason=reason,
            detail={
                "jti": ticket.jti,
                "purpose": ticket.purpose.value,
                "staff": ticket.staff.id,
                "role": ticket.staff.role,
                "consents": [one.id for one in ticket.consents],
                "ticket_sha256": sha256_hex(canonical_json(ticket.to_json())),
            },
        )


def _enrolled(enrolment: Enrolment, sender: str, now: datetime) -> AuditEvent:
    return AuditEvent(
        now,
        AuditEventType.IDENTITY,
        sender,
        patient=str(min(enrolment.patient)),
        detail={"what": "enrolled", "by": enrolment.hospital, "passkeys": len(enrolment.credentials)},
    )


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

