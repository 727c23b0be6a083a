"""The desk: what two members of staff attest. A consent on paper or its withdrawal, and which numbers are one person's.

One writes it down, another one reads it and confirms exactly that. From then on it is on its way to all key servers, a
consent to the hub as well, and, if it takes something back, to all hospitals; what could not be told is told again
until it is.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.consent_record import attest, consent_document, read_record
from usmed.domain.enrolment import ENROLMENT_TYPE, enrol
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.fhir_consent import prepare
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.study_record import parse_identifier
from usmed.domain.withdrawal import Progress, progress
from usmed.hospital.changes import Changes
from usmed.hospital.desk_store import Attested, DeskStore, Draft, Signed
from usmed.hospital.identities import Poster
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

KEY_SERVER_PATH = "/v1/records"
HUB_PATH = "/v1/consents/records"
HOSPITAL_PATH = "/federation/v1/records"
DEADLINE_S = 5.0
RETRY_S = 5.0
BATCH = 50
DRAFTS_LIVE = timedelta(days=2)
TOLD_SINCE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the desk shows under an id: the newest attested version, how far it has come, and a draft that waits."""

    attested: Attested | None
    progress: Progress | None
    draft: Draft | None


class Desk:
    """The use cases of members of staff. `start` takes up deliveries of an earlier process."""

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        store: DeskStore,
        changes: Changes,
        client: Poster,
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._region = region
        self._store = store
        self._changes = changes
        self._client = client
        self._audit = audit
        self._clock = clock
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="delivery")
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._seen_version = 0
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)

    def start(self) -> None:
        """Deliver what is open, now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is open stays so on disk."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def write(self, resource: Any, staff: str) -> Draft:
        """Write a consent on paper down.

        Args:
            resource: a FHIR R4 Consent.
            staff: who does it.

        Raises:
            PeerDataError: it is not a consent that can be attested here; the message says what is wrong.
        """
        return self._draft(consent_document(resource, id=str(uuid4()), version=1), staff)

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
        last = self._store.latest(consent_id)
        resource = last.signed.resource if last is not None else None
        if last is None or resource is None:
            raise PeerDataError(f"no consent {consent_id[:64]!r} was attested at this hospital")
        if resource["status"] != "active":
            raise PeerDataError("this consent was taken back already")
        taken_back = {**resource, "status": "inactive"}
        return self._draft(consent_document(taken_back, id=consent_id, version=last.signed.version + 1), staff)

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
        draft = self._store.draft(id)
        now = self._clock()
        if draft is None or now - draft.created > DRAFTS_LIVE:
            raise PeerDataError("nothing of this id waits to be confirmed")
        if draft.digest != digest:
            raise PeerDataError("what waits to be confirmed is not what was read: read it again")
        if staff.strip().casefold() == draft.staff.strip().casefold():
            refusal = RefusedError(
                "second-person", "another member of staff than the one who wrote it has to confirm it"
            )
            self._audit.append(
                AuditEvent(
                    now,
                    AuditEventType.CONSENT,
                    staff,
                    patient=_patient(draft.document),
                    outcome=Outcome.DENIED,
                    reason=str(refusal),
                    detail={"what": refusal.code, "consent": draft.id},
                )
            ).wait()
            raise refusal
        signed = self._signed(draft.document, [draft.staff, staff], now)
        members = self._members(signed)
        if not self._store.attest(draft, signed, members, now):
            raise PeerDataError("what waits to be confirmed was changed just now: read it again")
        self._audit.append(
            AuditEvent(
                now,
                AuditEventType.CONSENT,
                f"{draft.staff}, {staff}",
                patient=_patient(draft.document),
                detail={"what": _what(signed), "consent": signed.id, "version": signed.version, "sha256": digest},
            )
        ).wait()
        if self._hospital in members:
            self._tell_ourselves(signed)
        self.deliver(members)
        return self.entry(id)

    def entry(self, id: str) -> Entry:
        """Return what is known here under an id.

        Raises:
            PeerDataError: nothing.
        """
        draft, last = self._store.draft(id), self._store.latest(id)
        if draft is None and last is None:
            raise PeerDataError(f"no consent {id[:64]!r} was written down at this hospital")
        return Entry(last, self._progress(last) if last is not None else None, draft)

    def drafts(self) -> list[Draft]:
        """Return what waits for a second member of staff."""
        return [one for one in self._store.drafts() if self._clock() - one.created <= DRAFTS_LIVE]

    def deliver(self, members: Iterable[str]) -> None:
        """Try to deliver what is open to these members, all at once; return when all have answered or failed."""
        with self._lock:
            chosen = [one for one in members if one not in self._busy and one != self._hospital]
            self._busy.update(chosen)
        for done in [self._pool.submit(self._deliver_to, one) for one in chosen]:
            done.result()

    def _progress(self, attested: Attested) -> Progress:
        region = self._region()
        servers = {one: at for one, at in attested.delivered.items() if one in region.key_servers}
        told = {one: at for one, at in attested.delivered.items() if one in region.hospitals}
        if not _takes_away(attested.signed):
            # A new permission: there is nothing that a hospital would have to know.
            told = dict.fromkeys(region.hospitals, attested.created)
        return progress(region, servers, told, self._clock())

    def _draft(self, document: dict[str, Any], staff: str) -> Draft:
        if not staff.strip():
            raise PeerDataError("it is not known who writes this down: log-ins have to be on")
        now = self._clock()
        # Checked as it will be, so that the second of the two cannot be the one to learn of a fault.
        self._signed(document, [staff, f"not {staff}"[:64]], now)
        draft = Draft(document, sha256_hex(canonical_json(document)), staff, now)
        self._store.save_draft(draft)
        return draft

    def _signed(self, document: dict[str, Any], staff: list[str], now: datetime) -> Signed:
        numbers = document["typ"] == ENROLMENT_TYPE
        record = self._enrolment(document, now) if numbers else self._attested(document, staff, now)
        return Signed(document["id"], document["version"], record)

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
        # In a thread of Python's own: on one of Orthanc's, Python 3.14 takes its stack for used up when it compiles
        # what is imported here first ("Parser stack overflowed").
        self._pool.submit(prepare).result()
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

    def _members(self, signed: Signed) -> list[str]:
        region = self._region()
        hub = [HUB] if signed.resource is not None else []
        return [*region.key_servers, *hub, *(region.hospitals if _takes_away(signed) else ())]

    def _tell_ourselves(self, signed: Signed) -> None:
        problems = self._changes.told(self._hospital, [signed.record], [])
        if problems:
            log.error("a change that was attested here is not taken here: %s", "; ".join(problems))
            return
        self._store.acknowledged(self._hospital, [signed], self._clock())

    def _deliver_to(self, member: str) -> None:
        try:
            while batch := self._store.open(member, BATCH):
                try:
                    problems = self._send(member, batch)
                except TransportError as error:
                    self._store.failed(member, batch, str(error))
                    return
                except (PeerDataError, RefusedError) as error:
                    # Perhaps of one of them, or of their size: that must not hold a withdrawal up for ever.
                    problems = [str(error)]
                if problems:
                    # One at a time, to know which.
                    self._one_by_one(member, batch)
                    return
                self._store.acknowledged(member, batch, self._clock())
        except UsmedError as error:
            log.error("deliveries to %s: %s", member, error)
        finally:
            with self._lock:
                self._busy.discard(member)

    def _one_by_one(self, member: str, batch: Collection[Signed]) -> None:
        for one in batch:
            try:
                problems = self._send(member, [one])
            except TransportError as error:
                self._store.failed(member, [one], str(error))
                return
            except (PeerDataError, RefusedError) as error:
                problems = [str(error)]
            if problems:
                log.warning("%s does not take %s: %s", member, one.id, problems[0])
                self._store.failed(member, [one], problems[0])
            else:
                self._store.acknowledged(member, [one], self._clock())

    def _send(self, member: str, batch: Collection[Signed]) -> list[str]:
        records = [one.record for one in batch if one.resource is not None]
        enrolments = [one.record for one in batch if one.resource is None]
        if member == HUB:
            path, document = HUB_PATH, {"records": records}
        else:
            path = KEY_SERVER_PATH if member in self._region().key_servers else HOSPITAL_PATH
            document = {"records": records, "enrolments": enrolments}
        answer = self._client.post(member, path, document, deadline_s=DEADLINE_S)
        problems = answer.get("problems") if isinstance(answer, dict) else None
        if not isinstance(problems, list):
            raise PeerDataError(f"{member} gave a malformed answer")
        return [str(one) for one in problems]

    def _run(self) -> None:
        while True:
            try:
                region = self._region()
                if region.version != self._seen_version:
                    self._store.add_members(region.key_servers, self._clock() - TOLD_SINCE)
                    self._seen_version = region.version
                for one in self._store.open(self._hospital, BATCH):
                    self._tell_ourselves(one)
                self.deliver([one for one in self._store.members_with_open() if region.member(one) is not None])
            except Exception as error:  # noqa: BLE001 - deliveries must not end
                log.error("deliveries: %s: %s", type(error).__name__, error)
            if self._stop.wait(RETRY_S):
                return


def _takes_away(signed: Signed) -> bool:
    """Tell whether hospitals have to know: it is a consent, and no first permission."""
    resource = signed.resource
    return resource is not None and (signed.version > 1 or _denies(resource.get("provision", {})))


def _what(signed: Signed) -> str:
    if signed.resource is None:
        return "numbers joined"
    return "attested" if signed.resource["status"] == "active" else "withdrawn"


def _denies(provision: Any) -> bool:
    if not isinstance(provision, dict):
        return False
    return provision.get("type") == "deny" or any(map(_denies, provision.get("provision", [])))


def _patient(document: dict[str, Any]) -> str:
    if document["typ"] == ENROLMENT_TYPE:
        return str(parse_identifier(document["patient"][0]))
    identifier = document["resource"]["patient"]["identifier"]
    return f"{str(identifier['system']).rpartition(':')[2]}:{identifier['value']}"
