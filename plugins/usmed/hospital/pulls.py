"""The pull: a study is fetched from the hospital that holds it, verified, and only then called complete.

The queue is on disk; what is verified is on disk; so whatever is killed, what remains is a pull that resumes or a
complete study. Instances are stored while they arrive; until the last is verified the study counts as arriving.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import IdentityConflictError, PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import PatientIdentifier, orthanc_id
from usmed.domain.pull import MAXIMUM_ATTEMPTS, UNFINISHED, Event, ForbiddenTransitionError, State, backoff
from usmed.hospital.archive import ARRIVING_LABEL, Archive, ArchiveError
from usmed.hospital.store import PullRow, PullStore
from usmed.hospital.transfer import UNKNOWN, Progress, Transfer
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

BREAK_OFF_S = 2.0
"""How long is waited for a pull that is broken off; it may be storing a large instance."""


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


class Pulls:
    """The pulls of this node. `start` resumes what an earlier process left."""

    def __init__(
        self,
        *,
        transfer: Transfer,
        store: PullStore,
        archive: Archive,
        audit: AuditLog,
        clock: Callable[[], datetime],
        workers: int,
    ) -> None:
        self._transfer = transfer
        self._store = store
        self._archive = archive
        self._audit = audit
        self._clock = clock
        self._workers = workers
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
            if row.state is not State.COMPLETE:
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
        self._transfer.stop()
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
                # The row is read again only when the pull has ended, not with each of its instances.
                progress.changed.wait_for(lambda: progress.done, max(0.0, end - time.monotonic()))  # noqa: B023

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

    def standing(self, study_instance_uids: Collection[str]) -> dict[str, tuple[State, str]]:
        """Return state and reason of the pulls of these studies, those that exist. Cheap, however many they are."""
        return self._store.standing(study_instance_uids)

    def deleted(self, study_orthanc_id: str) -> None:
        """Forget a finished pull whose guest copy somebody deleted: the study is elsewhere again.

        Orthanc tells it a little later: the study may be on its way again by now, or even here.
        """
        for row in self._store.all(State.COMPLETE):
            uid = row.study_instance_uid
            if orthanc_id(row.patient_id, uid) == study_orthanc_id and not self._archive.study(uid):
                self._store.forget_complete(uid)

    def leave(self, study_instance_uid: str, reason: str) -> PullRow | None:
        """Decide that a copy goes, whatever of it is here, and break its pull off.

        Returns:
            The row, which from now on only `left` can end; None if there is none.
        """
        try:
            row = self._store.move(study_instance_uid, Event.LEAVE, reason=reason)
        except ForbiddenTransitionError:
            return None
        self._mark(row, arriving=True)
        return row

    def break_off(self, study_instance_uid: str, reason: str) -> bool:
        """Let a pull that runs write nothing more; return False if it is just writing: ask again in a moment."""
        progress = self.progress(study_instance_uid)
        return progress is None or progress.break_off(reason, BREAK_OFF_S)

    def left(self, row: PullRow) -> None:
        """Forget a copy that had to go, now that nothing of it is here any more."""
        self._store.forget_left(row.study_instance_uid)
        self._mark(row, arriving=False)

    def announced(self, row: PullRow) -> frozenset[str]:
        """Return the SOP Instance UIDs that the manifest of a pull names; none if it has none that can be read."""
        if not row.manifest:
            return frozenset()
        try:
            return self._transfer.announced(row)
        except PeerDataError as error:
            log.error("the manifest of %s cannot be read any more: %s", row.study_instance_uid, error)
            return frozenset()

    def leaving(self) -> list[PullRow]:
        """Return the copies that are to go."""
        return self._store.all(State.LEAVING)

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

    @property
    def unfinished(self) -> int:
        """Return how many studies are on their way or about to be."""
        return self._store.count(*UNFINISHED)

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
                row = self._take_up_lost(row)  # noqa: PLW2901
            if row.state not in (State.QUEUED, State.WAITING):
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

    def _take_up_lost(self, row: PullRow) -> PullRow:
        """Let a pull wait whose end could not be written down, as on a full disk: nobody runs it any more.

        Only this thread starts pulls, so one that is not among the running ones stays so while it is looked at.
        """
        if self.progress(row.study_instance_uid) is not None:
            return row
        row = self._store.get(row.study_instance_uid) or row
        if row.state is not State.RUNNING:
            # It has ended just now, and its thread wakes this one again.
            return row
        due = self._clock() + backoff(max(1, row.attempts))
        reason = "the last try ended badly, and how could not be written down (is the disk full?)"
        return self._store.move(
            row.study_instance_uid, Event.INTERRUPTED, reason=reason, due=int(due.timestamp()) + 1
        )

    def _run(self, progress: Progress) -> None:
        uid = progress.row.study_instance_uid
        try:
            try:
                progress.row = self._store.move(uid, Event.START, attempts=progress.row.attempts + 1)
            except ForbiddenTransitionError as error:
                log.info("pull of %s: %s", uid, error)
                return
            try:
                self._transfer.run(progress)
                now = int(self._clock().timestamp())
                self._finish(progress, Event.VERIFIED, "", Outcome.SUCCESS, last_used=now, attempts=0)
            except RefusedError as error:
                if error.code == UNKNOWN:
                    self._finish(progress, Event.REFUSED, str(error), Outcome.DENIED)
                else:
                    # It could not answer now, or took our clock for wrong: that may pass.
                    self._interrupted(progress, error)
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
        if progress.broken_off and not self._runs(row.study_instance_uid):
            # It is to go, or gone already; and may even have been asked for anew.
            log.info("pull of %s was broken off: %s", row.study_instance_uid, progress.broken_off)
            return
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
                detail={
                    "state": row.state.value,
                    "instances": row.instances,
                    "arrived": sum(progress.verified),
                    "size_bytes": row.size_bytes,
                    **_first_image(progress),
                },
            )
        )

    def _runs(self, study_instance_uid: str) -> bool:
        row = self._store.get(study_instance_uid)
        return row is not None and row.state is State.RUNNING

    def _mark_arriving(self, row: PullRow) -> None:
        """Keep the set of studies of which a part may be here. Lookups and the HTTP filter ask it all the time."""
        unfinished = row.state in UNFINISHED
        leaving = row.state is State.LEAVING
        self._mark(row, arriving=unfinished or leaving or (row.state is not State.COMPLETE and self._part_is_here(row)))

    def _part_is_here(self, row: PullRow) -> bool:
        """Tell whether a pull that ended badly has left something.

        The row alone cannot: a process that is killed has stored more than it has noted.
        """
        if row.arrived:
            return True
        try:
            found = self._archive.study(row.study_instance_uid)
        except ArchiveError:
            return True
        # Without a manifest it is not known how many there should be; the label, which only a whole study loses, is.
        fewer = row.instances if row.manifest else 0
        return any(
            ARRIVING_LABEL in one.labels or (one.patient_id == row.patient_id and one.instances < fewer)
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


def _first_image(progress: Progress) -> dict[str, int]:
    """Return how long the first instance took from when the transfer began, if it came in this try."""
    if not progress.started or not progress.first_image:
        return {}
    return {"first_image_ms": int(1000 * (progress.first_image - progress.started))}
