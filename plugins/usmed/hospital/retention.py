"""Guest copies go when nobody has used them for the days that the hospital set."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import orthanc_id
from usmed.domain.pull import State
from usmed.hospital.archive import Archive
from usmed.hospital.guest_copies import GuestCopies
from usmed.hospital.store import PullStore

log = logging.getLogger(__name__)


class Retention:
    """Remembers when guest copies were used, and deletes the old ones."""

    def __init__(
        self,
        *,
        store: PullStore,
        archive: Archive,
        copies: GuestCopies,
        clock: Callable[[], datetime],
        guest_days: int,
        sweep_s: float,
    ) -> None:
        self._store = store
        self._archive = archive
        self._copies = copies
        self._clock = clock
        self._guest_days = guest_days
        self._sweep_s = sweep_s
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Sweep now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Write down what was used, and stop."""
        self._stop.set()
        self._thread.join(timeout=10)

    def used(self, study_instance_uid: str) -> None:
        """Somebody opened or moved this study. Cheap: called for every such request."""
        with self._lock:
            self._used[study_instance_uid] = int(self._clock().timestamp())

    def sweep(self) -> list[str]:
        """Write down the uses, delete what is too old; return the Study Instance UIDs that went."""
        self._save()
        if not self._guest_days:
            return []
        limit = int((self._clock() - timedelta(days=self._guest_days)).timestamp())
        gone = []
        for row in self._store.all(State.COMPLETE):
            if row.last_used >= limit:
                continue
            study = self._archive.study_by_orthanc_id(orthanc_id(row.patient_id, row.study_instance_uid))
            if study is not None and not study.is_guest:
                # Somebody took the mark away. It stays another hospital's as long as the pull is known.
                log.warning("guest copy %s has lost its label and is not deleted", row.study_instance_uid)
            elif self._copies.delete(row.study_instance_uid, f"not used for {self._guest_days} days"):
                gone.append(row.study_instance_uid)
        return gone

    def _save(self) -> None:
        with self._lock:
            used, self._used = self._used, {}
        for study, at in used.items():
            self._store.set(study, last_used=at)

    def _run(self) -> None:
        while not self._stop.wait(self._sweep_s):
            try:
                self.sweep()
            except UsmedError as error:
                log.error("retention: %s", error)
        try:
            self._save()
        except UsmedError as error:
            log.error("retention: %s", error)
