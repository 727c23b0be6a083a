"""How a guest copy goes: what it brought is deleted, never anything that the hospital's own systems have stored.

A copy can have images of the hospital's own beside it: a report, a key image, a series that was made here. These stay,
and the study is then the hospital's own. A copy that goes is first marked as such, so that no part of it looks whole
and a process that is killed meanwhile goes on with it. A copy of which it is not known what it brought is never
forgotten: a person has to look at it.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.identifiers import orthanc_id
from usmed.hospital.archive import ARRIVING_LABEL, GUEST_LABEL, Archive, ArchiveError, Study
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import PullRow
from usmed.platform.audit_log import AuditLog

UNKNOWN_PARTS = (
    "it is not known which of its images came from the other hospital, so they are kept, and hidden as a part:"
    " delete by hand what is not this hospital's own, and it goes by itself"
)

log = logging.getLogger(__name__)

UNUSED, WITHDRAWN = "unused", "withdrawn"


class GuestCopies:
    """Deletes guest copies; the one way for all reasons.

    Args:
        own_again: told the Orthanc identifier of a study of which only the hospital's own images remain.

    Attributes:
        stuck: why copies that are to go cannot, by their Study Instance UID; a person has to look at them.
    """

    def __init__(
        self,
        *,
        pulls: Pulls,
        guests: GuestStore,
        archive: Archive,
        audit: AuditLog,
        clock: Callable[[], datetime],
        own_again: Callable[[str], None],
    ) -> None:
        self._pulls = pulls
        self._guests = guests
        self._archive = archive
        self._audit = audit
        self._clock = clock
        self._own_again = own_again
        self._lock = threading.Lock()
        self.stuck: dict[str, str] = {}

    def delete(self, study_instance_uid: str, reason: str, withdrawn: Collection[str] = ()) -> bool:
        """Delete a guest copy.

        Args:
            reason: why, for people.
            withdrawn: the ids of changed consents that do not permit it any more, if that is why.

        Returns:
            Whether it is gone. If not, that is decided all the same, and `finish` goes on with it.

        Raises:
            ArchiveError, StorageError: as if False.
        """
        with self._lock:
            self._guests.set_withdrawn(study_instance_uid, withdrawn)
            row = self._pulls.leave(study_instance_uid, reason)
            return row is None or self._delete(row)

    def break_off(self, study_instance_uid: str, reason: str) -> bool:
        """Break the pull of a copy off that is kept as it is; return False if it is still being written."""
        return self._pulls.break_off(study_instance_uid, reason)

    def finish(self) -> None:
        """Go on with what was decided before, perhaps by an earlier process.

        Raises:
            StorageError: it stays decided.
        """
        with self._lock:
            for row in self._pulls.leaving():
                try:
                    self._delete(row)
                except ArchiveError as error:
                    log.error("guest copy %s could not be deleted: %s", row.study_instance_uid, error)

    def _delete(self, row: PullRow) -> bool:
        uid = row.study_instance_uid
        # Whoever has begun before it was decided: nobody begins after.
        if not self._pulls.break_off(uid, row.reason):
            return False
        deleted, own = 0, 0
        remaining = []
        every = self._brought(row)
        for patient_id, brought in every.items():
            study = orthanc_id(patient_id, uid)
            here = self._archive.stored_by_plugins(study)
            guests = [one for sop_instance_uid, one in here.items() if sop_instance_uid in brought]
            self._archive.delete_instances(guests)
            deleted += len(guests)
            rest = self._archive.study_by_orthanc_id(study)
            if rest is not None:
                own += rest.instances
                remaining.append(study)
                self._archive.clear_provenance(study)
                self._archive.label(study, remove=[ARRIVING_LABEL, GUEST_LABEL])
        if any(self._is_copy(one, row) for one in self._archive.study(uid) if one.patient_id not in every):
            self._record_stuck(row, deleted)
            return False
        self._record(row, Outcome.SUCCESS, row.reason, {"deleted": deleted, "own": own})
        self._pulls.left(row)
        self.stuck = {one: why for one, why in self.stuck.items() if one != uid}
        for study in remaining:
            self._own_again(study)
        return True

    def _brought(self, row: PullRow) -> dict[str, frozenset[str]]:
        """Return what the copy brought as far as it is known: as it was noted, or else as its source announced it."""
        brought = self._guests.brought(row.study_instance_uid)
        if row.patient_id not in brought and (announced := self._pulls.announced(row)):
            brought[row.patient_id] = announced
        return brought

    def _is_copy(self, study: Study, row: PullRow) -> bool:
        """Tell whether a study that is here has come by this pull, as far as that can be seen from the study."""
        if study.labels & {GUEST_LABEL, ARRIVING_LABEL}:
            return True
        # Somebody has taken the mark away, or the process was killed before it was set.
        begun = study.patient_id == row.patient_id and row.instances > 0
        return begun and bool(self._archive.stored_by_plugins(study.orthanc_id))

    def _record_stuck(self, row: PullRow, deleted: int) -> None:
        if row.study_instance_uid in self.stuck:
            # Once, not every few seconds.
            return
        log.error("guest copy %s is to go, but %s", row.study_instance_uid, UNKNOWN_PARTS)
        self._record(row, Outcome.FAILURE, f"{row.reason}; but {UNKNOWN_PARTS}", {"deleted": deleted})
        self.stuck = self.stuck | {row.study_instance_uid: UNKNOWN_PARTS}

    def _record(self, row: PullRow, outcome: Outcome, reason: str, counts: Mapping[str, int]) -> None:
        withdrawn = sorted(self._guests.withdrawn(row.study_instance_uid))
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.RETENTION,
                agent="usmed",
                peer=row.source,
                patient=str(min(row.identifiers)) if row.identifiers else "",
                study_instance_uid=row.study_instance_uid,
                outcome=outcome,
                reason=reason,
                detail={"what": WITHDRAWN if withdrawn else UNUSED, "consents": withdrawn, **counts},
            )
        ).wait()
