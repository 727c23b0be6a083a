"""Queries on charts that may be one person: who waits to be compared, the blocks, the pairs that a person is to see."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import batched

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.hub import decisions
from usmed.hub.candidates import Demographics, State, standing
from usmed.hub.decisions import Decision, Kind, Side
from usmed.hub.tables import SLICE, chart, insert, number
from usmed.platform.storage import Statement

_waiting = sa.table("chart_to_compare", sa.column("chart"))
_block = sa.table("chart_block", sa.column("block"), sa.column("chart"))
_pair = sa.table("candidate", *map(sa.column, ("one", "other", "score", "state", "found")))

_COMPARE = Statement(sa.text("INSERT INTO chart_to_compare (chart) VALUES (:chart) ON CONFLICT DO NOTHING"))


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two charts, the older first, how alike they are (0 to 100), and when that was found, in Unix seconds."""

    one: int
    other: int
    score: int
    state: State
    found: int


@dataclass(frozen=True, slots=True)
class Described:
    """A chart's id, and what it says of its patient."""

    id: int
    says: Demographics


def compare_later(connection: Connection, charts: Iterable[int]) -> None:
    """Note charts that are new, or whose patient is called otherwise now."""
    rows = [{"chart": one} for one in set(charts)]
    if rows:
        _COMPARE.run_each(connection, rows)


def waiting(connection: Connection, issuer: str, limit: int) -> list[Described]:
    """Return charts that wait to be compared, the oldest first.

    Args:
        issuer: of the national number, or empty.
    """
    oldest = sa.select(_waiting.c.chart.label("id")).order_by(_waiting.c.chart).limit(limit).subquery()
    return _described(connection, oldest, issuer)


def how_many_wait(connection: Connection) -> int:
    """Return how many charts wait to be compared."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(_waiting)) or 0)


def compared(connection: Connection, charts: Collection[int]) -> None:
    """Note that these charts need not wait any more."""
    connection.execute(sa.delete(_waiting).where(_waiting.c.chart.in_(charts)))


def save_blocks(connection: Connection, blocks: Mapping[int, Collection[str]]) -> None:
    """Let charts be found in these blocks, and in no others."""
    connection.execute(sa.delete(_block).where(_block.c.chart.in_(blocks.keys())))
    rows = [{"block": one, "chart": key} for key, own in blocks.items() for one in sorted(own)]
    if rows:
        connection.execute(sa.insert(_block), rows)


def near(
    connection: Connection, key: int, own: Collection[str], others: Collection[str], issuer: str, limit: int
) -> list[Described]:
    """Return other charts that are in some of these blocks: those in `own` first, then the oldest; at most `limit`."""
    if not others:
        return []
    rank = sa.func.min(sa.case((_block.c.block.in_(sorted(own)), 0), else_=1))
    found = (
        sa.select(_block.c.chart.label("id"))
        .where(_block.c.block.in_(sorted(others)), _block.c.chart != key)
        .group_by(_block.c.chart)
        .order_by(rank, _block.c.chart)
        .limit(limit)
        .subquery()
    )
    return _described(connection, found, issuer)


def replace(connection: Connection, found: Mapping[int, Mapping[int, int]], now: int) -> None:
    """Make these the open pairs of charts. Pairs that were decided stay.

    Args:
        found: for each chart the scores of others, by their ids; those that have gone meanwhile are left out.
        now: Unix time in seconds.
    """
    keys = list(found)
    mine = sa.or_(_pair.c.one.in_(keys), _pair.c.other.in_(keys))
    connection.execute(sa.delete(_pair).where(mine, _pair.c.state == State.OPEN.value))
    wanted = {other for scores in found.values() for other in scores}
    there = set(keys)
    for part in batched(wanted, SLICE, strict=False):
        there.update(connection.scalars(sa.select(chart.c.id).where(chart.c.id.in_(part))))
    pairs = {
        (min(key, other), max(key, other)): alike
        for key, scores in found.items()
        for other, alike in scores.items()
        if other in there
    }
    if pairs:
        upsert = insert(connection, _pair)
        upsert = upsert.on_conflict_do_update(
            index_elements=["one", "other"], set_={"score": upsert.excluded.score}
        )
        rows = [
            {"one": one, "other": other, "score": alike, "state": State.OPEN.value, "found": now}
            for (one, other), alike in sorted(pairs.items())
        ]
        connection.execute(upsert, rows)


def _described(connection: Connection, ids: sa.Subquery, issuer: str) -> list[Described]:
    its_number = sa.and_(number.c.chart == chart.c.id, number.c.issuer == issuer, number.c.linked)
    query = (
        sa.select(chart.c.id, chart.c.name, chart.c.birth_date, chart.c.sex, sa.func.min(number.c.value))
        .join_from(ids, chart, chart.c.id == ids.c.id)
        .join(number, its_number, isouter=True)
        .group_by(chart.c.id, chart.c.name, chart.c.birth_date, chart.c.sex)
        .order_by(chart.c.id)
    )
    rows = connection.execute(query)
    return [Described(id, Demographics(name, born, sex, value or "")) for id, name, born, sex, value in rows]


def page(connection: Connection, state: State, limit: int) -> list[Pair]:
    """Return pairs in a state, the most alike first, then the oldest."""
    query = sa.select(_pair).where(_pair.c.state == state.value)
    rows = connection.execute(query.order_by(_pair.c.score.desc(), _pair.c.one, _pair.c.other).limit(limit))
    return [Pair(row.one, row.other, row.score, State(row.state), row.found) for row in rows]


def count(connection: Connection, state: State, most: int) -> int:
    """Return how many pairs are in a state; `most` if there are as many or more."""
    some = sa.select(_pair.c.one).where(_pair.c.state == state.value).limit(most).subquery()
    return int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)


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
