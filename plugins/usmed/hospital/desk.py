"""The desk: what two members of staff attest. A consent on paper or its withdrawal, and which numbers are one person's.

One writes it down, with the scan of the paper; another one reads it, and confirms exactly that or refuses it. From then
on it is on its way to all key servers, to the hub, and, if it takes something back, to all hospitals; what could not be
told is told again until it is (`platform/deliveries.py`).
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.consent import Consent
from usmed.domain.consent_record import attest, consent_document, read_record
from usmed.domain.enrolment import ENROLMENT_TYPE, enrol
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.fhir_consent import consent_from_fhir, prepare
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.paper import Change, State, attachment, may, reason_given, scan_digest
from usmed.domain.region import RegionManifest
from usmed.domain.study_record import parse_identifier
from usmed.domain.withdrawal import Progress
from usmed.hospital.desk_store import DeskStore, Draft
from usmed.hospital.scans import Scan, look_into
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import Delivery, Item

MOST_WAITING = 300
"""With their scans they take 3 GB at most."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the desk shows under an id: the newest attested version, how far it has come, and what was written last.

    Attributes:
        draft: what waits for the second member of staff.
        ended: what was refused, cancelled or too old, where that was the last.
    """

    attested: Delivery | None
    progress: Progress | None
    draft: Draft | None
    ended: Draft | None = None


class Desk:
    """The use cases of members of staff."""

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        store: DeskStore,
        deliveries: Deliveries,
        audit: AuditLog,
        clock: Callable[[], datetime],
        look: Callable[[bytes], Scan] = look_into,
    ) -> None:
        self._look = look
        self._hospital = hospital
        self._key = key
        self._region = region
        self._store = store
        self._deliveries = deliveries
        self._audit = audit
        self._clock = clock

    def write(self, resource: Any, staff: str) -> Draft:
        """Write a consent on paper down.

        Args:
            resource: a FHIR R4 Consent.
            staff: who does it.

        Raises:
            PeerDataError: it is not a consent that can be attested here; the message says what is wrong.
        """
        if isinstance(resource, dict) and "sourceAttachment" in resource:
            raise PeerDataError("$.sourceAttachment: the scan is added here, once the consent is written down")
        return self._draft(consent_document(resource, id=str(uuid4()), version=1), staff)

    def write_scanned(self, resource: Any, content: bytes, staff: str) -> Draft:
        """Write a consent on paper down with its scan, both or neither.

        Raises:
            PeerDataError: it is not a consent that can be attested here, or the file is no scan.
            RefusedError: this node cannot read PDF files.
        """
        scan = self._look(content)
        named = {**resource, "sourceAttachment": attachment(content, scan.pages)}
        return self._draft(consent_document(named, id=str(uuid4()), version=1), staff, content)

    def says(self, document: dict[str, Any]) -> Consent:
        """Return what a consent that was written down says.

        Raises:
            PeerDataError: it is none.
        """
        self._prepare()
        if "resource" not in document:
            raise PeerDataError("these are numbers, and no consent")
        return consent_from_fhir(document["resource"], id=document["id"], version=document["version"])

    def write_numbers(self, patient: Any, staff: str) -> Draft:
        """Write down that numbers are one person's, as the hospital's records and an identity document show.

        Args:
            patient: a list of `{"issuer", "value"}`: this hospital's numbers, and the national one.
            staff: who does it.

        Raises:
            PeerDataError: they are not numbers that this hospital can join; the message says what is wrong.
        """
        if not isinstance(patient, list):
            raise PeerDataError("the numbers must be a list of identifiers")
        numbers = sorted({parse_identifier(one) for one in patient})
        listed = [{"issuer": one.issuer, "value": one.value} for one in numbers]
        return self._draft({"typ": ENROLMENT_TYPE, "id": str(uuid4()), "version": 1, "patient": listed}, staff)

    def write_withdrawal(self, consent_id: str, staff: str) -> Draft:
        """Write down that a patient takes a consent back that was attested here.

        Raises:
            PeerDataError: there is no such consent, or it was taken back already.
        """
        last = self._deliveries.latest(consent_id)
        resource = last.item.resource if last is not None else None
        if last is None or resource is None:
            raise PeerDataError(f"no consent {consent_id[:64]!r} was attested at this hospital")
        if resource["status"] != "active":
            raise PeerDataError("this consent was taken back already")
        taken_back = {**resource, "status": "inactive"}
        return self._draft(consent_document(taken_back, id=consent_id, version=last.item.version + 1), staff)

    def confirm(self, id: str, digest: str, staff: str) -> Entry:
        """Confirm a draft as the second member of staff, and send it to everybody.

        Args:
            id: the draft's.
            digest: of the draft that was read, so that nobody exchanges it meanwhile.
            staff: who confirms.

        Returns:
            How far it has come after a first round of deliveries.

        Raises:
            PeerDataError: there is no such draft, or it was changed meanwhile, or is too old.
            RefusedError: the same person wrote it.
        """
        now = self._clock()
        draft = self._waiting(id, Change.ATTEST, staff)
        if draft.digest != digest:
            raise PeerDataError("what waits to be confirmed is not what was read: read it again")
        signed = self._signed(draft.document, [draft.staff, staff], now)
        add = lambda connection: self._deliveries.add(connection, signed)  # noqa: E731
        if not self._store.end(draft, Change.ATTEST, staff, "", now, add):
            raise _changed()
        self._audit.append(
            AuditEvent(
                now,
                AuditEventType.CONSENT,
                f"{draft.staff}, {staff}",
                patient=_patient(draft.document),
                detail={"what": _what(signed), "consent": signed.id, "version": signed.version, "sha256": digest},
            )
        ).wait()
        self._deliveries.deliver(signed)
        return self.entry(id)

    def add_scan(self, id: str, content: bytes, staff: str) -> Draft:
        """Add the scan of the paper to a consent that waits; one that was added before is gone.

        Args:
            id: the draft's.
            content: the PDF.
            staff: who does it: whoever wrote it down.

        Raises:
            PeerDataError: there is no such draft, it is no consent, or the file is no scan; nothing was changed.
            RefusedError: another one wrote it; this node cannot read PDF files.
        """
        draft, now = self._waiting(id, Change.SCAN, staff), self._clock()
        if draft.document["typ"] == ENROLMENT_TYPE or draft.document["version"] != 1:
            raise PeerDataError("a scan belongs to a consent on paper, and to nothing else that is written down here")
        try:
            scan = self._look(content)
        except (PeerDataError, RefusedError) as error:
            self._refused(draft, "scan", str(error), staff)
            raise
        resource = {**draft.document["resource"], "sourceAttachment": attachment(content, scan.pages)}
        document = {**draft.document, "resource": resource}
        self._signed(document, [staff, f"not {staff}"[:64]], now)
        changed = Draft(document, sha256_hex(canonical_json(document)), draft.staff, draft.created)
        if not self._store.save_scan(draft, changed, content):
            raise _changed()
        self._note(draft, "scan added", staff, scan=changed.scan)
        return changed

    def scan(self, id: str, staff: str) -> bytes:
        """Return the scan of what waits, or else of what was attested, under an id; that it was read is written down.

        Raises:
            PeerDataError: there is none.
        """
        entry = self.entry(id)
        resource = entry.draft.document.get("resource") if entry.draft else None
        if resource is None and entry.attested is not None:
            resource = entry.attested.item.resource
        digest = scan_digest(resource or {})
        content = self._store.scan(id, digest) if digest else None
        if content is None:
            raise PeerDataError(f"there is no scan of {id[:64]!r} here")
        event = AuditEvent(
            self._clock(), AuditEventType.CONSENT, staff, detail={"what": "scan read", "consent": id, "scan": digest}
        )
        self._audit.append(event).wait()
        return content

    def refuse(self, id: str, reason: str, staff: str) -> None:
        """Refuse what another member of staff wrote down; its scan is deleted.

        Raises:
            PeerDataError: there is no such draft; no reason is given.
            RefusedError: the same person wrote it.
        """
        draft, why = self._waiting(id, Change.REFUSE, staff), reason_given(reason)
        if not self._store.end(draft, Change.REFUSE, staff, why, self._clock()):
            raise _changed()
        self._refused(draft, "refused by the second", why, staff)

    def cancel(self, id: str, staff: str) -> None:
        """Take away what one wrote down oneself; its scan is deleted.

        Raises:
            PeerDataError: there is no such draft.
            RefusedError: another one wrote it, who may refuse it.
        """
        draft = self._waiting(id, Change.CANCEL, staff)
        if not self._store.end(draft, Change.CANCEL, staff, "", self._clock()):
            raise _changed()
        self._note(draft, "cancelled", staff)

    def _waiting(self, id: str, change: Change, staff: str) -> Draft:
        """Return a draft to which a member of staff may do something.

        Raises:
            PeerDataError: there is none that waits.
            RefusedError: it takes another person.
        """
        self._expire()
        draft = self._store.draft(id)
        if draft is None or draft.state is not State.WAITING:
            raise PeerDataError("nothing of this id waits to be confirmed")
        if not may(change, draft.staff, staff):
            first = change in (Change.SCAN, Change.CANCEL)
            refusal = RefusedError("first-person", "only who wrote it down does this; another one can refuse it")
            if not first:
                refusal = RefusedError(
                    "second-person", "another member of staff than the one who wrote it has to confirm or refuse it"
                )
            self._refused(draft, refusal.code, str(refusal), staff)
            raise refusal
        return draft

    def _expire(self) -> None:
        for one in self._store.expire(self._clock()):
            self._note(one, "expired", self._hospital)

    def _note(self, draft: Draft, what: str, staff: str, **detail: str) -> None:
        event = AuditEvent(
            self._clock(), AuditEventType.CONSENT, staff, patient=_patient(draft.document),
            detail={"what": what, "consent": draft.id, **detail},
        )  # fmt: skip
        self._audit.append(event).wait()

    def _refused(self, draft: Draft, what: str, reason: str, staff: str) -> None:
        event = AuditEvent(
            self._clock(), AuditEventType.CONSENT, staff, patient=_patient(draft.document), outcome=Outcome.DENIED,
            reason=reason, detail={"what": what, "consent": draft.id},
        )  # fmt: skip
        self._audit.append(event).wait()

    def entry(self, id: str) -> Entry:
        """Return what is known here under an id.

        Raises:
            PeerDataError: nothing.
        """
        self._expire()
        draft, last = self._store.draft(id), self._deliveries.latest(id)
        if draft is None and last is None:
            raise PeerDataError(f"no consent {id[:64]!r} was written down at this hospital")
        progress = self._deliveries.progress(last) if last is not None else None
        waits = draft is not None and draft.state is State.WAITING
        over = draft is not None and draft.state in (State.REFUSED, State.CANCELLED, State.EXPIRED)
        return Entry(last, progress, draft if waits else None, draft if over else None)

    def drafts(self) -> list[Draft]:
        """Return what waits for a second member of staff."""
        self._expire()
        return self._store.drafts()

    def _draft(self, document: dict[str, Any], staff: str, scan: bytes = b"") -> Draft:
        if not staff.strip():
            raise PeerDataError("it is not known who writes this down: log-ins have to be on")
        now = self._clock()
        if len(self.drafts()) >= MOST_WAITING:
            raise PeerDataError(f"{MOST_WAITING} wait for a second member of staff: confirm or refuse them first")
        # Checked as it will be, so that the second of the two cannot be the one to learn of a fault.
        self._signed(document, [staff, f"not {staff}"[:64]], now)
        draft = Draft(document, sha256_hex(canonical_json(document)), staff, now)
        self._store.save_draft(draft, scan)
        return draft

    def _signed(self, document: dict[str, Any], staff: list[str], now: datetime) -> Item:
        numbers = document["typ"] == ENROLMENT_TYPE
        record = self._enrolment(document, now) if numbers else self._attested(document, staff, now)
        return Item(document["id"], document["version"], record)

    def _enrolment(self, document: dict[str, Any], now: datetime) -> dict[str, Any]:
        numbers = [parse_identifier(one) for one in document["patient"]]
        problems = list(self._faults(numbers))
        national = self._region().national_number
        if len(numbers) < 2:
            problems.append("there must be two numbers or more to join")
        if national is not None and len([one for one in numbers if one.issuer == national.issuer]) > 1:
            problems.append("one person has one national number")
        if problems:
            raise PeerDataError("; ".join(problems))
        token = enrol(self._key, hospital=self._hospital, patient=numbers, credentials=(), now=now)
        return {"hospital": self._hospital, "token": token}

    def _attested(self, document: dict[str, Any], staff: list[str], now: datetime) -> dict[str, Any]:
        self._prepare()
        record = {
            "document": document,
            "proof": attest(self._key, document, hospital=self._hospital, staff=staff, now=now),
        }
        region = self._region()
        read = read_record(
            record, keys=region.key_of, credentials=lambda _: (), relying_party=None, now=now
        ).consent
        problems = []
        if read.active and read.valid_until is not None and read.valid_until <= now:
            problems.append("$.provision.period.end: is in the past")
        # A misspelt hospital would make a permit useless and, worse, a denial.
        named = {one for rule in read.provisions for one in rule.recipients | rule.sources}
        problems += [
            f"$.provision.actor: {one!r} is no hospital of the region" for one in sorted(named - set(region.hospitals))
        ]
        problems += [f"$.patient.identifier: {one}" for one in self._faults(read.patient)]
        if problems:
            raise PeerDataError("; ".join(problems))
        return record

    def _prepare(self) -> None:
        # In a thread of Python's own: on one of Orthanc's, Python 3.14 takes its stack for used up when it compiles
        # what is imported here first ("Parser stack overflowed").
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
            pool.submit(prepare).result()

    def _faults(self, numbers: Iterable[PatientIdentifier]) -> Iterator[str]:
        """Say which numbers this hospital cannot speak for."""
        region = self._region()
        national = region.national_number
        spoken_for = region.spoken_for(self._hospital)
        for number in sorted(numbers):
            if number.issuer not in spoken_for:
                yield f"this hospital does not assign {number.issuer} numbers"
            if national is not None and number.issuer == national.issuer and not national.accepts(number.value):
                yield f"the number of {number.issuer} is not a valid national number"


def _changed() -> PeerDataError:
    return PeerDataError("what waits to be confirmed was changed just now: read it again")


def _what(signed: Item) -> str:
    if signed.resource is None:
        return "numbers joined"
    return "attested" if signed.resource["status"] == "active" else "withdrawn"


def _patient(document: dict[str, Any]) -> str:
    if document["typ"] == ENROLMENT_TYPE:
        return str(parse_identifier(document["patient"][0]))
    identifier = document["resource"]["patient"]["identifier"]
    return f"{str(identifier['system']).rpartition(':')[2]}:{identifier['value']}"
