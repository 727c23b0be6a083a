"""Queries on charts that may be one person: who waits to be compared, the blocks, the pairs that a person is to see."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import batched

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.hub import decisions
from usmed.hub.candidates import State, standing
from usmed.hub.decisions import Decision, Kind, Side
from usmed.hub.tables import SLICE, chart, insert

_waiting = sa.table("chart_to_compare", sa.column("chart"))
_block = sa.table("chart_block", sa.column("block"), sa.column("chart"))
_pair = sa.table("candidate", *map(sa.column, ("one", "other", "score", "state", "found")))


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two charts, the older first, how alike they are (0 to 100), and when that was found, in Unix seconds."""

    one: int
    other: int
    score: int
    state: State
    found: int


def compare_later(connection: Connection, charts: Iterable[int]) -> None:
    """Note charts that are new, or whose patient is called otherwise now."""
    rows = [{"chart": one} for one in set(charts)]
    if rows:
        connection.execute(insert(connection, _waiting).on_conflict_do_nothing(), rows)


def waiting(connection: Connection, limit: int) -> list[int]:
    """Return charts that wait to be compared, the oldest first."""
    return list(connection.scalars(sa.select(_waiting.c.chart).order_by(_waiting.c.chart).limit(limit)))


def how_many_wait(connection: Connection) -> int:
    """Return how many charts wait to be compared."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(_waiting)) or 0)


def compared(connection: Connection, charts: Collection[int]) -> None:
    """Note that these charts need not wait any more."""
    connection.execute(sa.delete(_waiting).where(_waiting.c.chart.in_(charts)))


def save_blocks(connection: Connection, key: int, blocks: Collection[str]) -> None:
    """Let a chart be found in these blocks, and in no others."""
    connection.execute(sa.delete(_block).where(_block.c.chart == key))
    if blocks:
        connection.execute(sa.insert(_block), [{"block": one, "chart": key} for one in sorted(blocks)])


def in_blocks(connection: Connection, key: int, blocks: Collection[str], limit: int) -> list[int]:
    """Return other charts that are in one of these blocks: the oldest, at most `limit`."""
    if not blocks:
        return []
    query = sa.select(_block.c.chart).where(_block.c.block.in_(sorted(blocks)), _block.c.chart != key)
    return list(connection.scalars(query.distinct().order_by(_block.c.chart).limit(limit)))


def replace(connection: Connection, key: int, found: Sequence[Pair]) -> None:
    """Make these the open pairs of a chart. Pairs that were decided stay."""
    mine = sa.or_(_pair.c.one == key, _pair.c.other == key)
    connection.execute(sa.delete(_pair).where(mine, _pair.c.state == State.OPEN.value))
    if found:
        upsert = insert(connection, _pair)
        upsert = upsert.on_conflict_do_update(
            index_elements=["one", "other"], set_={"score": upsert.excluded.score, "state": upsert.excluded.state}
        )
        rows = [
            {"one": one.one, "other": one.other, "score": one.score, "state": one.state.value, "found": one.found}
            for one in found
        ]
        connection.execute(upsert, rows)


def page(connection: Connection, state: State, limit: int) -> list[Pair]:
    """Return pairs in a state, the most alike first, then the oldest."""
    query = sa.select(_pair).where(_pair.c.state == state.value)
    rows = connection.execute(query.order_by(_pair.c.score.desc(), _pair.c.one, _pair.c.other).limit(limit))
    return [Pair(row.one, row.other, row.score, State(row.state), row.found) for row in rows]


def count(connection: Connection, state: State, most: int) -> int:
    """Return how many pairs are in a state; `most` if there are as many or more."""
    some = sa.select(_pair.c.one).where(_pair.c.state == state.value).limit(most).subquery()
    return int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)


def score_of(connection: Connection, one: int, other: int) -> int | None:
    """Return how alike two charts were found to be; None if that was not looked at, or they are not."""
    first, second = sorted((one, other))
    found = connection.scalar(sa.select(_pair.c.score).where(_pair.c.one == first, _pair.c.other == second))
    return int(found) if found is not None else None


def refresh(connection: Connection, charts: Iterable[int]) -> None:
    """Set anew how the pairs of these charts stand, after their persons or decisions about them changed."""
    one, other = sa.alias(chart, "first"), sa.alias(chart, "second")
    for part in batched(sorted(set(charts)), SLICE, strict=False):
        query = (
            sa.select(_pair.c.one, _pair.c.other, _pair.c.state)
            .add_columns(one.c.key, other.c.key.label("other_key"), (one.c.person == other.c.person).label("joined"))
            .join_from(_pair, one, one.c.id == _pair.c.one)
            .join(other, other.c.id == _pair.c.other)
            .where(sa.or_(_pair.c.one.in_(part), _pair.c.other.in_(part)))
        )
        rows = connection.execute(query).all()
        held = decisions.about(connection, {key for row in rows for key in (row.key, row.other_key)})
        for row in rows:
            apart = any(parts(decision, row.key, row.other_key) for decision in held)
            state = standing(one_person=bool(row.joined), decided_apart=apart)
            if state != row.state:
                this = sa.and_(_pair.c.one == row.one, _pair.c.other == row.other)
                connection.execute(sa.update(_pair).where(this).values(state=state.value))


def parts(decision: Decision, one: str, other: str) -> bool:
    """Tell whether a decision that holds says of two charts, by key, that they are two persons."""
    if decision.kind not in (Kind.DIFFERENT, Kind.UNLINK) or not decision.counts:
        return False
    mine, theirs = decision.keys(Side.ONE), decision.keys(Side.OTHER)
    return (one in mine and other in theirs) or (one in theirs and other in mine)
