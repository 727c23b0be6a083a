"""An audit log by its columns, a page at a time: who, whom, what, when, how it ended. Never by offset: pages of a log
that grows would slip.

Whatever is asked, one page looks at `STRETCH` records at most, of those that the best index finds; where more could
fit, the page says where to go on.
"""

import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import SEARCHED, AuditRecord
from usmed.platform.storage import Database

STRETCH = 100_000
PAGE = 1000

_record = sa.table("audit_record", *map(sa.column, ("sequence", "hash", "content", *SEARCHED)))
_of = _record.c


type Condition = tuple[str, Callable[[Any, Any], Any], str]
"""A column, how it is compared, with what."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for; what is empty is not asked.

    Attributes:
        patient: exactly this number (`issuer:value`).
        agent: exactly this person, system or hospital.
        study: stands in the Study Instance UID.
        event, outcome: these.
        since, until: not before, and not after; aware.
    """

    patient: str = ""
    agent: str = ""
    event: str = ""
    outcome: str = ""
    study: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def told(self) -> dict[str, str]:
        """Return it for a record or a manifest; what is not asked is left out."""
        asked = {name: getattr(self, name) for name in ("patient", "agent", "event", "outcome", "study")}
        times = {"since": self.since, "until": self.until}
        return {name: value for name, value in asked.items() if value} | {
            name: as_text(value) for name, value in times.items() if value
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Events with their `sequence`, the newest first, and the sequence number before which to go on; 0 at the end."""

    events: list[dict[str, Any]]
    older: int


def ask(database: Database, question: Question, *, before: int = 0, limit: int = 50) -> Page:
    """Return the newest records that fit.

    Args:
        before: only those with a smaller sequence number; 0 for all.
        limit: the most that are returned.

    Raises:
        StorageError: the database fails.
    """
    with database.read() as connection:
        rows, older = _rows(connection, question, before, limit)
    return Page([{"sequence": row.sequence, **json.loads(row.content)["event"]} for row in rows], older)


def records(database: Database, question: Question, *, limit: int) -> Iterator[AuditRecord]:
    """Give the newest records that fit, as they are stored, `limit` at most; each stretch is one snapshot."""
    before, left = 0, limit
    while left > 0:
        with database.read() as connection:
            rows, before = _rows(connection, question, before, min(PAGE, left))
        for row in rows:
            columns = {name: getattr(row, name) for name in SEARCHED}
            yield AuditRecord(row.sequence, row.hash, columns, row.content.encode("utf-8"))
        left -= len(rows)
        if not before:
            return


def last_sequence(database: Database) -> int:
    """Return the number of the newest record; 0 if there is none."""
    with database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.max(_of.sequence))) or 0)


def after(database: Database, sequence: int, limit: int) -> list[dict[str, Any]]:
    """Return the events behind a record with their `sequence`, the oldest first, `limit` at most."""
    query = sa.select(_of.sequence, _of.content).where(_of.sequence > sequence).order_by(_of.sequence).limit(limit)
    with database.read() as connection:
        return [{"sequence": row.sequence, **json.loads(row.content)["event"]} for row in connection.execute(query)]


def as_text(moment: datetime) -> str:
    """Return a time as records have it, so that texts compare as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _rows(connection: sa.Connection, question: Question, before: int, limit: int) -> tuple[list[Any], int]:
    """Return rows and the number before which to go on."""
    first, others = _conditions(question)
    found_first = [compare(_of[name], value) for name, compare, value in first]
    if before:
        found_first.append(_of.sequence < before)
    stretch = (
        sa.select(_of.sequence, *(_of[name] for name in SEARCHED))
        .where(*found_first)
        .order_by(_of.sequence.desc())
        .limit(STRETCH)
        .subquery()
    )
    fitting = [compare(stretch.c[name], value) for name, compare, value in others]
    found = sa.select(stretch.c.sequence).where(*fitting).order_by(stretch.c.sequence.desc()).limit(limit + 1)
    numbers = [int(one) for one in connection.scalars(found)]
    whole = sa.select(_record).where(_of.sequence.in_(numbers[:limit])).order_by(_of.sequence.desc())
    rows = list(connection.execute(whole).all())
    if len(numbers) > limit:
        return rows, numbers[limit - 1]
    if not others:
        return rows, 0
    # No more in this stretch; perhaps there is another one behind it.
    end = sa.select(_of.sequence).where(*found_first).order_by(_of.sequence.desc()).offset(STRETCH - 1).limit(1)
    return rows, int(connection.scalar(end) or 0)


def _conditions(question: Question) -> tuple[list[Condition], list[Condition]]:
    """Return what one index answers, and what is left to look at in its stretch."""
    named = [(name, operator.eq, getattr(question, name)) for name in ("patient", "agent", "event", "outcome")]
    exact = [one for one in named if one[2]]
    times: list[Condition] = []
    if question.since:
        times.append(("at", operator.ge, as_text(question.since)))
    if question.until:
        times.append(("at", operator.le, as_text(question.until)))
    study = [("study_instance_uid", _holds, question.study)] if question.study else []
    # There is no index on the outcome alone.
    first = exact[:1] if exact and exact[0][0] != "outcome" else times
    return first, [one for one in [*exact, *times, *study] if one not in first]


def _holds(column: Any, text: str) -> Any:
    return column.contains(text, autoescape=True)
