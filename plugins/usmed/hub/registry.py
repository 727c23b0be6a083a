"""The hub's copy of consents, so that it tells nobody more than the patient lets be known.

It permits nothing: key servers decide. Nothing is written here but what hospitals bring, with its proofs.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Consent
from usmed.domain.consent_record import check_attested_numbers, read_record
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hub import charts, consents
from usmed.hub.consents import StoredConsent
from usmed.hub.tables import changing
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

ACTIVE = "active"
WITHDRAWN = "inactive"
CHANGES = 500
"""How many steps of the list of changes one answer takes."""


class Registry:
    """The use cases of consents."""

    def __init__(self, database: Database, region: Callable[[], RegionManifest], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._region = region
        self._clock = clock

    def take(self, sender: str, records: Sequence[Any]) -> list[str]:
        """Take in consents and withdrawals that hospitals attest.

        Args:
            sender: the hospital that brings them: nothing is believed but the proofs.
            records: as `domain.consent_record` has them.

        Returns:
            Why some were not taken; empty if all were, or were known. One that is wrong does not hold up others.
        """
        now, problems = self._clock(), []
        for document in records:
            try:
                record = read_record(
                    document, keys=self._region().hospital_key, credentials=lambda _: (), relying_party=None, now=now
                )
                check_attested_numbers(record, self._region().spoken_for)
                with changing(self._database) as connection:
                    self._take(connection, record.consent, document["document"]["resource"], sender, now)
            except PeerDataError as error:
                problems.append(str(error))
        return problems

    def _take(self, connection: Connection, consent: Consent, resource: Any, sender: str, now: datetime) -> None:
        last = consents.current(connection, consent.id)
        (patient,) = consent.patient
        status = ACTIVE if consent.active else WITHDRAWN
        if last is not None:
            if last.patient != patient:
                raise PeerDataError("this consent's id belongs to a consent of another patient")
            if last.status == WITHDRAWN or (consent.active and consent.version <= last.version):
                # What is held is as new, or newer, or final.
                return
        version = max(consent.version, last.version + 1 if last else 1)
        one = StoredConsent(consent.id, version, status, patient, _text(resource), int(now.timestamp()))
        self._save(connection, one)
        append_in(connection, [_event(one, sender, now, "recorded" if consent.active else "withdrawn")])

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
        person = charts.of_persons(connection, charts.person_named(number))
        return {number, *(each for one in person for each in one.linked)}


def _text(resource: Any) -> str:
    return canonical_json(resource).decode("utf-8")


def _event(one: StoredConsent, by: str, now: datetime, what: str) -> AuditEvent:
    return AuditEvent(
        now,
        AuditEventType.CONSENT,
        by,
        patient=str(one.patient),
        detail={"what": what, "consent": one.id, "version": one.version},
    )
