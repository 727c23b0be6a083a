"""What registrars decide about who is who: charts are linked, said to be different, unlinked; and any of that undone.

Every decision has a person and a reason, is kept for good, and is undone only by another one. It changes what the
hub finds, and nothing else: key servers and sources go by what patients signed and desks attested.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Detail
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.hub import candidate_store, charts, decisions
from usmed.hub.candidates import State, score
from usmed.hub.charts import LinkedChart
from usmed.hub.crossed import Crossed, crossed
from usmed.hub.decisions import DecidedChart, Decision, Kind, Side
from usmed.hub.finder import demographics
from usmed.hub.index import Links
from usmed.hub.relink import linked, relink
from usmed.hub.tables import changing
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

UNKNOWN, ALREADY, CONTRADICTION = "unknown", "already-decided", "contradiction"
LONGEST_BY, LONGEST_REASON = 100, 500
MOST_CHARTS = 200
"""Of one person: past that something is wrong that no decision mends."""

PAGE = 50
LARGEST = 2**53 - 1
"""Of a chart or a decision: what a database takes as a number, too."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A pair in the queue: two charts, and how alike they are, 0 to 100."""

    one: LinkedChart
    other: LinkedChart
    score: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two charts side by side.

    Attributes:
        one, other: the charts that were asked for, the older first.
        persons: all charts of the person of each, these included.
        score: how alike they are, 0 to 100.
        state: how they stand.
        decisions: those that hold and are about the two.
    """

    one: LinkedChart
    other: LinkedChart
    persons: tuple[tuple[LinkedChart, ...], tuple[LinkedChart, ...]]
    score: int
    state: State
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A decision that was made, and the copies that somebody has to look at because of a link that is no more."""

    decision: Decision
    crossed: tuple[Crossed, ...] = ()


class Review:
    """The use cases."""

    def __init__(self, database: Database, region: Callable[[], RegionManifest], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._region = region
        self._clock = clock

    def queue(self, limit: int = PAGE) -> tuple[list[Proposal], int]:
        """Return the pairs that wait for a person, the most alike first, one for two persons; and how many wait."""
        with self._database.read() as connection:
            pairs = candidate_store.page(connection, State.OPEN, 4 * limit)
            count = candidate_store.count(connection, State.OPEN, 10_000)
            wanted = {key for pair in pairs for key in (pair.one, pair.other)}
            held = {one.chart.id: one for one in charts.by_ids(connection, wanted)}
        found: dict[frozenset[int], Proposal] = {}
        for pair in pairs:
            one, other = held[pair.one], held[pair.other]
            found.setdefault(frozenset((one.person, other.person)), Proposal(one, other, pair.score))
        return list(found.values())[:limit], count

    def compare(self, one: int, other: int) -> Comparison:
        """Return two charts with all that is known of them.

        Raises:
            RefusedError: `unknown`: one of them is not there.
        """
        with self._database.read() as connection:
            return self._compare(connection, *sorted((one, other)))

    def person(self, chart: int) -> list[LinkedChart]:
        """Return all charts of a chart's person, the oldest first.

        Raises:
            RefusedError: `unknown`.
        """
        with self._database.read() as connection:
            return _person(connection, _find(connection, chart))

    def named(self, number: PatientIdentifier) -> list[LinkedChart]:
        """Return the charts that claim a number, whether they are found by it or not, the oldest first."""
        with self._database.read() as connection:
            found = charts.connected(connection, [number])
        return sorted((one for one in found if number in one.chart.identifiers), key=lambda one: one.chart.id)

    def history(self, limit: int = PAGE, before: int | None = None) -> list[Decision]:
        """Return decisions, the newest first."""
        with self._database.read() as connection:
            return decisions.history(connection, limit, before)

    def decision(self, id: int) -> Decision:
        """Return one decision.

        Raises:
            RefusedError: `unknown`.
        """
        with self._database.read() as connection:
            return _decision(connection, id)

    def crossed(self, id: int) -> list[Crossed]:
        """Return the copies to look at because of a link that this decision ended, or that it made.

        Raises:
            RefusedError: `unknown`.
        """
        with self._database.read() as connection:
            return self._crossed(connection, _decision(connection, id))

    def link(self, one: int, other: int, *, by: str, reason: str) -> Done:
        """Decide that two charts are one person.

        Raises:
            PeerDataError: no name or reason.
            RefusedError: they are one already, were said to be different, or contradict each other.
        """
        made = self._said(Kind.LINK, by, reason)
        with changing(self._database) as connection:
            pair = self._compare(connection, *sorted((one, other)))
            if pair.state is not State.OPEN:
                raise _stands(pair)
            made = replace(made, charts=_sides(pair))
            self._check_link(connection, pair, made)
            return Done(self._keep(connection, made, [pair.one, pair.other]))

    def different(self, one: int, other: int, *, by: str, reason: str) -> Done:
        """Decide that two charts are not one person; they are not proposed again.

        Raises:
            PeerDataError: no name or reason.
            RefusedError: they are one person now, or were said to be different.
        """
        made = self._said(Kind.DIFFERENT, by, reason)
        with changing(self._database) as connection:
            pair = self._compare(connection, *sorted((one, other)))
            if pair.state is not State.OPEN:
                raise _stands(pair)
            made = replace(made, charts=_sides(pair))
            return Done(self._keep(connection, made, [one for side in pair.persons for one in side]))

    def unlink(
        self, leaving: Collection[int], *, takes: Collection[PatientIdentifier] = (), by: str, reason: str
    ) -> Done:
        """Decide that some charts of a person are another one's, whatever has joined them.

        Args:
            leaving: those charts.
            takes: which of the numbers that both sides claim go with them; the others stay. A number names one
                person at most.

        Raises:
            PeerDataError: no name or reason; `takes` names a number that the sides do not share.
            RefusedError: the charts are not there, not of one person, or all that it has.
        """
        made = self._said(Kind.UNLINK, by, reason)
        with changing(self._database) as connection:
            gone = [_find(connection, one) for one in sorted(set(leaving))]
            if not gone or len({one.person for one in gone}) > 1:
                raise RefusedError(CONTRADICTION, "name charts of one person")
            whole = _person(connection, gone[0])
            staying = [one for one in whole if one not in gone]
            if not staying:
                raise RefusedError(CONTRADICTION, "these are all charts of the person: none would stay")
            shared = _numbers(gone) & _numbers(staying)
            if foreign := set(takes) - shared:
                raise PeerDataError(f"{', '.join(map(str, sorted(foreign)))}: not a number that both sides claim")
            made = replace(
                made,
                charts=(*_side(Side.ONE, staying, set()), *_side(Side.OTHER, gone, {one.chart.id for one in gone})),
                numbers=tuple((one, Side.OTHER if one in takes else Side.ONE) for one in sorted(shared)),
            )
            kept = self._keep(connection, made, whole)
            return Done(kept, tuple(self._crossed(connection, kept)))

    def undo(self, id: int, *, by: str, reason: str) -> Done:
        """Take a decision back.

        Raises:
            PeerDataError: no name or reason.
            RefusedError: there is none, it is an undo itself, or was undone.
        """
        made = self._said(Kind.UNDO, by, reason)
        with changing(self._database) as connection:
            taken_back = _decision(connection, id)
            if not taken_back.counts:
                raise RefusedError(ALREADY, f"decision {id} is an undo, or was undone: decide anew instead")
            about = charts.by_keys(connection, [one.key for one in taken_back.charts])
            kept = self._keep(connection, replace(made, undoes=id), about)
            return Done(kept, tuple(self._crossed(connection, _decision(connection, id))))

    def _said(self, kind: Kind, by: str, reason: str) -> Decision:
        for what, text, longest in (("name", by, LONGEST_BY), ("reason", reason, LONGEST_REASON)):
            if not text.strip() or len(text) > longest or not text.isprintable():
                raise PeerDataError(f"a decision needs a {what}: 1 to {longest} printable characters")
        return Decision(0, kind, self._clock(), by.strip(), reason.strip())

    def _compare(self, connection: Connection, one: int, other: int) -> Comparison:
        first, second = _find(connection, one), _find(connection, other)
        if one == other:
            raise PeerDataError("name two charts")
        national = self._region().national_number
        held = tuple(
            each
            for each in decisions.about(connection, [first.key])
            if second.key in {chart.key for chart in each.charts}
        )
        apart = any(candidate_store.parts(each, first.key, second.key) for each in held)
        joined = State.JOINED if first.person == second.person else State.OPEN
        return Comparison(
            first,
            second,
            (tuple(_person(connection, first)), tuple(_person(connection, second))),
            score(demographics(first, national), demographics(second, national)),
            State.DIFFERENT if apart else joined,
            held,
        )

    def _check_link(self, connection: Connection, pair: Comparison, made: Decision) -> None:
        """Refuse a link that cannot hold, or that would take a number from a chart that has it."""
        national = self._region().national_number
        both = [pair.one, pair.other]
        connected = charts.connected(connection, _numbers(both), [one.chart.id for one in both])
        before = linked(connection, connected, national)
        after = linked(connection, connected, national, [replace(made, id=2**62)])
        worse = _contradicted(after) - _contradicted(before)
        reason = after.void.get(2**62) or next(
            (one.reason for one in after.contradictions if (one.chart, one.identifier) in worse), ""
        )
        if reason:
            raise RefusedError(CONTRADICTION, f"these cannot be one person: {reason}")

    def _keep(self, connection: Connection, made: Decision, about: Sequence[LinkedChart]) -> Decision:
        now, ids = self._clock(), [one.chart.id for one in about]
        kept = _decision(connection, decisions.save(connection, made))
        news = relink(connection, self._region().national_number, now, _numbers(about), ids)
        candidate_store.refresh(connection, ids)
        # Pairs of what is apart now may be worth a look again.
        candidate_store.compare_later(connection, ids)
        # Not the reason: people may write names in it.
        detail: dict[str, Detail] = {"what": made.kind.value, "decision": kept.id, "charts": sorted(ids)}
        if made.undoes:
            detail["undoes"] = made.undoes
        # One record for each side, so that either's trail has it.
        events = [
            AuditEvent(now, AuditEventType.IDENTITY, made.by, patient=str(each), detail=detail)
            for each in sorted({min(kept.numbers_of(side)) for side in Side})
        ]
        append_in(connection, [*events, *news])
        return kept

    def _crossed(self, connection: Connection, one: Decision) -> list[Crossed]:
        """Look along the charts that were decided about, and what belongs to the same persons now."""
        if one.kind is Kind.UNDO and one.undoes:
            one = _decision(connection, one.undoes)
        if one.kind is Kind.DIFFERENT:
            return []
        sides = [charts.by_keys(connection, one.keys(side)) for side in Side]
        persons = [{each.person for each in side} for side in sides]
        if persons[0].isdisjoint(persons[1]):
            sides = [charts.of_persons(connection, side) for side in persons]
        since, until = None, one.made
        if one.kind is Kind.LINK:
            since = one.made
            until = _decision(connection, one.undone).made if one.undone else self._clock()
        return crossed(connection, sides, since, until)


def _find(connection: Connection, id: int) -> LinkedChart:
    found = charts.by_ids(connection, [id]) if 0 < id <= LARGEST else []
    if not found:
        raise RefusedError(UNKNOWN, f"there is no chart {id}: its studies may have been corrected; look it up anew")
    return found[0]


def _person(connection: Connection, one: LinkedChart) -> list[LinkedChart]:
    found = charts.of_persons(connection, [one.person])
    if len(found) > MOST_CHARTS:
        raise RefusedError(CONTRADICTION, f"more than {MOST_CHARTS} charts: look for a number that is many people's")
    return found


def _decision(connection: Connection, id: int) -> Decision:
    found = decisions.find(connection, id) if 0 < id <= LARGEST else None
    if found is None:
        raise RefusedError(UNKNOWN, f"there is no decision {id}")
    return found


def _stands(pair: Comparison) -> RefusedError:
    if pair.state is State.JOINED:
        return RefusedError(ALREADY, "these are one person already: unlink what does not belong to it")
    ids = ", ".join(str(one.id) for one in pair.decisions if one.kind is not Kind.LINK)
    return RefusedError(ALREADY, f"it was decided that these are different: undo decision {ids} first")


def _sides(pair: Comparison) -> tuple[DecidedChart, ...]:
    named = {pair.one.chart.id, pair.other.chart.id}
    return tuple(each for side, members in zip(Side, pair.persons, strict=True) for each in _side(side, members, named))


def _side(side: Side, members: Iterable[LinkedChart], named: Collection[int]) -> tuple[DecidedChart, ...]:
    return tuple(
        DecidedChart(side, one.key, charts.described(one.chart).decode("utf-8"), one.chart.id in named)
        for one in members
    )


def _numbers(members: Iterable[LinkedChart]) -> set[PatientIdentifier]:
    return {number for one in members for number in one.chart.identifiers}


def _contradicted(links: Links) -> set[tuple[int, PatientIdentifier]]:
    return {(one.chart, one.identifier) for one in links.contradictions}
