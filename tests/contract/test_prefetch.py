"""The prefetch of arrivals, whatever the region answers: what state it comes to, what is asked again, when it waits."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from support.process import eventually
from usmed.domain.arrival import Arrival, Prefetch, Source
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.lookup import RemoteAnswer, RemoteAnswers
from usmed.domain.pull import State
from usmed.hospital import prefetch
from usmed.hospital.arrival_store import ArrivalStore, Entry
from usmed.hospital.prefetch import AGAIN_S, MAXIMUM_ATTEMPTS, MAXIMUM_UNFINISHED, Prefetcher
from usmed.hospital.store import CHAIN
from usmed.platform.storage import Database, open_database

DAY = date(2026, 11, 22)
WHO = PatientIdentifier("SPIRIDON", "1")
ARRIVAL = Arrival(DAY, WHO, frozenset({WHO}), "Pop", "", "", "", "", "", Source.HL7)
STUDY = RemoteAnswer("parhon", WHO, "1.2.3", {}, 5)
AWAY = {"parhon": "it did not answer"}


class Region:
    """What lookups and pulls say; a node's own would need a whole region for it."""

    def __init__(self, database: Database, *, on_click: bool = False) -> None:
        self.now = datetime(2026, 11, 22, 9, tzinfo=UTC)
        self.answers: RemoteAnswers | Exception = RemoteAnswers()
        self.asked = self.unfinished = 0
        self.pulls: dict[str, tuple[State, str]] = {}
        self.database, self.store = database, ArrivalStore(database)
        self.prefetcher = Prefetcher(
            store=self.store, fetch=self, pulls=self, clock=lambda: self.now, today=lambda: DAY, keep_days=7,  # type: ignore[arg-type]
            on_click=on_click,
        )  # fmt: skip

    def arrived(self, selector: Any, agent: str) -> RemoteAnswers:
        assert (selector.identifier, agent) == (WHO, "arrival")
        self.asked += 1
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    def within_limits(self, answers: Any) -> list[RemoteAnswer]:
        return list(answers)

    def standing(self, studies: Any) -> dict[str, tuple[State, str]]:
        return {one: self.pulls[one] for one in studies if one in self.pulls}

    def arrive(self) -> None:
        with self.database.write() as connection:
            self.store.arrive(connection, ARRIVAL)
        self.prefetcher.look()

    def entry(self) -> Entry:
        (entry,) = self.store.entries(DAY, None, offset=0, limit=10)
        return entry

    def until(self, state: Prefetch) -> Entry:
        eventually(lambda: self.entry().state is state, 10, f"{state}, not {self.entry()}")
        return self.entry()

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.prefetcher.look()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def region(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    monkeypatch.setattr(prefetch, "_LOOK_S", 0.05)
    running = Region(database)
    running.prefetcher.start()
    yield running
    running.prefetcher.stop()
    running.prefetcher._thread.join()


def test_studies_arrive_until_all_are_here(region: Region) -> None:
    region.answers = RemoteAnswers((STUDY,), permitted=True)
    region.pulls = {STUDY.study_instance_uid: (State.QUEUED, "")}
    region.arrive()
    assert region.until(Prefetch.ARRIVING).studies == (STUDY.study_instance_uid,)
    region.pulls = {STUDY.study_instance_uid: (State.COMPLETE, "")}
    region.until(Prefetch.HERE)
    assert region.asked == 1


def test_a_pull_that_is_given_up_is_a_failure_with_its_reason(region: Region) -> None:
    region.answers = RemoteAnswers((STUDY,), permitted=True)
    region.pulls = {STUDY.study_instance_uid: (State.FAILED, "two different patients")}
    region.arrive()
    assert region.until(Prefetch.FAILED).reason == "two different patients"


def test_nothing_elsewhere_is_said_only_with_a_ticket(region: Region) -> None:
    region.answers = RemoteAnswers(permitted=True)
    region.arrive()
    assert region.until(Prefetch.NOTHING).due == 0
    assert region.store.ask_again([WHO], DAY) == 1
    region.answers = RemoteAnswers()
    region.prefetcher.look()
    region.until(Prefetch.NOT_PERMITTED)


def test_without_permission_it_is_asked_again_and_not_for_ever(region: Region) -> None:
    region.arrive()
    for count, wait_s in enumerate(AGAIN_S, 1):
        eventually(lambda count=count: region.asked == count, 10, f"asked {count} times")  # type: ignore[misc]
        region.until(Prefetch.NOT_PERMITTED)
        region.later(wait_s - 1)
        region.later(1)
    eventually(lambda: region.asked == len(AGAIN_S) + 1, 10, "the last time")
    assert region.until(Prefetch.NOT_PERMITTED).due == 0
    region.prefetcher.consents_changed([WHO])
    eventually(lambda: region.asked == len(AGAIN_S) + 2, 10, "asked after a change")


@pytest.mark.parametrize("answers", [RemoteAnswers(missing=AWAY), PeerDataError("nonsense")], ids=["away", "nonsense"])
def test_who_does_not_answer_is_asked_again_and_given_up_at_last(region: Region, answers: Any) -> None:
    region.answers = answers
    region.arrive()
    assert region.until(Prefetch.FAILED).reason in ("parhon: it did not answer", "nonsense")
    for count in range(2, MAXIMUM_ATTEMPTS + 1):
        assert region.entry().due > 0
        region.later(1801)
        eventually(lambda count=count: region.entry().attempts == count, 10, f"{count} attempts")  # type: ignore[misc]
    assert region.until(Prefetch.FAILED).due == 0
    assert region.asked == MAXIMUM_ATTEMPTS


def test_it_waits_while_enough_is_under_way(region: Region) -> None:
    region.unfinished = MAXIMUM_UNFINISHED
    region.answers = RemoteAnswers((STUDY,), AWAY, permitted=True)
    region.arrive()
    region.later(1)
    region.later(1)
    assert (region.asked, region.entry().state) == (0, Prefetch.WAITING)
    region.unfinished -= 1
    region.prefetcher.look()
    assert region.until(Prefetch.HERE).reason == "parhon: it did not answer"


def test_where_only_clicks_bring_studies_it_says_what_there_is(database: Database) -> None:
    region = Region(database, on_click=True)
    region.answers = RemoteAnswers((STUDY,), permitted=True)
    region.arrive()
    region.prefetcher.start()
    assert region.until(Prefetch.FOUND).studies == (STUDY.study_instance_uid,)
    region.prefetcher.stop()
    region.prefetcher._thread.join()
