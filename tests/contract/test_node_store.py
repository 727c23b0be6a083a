"""The node's queue of pulls and its memory of the hub's answers: the same on both engines."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import TRANSITIONS, UNFINISHED, Event, ForbiddenTransitionError, State
from usmed.hospital.store import CHAIN, AnswerCache, PullRow, PullStore
from usmed.platform.storage import PLATFORM_CHAIN, Database, migrate, open_database, version_table

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SECOND = int(NOW.timestamp())
IDENTIFIERS = frozenset({PatientIdentifier("SF-SPIRIDON", "_7"), PatientIdentifier("RO-CNP", "1800101221144")})


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> PullStore:
    return PullStore(database)


@pytest.fixture
def cache(database: Database) -> AnswerCache:
    return AnswerCache(database)


def ask(store: PullStore, uid: str = "1.2.3", now: datetime = NOW, **changes: Any) -> PullRow:
    asked: dict[str, Any] = {
        "source": "sf-spiridon", "patient_id": "77", "identifiers": IDENTIFIERS, "requested_by": "WS",
    }  # fmt: skip
    return store.ask(uid, now=now, **{**asked, **changes})


def together(count: int, run: Callable[[int], None]) -> list[BaseException]:
    """Run at the same moment in threads; return what they raised."""
    gate, failures = threading.Barrier(count), list[BaseException]()

    def body(number: int) -> None:
        gate.wait()
        try:
            run(number)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


# Each state, and the events that lead there from a new pull.
WAY: dict[State, tuple[Event, ...]] = {
    State.QUEUED: (),
    State.RUNNING: (Event.START,),
    State.WAITING: (Event.START, Event.INTERRUPTED),
    State.COMPLETE: (Event.START, Event.VERIFIED),
    State.REFUSED: (Event.START, Event.REFUSED),
    State.FAILED: (Event.START, Event.GAVE_UP),
    State.LEAVING: (Event.LEAVE,),
}


def bring(store: PullStore, state: State, uid: str = "1.2.3") -> PullRow:
    row = ask(store, uid)
    for event in WAY[state]:
        row = store.move(uid, event)
    assert row.state is state
    return row


def test_a_new_pull(store: PullStore) -> None:
    assert store.get("1.2.3") is None
    row = ask(store)
    assert row == PullRow(
        study_instance_uid="1.2.3", state=State.QUEUED, source="sf-spiridon", patient_id="77", identifiers=IDENTIFIERS,
        manifest="", verified=b"", instances=0, size_bytes=0, attempts=0, due=SECOND, reason="", requested_by="WS",
        created=SECOND, finished=0, last_used=0,
    )  # fmt: skip
    assert store.get("1.2.3") == row
    assert store.is_guest("1.2.3")
    assert not store.is_guest("1.2.30")


def test_every_pair_of_state_and_event_on_disk(store: PullStore) -> None:
    for number, (state, event) in enumerate(product(State, Event)):
        uid = f"1.2.{number}"
        before = bring(store, state, uid)
        if (state, event) in TRANSITIONS:
            assert store.move(uid, event).state is TRANSITIONS[state, event]
        else:
            with pytest.raises(ForbiddenTransitionError):
                store.move(uid, event, reason="never")
            assert store.get(uid) == before, "a forbidden event changes nothing"


def test_what_is_set_with_an_event_is_set_with_it_or_not_at_all(store: PullStore) -> None:
    bring(store, State.RUNNING)
    row = store.move("1.2.3", Event.INTERRUPTED, reason="linia s-a întrerupt", due=SECOND + 9, finished=SECOND + 5)
    assert (row.reason, row.due, row.finished) == ("linia s-a întrerupt", SECOND + 9, SECOND + 5)
    assert store.move("1.2.3", Event.DUE).reason == "linia s-a întrerupt"


def test_a_reason_may_quote_anything(store: PullStore) -> None:
    bring(store, State.RUNNING)
    row = store.move("1.2.3", Event.REFUSED, reason="it said: \0 and 😀 and %s '; --")
    assert row.reason == "it said: \ufffd and 😀 and %s '; --"


def test_progress_is_bytes(store: PullStore) -> None:
    bring(store, State.RUNNING)
    verified = bytes([1, 0, 1, 1]) * 50_000
    store.set("1.2.3", manifest="a.b.c", verified=verified, instances=200_000, size_bytes=5 << 40)
    row = store.get("1.2.3")
    assert row is not None
    assert (row.verified, row.arrived, row.instances) == (verified, 150_000, 200_000)
    assert (row.manifest, row.size_bytes) == ("a.b.c", 5 << 40)
    assert type(row.verified) is bytes


@pytest.mark.parametrize("state", sorted(set(State) - {State.LEAVING}))
def test_asking_again(store: PullStore, state: State) -> None:
    bring(store, state)
    store.set("1.2.3", manifest="a.b.c", verified=b"\1\0", attempts=3, due=SECOND + 600, reason="why")
    other = {"source": "regional", "patient_id": "78", "identifiers": frozenset({PatientIdentifier("A", "1")})}
    row = ask(store, now=NOW + timedelta(seconds=5), requested_by="admin", **other)
    assert row.state is TRANSITIONS[state, Event.ASKED_AGAIN]
    assert row.created == SECOND
    if state in UNFINISHED:
        # What has arrived is kept, and the patient and source it was begun with.
        assert (row.source, row.patient_id, row.identifiers) == ("sf-spiridon", "77", IDENTIFIERS)
        assert (row.manifest, row.verified, row.requested_by) == ("a.b.c", b"\1\0", "WS")
    else:
        assert (row.source, row.patient_id) == ("regional", "78")
        assert (row.manifest, row.verified, row.reason, row.requested_by) == ("", b"", "", "admin")
    if state is State.RUNNING:
        assert (row.attempts, row.due) == (3, SECOND + 600)
    else:
        assert (row.attempts, row.due) == (0, SECOND + 5)


@pytest.mark.parametrize("state", sorted(set(State) - UNFINISHED - {State.LEAVING}))
def test_asking_again_for_what_was_begun_keeps_what_has_arrived(store: PullStore, state: State) -> None:
    """Else a part that an earlier try has brought would not be known as a part any more."""
    bring(store, state)
    store.set("1.2.3", manifest="a.b.c", verified=b"\1\0")
    row = ask(store, now=NOW + timedelta(seconds=5))
    expected = ("", b"") if state is State.COMPLETE else ("a.b.c", b"\1\0")
    assert (row.manifest, row.verified) == expected


def test_lists(store: PullStore) -> None:
    for number, state in enumerate(State):
        bring(store, state, f"1.2.{number}")
    for number in range(3):
        ask(store, f"1.3.{number}", NOW + timedelta(seconds=number + 1))
    assert len(store.all()) == len(State) + 3
    assert [row.study_instance_uid for row in store.all(State.QUEUED)] == ["1.2.0", "1.3.0", "1.3.1", "1.3.2"]
    assert {row.state for row in store.all(State.WAITING, State.FAILED)} == {State.WAITING, State.FAILED}
    assert [row.study_instance_uid for row in store.recent(2)] == ["1.3.2", "1.3.1"]
    many = store.many(["1.2.0", "1.3.2", "9.9"])
    assert {uid: row.study_instance_uid for uid, row in many.items()} == {"1.2.0": "1.2.0", "1.3.2": "1.3.2"}
    assert store.many([]) == {}


def test_only_a_complete_pull_is_forgotten(store: PullStore) -> None:
    for number, state in enumerate(State):
        bring(store, state, f"1.2.{number}")
        store.forget_complete(f"1.2.{number}")
    store.forget_complete("9.9")
    assert {row.state for row in store.all()} == set(State) - {State.COMPLETE}


def test_identifiers_that_look_alike_stay_apart(store: PullStore) -> None:
    identifiers = frozenset(
        PatientIdentifier(issuer, value) for issuer in "Aa" for value in ("_1", "%1", "01", "1", "ș")
    )
    ask(store, identifiers=identifiers)
    row = store.get("1.2.3")
    assert row is not None
    assert row.identifiers == identifiers


def test_many_who_ask_at_once_get_one_pull(store: PullStore) -> None:
    for round_ in range(5):
        assert together(8, lambda number, uid=f"1.2.{round_}": ask(store, uid, requested_by=str(number))) == []
    assert sorted(row.study_instance_uid for row in store.all()) == [f"1.2.{round_}" for round_ in range(5)]


def test_of_two_that_start_a_pull_one_does(store: PullStore) -> None:
    ask(store)
    failures = together(4, lambda _: store.move("1.2.3", Event.START))
    assert [type(one) for one in failures] == [ForbiddenTransitionError] * 3
    row = store.get("1.2.3")
    assert row is not None
    assert row.state is State.RUNNING


def test_progress_and_asking_at_once_lose_nothing(store: PullStore) -> None:
    bring(store, State.RUNNING)

    def work(number: int) -> None:
        for _ in range(5):
            if number % 2:
                ask(store)
            else:
                store.set("1.2.3", **{("verified" if number else "manifest"): b"\1" if number else "a.b.c"})

    assert together(4, work) == []
    row = store.get("1.2.3")
    assert row is not None
    assert (row.state, row.manifest, row.verified) == (State.RUNNING, "a.b.c", b"\1")


# ---- the hub's answers ----


def test_the_last_answer_is_remembered_with_its_time(cache: AnswerCache) -> None:
    assert cache.load_resolution("patient:A:1") is None
    cache.save_resolution("patient:A:1", {"identifiers": [{"issuer": "A", "value": "ș\0😀"}]}, NOW)
    cache.save_resolution("patient:a:1", {}, NOW)
    later = NOW + timedelta(hours=1, milliseconds=5)
    cache.save_resolution("patient:A:1", {"identifiers": []}, later)
    assert cache.load_resolution("patient:A:1") == ({"identifiers": []}, later.replace(microsecond=0))
    assert cache.load_resolution("patient:a:1") == ({}, NOW)
    assert cache.load_resolution("patient:A:_") is None


def test_many_who_remember_at_once(cache: AnswerCache) -> None:
    for round_ in range(5):
        assert together(8, lambda number, key=f"A:{round_}": cache.save_resolution(key, [number], NOW)) == []
        stored = cache.load_resolution(f"A:{round_}")
        assert stored is not None
        assert stored[0][0] in range(8)


# ---- migrations ----


def revision(connection: sa.Connection) -> str:
    return str(connection.execute(sa.text(f"SELECT version_num FROM {version_table(CHAIN)}")).scalar_one())


def test_migrations_run_from_an_empty_database_and_then_find_nothing_to_do(database_url: str) -> None:
    for _ in range(2):
        database = open_database(database_url, [CHAIN])
        with database.read() as connection:
            assert revision(connection) == "r0013"
        database.close()


def test_the_queue_migrates_from_the_previous_version_with_its_pulls(database_url: str) -> None:
    database = open_database(database_url, [])
    old = sa.table(
        "pull", *map(sa.column, ("study_instance_uid", "state", "source", "patient_id", "identifiers", "created",
                                 "finished"))
    )  # fmt: skip
    with database.write() as connection:
        migrate(connection, [PLATFORM_CHAIN])
        migrate(connection, [CHAIN], "r0001")
        row = {"source": "a", "patient_id": "7", "identifiers": '[["A", "7"]]', "created": 5}
        connection.execute(
            sa.insert(old).values({**row, "study_instance_uid": "1.1", "state": "complete", "finished": 9})
        )
        connection.execute(
            sa.insert(old).values({**row, "study_instance_uid": "1.2", "state": "waiting", "finished": 0})
        )
        assert revision(connection) == "r0001"
    database.close()
    database = open_database(database_url, [CHAIN])
    store = PullStore(database)
    rows = {one.study_instance_uid: one for one in store.all()}
    assert {uid: (one.state, one.last_used) for uid, one in rows.items()} == {
        "1.1": (State.COMPLETE, 9), "1.2": (State.WAITING, 0),
    }  # fmt: skip
    assert rows["1.1"].identifiers == {PatientIdentifier("A", "7")}
    assert (rows["1.1"].verified, rows["1.1"].manifest) == (b"", "")
    assert store.move("1.2", Event.DUE).state is State.QUEUED
    with database.read() as connection:
        indexes = {one["name"] for one in sa.inspect(connection).get_indexes("pull")}
        tables = set(sa.inspect(connection).get_table_names())
    assert "pull_last_used" in indexes
    assert "consent_cache" not in tables
    database.close()
