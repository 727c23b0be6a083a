"""The hub's copy of consents, so that it tells nobody more than the patient lets be known; and of enrolments.

It permits nothing: key servers decide. Nothing is written here but what hospitals bring or patients sign, with proofs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, records_refused
from usmed.domain.canonical import canonical_json
from usmed.domain.consent_record import ConsentRecord, ProofKind, check_attested_numbers, follows, read_record
from usmed.domain.contact import Topic
from usmed.domain.enrolment import (
    Credential,
    Enrolment,
    enrolment_event,
    given_enrolment,
    one_person_fault,
    valid_credentials,
)
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hub import charts, consents, enrolments
from usmed.hub.causes import Tell, tell_nobody
from usmed.hub.consents import StoredConsent
from usmed.hub.tables import changing
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

ACTIVE = "active"
WITHDRAWN = "inactive"
CHANGES = 500
"""How many steps of the list of changes one answer takes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that was proved to the hub.

    Attributes:
        record: as it came, `{"document", "proof"}`.
        patient: the number that it is under.
        kind: who proved it.
        version: under which the hub holds the consent now.
        new: the hub did not hold it, nor a withdrawal or a newer one in its place.
    """

    record: dict[str, Any]
    patient: PatientIdentifier
    kind: ProofKind
    version: int
    new: bool


class Registry:
    """The use cases of consents and enrolments.

    Args:
        enrolled: told of every new enrolment, in the transaction that keeps it.
        tell: told of every patient whose consents or passkeys have changed, likewise.
    """

    def __init__(
        self,
        database: Database,
        region: Callable[[], RegionManifest],
        clock: Callable[[], datetime],
        enrolled: Callable[[Connection, Enrolment], None] = lambda _connection, _enrolment: None,
        tell: Tell = tell_nobody,
    ) -> None:
        self._tell = tell
        self._on_enrolled = enrolled
        self._database = database
        self._region = region
        self._clock = clock

    def take(
        self,
        sender: str,
        records: Sequence[Any],
        enrolled: Sequence[Any] = (),
        taken: Callable[[Connection, Kept], None] = lambda _connection, _kept: None,
    ) -> list[str]:
        """Take in consents, withdrawals and enrolments; what is answered is durable.

        Args:
            sender: who brings them, a hospital or the portal: nothing is believed but the proofs.
            records: as `domain.consent_record` has them.
            enrolled: `{"hospital", "token"}` each, as `domain.enrolment` has them.
            taken: told of every record that is proved, in the transaction that keeps it.

        Returns:
            Why some were not taken; empty if all were, or were known. One that is wrong does not hold up others.
        """
        now, problems = self._clock(), []
        for one in enrolled:
            try:
                self._enrol(sender, one, now)
            except PeerDataError as error:
                problems.append(f"enrolment: {error}")
        for document in records:
            try:
                record = read_record(
                    document,
                    keys=self._region().hospital_key,
                    credentials=self._credentials,
                    relying_party=self._region().relying_party,
                    now=now,
                )
                check_attested_numbers(record, self._region().spoken_for)
                with changing(self._database) as connection:
                    new, version = self._take(connection, record, document["document"]["resource"], sender, now)
                    (patient,) = record.consent.patient
                    taken(connection, Kept(document, patient, record.kind, version, new))
                    if new:
                        self._tell(connection, Topic.CONSENT, [patient])
            except PeerDataError as error:
                problems.append(f"consent: {error}")
        if problems:
            with self._database.write() as connection:
                append_in(connection, [records_refused(problems, sender, now)])
        return problems

    def _enrol(self, sender: str, document: Any, now: datetime) -> None:
        region = self._region()
        enrolment, token = given_enrolment(
            document, keys=region.hospital_key, spoken_for=region.spoken_for, now=now
        )
        with changing(self._database) as connection:
            held = [one.enrolment for one in enrolments.of_numbers(connection, enrolment.patient)]
            # With all that it would join, as at key servers: the portal must not show one patient another's consents.
            numbers = enrolment.patient.union(*(one.patient for one in held))
            if fault := one_person_fault(numbers, region.national_number):
                raise PeerDataError(fault)
            if enrolments.save(connection, enrolment, token):
                self._on_enrolled(connection, enrolment)
                if enrolment.credentials or enrolment.revoked:
                    # One of the numbers is enough: all are one person's.
                    self._tell(connection, Topic.PHONE, [min(enrolment.patient)])
                append_in(connection, [enrolment_event(enrolment, sender, now)])

    def _credentials(self, number: PatientIdentifier) -> list[Credential]:
        with self._database.read() as connection:
            held = [one.enrolment for one in enrolments.of_numbers(connection, [number])]
        return valid_credentials(held, self._clock())

    def _take(
        self, connection: Connection, record: ConsentRecord, resource: Any, sender: str, now: datetime
    ) -> tuple[bool, int]:
        """Return whether it is new here, and which version is held then."""
        consent = record.consent
        last = consents.current(connection, consent.id)
        (patient,) = consent.patient
        status = ACTIVE if consent.active else WITHDRAWN
        if last is not None:
            if last.patient != patient:
                raise PeerDataError("this consent's id belongs to a consent of another patient")
            if last.status == WITHDRAWN or (consent.active and consent.version <= last.version):
                # What is held is as new, or newer, or final.
                return False, last.version
            # Who may change it is as at key servers; else the hub would tell more than these let go.
            follows(record, last.to_record())
        version = max(consent.version, last.version + 1 if last else 1)
        one = StoredConsent(
            consent.id, version, status, patient, _text(resource), int(now.timestamp()), record.kind, record.by
        )
        self._save(connection, one)
        append_in(connection, [_event(one, sender, now, "recorded" if consent.active else "withdrawn")])
        return True, version

    def listed(self, patient: PatientIdentifier | None) -> list[StoredConsent]:
        """Return all consents, or those of the person whom a number names."""
        with self._database.read() as connection:
            if patient is None:
                return consents.all_current(connection)
            return consents.of_numbers(connection, self._numbers_of(connection, patient))

    def changes(self, hospital: Hospital, since: int) -> tuple[list[PatientIdentifier], int]:
        """Return the numbers, of those the hospital announced, whose consents may have changed; and the new cursor.

        A cursor lower than `since` says that the hub was restored from a backup: forget everything.
        """
        with self._database.read() as connection:
            return consents.changes_since(connection, since, hospital.id, CHANGES)

    def _save(self, connection: Connection, one: StoredConsent) -> None:
        consents.save(connection, one)
        consents.note_change(connection, self._numbers_of(connection, one.patient))

    def _numbers_of(self, connection: Connection, number: PatientIdentifier) -> set[PatientIdentifier]:
        person = charts.of_number(connection, number)
        return {number, *(each for one in person for each in one.linked)}


def _text(resource: Any) -> str:
    return canonical_json(resource).decode("utf-8")


def _event(one: StoredConsent, by: str, now: datetime, what: str) -> AuditEvent:
    return AuditEvent(
        now,
        AuditEventType.CONSENT,
        by,
        patient=str(one.patient),
        detail={
            "what": what,
            "consent": one.id,
            "version": one.version,
            "proof": one.kind.value,
            "by": one.proved_by,
        },
    )
