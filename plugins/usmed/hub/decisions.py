"""Queries on what registrars decided about who is who. Rows are only ever added: a decision that is undone stays.

A decision is about charts by their key, so that it holds again when a chart goes with its last study and comes back,
and never for a chart that says something else of its patient than what the person who decided has seen.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import batched
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.index import Decided
from usmed.hub.tables import SLICE


class Kind(StrEnum):
    """What was decided: two charts are one person; two persons are two; a person is two; that does not hold."""

    LINK = "link"
    DIFFERENT = "different"
    UNLINK = "unlink"
    UNDO = "undo"


class Side(StrEnum):
    """A decision has two sides. In an unlink ONE stays and OTHER leaves."""

    ONE = "one"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class DecidedChart:
    """A chart as it was when it was decided about.

    Attributes:
        side: which side of the decision it is on.
        key: names it (`charts.NewChart.key`).
        described: canonical JSON of its hospital, numbers, birth date and sex; without a name.
        named: this very chart was chosen; else it was of the same person.
    """

    side: Side
    key: str
    described: str
    named: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the history.

    Attributes:
        id: counts up; 0 before it is kept.
        made: aware UTC.
        by: whose decision.
        reason: in their words.
        undoes: the decision that an UNDO takes back.
        undone: the UNDO that takes this one back.
        charts: of both sides; those of the decision that it undoes, for an UNDO.
        numbers: of an unlink: which side each shared number stays with.
    """

    id: int
    kind: Kind
    made: datetime
    by: str
    reason: str
    undoes: int | None = None
    undone: int | None = None
    charts: tuple[DecidedChart, ...] = ()
    numbers: tuple[tuple[PatientIdentifier, Side], ...] = ()

    @property
    def counts(self) -> bool:
        """Tell whether it holds."""
        return self.kind is not Kind.UNDO and self.undone is None

    def numbers_of(self, side: Side) -> list[PatientIdentifier]:
        """Return the numbers that the charts of one side claimed."""
        charts = (json.loads(one.described) for one in self.charts if one.side is side)
        return [PatientIdentifier(*number) for _, numbers, *_ in charts for number in numbers]

    def keys(self, side: Side) -> frozenset[str]:
        """Return the charts of one side, by key."""
        return frozenset(one.key for one in self.charts if one.side is side)


_decision = sa.table("link_decision", *map(sa.column, ("id", "kind", "made", "by", "reason", "undoes")))
_chart = sa.table(
    "link_decision_chart",
    *map(sa.column, ("decision", "key", "side", "described")),
    sa.column("named", sa.Boolean),
)
_number = sa.table("link_decision_number", *map(sa.column, ("decision", "issuer", "value", "side")))
_undo = sa.alias(_decision, "undo")
_COUNTS = ~sa.exists().where(_undo.c.undoes == _decision.c.id)


def save(connection: Connection, one: Decision) -> int:
    """Add a decision; return its id."""
    row = sa.insert(_decision).values(
        kind=one.kind.value, made=int(one.made.timestamp()), by=one.by, reason=one.reason, undoes=one.undoes
    )
    made = int(connection.execute(row.returning(_decision.c.id)).scalar_one())
    if one.charts:
        rows = [
            {"decision": made, "key": each.key, "side": each.side.value, "named": each.named,
             "described": each.described}
            for each in one.charts
        ]  # fmt: skip
        connection.execute(sa.insert(_chart), rows)
    if one.numbers:
        kept = [
            {"decision": made, "issuer": each.issuer, "value": each.value, "side": side.value}
            for each, side in one.numbers
        ]
        connection.execute(sa.insert(_number), kept)
    return made


def find(connection: Connection, id: int) -> Decision | None:
    """Return one decision."""
    found = _load(connection, _decision.c.id == id)
    return found[0] if found else None


def history(connection: Connection, limit: int, before: int | None = None) -> list[Decision]:
    """Return decisions, the newest first; those older than `before` if it is given."""
    condition = _decision.c.id < before if before is not None else sa.true()
    newest = sa.select(_decision.c.id).where(condition).order_by(_decision.c.id.desc()).limit(limit)
    ids = list(connection.scalars(newest))
    return sorted(_load(connection, _decision.c.id.in_(ids)), key=lambda one: -one.id)


def linked_with(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Return the charts that a decision which holds joins with one of these, by key."""
    mine, theirs = sa.alias(_chart, "mine"), sa.alias(_chart, "theirs")
    found: set[str] = set()
    for part in batched(keys, SLICE, strict=False):
        found.update(
            connection.scalars(
                sa.select(theirs.c.key)
                .join_from(mine, theirs, theirs.c.decision == mine.c.decision)
                .join(_decision, _decision.c.id == mine.c.decision)
                .where(mine.c.key.in_(part), mine.c.named, theirs.c.named)
                .where(_decision.c.kind == Kind.LINK.value, _COUNTS)
            )
        )
    return found


def about(connection: Connection, keys: Collection[str]) -> list[Decision]:
    """Return the decisions that hold and are about any of these charts, by key."""
    ids: set[int] = set()
    for part in batched(keys, SLICE, strict=False):
        ids.update(connection.scalars(sa.select(_chart.c.decision).where(_chart.c.key.in_(part))))
    return [one for one in _load(connection, _decision.c.id.in_(ids)) if one.counts] if ids else []


def as_decided(decisions: Iterable[Decision], charts: Mapping[str, tuple[int, Collection[PatientIdentifier]]]) -> list[
    Decided
]:
    """Return decisions as `index.link` takes them: about the charts that are there.

    Args:
        decisions: those that hold.
        charts: the id and the numbers of each chart by its key.
    """
    return [_as_decided(one, charts) for one in decisions if one.counts]


def _as_decided(one: Decision, charts: Mapping[str, tuple[int, Collection[PatientIdentifier]]]) -> Decided:
    here = [each for each in one.charts if each.key in charts]
    if one.kind is Kind.LINK:
        return Decided(one.id, together=frozenset(charts[each.key][0] for each in here if each.named))
    sides = {side: [charts[each.key] for each in here if each.side is side] for side in Side}
    lost = frozenset(
        (id, number)
        for number, keeps in one.numbers
        for side, members in sides.items()
        for id, claimed in members
        if side is not keeps and number in claimed
    )
    mine, theirs = (frozenset(id for id, _ in sides[side]) for side in Side)
    return Decided(one.id, apart=(mine, theirs), lost=lost)


def _load(connection: Connection, condition: sa.ColumnElement[bool]) -> list[Decision]:
    query = (
        sa.select(_decision, _undo.c.id.label("undone"))
        .join_from(_decision, _undo, _undo.c.undoes == _decision.c.id, isouter=True)
        .where(condition)
        .order_by(_decision.c.id)
    )
    rows = connection.execute(query).all()
    wanted = {row.undoes or row.id for row in rows}
    charts: dict[int, list[DecidedChart]] = {}
    numbers: dict[int, list[tuple[PatientIdentifier, Side]]] = {}
    for part in batched(wanted, SLICE, strict=False):
        for each in connection.execute(sa.select(_chart).where(_chart.c.decision.in_(part)).order_by(_chart.c.key)):
            one = DecidedChart(Side(each.side), each.key, each.described, each.named)
            charts.setdefault(each.decision, []).append(one)
        for each in connection.execute(sa.select(_number).where(_number.c.decision.in_(part))):
            kept = (PatientIdentifier(each.issuer, each.value), Side(each.side))
            numbers.setdefault(each.decision, []).append(kept)
    return [_read(row, charts, numbers) for row in rows]


def _read(
    row: Any, charts: Mapping[int, Sequence[DecidedChart]], numbers: Mapping[int, list[tuple[PatientIdentifier, Side]]]
) -> Decision:
    of = row.undoes or row.id
    return Decision(
        row.id,
        Kind(row.kind),
        datetime.fromtimestamp(row.made, UTC),
        row.by,
        row.reason,
        row.undoes,
        row.undone,
        tuple(charts.get(of, ())),
        tuple(sorted(numbers.get(of, []))),
    )
