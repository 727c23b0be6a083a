"""The queue of arrivals: who is next, what is asked again, what a killed process leaves, what is forgotten."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from usmed.domain.adt import Merge
from usmed.domain.arrival import Arrival, Prefetch, Source
from usmed.domain.identifiers import PatientIdentifier
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.store import CHAIN
from usmed.platform.storage import Database, open_database

DAY, NOW = date(2026, 11, 22), datetime(2026, 11, 22, 9, tzinfo=UTC)
SECOND = int(NOW.timestamp())
CNP = PatientIdentifier("RO-CNP", "1800101221144")


def arrival(number: str, **changes: Any) -> Arrival:
    identifier = PatientIdentifier("SPIRIDON", number)
    fields: dict[str, Any] = {
        "day": DAY, "identifier": identifier, "identifiers": frozenset({identifier}), "name": "Pop", "birth_date": "",
        "sex": "", "time": "0900", "modality": "", "place": "", "source": Source.HL7,
    }  # fmt: skip
    return Arrival(**(fields | changes))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> ArrivalStore:
    return ArrivalStore(database)


def add(database: Database, store: ArrivalStore, *arrivals: Arrival) -> list[bool]:
    with database.write() as connection:
        return [store.arrive(connection, one) for one in arrivals]


def following(store: ArrivalStore, now: datetime = NOW) -> list[str]:
    found = []
    while (entry := store.next(DAY - timedelta(days=1), DAY, now)) is not None:
        found.append(entry.arrival.identifier.value)
    return found


def test_what_is_new_is_asked_for_first_and_once(database: Database, store: ArrivalStore) -> None:
    days = {"3": DAY - timedelta(days=1), "4": DAY - timedelta(days=2), "5": DAY + timedelta(days=1)}
    add(database, store, *(arrival(n, day=days.get(n, DAY)) for n in "123456"))
    store.set(arrival("2"), Prefetch.FAILED, due=SECOND + 10)
    store.set(arrival("6"), Prefetch.FAILED, due=0)
    assert following(store) == ["1", "3"]
    assert following(store) == []
    assert following(store, NOW + timedelta(seconds=11)) == ["2"]


def test_a_killed_process_leaves_nothing_behind_that_is_never_asked(database: Database, store: ArrivalStore) -> None:
    add(database, store, arrival("1"))
    assert following(store) == ["1"]
    store.recover()
    assert following(store) == ["1"]


def test_changed_consents_are_asked_for_by_any_of_the_numbers(database: Database, store: ArrivalStore) -> None:
    both = frozenset({PatientIdentifier("SPIRIDON", "1"), CNP})
    add(database, store, arrival("1", identifiers=both), arrival("2"), arrival("11"))
    for n in ("1", "2", "11"):
        store.set(arrival(n), Prefetch.NOT_PERMITTED, attempts=3, due=SECOND + 99)
    assert store.ask_again([], DAY) == 0
    assert store.ask_again([PatientIdentifier("RO-CNP", "180010122114")], DAY) == 0
    assert store.ask_again([CNP], DAY) == 1
    assert following(store) == ["1"]
    assert store.ask_again([PatientIdentifier("SPIRIDON", "%")], DAY) == 0
    assert store.ask_again([PatientIdentifier("SPIRIDON", "2"), CNP], DAY + timedelta(days=1)) == 0
    store.set(arrival("2"), Prefetch.HERE)
    assert store.ask_again([PatientIdentifier("SPIRIDON", "2")], DAY) == 0


@pytest.mark.parametrize("first", [Source.HL7, Source.WORKLIST])
def test_two_sources_of_one_patient_are_one_arrival(database: Database, store: ArrivalStore, first: Source) -> None:
    told = {
        Source.HL7: arrival("1", name="Țîrlea^Ștefan", time="1025", place="UPU"),
        Source.WORKLIST: arrival("1", name="TIRLEA", time="1130", place="CT1", modality="CT", source=Source.WORKLIST),
    }
    second = Source.WORKLIST if first is Source.HL7 else Source.HL7
    assert add(database, store, told[first]) == [True]
    assert add(database, store, told[second], told[first]) == [False, False]
    (entry,) = store.entries(DAY, None, offset=0, limit=10)
    assert (entry.arrival.name, entry.arrival.time, entry.arrival.place) == ("Țîrlea^Ștefan", "1025", "UPU")
    assert (entry.arrival.modality, entry.arrival.source) == ("CT", Source.HL7)


def test_what_is_old_is_forgotten(database: Database, store: ArrivalStore) -> None:
    add(database, store, arrival("1"), arrival("2", day=DAY - timedelta(days=8)))
    merge = Merge(PatientIdentifier("SPIRIDON", "1"), frozenset({PatientIdentifier("SPIRIDON", "2")}))
    with database.write() as connection:
        store.note_merge(connection, merge, NOW - timedelta(days=100))
        assert store.is_new_message(connection, b"old", NOW - timedelta(days=8))
        assert store.is_new_message(connection, b"new", NOW)
        assert not store.is_new_message(connection, b"new", NOW)
    assert store.forget(DAY - timedelta(days=7), NOW - timedelta(days=7), NOW - timedelta(days=90)) == 1
    assert [one.arrival.identifier.value for one in store.entries(DAY, None, offset=0, limit=10)] == ["1"]
    assert store.merges() == []
    with database.write() as connection:
        assert store.is_new_message(connection, b"old", NOW)
        assert not store.is_new_message(connection, b"new", NOW)
