"""Finds charts that may be the same person, beside what hospitals announce: nobody waits for it, and it joins nobody.

Charts that are new, or called otherwise, wait in a table, so that a restart loses none.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import Connection

from usmed.domain.identifiers import NationalNumber
from usmed.domain.region import RegionManifest
from usmed.hub import candidate_store
from usmed.hub.candidate_store import Described
from usmed.hub.candidates import PROPOSED_FROM, Demographics, blocks, lookups, score
from usmed.hub.charts import LinkedChart
from usmed.hub.tables import changing
from usmed.platform.storage import Database, StorageError

log = logging.getLogger(__name__)

BATCH = 50
"""How many charts are compared in one step."""

MOST_COMPARED = 300
"""With how many others one chart is compared: those born on the same day first, then the oldest."""

MOST_PAIRS = 20
"""How many pairs one chart is in by its own comparison, the most alike."""

POLL_S = 5.0


class Finder:
    """The background work."""

    def __init__(self, database: Database, region: Callable[[], RegionManifest], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._region = region
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finder", daemon=True)

    def start(self) -> None:
        """Compare what waits, and what comes."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop after the transaction that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def step(self) -> int:
        """Compare the charts that have waited longest; return how many they were.

        Raises:
            StorageError: the database fails; they wait on.
        """
        issuer = national.issuer if (national := self._region().national_number) else ""
        with changing(self._database) as connection:
            waiting = candidate_store.waiting(connection, issuer, BATCH)
            candidate_store.save_blocks(connection, {one.id: blocks(one.says) for one in waiting})
        # Without the lock that hospitals wait for.
        with self._database.read() as connection:
            found = {one: _alike(one, self._near(connection, one, issuer)) for one in waiting}
        now = int(self._clock().timestamp())
        with changing(self._database) as connection:
            # Called otherwise meanwhile, or gone: those wait on.
            as_before = {*candidate_store.waiting(connection, issuer, 2 * BATCH)} & {*waiting}
            kept = {one.id: found[one] for one in as_before}
            candidate_store.replace(connection, kept, now)
            candidate_store.refresh(connection, kept)
            candidate_store.compared(connection, kept.keys())
        return len(waiting)

    def _near(self, connection: Connection, one: Described, issuer: str) -> list[Described]:
        return candidate_store.near(connection, one.id, blocks(one.says), lookups(one.says), issuer, MOST_COMPARED)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                busy = self.step() == BATCH
            except StorageError as error:
                log.warning("who may be the same person could not be looked for: %s", error)
                busy = False
            # A short pause also between two steps: others want to write.
            self._stop.wait(0.05 if busy else POLL_S)


def waiting_charts(database: Database) -> Callable[[], int]:
    """Return what tells how many charts wait to be compared."""

    def count() -> int:
        with database.read() as connection:
            return candidate_store.how_many_wait(connection)

    return count


def demographics(one: LinkedChart, national: NationalNumber | None) -> Demographics:
    """Return what a chart says of its patient; of national numbers, the one by which it is found."""
    own = sorted(each.value for each in one.linked if national and each.issuer == national.issuer)
    return Demographics(one.chart.name, one.chart.birth_date, one.chart.sex, own[0] if own else "")


def _alike(one: Described, others: Iterable[Described]) -> dict[int, int]:
    """Return the score of those that are worth a person's time, the most alike."""
    scores = {other.id: score(one.says, other.says) for other in others}
    likely = sorted((-alike, id) for id, alike in scores.items() if alike >= PROPOSED_FROM)
    return {id: -alike for alike, id in likely[:MOST_PAIRS]}
