"""Searching an audit log, a bounded stretch of it at a time: the newest records first, or on from a record."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from usmed.platform.storage import Database

STRETCH = 100_000
"""How many records one search looks at, so that a search for nothing does not read millions."""

_record = sa.table("audit_record", *map(sa.column, ("sequence", "patient", "content")))


@dataclass(frozen=True, slots=True)
class Found:
    """Events with their `sequence`, and the sequence number before which to go on; 0 when there is nothing older."""

    events: list[dict[str, Any]]
    before: int


def search(
    database: Database,
    *,
    text: str = "",
    event: str = "",
    outcome: str = "",
    before: int = 0,
    limit: int = 50,
) -> Found:
    """Return the newest events that fit.

    Args:
        text: stands anywhere in the record, in any case of ASCII letters.
        event, outcome: the value of that member.
        before: only records with a smaller sequence number; 0 for all.
        limit: the most that are returned.
    """
    with database.read() as connection:
        last = connection.scalar(sa.select(sa.func.max(_record.c.sequence))) or 0
        top = min(before, last + 1) if before > 0 else last + 1
        bottom = max(top - STRETCH, 1)
        query = sa.select(_record.c.sequence, _record.c.content).where(
            _record.c.sequence < top, _record.c.sequence >= bottom
        )
        # Canonical JSON: a member stands in its record in exactly one way, and never inside a text, where quotation
        # marks are escaped.
        for name, value in (("event", event), ("outcome", outcome)):
            if value:
                query = query.where(_has(name, value))
        if text:
            query = query.where(sa.func.lower(_record.c.content).contains(text.lower(), autoescape=True))
        rows = connection.execute(query.order_by(_record.c.sequence.desc()).limit(limit)).all()
    events = [_event(row) for row in rows]
    oldest = rows[-1].sequence if len(rows) == limit else bottom
    return Found(events, oldest if oldest > 1 else 0)


@dataclass(frozen=True, slots=True)
class Followed:
    """Events with their `sequence`, the oldest first, and the sequence number behind which to go on."""

    events: list[dict[str, Any]]
    reached: int


def follow(database: Database, *, after: int, events: Collection[str], stretch: int) -> Followed:
    """Return the events of these kinds behind a record.

    Args:
        after: the sequence number of the last record that was looked at; 0 to begin.
        events: values of the member `event`.
        stretch: how many records are looked at.
    """
    with database.read() as connection:
        last = connection.scalar(sa.select(sa.func.max(_record.c.sequence))) or 0
        end = min(after + stretch, last)
        query = (
            sa.select(_record.c.sequence, _record.c.content)
            .where(_record.c.sequence > after, _record.c.sequence <= end)
            .where(sa.or_(*(_has("event", one) for one in events)))
            .order_by(_record.c.sequence)
        )
        rows = connection.execute(query).all() if end > after else []
    return Followed([_event(row) for row in rows], max(end, after))


def was_said(database: Database, *, before: int, patient: str, members: Mapping[str, str]) -> bool:
    """Tell whether an earlier record about the same patient has all these members, wherever in it they stand."""
    query = sa.select(_record.c.sequence).where(_record.c.patient == patient, _record.c.sequence < before)
    for name, value in members.items():
        query = query.where(_has(name, value))
    with database.read() as connection:
        return connection.execute(query.limit(1)).first() is not None


def _has(name: str, value: str) -> sa.ColumnElement[bool]:
    # Written as in canonical JSON (RFC 8785 §3.2.2.2), which escapes fewer characters than Python.
    return _record.c.content.contains(f'"{name}":{json.dumps(value, ensure_ascii=False)}', autoescape=True)


def _event(row: Any) -> dict[str, Any]:
    return {"sequence": row.sequence, **json.loads(row.content)["event"]}
