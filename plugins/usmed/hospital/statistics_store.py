"""Counts by day on disk. Each event counts once, and each study once with what it grew to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa

from usmed.domain.statistics import Counts
from usmed.platform.storage import Database

REMEMBERED = timedelta(days=35)
"""How long it is remembered that a study was counted; one that grows after that counts anew."""

_statistic = sa.table("statistic", *map(sa.column, ("day", "measure", "label", "value")))
_cursor = sa.table("statistic_cursor", *map(sa.column, ("id", "sequence")))
_study = sa.table(
    "statistic_study", *map(sa.column, ("study_instance_uid", "day", "modality", "hospital", "size_bytes"))
)


@dataclass(frozen=True, slots=True)
class CountedStudy:
    """A study as it is counted."""

    study_instance_uid: str
    modality: str
    hospital: str
    size_bytes: int


class StatisticsStore:
    """The counts of one node."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cursor(self) -> int:
        """Return the number of the last audit record that was counted."""
        with self._database.read() as connection:
            return int(connection.scalar(sa.select(_cursor.c.sequence)) or 0)

    def add(self, counts: Mapping[str, Counts], cursor: int) -> None:
        """Add counts by day, and note how far the audit log was counted: both, or nothing."""
        with self._database.write() as connection:
            for day, found in counts.items():
                self._add(connection, day, found)
            note = self._database.insert(_cursor).values(id=1, sequence=cursor)
            connection.execute(note.on_conflict_do_update(index_elements=["id"], set_={"sequence": cursor}))

    def study(self, study: CountedStudy, today: date) -> None:
        """Count a study; one that was counted lately counts with what it has grown by."""
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(_study).where(_study.c.study_instance_uid == study.study_instance_uid)
            ).first()
            grown = study.size_bytes - (row.size_bytes if row else 0)
            day = row.day if row else today.isoformat()
            modality, hospital = (row.modality, row.hospital) if row else (study.modality, study.hospital)
            counts: Counts = {("bytes", modality): grown, ("bytes-of", hospital): grown}
            if row is None:
                counts |= {("studies", modality): 1, ("studies-of", hospital): 1}
            self._add(connection, day, counts)
            values = {
                "study_instance_uid": study.study_instance_uid, "day": day, "modality": modality,
                "hospital": hospital, "size_bytes": study.size_bytes,
            }  # fmt: skip
            note = self._database.insert(_study).values(values)
            connection.execute(
                note.on_conflict_do_update(
                    index_elements=["study_instance_uid"], set_={"size_bytes": study.size_bytes}
                )
            )
            connection.execute(sa.delete(_study).where(_study.c.day < (today - REMEMBERED).isoformat()))

    def measure(self, day: date, values: Mapping[str, int]) -> None:
        """Write what was measured, not counted: the day's last value stays."""
        with self._database.write() as connection:
            for name, value in values.items():
                row = {"day": day.isoformat(), "measure": name, "label": "", "value": value}
                insert = self._database.insert(_statistic).values(row)
                connection.execute(
                    insert.on_conflict_do_update(index_elements=["day", "measure", "label"], set_={"value": value})
                )

    def between(self, first: date, last: date) -> Sequence[tuple[date, str, str, int]]:
        """Return day, measure, label and value of each count, in this order."""
        query = (
            sa.select(_statistic)
            .where(_statistic.c.day >= first.isoformat(), _statistic.c.day <= last.isoformat())
            .order_by(_statistic.c.day, _statistic.c.measure, _statistic.c.label)
        )
        with self._database.read() as connection:
            return [
                (date.fromisoformat(row.day), row.measure, row.label, int(row.value))
                for row in connection.execute(query)
            ]

    def totals(self) -> dict[tuple[str, str], int]:
        """Return the sum of each count over all days; of what is measured the newest value."""
        total = sa.func.sum(_statistic.c.value).label("total")
        query = sa.select(_statistic.c.measure, _statistic.c.label, total).group_by(
            _statistic.c.measure, _statistic.c.label
        )
        newest = sa.select(_statistic.c.measure, _statistic.c.value).where(_statistic.c.measure.like("storage-%"))
        with self._database.read() as connection:
            found = {(row.measure, row.label): int(row.total) for row in connection.execute(query)}
            for row in connection.execute(newest.order_by(_statistic.c.day)):
                found[row.measure, ""] = int(row.value)
        return found

    def _add(self, connection: sa.Connection, day: str, counts: Counts) -> None:
        for (measure, label), value in counts.items():
            row = {"day": day, "measure": measure, "label": label, "value": value}
            insert = self._database.insert(_statistic).values(row)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["day", "measure", "label"],
                    set_={"value": _statistic.c.value + insert.excluded.value},
                )
            )
