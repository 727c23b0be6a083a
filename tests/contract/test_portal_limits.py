"""Failures and counters on disk: a restart forgets nothing, old ones go, and how many are kept is bounded."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from usmed.hub.portal.limits import MOST_FAILURES, WINDOW, Counters, Failures
from usmed.hub.tables import CHAIN
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


def rows(database: Database) -> int:
    with database.read() as connection:
        return len(connection.exec_driver_sql("SELECT who FROM portal_failure").all())


def test_who_failed_too_often_waits_after_a_restart_too(database: Database) -> None:
    for place in range(MOST_FAILURES):
        assert not Failures(database).too_many("192.0.2.1", NOW), place
        Failures(database).add("192.0.2.1", NOW)
    again = Failures(database)
    assert again.too_many("192.0.2.1", NOW)
    assert not again.too_many("192.0.2.2", NOW)
    assert not again.too_many("192.0.2.1", NOW + WINDOW)
    again.add("192.0.2.1", NOW + WINDOW)
    assert not again.too_many("192.0.2.1", NOW + WINDOW)


def test_old_failures_go_and_the_newest_are_kept(database: Database) -> None:
    failures = Failures(database, most=1, kept=3)
    for place in range(5):
        failures.add(f"192.0.2.{place}", NOW.replace(minute=place))
    assert rows(database) == 3
    assert [place for place in range(5) if failures.too_many(f"192.0.2.{place}", NOW)] == [2, 3, 4]
    failures.add("192.0.2.9", NOW + 2 * WINDOW)
    assert rows(database) == 1


def test_nobodys_address_is_on_disk(database: Database) -> None:
    Failures(database).add("192.0.2.77", NOW)
    with database.read() as connection:
        (row,) = connection.exec_driver_sql("SELECT * FROM portal_failure").all()
    assert "192.0.2.77" not in str(row)


def test_a_counter_only_goes_up_also_after_a_restart(database: Database) -> None:
    taken = [Counters(database).accept(b"one", count) for count in (0, 0, 5, 6, 6, 5, 0, 9)]
    assert taken == [True, True, True, True, False, False, False, True]
    assert Counters(database).accept(b"another", 1)
