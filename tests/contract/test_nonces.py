"""Each nonce is accepted once, whatever meets it: threads, processes, a restart."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier

import pytest
import sqlalchemy as sa

from usmed.platform.nonces import MEMORY, NonceStore
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [])
    yield opened
    opened.close()


def test_a_nonce_is_accepted_once_for_each_sender(database: Database) -> None:
    store = NonceStore(database)
    assert store.accept("iasi", "j" * 22, NOW, NOW)
    assert not store.accept("iasi", "j" * 22, NOW, NOW)
    assert not store.accept("iasi", "j" * 22, NOW, NOW + timedelta(seconds=59))
    assert store.accept("bacau", "j" * 22, NOW, NOW)
    assert store.accept("iasi", "J" * 22, NOW, NOW)


def test_a_restart_forgets_nothing(database: Database, database_url: str) -> None:
    assert NonceStore(database).accept("iasi", "j" * 22, NOW, NOW)
    again = open_database(database_url, [])
    assert not NonceStore(again).accept("iasi", "j" * 22, NOW, NOW + timedelta(seconds=60))
    again.close()


def test_of_many_threads_one_gets_it(database: Database) -> None:
    store = NonceStore(database)
    with ThreadPoolExecutor(16) as pool:
        for number in range(20):
            answers = list(pool.map(lambda _, n=number: store.accept("iasi", f"{n:022}", NOW, NOW), range(16)))
            assert sum(answers) == 1


def test_of_many_processes_one_gets_it(database: Database, database_url: str) -> None:
    barrier, answers = SPAWN.Barrier(4), SPAWN.SimpleQueue()
    processes = [SPAWN.Process(target=_accept, args=(database_url, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    accepted = sum(answers.get() for _ in processes)
    for process in processes:
        process.join()
    assert accepted == 50


def test_old_nonces_are_forgotten_and_young_ones_kept(database: Database) -> None:
    store = NonceStore(database)
    assert store.accept("iasi", "old", NOW, NOW)
    late = NOW + MEMORY + timedelta(seconds=2)
    assert store.accept("iasi", "young", late, late)
    assert store.accept("iasi", "other", late, late + timedelta(seconds=1))
    with database.read() as connection:
        left = connection.execute(sa.text("SELECT jti FROM nonce ORDER BY jti")).scalars().all()
    assert left == ["other", "young"]
    assert not store.accept("iasi", "young", late, late + MEMORY - timedelta(seconds=1))


def _accept(url: str, barrier: Barrier, answers: "multiprocessing.SimpleQueue[int]") -> None:
    database = open_database(url, [])
    store = NonceStore(database)
    barrier.wait()
    answers.put(sum(store.accept("iasi", f"{number:022}", NOW, NOW) for number in range(50)))
    database.close()
