"""The consent registry: recording, withdrawing, and telling sources which consents speak about their patient."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Consent
from usmed.domain.consent_record import check_attested_numbers, read_record
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hub import charts, consents
from usmed.hub.consents import StoredConsent
from usmed.hub.index import linking_identifiers
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

    def record(self, documents: Sequence[tuple[str, Any]], by: str, *, dry_run: bool = False) -> list[StoredConsent]:
        """Record consents, all or none of them.

        Args:
            documents: for each, where it comes from (for messages) and the parsed FHIR R4 Consent. One whose `id`
                is known becomes the next version of that consent.
            by: the user who records them.
            dry_run: only check.

        Raises:
            PeerDataError: listing every fault of every document.
        """
        now = self._clock()
        problems: list[str] = []
        recorded: list[StoredConsent] = []
        with changing(self._database) as connection:
            for source, document in documents:
                try:
                    one = self._read(connection, document, now)
                    if any(other.id == one.id for other in recorded):
                        raise PeerDataError(f"$.id: {one.id!r} is there twice")
                except PeerDataError as error:
                    problems.append(f"{source}: {error}")
                    continue
                recorded.append(one)
            if problems:
                raise PeerDataError("\n".join(problems))
            if dry_run:
                return recorded
            for one in recorded:
                self._save(connection, one)
            append_in(connection, [_event(one, by, now, "recorded") for one in recorded])
        return recorded

    def take(self, sender: str, records: Sequence[Any]) -> list[str]:
        """Take in consents that hospitals attest or patients have signed. Where there are key servers these decide; the
        hub needs the consents to tell nobody more than the patient lets be known.

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

    def withdraw(self, consent_id: str, by: str) -> StoredConsent:
        """Withdraw a consent: from now on it says nothing. Withdrawing twice is the same as once.

        Raises:
            PeerDataError: there is no such consent.
        """
        now = self._clock()
        with changing(self._database) as connection:
            last = consents.current(connection, consent_id)
            if last is None:
                raise PeerDataError(f"there is no consent {consent_id!r}")
            if last.status == WITHDRAWN:
                return last
            withdrawn = StoredConsent(
                last.id,
                last.version + 1,
                WITHDRAWN,
                last.patient,
                _text({**last.resource, "status": WITHDRAWN}),
                int(now.timestamp()),
            )
            self._save(connection, withdrawn)
            append_in(connection, [_event(withdrawn, by, now, "withdrawn")])
        return withdrawn

    def listed(self, patient: PatientIdentifier | None) -> list[StoredConsent]:
        """Return all consents, or those of the person whom a number names."""
        with self._database.read() as connection:
            if patient is None:
                return consents.all_current(connection)
            return consents.of_numbers(connection, self._numbers_of(connection, patient))

    def for_source(
        self, hospital: Hospital, numbers: Collection[PatientIdentifier], birth_date: str | None, sex: str | None
    ) -> list[StoredConsent]:
        """Tell a hospital which consents speak about a patient whose studies it has announced.

        Args:
            hospital: the hospital that asks, about a patient of its own.
            numbers: the patient's numbers as the hospital's study names them.
            birth_date, sex: as the study has them; needed only where the hospital's charts contradict each other.

        Returns:
            Nothing unless the hospital has announced studies under these numbers and they are one person's: then
            all consents of that person, the withdrawn too.
        """
        own = linking_identifiers(numbers, hospital, self._region().national_number)
        with self._database.read() as connection:
            claiming = charts.of_hospital(connection, hospital.id, own) if own else []
            persons = {
                one.person
                for one in claiming
                if birth_date in (None, one.chart.birth_date) and sex in (None, one.chart.sex)
            }
            if len(persons) != 1:
                return []
            known = {number for one in charts.of_persons(connection, persons) for number in one.linked}
            return consents.of_numbers(connection, known)

    def changes(self, hospital: Hospital, since: int) -> tuple[list[PatientIdentifier], int]:
        """Return the numbers, of those the hospital announced, whose consents may have changed; and the new cursor.

        A cursor lower than `since` says that the hub was restored from a backup: forget everything.
        """
        with self._database.read() as connection:
            return consents.changes_since(connection, since, hospital.id, CHANGES)

    def _read(self, connection: Connection, document: Any, now: datetime) -> StoredConsent:
        given_id = document.get("id") if isinstance(document, dict) else None
        consent_id = given_id if isinstance(given_id, str) else str(uuid4())
        last = consents.current(connection, consent_id)
        version = last.version + 1 if last else 1
        consent = consent_from_fhir(document, id=consent_id, version=version)
        (patient,) = consent.patient
        problems = [*self._strangers(consent), *self._number_faults(patient)]
        if not consent.active:
            problems.append(f"$.status: {document['status']!r}: only an active consent can be recorded")
        if consent.valid_until is not None and consent.valid_until <= now:
            problems.append("$.provision.period.end: is in the past")
        if last is not None and last.patient != patient:
            problems.append(f"$.patient: consent {consent_id!r} was given under {last.patient}")
        if last is not None and last.status == WITHDRAWN:
            problems.append(f"$.id: consent {consent_id!r} was withdrawn; record the new one under another id")
        if problems:
            raise PeerDataError("; ".join(problems))
        return StoredConsent(consent_id, version, ACTIVE, patient, _text(document), int(now.timestamp()))

    def _strangers(self, consent: Consent) -> Iterable[str]:
        """A misspelt hospital would make a permit useless and, worse, a deny."""
        named = {one for rule in consent.provisions for one in rule.recipients | rule.sources}
        for one in sorted(named - self._region().hospitals.keys()):
            yield f"$.provision.actor: {one!r} is no hospital of the region"

    def _number_faults(self, patient: PatientIdentifier) -> Iterable[str]:
        region = self._region()
        national = region.national_number
        if national is not None and patient.issuer == national.issuer:
            if not national.accepts(patient.value):
                yield "$.patient.identifier.value: is not a valid national number"
        elif region.issuer_owner(patient.issuer) is None:
            yield f"$.patient.identifier.system: no hospital of the region issues {patient.issuer!r}"

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
