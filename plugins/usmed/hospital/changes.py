"""What this hospital was told of patients' will since tickets were signed: consents taken back or changed, and denials.

It only ever takes away: nothing that is told here permits anything. It is kept for good, as a denial may hold for ever.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.consent import Consent, ProvisionType
from usmed.domain.consent_record import ConsentRecord, check_attested_numbers, follows, read_record
from usmed.domain.enrolment import Credential, Enrolment, given_enrolment, linked, valid_credentials
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import AccessTicket
from usmed.domain.withdrawal import overtaken
from usmed.hospital.store import ToldStore
from usmed.platform.audit_log import AuditLog

MAXIMUM_RECORDS = 100


class Changes:
    """The use case of being told.

    Args:
        changed: told the numbers of the patients whose consents are others now.

    Attributes:
        generation: another number after each change, so that what was decided before can be told from what was after.
    """

    def __init__(
        self,
        *,
        region: Callable[[], RegionManifest],
        store: ToldStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        changed: Callable[[Collection[PatientIdentifier]], None],
    ) -> None:
        self._region = region
        self._store = store
        self._audit = audit
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        # Readers need no lock: whatever is in these is replaced, never altered.
        self._records: dict[str, ConsentRecord] = {}
        self._denials: dict[PatientIdentifier, dict[str, Consent]] = {}
        self.generation = 0
        for record in store.all():
            self._keep(record)

    def told(self, sender: str, records: Any, enrolments: Any) -> list[str]:
        """Take in what another member of the region tells; what is answered is durable.

        Returns:
            Why some were not taken; empty if all were, or were known.

        Raises:
            PeerDataError: malformed as a whole.
            StorageError: nothing is durable; ask again.
        """
        if not isinstance(records, list) or not isinstance(enrolments, list):
            raise PeerDataError("records, enrolments: must be lists")
        if len(records) > MAXIMUM_RECORDS or len(enrolments) > MAXIMUM_RECORDS:
            raise PeerDataError(f"at most {MAXIMUM_RECORDS} records and enrolments at once")
        now, problems = self._clock(), []
        known = [one for one in map(self._enrolment, enrolments) if one is not None]

        def credentials(identifier: PatientIdentifier) -> list[Credential]:
            numbers = linked(identifier, known)
            return valid_credentials([one for one in known if one.patient <= numbers], now)

        taken: set[PatientIdentifier] = set()
        for document in records:
            try:
                record = read_record(
                    document,
                    keys=self._region().hospital_key,
                    credentials=credentials,
                    relying_party=self._region().relying_party,
                    now=now,
                )
                check_attested_numbers(record, self._region().spoken_for)
                own = record.consent.patient
                numbers = own.union(*(one.patient for one in known if one.patient & own))
                if self._take(sender, record, document["document"], numbers, now):
                    taken |= numbers
            except PeerDataError as error:
                problems.append(str(error))
        if taken:
            self._changed(taken)
        return problems

    def overtaken(self, ticket: AccessTicket) -> str:
        """Return the id of a consent that changed after this ticket was signed on it; empty if none has."""
        if not self._records:
            return ""
        return overtaken(ticket, self._records)

    def unheeded(self, ticket: AccessTicket) -> frozenset[str]:
        """Return the ids of what was told here and does not stand in this ticket: overtaken consents, and denials."""
        known = {one.id for one in ticket.consents}
        denied = {one.id for one in self.denials(ticket.patient) if one.id not in known}
        changed = self.overtaken(ticket)
        return frozenset(denied | {changed}) if changed else frozenset(denied)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let nothing be told meanwhile; whatever was told before is known."""
        with self._lock:
            yield

    def denials(self, patient: Collection[PatientIdentifier]) -> list[Consent]:
        """Return what was told that denies something of this patient."""
        if not self._denials:
            return []
        found: dict[str, Consent] = {}
        for one in patient:
            found |= self._denials.get(one, {})
        return list(found.values())

    def _take(
        self,
        sender: str,
        record: ConsentRecord,
        document: Any,
        numbers: frozenset[PatientIdentifier],
        now: datetime,
    ) -> bool:
        with self._lock:
            if not follows(record, self._records.get(record.consent.id)):
                return False
            self._store.save(record, document, numbers, now)
            self._audit.append(
                AuditEvent(
                    now,
                    AuditEventType.CONSENT,
                    sender,
                    patient=str(min(record.consent.patient)),
                    detail={
                        "what": "told of a change" if record.consent.active else "told of a withdrawal",
                        "consent": record.consent.id,
                        "version": record.consent.version,
                        "by": record.by,
                    },
                )
            ).wait()
            self._keep(record)
            return True

    def _keep(self, record: ConsentRecord) -> None:
        consent = record.consent
        self._records[consent.id] = record
        rules = tuple(one for one in consent.provisions if one.type is ProvisionType.DENY)
        for number in consent.patient:
            held = {id: one for id, one in self._denials.get(number, {}).items() if id != consent.id}
            if consent.active and rules:
                held[consent.id] = replace(consent, provisions=rules)
            if held:
                self._denials[number] = held
            else:
                self._denials.pop(number, None)
        self.generation += 1

    def _enrolment(self, document: Any) -> Enrolment | None:
        region = self._region()
        try:
            return given_enrolment(
                document, keys=region.hospital_key, spoken_for=region.spoken_for, now=self._clock()
            )[0]
        except PeerDataError:
            # Without it the record that needs it is not accepted, and says so.
            return None
