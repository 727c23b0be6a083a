"""Finds charts that may be the same person, beside what hospitals announce: nobody waits for it, and it joins nobody.

Charts that are new, or called otherwise, wait in a table, so that a restart loses none.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from usmed.domain.identifiers import NationalNumber
from usmed.domain.region import RegionManifest
from usmed.hub import candidate_store, charts, decisions
from usmed.hub.candidate_store import Pair
from usmed.hub.candidates import PROPOSED_FROM, Demographics, blocks, lookups, score, standing
from usmed.hub.charts import LinkedChart
from usmed.hub.tables import changing
from usmed.platform.storage import Database, StorageError

log = logging.getLogger(__name__)

BATCH = 50
"""How many charts are compared in one transaction: hospitals that announce meanwhile wait for it."""

MOST_COMPARED = 300
"""With how many others one chart is compared, the oldest. A block of more is one of a very common name."""

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
        national = self._region().national_number
        now = int(self._clock().timestamp())
        with changing(self._database) as connection:
            ids = candidate_store.waiting(connection, BATCH)
            for one in charts.by_ids(connection, ids):
                mine = demographics(one, national)
                candidate_store.save_blocks(connection, one.chart.id, blocks(mine))
                near = candidate_store.in_blocks(connection, one.chart.id, lookups(mine), MOST_COMPARED)
                likely = sorted(
                    (-alike, other.chart.id, other)
                    for other in charts.by_ids(connection, near)
                    if (alike := score(mine, demographics(other, national))) >= PROPOSED_FROM
                )[:MOST_PAIRS]
                held = decisions.about(connection, [one.key]) if likely else []
                found = []
                for alike, _, other in likely:
                    first, second = sorted((one.chart.id, other.chart.id))
                    state = standing(
                        one_person=one.person == other.person,
                        decided_apart=any(candidate_store.parts(each, one.key, other.key) for each in held),
                    )
                    found.append(Pair(first, second, -alike, state, now))
                candidate_store.replace(connection, one.chart.id, found)
            candidate_store.compared(connection, ids)
        return len(ids)

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
