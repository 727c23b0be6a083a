"""The pull: a study is fetched from the hospital that holds it, verified, and only then called complete.

The queue is on disk; what is verified is on disk; so whatever is killed, what remains is a pull that resumes or a
complete study. Instances are stored while they arrive; until the last is verified the study counts as arriving.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.errors import IdentityConflictError, PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.identifiers import Naming, PatientIdentifier, orthanc_id
from usmed.domain.manifest import LIMIT_BYTES, ManifestEntry, StudyManifest, parse_manifest, read_frames
from usmed.domain.pull import MAXIMUM_ATTEMPTS, UNFINISHED, Event, State, backoff
from usmed.domain.region import RegionManifest
from usmed.domain.request_signature import verify_document
from usmed.hospital.archive import ARRIVING_LABEL, GUEST_LABEL, Archive, ArchiveError
from usmed.hospital.filing import Filing, check_instance, file_under
from usmed.hospital.identities import Poster
from usmed.hospital.store import PullRow, PullStore
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

MANIFEST_PATH = "/federation/v1/manifest"
INSTANCES_PATH = "/federation/v1/instances"
MANIFEST_DEADLINE_S = 120.0
SAVE_EVERY_S = 0.5


class Streamer(Poster, Protocol):
    """Sends a signed request and reads a streamed answer (`platform.signed_http.SignedClient`)."""

    def stream(
        self, member_id: str, path: str, document: Any, *, idle_s: float
    ) -> AbstractContextManager[Callable[[int], bytes]]:
        """Give a reader of the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A study to be pulled: where it is, and whose.

    Attributes:
        source: the hospital that holds it.
        patient_id: the PatientID to file it under here.
        identifiers: what the person is known by.
    """

    study_instance_uid: str
    source: str
    patient_id: str
    identifiers: frozenset[PatientIdentifier]


@dataclass
class Progress:
    """A pull that runs in this process; read by pages, C-MOVE and the HTTP filter."""

    row: PullRow
    manifest: StudyManifest | None = None
    verified: bytearray = field(default_factory=bytearray)
    received_bytes: int = 0
    started: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition)
    done: bool = False

    def arrived(self) -> list[int]:
        """Return the indexes of the manifest's entries that are verified and stored."""
        return [index for index, flag in enumerate(self.verified) if flag]


class Pulls:
    """The pulls of this node. `start` resumes what an earlier process left."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        region: Callable[[], RegionManifest],
        store: PullStore,
        archive: Archive,
        client: Streamer,
        audit: AuditLog,
        clock: Callable[[], datetime],
        connections: int,
        workers: int,
        idle_s: float,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._region = region
        self._store = store
        self._archive = archive
        self._client = client
        self._audit = audit
        self._clock = clock
        self._connections = connections
        self._workers = workers
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._running: dict[str, Progress] = {}
        self._urgent: set[str] = set()
        self._incomplete: dict[str, str] = {}
        self._arriving: dict[str, str] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._dispatch, name="pulls", daemon=True)
        # Known before the first request: Orthanc answers a moment before it tells that it has started.
        for row in store.all():
            if row.state is not State.COMPLETE and (row.state in UNFINISHED or row.manifest):
                self._mark(row, arriving=True)

    # ---- asking ----

    def start(self) -> None:
        """Take up the queue of an earlier process."""
        for row in self._store.all():
            if row.state in UNFINISHED:
                row = self._store.move(row.study_instance_uid, Event.RESTARTED)  # noqa: PLW2901
            self._mark_arriving(row)
        self._thread.start()

    def stop(self) -> None:
        """Stop after what is being stored now; the queue stays on disk."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout=10)

    def ask(self, wanted: Wanted, *, requested_by: str, urgent: bool) -> PullRow:
        """Put a study on the queue, or ask again; an urgent one does not wait for the others."""
        row = self._store.ask(
            wanted.study_instance_uid,
            source=wanted.source,
            patient_id=wanted.patient_id,
            identifiers=wanted.identifiers,
            requested_by=requested_by,
            now=self._clock(),
        )
        self._mark_arriving(row)
        with self._wake:
            if urgent:
                self._urgent.add(row.study_instance_uid)
            self._wake.notify_all()
        return row

    def wait(self, study_instance_uid: str, timeout_s: float) -> PullRow | None:
        """Wait until the pull is complete, refused or failed, or has to wait itself; return it as it then stands."""
        end = time.monotonic() + timeout_s
        while True:
            row = self._store.get(study_instance_uid)
            if row is None or row.state not in (State.QUEUED, State.RUNNING) or time.monotonic() >= end:
                return row
            progress = self.progress(study_instance_uid)
            if progress is None:
                time.sleep(0.01)
                continue
            with progress.changed:
                if not progress.done:
                    progress.changed.wait(min(1.0, max(0.0, end - time.monotonic())))

    def progress(self, study_instance_uid: str) -> Progress | None:
        """Return the pull that runs now for this study."""
        with self._lock:
            return self._running.get(study_instance_uid)

    def row(self, study_instance_uid: str) -> PullRow | None:
        """Return the pull of a study."""
        return self._store.get(study_instance_uid)

    def rows(self, study_instance_uids: Collection[str]) -> dict[str, PullRow]:
        """Return the pulls of these studies, those that exist."""
        return self._store.many(study_instance_uids)

    def deleted(self, study_orthanc_id: str) -> None:
        """Forget a finished pull whose guest copy somebody deleted: the study is elsewhere again."""
        for row in self._store.all(State.COMPLETE):
            if orthanc_id(row.patient_id, row.study_instance_uid) == study_orthanc_id:
                self._store.forget(row.study_instance_uid)

    def recent(self, limit: int = 100) -> list[PullRow]:
        """Return the newest pulls."""
        return self._store.recent(limit)

    def arriving(self, any_id: str) -> str | None:
        """Return the Study Instance UID of an arriving study.

        Args:
            any_id: its Study Instance UID, or the Orthanc identifier of the study or of its patient.
        """
        return self._arriving.get(any_id)

    @property
    def nothing_arriving(self) -> bool:
        """Tell whether every study here is whole. Costs nothing: most lookups end here."""
        return not self._arriving

    # ---- running ----

    def _dispatch(self) -> None:
        while True:
            try:
                delay = self._launch()
            except UsmedError as error:
                log.error("the pull queue cannot be read: %s", error)
                delay = 5.0
            with self._wake:
                if self._stopping:
                    return
                self._wake.wait(delay)

    def _launch(self) -> float:
        """Start what is due; return how long nothing more will be."""
        now = int(self._clock().timestamp())
        nearest = now + 3600
        for row in self._store.all(State.QUEUED, State.WAITING, State.RUNNING):
            if row.state is State.RUNNING:
                self._take_up_lost(row.study_instance_uid)
                continue
            if row.state is State.WAITING:
                if row.due > now:
                    nearest = min(nearest, row.due)
                    continue
                row = self._store.move(row.study_instance_uid, Event.DUE)  # noqa: PLW2901
            with self._lock:
                if self._stopping or row.study_instance_uid in self._running:
                    continue
                urgent = row.study_instance_uid in self._urgent
                if len(self._running) >= self._workers + (16 if urgent else 0):
                    continue
                progress = Progress(row, started=time.monotonic())
                self._running[row.study_instance_uid] = progress
                self._urgent.discard(row.study_instance_uid)
            threading.Thread(target=self._run, args=(progress,), name="pull", daemon=True).start()
        return max(0.2, nearest - now)

    def _take_up_lost(self, study_instance_uid: str) -> None:
        """Go on with a pull whose end could not be written down, as on a full disk: nobody runs it any more.

        Only this thread starts pulls, so one that is not among the running ones stays so while it is looked at.
        """
        if self.progress(study_instance_uid) is not None:
            return
        row = self._store.get(study_instance_uid)
        if row is not None and row.state is State.RUNNING:
            due = self._clock() + backoff(max(1, row.attempts))
            reason = "the last try ended badly, and how could not be written down (is the disk full?)"
            self._store.move(study_instance_uid, Event.INTERRUPTED, reason=reason, due=int(due.timestamp()) + 1)

    def _run(self, progress: Progress) -> None:
        uid = progress.row.study_instance_uid
        try:
            progress.row = self._store.move(uid, Event.START, attempts=progress.row.attempts + 1)
            try:
                self._pull(progress)
            except RefusedError as error:
                self._finish(progress, Event.REFUSED, str(error), Outcome.DENIED)
            except IdentityConflictError as error:
                self._finish(progress, Event.GAVE_UP, str(error), Outcome.FAILURE)
            except UsmedError as error:
                self._interrupted(progress, error)
        except Exception as error:
            log.exception("pull of %s failed", uid)
            self._last_resort(progress, error)
        finally:
            with self._wake:
                self._running.pop(uid, None)
                self._wake.notify_all()
            with progress.changed:
                progress.done = True
                progress.changed.notify_all()

    def _last_resort(self, progress: Progress, error: Exception) -> None:
        try:
            self._interrupted(progress, UsmedError(f"internal error: {type(error).__name__}"))
        except UsmedError as second:
            # The row says "running"; the next start of the process takes it up again.
            log.error("the state of a pull could not be written: %s", second)

    def _interrupted(self, progress: Progress, error: UsmedError) -> None:
        if progress.row.attempts >= MAXIMUM_ATTEMPTS:
            self._finish(
                progress, Event.GAVE_UP, f"given up after {progress.row.attempts} tries: {error}", Outcome.FAILURE
            )
            return
        due = self._clock() + backoff(progress.row.attempts)
        self._finish(progress, Event.INTERRUPTED, str(error), Outcome.FAILURE, due=int(due.timestamp()) + 1)

    def _finish(self, progress: Progress, event: Event, reason: str, outcome: Outcome, **changes: Any) -> None:
        row = progress.row
        finished = int(self._clock().timestamp())
        row = self._store.move(row.study_instance_uid, event, reason=reason, finished=finished, **changes)
        progress.row = row
        self._mark_arriving(row)
        log.info("pull of %s from %s: %s %s", row.study_instance_uid, row.source, row.state, reason)
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.PULL,
                agent=row.requested_by,
                peer=row.source,
                patient=self._patient_text(row),
                study_instance_uid=row.study_instance_uid,
                outcome=outcome,
                reason=reason,
                detail={"state": row.state.value, "instances": row.instances, "arrived": sum(progress.verified)},
            )
        )

    def _pull(self, progress: Progress) -> None:
        row = progress.row
        manifest, verified = self._manifest(row)
        filing = self._filing(row, manifest)
        self._check_identity(row, manifest, filing)
        progress.manifest, progress.verified = manifest, verified
        study = orthanc_id(filing.patient_id, manifest.study_instance_uid)
        missing = [index for index, flag in enumerate(verified) if not flag]
        if missing:
            # The first instance comes alone: it makes the study, which is then labelled before any other arrives.
            self._stream(progress, manifest, filing, missing[:1])
            # In this order: a guest copy that is not marked as arriving is a whole one.
            self._archive.label(study, add=[ARRIVING_LABEL, GUEST_LABEL])
            self._stream_all(progress, manifest, filing, missing[1:])
        self._check_whole(progress, manifest, study)
        self._archive.set_provenance(
            study,
            {
                "source": manifest.source,
                "identifier": str(manifest.identifier),
                "consent": manifest.consent_id,
                "instances": len(manifest.entries),
                "pulled": self._clock().isoformat(timespec="seconds"),
                "requested_by": row.requested_by,
                "ticket": None,
            },
        )
        self._archive.label(study, add=[GUEST_LABEL], remove=[ARRIVING_LABEL])
        now = int(self._clock().timestamp())
        self._finish(progress, Event.VERIFIED, "", Outcome.SUCCESS, last_used=now, attempts=0)

    def _check_whole(self, progress: Progress, manifest: StudyManifest, study: str) -> None:
        """Complete means that every instance is in the archive now, not that it once was.

        Raises:
            ArchiveError: some are gone (deleted meanwhile); they will be fetched again.
        """
        here = {stored.sop_instance_uid for stored in self._archive.instances(study)}
        gone = [index for index, entry in enumerate(manifest.entries) if entry.sop_instance_uid not in here]
        if gone:
            for index in gone:
                progress.verified[index] = 0
            self._save(progress)
            raise ArchiveError(f"{len(gone)} instance(s) disappeared from the archive while the study was arriving")

    def _manifest(self, row: PullRow) -> tuple[StudyManifest, bytearray]:
        """Ask for the manifest, at every try anew: the source decides again, and may have more by now.

        Returns:
            The manifest, and for each entry whether it is verified and stored already.
        """
        try:
            answer = self._client.post(
                row.source,
                MANIFEST_PATH,
                self._request(row),
                deadline_s=MANIFEST_DEADLINE_S,
                limit_bytes=LIMIT_BYTES * 2,
            )
            token = answer.get("manifest") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise PeerDataError("it is missing")
            manifest = self._read_manifest(row, token)
        except PeerDataError as error:
            raise PeerDataError(f"the manifest from {row.source} is not accepted: {error}") from error
        if row.identifiers and manifest.identifier not in row.identifiers:
            raise IdentityConflictError(
                f"{row.source} says that this study is of another patient than the one asked for"
            )
        verified = bytearray(len(manifest.entries))
        if row.manifest:
            earlier = self._read_manifest(row, row.manifest).entries
            have = {entry for entry, flag in zip(earlier, row.verified, strict=True) if flag}
            verified = bytearray(entry in have for entry in manifest.entries)
        self._store.set(
            row.study_instance_uid,
            manifest=token,
            verified=bytes(verified),
            instances=len(manifest.entries),
            size_bytes=manifest.size_bytes,
        )
        return manifest, verified

    def _read_manifest(self, row: PullRow, token: str) -> StudyManifest:
        document = verify_document(token, self._region().key_of, sender=row.source, limit_bytes=LIMIT_BYTES)
        return parse_manifest(
            document, source=row.source, requester=self._hospital, study_instance_uid=row.study_instance_uid
        )

    def _filing(self, row: PullRow, manifest: StudyManifest) -> Filing:
        hospital = self._region().hospitals.get(row.source)
        issuer = next((one.issuer for one in row.identifiers if one.value == row.patient_id), "")
        return Filing(
            row.patient_id, issuer, manifest.identifier, hospital.name if hospital else row.source, self._clock()
        )

    def _check_identity(self, row: PullRow, manifest: StudyManifest, filing: Filing) -> None:
        """Refuse to put the study under a patient who is, by what is already here, somebody else.

        Raises:
            IdentityConflictError: it would.
        """
        for study in self._archive.study(manifest.study_instance_uid):
            if study.patient_id != filing.patient_id:
                raise IdentityConflictError("this study is here already, under another patient")
        known = {*row.identifiers, manifest.identifier}
        for study in self._archive.studies_of_patient(filing.patient_id):
            if study.is_guest:
                continue
            contradictions = [
                name
                for name, here, there in (
                    ("birth date", study.birth_date, manifest.birth_date),
                    ("sex", study.sex, manifest.sex),
                )
                if here and there and here != there and "O" not in (here, there)
            ]
            if contradictions:
                raise IdentityConflictError(
                    f"the patient's {' and '.join(contradictions)} here and at {manifest.source} differ: not filed"
                    " under one number until a person has looked at the patient index"
                )
            if not known.intersection(study.identifiers(self._naming)):
                raise IdentityConflictError("the number under which it would be filed belongs to somebody else here")

    def _stream_all(self, progress: Progress, manifest: StudyManifest, filing: Filing, missing: Sequence[int]) -> None:
        if not missing:
            return
        streams = _shares(manifest.entries, missing, self._connections)
        with ThreadPoolExecutor(max_workers=len(streams), thread_name_prefix="stream") as pool:
            futures = [pool.submit(self._stream, progress, manifest, filing, share) for share in streams]
            wait(futures, return_when=FIRST_EXCEPTION)
            # The others may go on for what they have begun; each verified instance counts.
        for future in futures:
            future.result()

    def _stream(self, progress: Progress, manifest: StudyManifest, filing: Filing, indexes: Sequence[int]) -> None:
        row = progress.row
        document = {
            **self._request(row),
            "instances": [[index, manifest.entries[index].sop_instance_uid] for index in indexes],
        }
        with self._client.stream(row.source, INSTANCES_PATH, document, idle_s=self._idle_s) as read:
            saved = time.monotonic()
            try:
                for index, dicom in read_frames(read, manifest.entries, indexes):
                    self._store_instance(progress, manifest, filing, index, dicom)
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        saved = time.monotonic()
                        self._save(progress)
                    if self._stopping:
                        raise TransportError("this node is stopping")
            finally:
                self._save(progress)

    def _store_instance(
        self, progress: Progress, manifest: StudyManifest, filing: Filing, index: int, dicom: bytes
    ) -> None:
        entry = manifest.entries[index]
        try:
            check_instance(
                dicom,
                study_instance_uid=manifest.study_instance_uid,
                sop_instance_uid=entry.sop_instance_uid,
                patient_id=manifest.identifier.value,
            )
            study = self._archive.store(file_under(dicom, filing))
        except PeerDataError as error:
            raise PeerDataError(f"instance {entry.sop_instance_uid} is not accepted: {error}") from error
        except ArchiveError as error:
            raise ArchiveError(f"instance {entry.sop_instance_uid} could not be stored: {error}") from error
        if study != orthanc_id(filing.patient_id, manifest.study_instance_uid):
            raise IdentityConflictError(f"instance {entry.sop_instance_uid} was filed under another study or patient")
        with progress.changed:
            progress.verified[index] = 1
            progress.received_bytes += len(dicom)
            progress.changed.notify_all()

    def _save(self, progress: Progress) -> None:
        self._store.set(progress.row.study_instance_uid, verified=bytes(progress.verified))

    def _request(self, row: PullRow) -> dict[str, Any]:
        return {
            "identifiers": [{"issuer": one.issuer, "value": one.value} for one in sorted(row.identifiers)],
            "study_instance_uid": row.study_instance_uid,
            "purpose": Purpose.TREAT.value,
            "ticket": None,
        }

    def _mark_arriving(self, row: PullRow) -> None:
        """Keep the set of studies of which a part may be here. Lookups and the HTTP filter ask it all the time."""
        unfinished = row.state in UNFINISHED
        self._mark(row, arriving=unfinished or (row.state is not State.COMPLETE and self._part_is_here(row)))

    def _part_is_here(self, row: PullRow) -> bool:
        """Tell whether a pull that ended badly has left something.

        The row alone cannot: a process that is killed has stored more than it has noted.
        """
        if row.arrived or not row.manifest:
            return bool(row.arrived)
        try:
            found = self._archive.study(row.study_instance_uid)
        except ArchiveError:
            return True
        return any(
            ARRIVING_LABEL in one.labels or (one.patient_id == row.patient_id and one.instances < row.instances)
            for one in found
        )

    def _mark(self, row: PullRow, *, arriving: bool) -> None:
        with self._lock:
            if arriving:
                self._incomplete[row.study_instance_uid] = row.patient_id
            else:
                self._incomplete.pop(row.study_instance_uid, None)
            names: dict[str, str] = {}
            for study, patient_id in self._incomplete.items():
                names |= dict.fromkeys((study, orthanc_id(patient_id, study), orthanc_id(patient_id)), study)
            # Replaced as a whole, so that readers need no lock.
            self._arriving = names

    def _patient_text(self, row: PullRow) -> str:
        return str(min(row.identifiers)) if row.identifiers else ""


def _shares(entries: Sequence[ManifestEntry], indexes: Sequence[int], streams: int) -> list[list[int]]:
    """Divide the instances into runs of about equal size in bytes, one for each connection."""
    total = sum(entries[index].size_bytes for index in indexes)
    shares: list[list[int]] = [[]]
    filled = 0
    for index in indexes:
        if shares[-1] and len(shares) < streams and filled >= total * len(shares) / streams:
            shares.append([])
        shares[-1].append(index)
        filled += entries[index].size_bytes
    return shares
