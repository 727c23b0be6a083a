"""How a guest copy goes: what it brought is deleted, never anything that the hospital's own systems have stored.

A copy can have images of the hospital's own beside it: a report, a key image, a series that was made here. These stay,
and the study is then the hospital's own. A copy that goes is first marked as such, so that no part of it looks whole
and a process that is killed meanwhile goes on with it.
"""

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.identifiers import orthanc_id
from usmed.hospital.archive import ARRIVING_LABEL, GUEST_LABEL, Archive, ArchiveError
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import PullRow
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

UNUSED, WITHDRAWN = "unused", "withdrawn"


class GuestCopies:
    """Deletes guest copies; the one way for all reasons.

    Args:
        own_again: told the Orthanc identifier of a study of which only the hospital's own images remain.
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
        for patient_id, brought in self._guests.brought(uid).items():
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
        withdrawn = sorted(self._guests.withdrawn(uid))
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.RETENTION,
                agent="usmed",
                peer=row.source,
                patient=str(min(row.identifiers)) if row.identifiers else "",
                study_instance_uid=uid,
                reason=row.reason,
                detail={
                    "what": WITHDRAWN if withdrawn else UNUSED,
                    "consents": withdrawn,
                    "deleted": deleted,
                    "own": own,
                },
            )
        ).wait()
        self._pulls.left(row)
        for study in remaining:
            self._own_again(study)
        return True
