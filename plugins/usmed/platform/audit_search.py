"""Searching an audit log, the newest records first, a bounded stretch of it at a time."""

import json
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
                query = query.where(_record.c.content.contains(f'"{name}":{json.dumps(value)}', autoescape=True))
        if text:
            query = query.where(sa.func.lower(_record.c.content).contains(text.lower(), autoescape=True))
        rows = connection.execute(query.order_by(_record.c.sequence.desc()).limit(limit)).all()
    events = [{"sequence": row.sequence, **json.loads(row.content)["event"]} for row in rows]
    oldest = rows[-1].sequence if len(rows) == limit else bottom
    return Found(events, oldest if oldest > 1 else 0)
