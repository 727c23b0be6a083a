"""The tables of arrivals: who comes, how far the prefetch is, merges that a person has to look at, messages taken."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from usmed.domain.adt import Merge, Person
from usmed.domain.arrival import Arrival, Prefetch, Source, united
from usmed.domain.identifiers import PatientIdentifier
from usmed.platform.storage import Database

_arrival = sa.table("arrival", *map(sa.column, (
    "day", "issuer", "value", "numbers", "name", "birth_date", "sex", "time", "modality", "place", "source", "state",
    "reason", "studies", "attempts", "due",
)))  # fmt: skip
_merge = sa.table("patient_merge", *map(sa.column, (
    "id", "surviving", "prior", "received", "ended", "ended_by", "outcome",
)))  # fmt: skip
_message = sa.table("hl7_message", *map(sa.column, ("sha256", "received")))

_AGAIN = (Prefetch.FAILED.value, Prefetch.NOT_PERMITTED.value)
"""What is asked for again by itself, once it is due."""

OPEN_MERGES = 500
"""How many merges a page shows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An arrival with its prefetch.

    Attributes:
        arrival: who.
        state, reason: how far, and why, for a person.
        studies: the studies that are to come, by Study Instance UID.
        attempts: tries that brought nothing.
        due: when to try again (Unix seconds); 0 for now or never.
    """

    arrival: Arrival
    state: Prefetch
    reason: str
    studies: tuple[str, ...]
    attempts: int
    due: int


@dataclass(frozen=True, slots=True)
class KnownMerge:
    """A merge as it was told; `outcome` is empty while nobody has looked at it, else `done` or `not-one`."""

    id: str
    merge: Merge
    received: int
    outcome: str
    ended_by: str


class ArrivalStore:
    """Arrivals of this node. What takes a connection runs in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- what sources tell ----

    def is_new_message(self, connection: sa.Connection, content: bytes, now: datetime) -> bool:
        """Note a message, unless it was taken before."""
        row = {"sha256": sha256(content).hexdigest(), "received": int(now.timestamp())}
        new = self._database.insert(_message).values(**row).on_conflict_do_nothing().returning(_message.c.sha256)
        return connection.execute(new).first() is not None

    def arrive(self, connection: sa.Connection, arrival: Arrival) -> bool:
        """Add an arrival, or bring the one that is there up to date; return whether it is new.

        Two sources may tell of one patient and day: demographics are the hospital information system's, the expected
        modality is the worklist's.
        """
        row = _row(arrival)
        new = self._database.insert(_arrival).values(**row, state=Prefetch.WAITING.value)
        inserted = connection.execute(new.on_conflict_do_nothing().returning(_arrival.c.day)).first() is not None
        if inserted:
            return True
        here = _same(arrival.day, arrival.identifier)
        old = connection.execute(sa.select(_arrival).where(here).with_for_update()).one()
        later, earlier = row, old._asdict()
        if arrival.source is Source.WORKLIST and old.source == Source.HL7:
            later, earlier = earlier, row
        merged = {name: later[name] or earlier[name] for name in row}
        merged["modality"] = united(old.modality, arrival.modality)
        if any(getattr(old, name) != value for name, value in merged.items()):
            connection.execute(sa.update(_arrival).where(here).values(**merged))
        return False

    def update(self, connection: sa.Connection, person: Person, since: date) -> int:
        """Write demographics into a patient's arrivals from a day on; return how many; what is empty is not told."""
        changed = sa.update(_arrival).where(
            _arrival.c.day >= _day(since),
            _arrival.c.issuer == person.identifier.issuer,
            _arrival.c.value == person.identifier.value,
        )
        values = {
            "numbers": _numbers(person.identifiers),
            "name": person.name,
            "birth_date": person.birth_date,
            "sex": person.sex,
        }
        told = {name: value for name, value in values.items() if value}
        return int(connection.execute(changed.values(**told)).rowcount)

    def note_merge(self, connection: sa.Connection, merge: Merge, now: datetime) -> None:
        """Note a merge for a person to look at; one that was looked at is open again when it is told again."""
        surviving, prior = _numbers([merge.surviving]), _numbers(merge.prior)
        row = {
            "id": sha256(f"{surviving} {prior}".encode()).hexdigest(),
            "surviving": surviving,
            "prior": prior,
            "received": int(now.timestamp()),
        }
        again = {"received": row["received"], "ended": 0, "ended_by": "", "outcome": ""}
        new = self._database.insert(_merge).values(**row)
        connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=again))

    # ---- the prefetch ----

    def recover(self) -> None:
        """Take up what an earlier process was asking when it ended."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(_arrival)
                .where(_arrival.c.state == Prefetch.ASKING.value)
                .values(state=Prefetch.WAITING.value)
            )

    def next(self, first: date, last: date, now: datetime) -> Entry | None:
        """Take the next arrival of these days that has to be asked for, as it was; it is being asked now."""
        second = int(now.timestamp())
        days = _arrival.c.day.between(_day(first), _day(last))
        # What is new comes first.
        for ready in (
            sa.and_(_arrival.c.state == Prefetch.WAITING.value, days),
            sa.and_(_arrival.c.state.in_(_AGAIN), days, _arrival.c.due > 0, _arrival.c.due <= second),
        ):
            query = sa.select(_arrival).where(ready).order_by(_arrival.c.day.desc(), _arrival.c.due).limit(1)
            with self._database.read() as connection:
                row = connection.execute(query).one_or_none()
            if row is not None:
                entry = _entry(row)
                self.set(entry.arrival, Prefetch.ASKING)
                return entry
        return None

    def arriving(self, limit: int) -> list[Entry]:
        """Return arrivals whose studies are on their way."""
        query = sa.select(_arrival).where(_arrival.c.state == Prefetch.ARRIVING.value).limit(limit)
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def set(self, arrival: Arrival, state: Prefetch, **changes: Any) -> None:
        """Write down how far a prefetch is; `changes` are columns."""
        if "studies" in changes:
            changes["studies"] = json.dumps(list(changes["studies"]))
        with self._database.write() as connection:
            connection.execute(
                sa.update(_arrival)
                .where(_same(arrival.day, arrival.identifier))
                .values(state=state.value, **changes)
            )

    def ask_again(self, numbers: Collection[PatientIdentifier], since: date) -> int:
        """Let arrivals wait anew that got nothing, now that a patient's consents are others; return how many."""
        if not numbers:
            return 0
        # As they stand in the list: a consent may name another of the patient's numbers than the arrival.
        named = sa.or_(*(_arrival.c.numbers.contains(_numbers([one])[1:-1], autoescape=True) for one in numbers))
        ended = (Prefetch.NOTHING, Prefetch.NOT_PERMITTED, Prefetch.FAILED)
        with self._database.write() as connection:
            changed = sa.update(_arrival).where(
                named, _arrival.c.day >= _day(since), _arrival.c.state.in_([one.value for one in ended])
            )
            values = {"state": Prefetch.WAITING.value, "attempts": 0, "due": 0, "reason": ""}
            return int(connection.execute(changed.values(**values)).rowcount)

    # ---- pages ----

    def entries(self, day: date, state: Prefetch | None, *, offset: int, limit: int) -> list[Entry]:
        """Return a day's arrivals, earliest first; those without a time last."""
        query = sa.select(_arrival).where(_arrival.c.day == _day(day))
        if state is not None:
            query = query.where(_arrival.c.state == state.value)
        order = (_arrival.c.time, _arrival.c.issuer, _arrival.c.value)
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query.order_by(*order).limit(limit).offset(offset))]

    def counts(self, day: date) -> dict[Prefetch, int]:
        """Return how many arrivals of a day are in each state."""
        query = (
            sa.select(_arrival.c.state, sa.func.count())
            .where(_arrival.c.day == _day(day))
            .group_by(_arrival.c.state)
        )
        with self._database.read() as connection:
            return {Prefetch(state): count for state, count in connection.execute(query)}

    def merges(self) -> list[KnownMerge]:
        """Return the merges that nobody has looked at, newest first."""
        query = sa.select(_merge).where(_merge.c.ended == 0).order_by(_merge.c.received.desc(), _merge.c.id)
        with self._database.read() as connection:
            return [_known(row) for row in connection.execute(query.limit(OPEN_MERGES))]

    def end_merge(
        self, connection: sa.Connection, id: str, outcome: str, staff: str, now: datetime
    ) -> KnownMerge | None:
        """Note that a person has looked at a merge; None if there is none that is open."""
        ended = {"ended": int(now.timestamp()), "ended_by": staff, "outcome": outcome}
        changed = sa.update(_merge).where(_merge.c.id == id, _merge.c.ended == 0).values(**ended).returning(_merge)
        row = connection.execute(changed).one_or_none()
        return _known(row) if row is not None else None

    # ---- retention ----

    def forget(self, before: date, messages_before: datetime, merges_before: datetime) -> int:
        """Delete arrivals of earlier days, earlier digests and merges; return how many arrivals."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_message).where(_message.c.received < int(messages_before.timestamp())))
            connection.execute(sa.delete(_merge).where(_merge.c.received < int(merges_before.timestamp())))
            return int(connection.execute(sa.delete(_arrival).where(_arrival.c.day < _day(before))).rowcount)


def _day(day: date) -> str:
    return f"{day:%Y%m%d}"


def _same(day: date, identifier: PatientIdentifier) -> Any:
    return sa.and_(
        _arrival.c.day == _day(day), _arrival.c.issuer == identifier.issuer, _arrival.c.value == identifier.value
    )


def _numbers(numbers: Collection[PatientIdentifier]) -> str:
    return json.dumps([[one.issuer, one.value] for one in sorted(numbers)], ensure_ascii=False)


def _read(text: str) -> frozenset[PatientIdentifier]:
    return frozenset(PatientIdentifier(issuer, value) for issuer, value in json.loads(text))


def _row(arrival: Arrival) -> dict[str, Any]:
    return {
        "day": _day(arrival.day),
        "issuer": arrival.identifier.issuer,
        "value": arrival.identifier.value,
        "numbers": _numbers(arrival.identifiers),
        "name": arrival.name,
        "birth_date": arrival.birth_date,
        "sex": arrival.sex,
        "time": arrival.time,
        "modality": arrival.modality,
        "place": arrival.place,
        "source": arrival.source.value,
    }


def _entry(row: Any) -> Entry:
    arrival = Arrival(
        date(int(row.day[:4]), int(row.day[4:6]), int(row.day[6:])),
        PatientIdentifier(row.issuer, row.value),
        _read(row.numbers),
        row.name,
        row.birth_date,
        row.sex,
        row.time,
        row.modality,
        row.place,
        Source(row.source),
    )
    studies: Sequence[str] = json.loads(row.studies)
    return Entry(arrival, Prefetch(row.state), row.reason, tuple(studies), row.attempts, row.due)


def _known(row: Any) -> KnownMerge:
    (surviving,) = _read(row.surviving)
    return KnownMerge(row.id, Merge(surviving, _read(row.prior)), row.received, row.outcome, row.ended_by)
