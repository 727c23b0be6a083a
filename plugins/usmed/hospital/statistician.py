"""Counts what happens here, day by day: from the audit log, from studies that have arrived, from the archive's size.

No page ever looks through the archive or the log for a number.
"""

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, tzinfo

from usmed.domain.errors import UsmedError
from usmed.domain.statistics import Counts, count_event, main_modality
from usmed.hospital.archive import Archive
from usmed.hospital.statistics_store import CountedStudy, StatisticsStore
from usmed.platform.audit_query import after
from usmed.platform.storage import Database

log = logging.getLogger(__name__)

BATCH = 1000
POLL_S = 5.0
MEASURE_S = 600.0
MOST_WAITING = 10_000


class Statistician:
    """Counts in a thread of its own.

    Args:
        hospital: this one's id.
        source_of: from which hospital a study was brought here, by its Study Instance UID; empty for our own.
        free_bytes: what is free where the archive stores.
        zone: the hospital's time, by whose days is counted.
        clock: aware UTC.
    """

    def __init__(
        self,
        *,
        hospital: str,
        database: Database,
        archive: Archive,
        source_of: Callable[[str], str],
        free_bytes: Callable[[], int],
        zone: tzinfo,
        clock: Callable[[], datetime],
    ) -> None:
        self._hospital = hospital
        self._database = database
        self._archive = archive
        self._source_of = source_of
        self._free_bytes = free_bytes
        self._zone = zone
        self._clock = clock
        self.store = StatisticsStore(database)
        self._arrived: queue.Queue[str] = queue.Queue(MOST_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)
        self._measured: datetime | None = None

    def start(self) -> None:
        """Count what is new, now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; the log is counted on from there."""
        self._stop.set()

    def stable(self, study_orthanc_id: str) -> None:
        """Note a study that has stopped growing; on Orthanc's own thread, so it takes no time. More than `MOST_WAITING`
        that wait are not counted."""
        try:
            self._arrived.put_nowait(study_orthanc_id)
        except queue.Full:
            log.warning("too many studies wait to be counted: one is left out")

    def count(self) -> None:
        """Count all that is new.

        Raises:
            UsmedError: the database or the archive fails; the log is counted later, a study that was taken is not.
        """
        while self._count_log():
            pass
        while not self._arrived.empty():
            self._count_study(self._arrived.get_nowait())
        now = self._clock()
        if self._measured is None or (now - self._measured).total_seconds() >= MEASURE_S:
            sizes = {"storage-bytes": self._archive.size_bytes(), "storage-free": self._free_bytes()}
            self.store.measure(now.astimezone(self._zone).date(), sizes)
            self._measured = now

    def _count_log(self) -> bool:
        cursor = self.store.cursor()
        events = after(self._database, cursor, BATCH)
        if not events:
            return False
        by_day: dict[str, Counts] = defaultdict(dict)
        for event in events:
            counts = by_day[datetime.fromisoformat(event["at"]).astimezone(self._zone).date().isoformat()]
            for place, value in count_event(event).items():
                counts[place] = counts.get(place, 0) + value
        self.store.add(by_day, events[-1]["sequence"])
        return len(events) == BATCH

    def _count_study(self, orthanc_id: str) -> None:
        study = self._archive.study_by_orthanc_id(orthanc_id)
        if study is None:
            return
        size = sum(one.size_bytes for one in self._archive.instances(orthanc_id))
        hospital = self._source_of(study.study_instance_uid) or self._hospital
        counted = CountedStudy(study.study_instance_uid, main_modality(study.modalities), hospital, size)
        self.store.study(counted, self._clock().astimezone(self._zone).date())

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.count()
            except UsmedError as error:
                log.warning("not counted: %s", error)
            except Exception as error:  # noqa: BLE001 - it must not end
                log.error("statistics: %s: %s", type(error).__name__, error)
