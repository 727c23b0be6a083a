"""Queries on charts, their numbers, and the persons they are joined to. What is joined is decided in `index`.

Every function takes the connection, so that a use case sees one snapshot, or changes everything at once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import decisions
from usmed.hub.index import Chart, Contradiction
from usmed.hub.tables import SLICE, chart, contradiction, insert, names, number, study
from usmed.platform.storage import Statement


@dataclass(frozen=True, slots=True)
class NewChart:
    """A chart as a study record describes it, before it has an id."""

    hospital: str
    identifiers: frozenset[PatientIdentifier]
    birth_date: str
    sex: str

    @property
    def key(self) -> str:
        """Return what all records of one chart have in common."""
        return sha256_hex(described(self))


@dataclass(frozen=True, slots=True)
class LinkedChart:
    """A stored chart, its person, those of its numbers by which it is found, and its key (`NewChart.key`)."""

    chart: Chart
    person: int
    linked: frozenset[PatientIdentifier]
    key: str


@dataclass(frozen=True, slots=True)
class FoundContradiction:
    """A contradiction as a person is to see it; `found` is a Unix time in seconds."""

    found: int
    identifier: PatientIdentifier
    reason: str
    chart: Chart
    other: Chart | None


def described(one: NewChart | Chart) -> bytes:
    """Return what makes a chart the chart that it is, canonical JSON: hospital, numbers, birth date and sex."""
    numbers = [[each.issuer, each.value] for each in sorted(one.identifiers)]
    return canonical_json([one.hospital, numbers, one.birth_date, one.sex])


def ensure(connection: Connection, wanted: Iterable[NewChart]) -> tuple[dict[NewChart, int], set[int]]:
    """Find charts or make them; return the id of each, and which of them were made."""
    keys = {one: one.key for one in wanted}
    ids: dict[str, int] = {}
    for part in batched(keys.values(), SLICE, strict=False):
        found = connection.execute(sa.select(chart.c.key, chart.c.id).where(chart.c.key.in_(part)))
        ids.update((row.key, row.id) for row in found)
    missing = [one for one, key in keys.items() if key not in ids]
    made: dict[str, int] = {}
    if missing:
        rows = [
            {"hospital": one.hospital, "key": keys[one], "birth_date": one.birth_date, "sex": one.sex, "person": 0}
            for one in missing
        ]
        inserted = connection.execute(sa.insert(chart).returning(chart.c.key, chart.c.id), rows)
        made = {row.key: row.id for row in inserted}
        numbers = [
            {"chart": made[keys[one]], "issuer": each.issuer, "value": each.value, "linked": False}
            for one in missing
            for each in one.identifiers
        ]
        if numbers:
            connection.execute(sa.insert(number), numbers)
    ids |= made
    return {one: ids[key] for one, key in keys.items()}, set(made.values())


def tell_names(connection: Connection, told: Mapping[int, str]) -> list[int]:
    """Keep what charts' patients are called now, where anybody told; return the charts for which that is new."""
    held: dict[int, str] = {}
    for part in batched(told, SLICE, strict=False):
        rows = connection.execute(sa.select(chart.c.id, chart.c.name).where(chart.c.id.in_(part)))
        held.update((row.id, row.name) for row in rows)
    news = {key: name for key, name in told.items() if name and held[key] != name}
    if news:
        renamed = sa.update(chart).where(chart.c.id == sa.bindparam("of")).values(name=sa.bindparam("to"))
        connection.execute(renamed, [{"of": key, "to": name} for key, name in news.items()])
    return list(news)


def remove_unused(connection: Connection, candidates: Iterable[int]) -> tuple[set[PatientIdentifier], set[int]]:
    """Delete those charts that no study is under any more.

    Returns:
        The numbers they claimed, and the charts that were one person with them.
    """
    freed: set[PatientIdentifier] = set()
    left: set[int] = set()
    for part in batched(candidates, SLICE, strict=False):
        used = sa.exists().where(study.c.chart == chart.c.id)
        unused = connection.scalars(sa.select(chart.c.id).where(chart.c.id.in_(part), ~used)).all()
        claimed = sa.select(number.c.issuer, number.c.value).where(number.c.chart.in_(unused))
        freed.update(PatientIdentifier(*row) for row in connection.execute(claimed))
        persons = connection.scalars(sa.select(chart.c.person).where(chart.c.id.in_(unused))).all()
        connection.execute(sa.delete(chart).where(chart.c.id.in_(unused)))
        left.update(connection.scalars(sa.select(chart.c.id).where(chart.c.person.in_(persons), chart.c.person != 0)))
    return freed, left


def persons_by_number() -> sa.Select[Any]:
    """Query the person whom the number `issuer` and `value` names."""
    return (
        sa.select(chart.c.person)
        .join_from(number, chart, number.c.chart == chart.c.id)
        .where(number.c.issuer == sa.bindparam("issuer"), number.c.value == sa.bindparam("value"), number.c.linked)
    )


def of_number(connection: Connection, identifier: PatientIdentifier) -> list[LinkedChart]:
    """Return the charts of the person whom a number names; a number names one at most (see `index`)."""
    return _grouped(_OF_NUMBER.run(connection, {"issuer": identifier.issuer, "value": identifier.value}))


def of_persons(connection: Connection, persons: sa.Select[Any] | Collection[int]) -> list[LinkedChart]:
    """Return the charts of these persons."""
    return _load(connection, chart.c.person.in_(persons))


def by_ids(connection: Connection, ids: Iterable[int]) -> list[LinkedChart]:
    """Return charts by their ids; those that are not there are left out."""
    found: list[LinkedChart] = []
    for part in batched(ids, SLICE, strict=False):
        found += _load(connection, chart.c.id.in_(part))
    return found


def by_keys(connection: Connection, keys: Iterable[str]) -> list[LinkedChart]:
    """Return charts by their keys; those that are not there are left out."""
    found: list[LinkedChart] = []
    for part in batched(keys, SLICE, strict=False):
        found += _load(connection, chart.c.key.in_(part))
    return found


def connected(
    connection: Connection, numbers: Iterable[PatientIdentifier], ids: Iterable[int] = ()
) -> list[LinkedChart]:
    """Return these charts, all that claim one of these numbers, and all that hang together with those.

    Charts hang together by a number that both claim, and by a decision that they are one person.
    """
    found: dict[int, LinkedChart] = {}
    seen: set[PatientIdentifier] = set()
    frontier, ids = set(numbers), set(ids)
    while frontier or ids:
        seen |= frontier
        for part in batched(frontier, SLICE, strict=False):
            ids.update(connection.scalars(sa.select(number.c.chart).where(names(number, part))))
        fresh = by_ids(connection, ids - found.keys())
        found.update((one.chart.id, one) for one in fresh)
        others = decisions.linked_with(connection, [one.key for one in fresh]) - {one.key for one in found.values()}
        ids = {one.chart.id for one in by_keys(connection, others)}
        frontier = {identifier for one in fresh for identifier in one.chart.identifiers} - seen
    return list(found.values())


def save_links(
    connection: Connection,
    charts: Sequence[LinkedChart],
    persons: dict[int, int],
    contradictions: Sequence[Contradiction],
    found_at: int,
) -> list[int]:
    """Store the persons and contradictions of these charts; return the ids of those for which anything changed."""
    refused: dict[int, set[PatientIdentifier]] = {one.chart.id: set() for one in charts}
    for each in contradictions:
        refused[each.chart].add(each.identifier)
    moved: list[dict[str, int]] = []
    relinked: list[dict[str, int | str | bool]] = []
    changed = []
    for one in charts:
        key, person = one.chart.id, persons[one.chart.id]
        linked = one.chart.identifiers - refused[key]
        if one.person != person:
            moved.append({"of": key, "to": person})
        for differing in linked ^ one.linked:
            flip: dict[str, int | str | bool] = {
                "of": key,
                "by": differing.issuer,
                "is": differing.value,
                "to": differing in linked,
            }
            relinked.append(flip)
        if one.person != person or one.linked != linked:
            changed.append(key)
    this_chart: sa.ColumnElement[bool] = chart.c.id == sa.bindparam("of")
    this_number = sa.and_(
        number.c.chart == sa.bindparam("of"),
        number.c.issuer == sa.bindparam("by"),
        number.c.value == sa.bindparam("is"),
    )
    if moved:
        connection.execute(sa.update(chart).where(this_chart).values(person=sa.bindparam("to")), moved)
    if relinked:
        connection.execute(sa.update(number).where(this_number).values(linked=sa.bindparam("to")), relinked)
    _save_contradictions(connection, [one.chart.id for one in charts], contradictions, found_at)
    return changed


def contradictions(connection: Connection) -> list[FoundContradiction]:
    """Return all contradictions, the oldest first."""
    query = sa.select(contradiction).order_by(contradiction.c.found, contradiction.c.chart, contradiction.c.value)
    rows = connection.execute(query).all()
    charts: dict[int, Chart] = {}
    for part in batched({row.chart for row in rows} | {row.other for row in rows}, SLICE, strict=False):
        charts.update((one.chart.id, one.chart) for one in _load(connection, chart.c.id.in_(part)))
    return [
        FoundContradiction(
            row.found,
            PatientIdentifier(row.issuer, row.value),
            row.reason,
            charts[row.chart],
            charts.get(row.other),
        )
        for row in rows
    ]


def _load(connection: Connection, condition: sa.ColumnElement[bool]) -> list[LinkedChart]:
    return _grouped(tuple(row) for row in connection.execute(_select(condition)))


def _select(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    columns = (chart.c.id, chart.c.hospital, chart.c.birth_date, chart.c.sex, chart.c.person, chart.c.key, chart.c.name)
    return (
        sa.select(*columns, number.c.issuer, number.c.value, number.c.linked)
        .join_from(chart, number, number.c.chart == chart.c.id, isouter=True)
        .where(condition)
        .order_by(chart.c.id)
    )


_OF_NUMBER = Statement(_select(chart.c.person.in_(persons_by_number())))


def _grouped(rows: Iterable[tuple[Any, ...]]) -> list[LinkedChart]:
    loaded = []
    for (id, hospital, born, sex, person, key, name), group in groupby(rows, key=lambda row: row[:7]):
        # The outer join leaves a chart without numbers one row.
        numbers = {PatientIdentifier(row[7], row[8]): row[9] for row in group if row[7] is not None}
        linked = frozenset(one for one, is_linked in numbers.items() if is_linked)
        loaded.append(LinkedChart(Chart(id, hospital, frozenset(numbers), born, sex, name), person, linked, key))
    return loaded


def _save_contradictions(
    connection: Connection, charts: Sequence[int], found: Sequence[Contradiction], found_at: int
) -> None:
    kept = {(one.chart, one.identifier.issuer, one.identifier.value) for one in found}
    key = sa.tuple_(contradiction.c.chart, contradiction.c.issuer, contradiction.c.value)
    for part in batched(charts, SLICE, strict=False):
        rows = connection.execute(sa.select(contradiction).where(contradiction.c.chart.in_(part))).all()
        settled = [(row.chart, row.issuer, row.value) for row in rows]
        settled = [one for one in settled if one not in kept]
        if settled:
            connection.execute(sa.delete(contradiction).where(key.in_(settled)))
    if found:
        upsert = insert(connection, contradiction)
        # The day it was first found stays.
        upsert = upsert.on_conflict_do_update(
            index_elements=["chart", "issuer", "value"],
            set_={"other": upsert.excluded.other, "reason": upsert.excluded.reason},
        )
        connection.execute(
            upsert,
            [
                {
                    "chart": one.chart,
                    "issuer": one.identifier.issuer,
                    "value": one.identifier.value,
                    "other": one.other,
                    "reason": one.reason,
                    "found": found_at,
                }
                for one in found
            ],
        )
