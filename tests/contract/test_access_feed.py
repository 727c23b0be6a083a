"""What the hub is told of releases: from the audit log, once each, whatever happens in between."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.process import eventually
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError, RefusedError, TransportError
from usmed.hospital import access_feed
from usmed.hospital.access_feed import KEPT, RETRY, AccessFeed
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 10, 0, 30, tzinfo=UTC)
PATIENT = {"issuer": "RO-CNP", "value": "1800101221144"}


class Hub:
    """Takes accesses as the hub does; `fault` is what it says instead."""

    def __init__(self) -> None:
        self.taken: dict[int, dict[str, Any]] = {}
        self.requests: list[int] = []
        self.fault: Exception | None = None
        self.never: set[int] = set()
        self.problems: dict[int, bool] = {}
        self.now = NOW

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 0) -> Any:
        assert (member_id, path) == ("hub", "/v1/accesses")
        accesses = document["accesses"]
        self.requests.append(len(accesses))
        if self.fault is not None:
            raise self.fault
        if any(one["sequence"] in self.never for one in accesses):
            raise RefusedError("bad-request", "hub: $.accesses")
        problems = [
            {"place": place, "reason": "not now", "again": self.problems[one["sequence"]]}
            for place, one in enumerate(accesses) if one["sequence"] in self.problems
        ]  # fmt: skip
        self.taken |= {one["sequence"]: one for one in accesses if one["sequence"] not in self.problems}
        return {"taken": len(accesses) - len(problems), "problems": problems}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def log(database: Database) -> Iterator[AuditLog]:
    opened = AuditLog(database)
    yield opened
    opened.close()


@pytest.fixture
def hub() -> Hub:
    return Hub()


def feed_of(database: Database, hub: Hub, *, wanted: bool = True) -> AccessFeed:
    return AccessFeed(
        hospital="iasi", wanted=lambda: wanted, database=database, client=hub, clock=lambda: hub.now
    )


@pytest.fixture
def feed(database: Database, hub: Hub) -> AccessFeed:
    return feed_of(database, hub)


def release(log: AuditLog, study: str = "1.2.3", ticket: str = "ticket-1", **changes: Any) -> int:
    detail = {
        "consent": "consent-1,consent-2", "ticket": ticket, "purpose": "TREAT", "role": "staff", "granted_for": PATIENT,
        "instances": 3,
    }  # fmt: skip
    event = {
        "event": AuditEventType.RELEASE, "agent": "parhon", "peer": "parhon", "patient": "SPIRIDON:77",
        "study_instance_uid": study, "detail": detail, **changes,
    }  # fmt: skip
    return log.append(AuditEvent(at=NOW, **event)).wait()


def everything(feed: AccessFeed) -> None:
    while feed.send():
        pass


def test_a_release_is_told_with_what_the_patient_is_to_know(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    log.append(AuditEvent(NOW, AuditEventType.LOOKUP, "parhon"))
    sequence = release(log)
    everything(feed)
    assert hub.taken == {
        sequence: {
            "sequence": sequence,
            "at": int(NOW.timestamp()),
            "patient": PATIENT,
            "recipient": "parhon",
            "role": "staff",
            "purpose": "TREAT",
            "study_instance_uid": "1.2.3",
            "consents": ["consent-1", "consent-2"],
        }
    }


def test_several_connections_of_one_pull_are_one_access(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    first = release(log)
    release(log)
    everything(feed)
    # It goes on after a break, seen by another look at the log.
    release(log)
    other_study, other_pull = release(log, study="1.2.4"), release(log, ticket="ticket-2")
    everything(feed)
    assert sorted(hub.taken) == [first, other_study, other_pull]


def test_a_pull_that_was_refused_first_is_told_when_it_is_released(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    release(log, outcome=Outcome.DENIED)
    permitted = release(log)
    everything(feed)
    assert sorted(hub.taken) == [permitted]


def test_what_an_emergency_gave_is_told_as_such(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    detail = {"consent": "", "ticket": "t", "purpose": "ETREAT", "role": "staff", "granted_for": PATIENT}
    release(log, reason="polytrauma, unconscious", detail=detail)
    everything(feed)
    (told,) = hub.taken.values()
    assert (told["purpose"], told["consents"]) == ("ETREAT", [])
    assert "polytrauma" not in str(told)


def test_what_was_told_is_not_told_again_after_a_restart(
    log: AuditLog, feed: AccessFeed, hub: Hub, database: Database
) -> None:
    release(log)
    everything(feed)
    again = feed_of(database, hub)
    everything(again)
    assert hub.requests == [1]
    second = release(log, study="1.2.4")
    everything(again)
    assert second in hub.taken
    assert hub.requests == [1, 1]


@pytest.mark.parametrize("fault", [TransportError("the hub is away"), RefusedError("unavailable", "hub: later")])
def test_a_hub_that_is_away_is_told_when_it_is_back(
    log: AuditLog, feed: AccessFeed, hub: Hub, fault: Exception
) -> None:
    first = release(log)
    hub.fault = fault
    for _ in range(3):
        with pytest.raises(type(fault)):
            feed.send()
    second = release(log, study="1.2.4")
    hub.fault = None
    everything(feed)
    assert sorted(hub.taken) == [first, second]


def test_more_than_a_batch_and_long_stretches_of_other_records(
    log: AuditLog, feed: AccessFeed, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_feed, "BATCH", 3)
    monkeypatch.setattr(access_feed, "STRETCH", 10)
    told = [release(log, study=f"1.2.{number}") for number in range(7)]
    for _ in range(35):
        log.append(AuditEvent(NOW, AuditEventType.LOOKUP, "parhon"))
    told.append(release(log, study="1.2.99"))
    everything(feed)
    assert sorted(hub.taken) == told
    assert sum(hub.requests) == len(told)
    assert max(hub.requests) == 3


def test_one_that_the_hub_never_takes_does_not_hold_up_the_others(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    bad, good = release(log), release(log, study="1.2.4")
    hub.never = {bad}
    everything(feed)
    assert sorted(hub.taken) == [good]
    hub.requests.clear()
    everything(feed)
    assert hub.requests == []


def set_aside(log: AuditLog) -> list[int]:
    found = [one for one in log.tail(100) if one["event"] == "feed"]
    assert all(one["outcome"] == "failure" and one["reason"] for one in found)
    return [one["detail"]["record"] for one in found]


def test_if_the_hub_takes_none_they_wait_until_it_does_and_hold_up_nothing(
    log: AuditLog, feed: AccessFeed, hub: Hub, database: Database
) -> None:
    sequences = {release(log), release(log, study="1.2.4")}
    hub.never = set(sequences)
    everything(feed)
    later = release(log, study="1.2.5")
    everything(feed)
    assert set(hub.taken) == {later}
    hub.never, hub.now = set(), NOW + RETRY
    # Also after a restart.
    everything(feed_of(database, hub))
    assert set(hub.taken) == sequences | {later}
    assert set_aside(log) == []


def test_a_single_one_that_the_hub_calls_malformed_is_set_aside_in_the_end(
    log: AuditLog, feed: AccessFeed, hub: Hub
) -> None:
    bad = release(log)
    hub.never = {bad}
    everything(feed)
    tries = len(hub.requests)
    everything(feed)
    assert len(hub.requests) == tries
    hub.now = NOW + KEPT - RETRY
    everything(feed)
    assert (len(hub.requests), set_aside(log)) == (tries + 1, [])
    hub.now = NOW + KEPT
    everything(feed)
    assert set_aside(log) == [bad]
    hub.requests.clear()
    hub.now = NOW + 2 * KEPT
    everything(feed)
    assert hub.requests == []


def test_what_the_hub_may_take_later_is_kept_and_what_it_never_takes_is_set_aside_at_once(
    log: AuditLog, feed: AccessFeed, hub: Hub
) -> None:
    ahead, wrong, good = release(log), release(log, study="1.2.4"), release(log, study="1.2.5")
    hub.problems = {ahead: True, wrong: False}
    everything(feed)
    assert set(hub.taken) == {good}
    assert set_aside(log) == [wrong]
    hub.problems, hub.now = {}, NOW + RETRY
    everything(feed)
    assert set(hub.taken) == {good, ahead}


def test_how_many_wait_is_bounded(
    log: AuditLog, feed: AccessFeed, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_feed, "MOST_WAITING", 2)
    sequences = [release(log, study=f"1.2.{number}") for number in range(3)]
    hub.problems = dict.fromkeys(sequences, True)
    everything(feed)
    assert set_aside(log) == sequences[2:]
    hub.problems, hub.now = {}, NOW + RETRY
    everything(feed)
    assert set(hub.taken) == set(sequences[:2])


BEYOND = {"place": 9, "reason": "", "again": True}


@pytest.mark.parametrize("answer", [None, {}, {"problems": [{}]}, {"problems": [BEYOND]}])
def test_a_malformed_answer_takes_nothing(log: AuditLog, feed: AccessFeed, hub: Hub, answer: Any) -> None:
    sequence, honest = release(log), hub.post
    hub.post = lambda *_given, **_more: answer  # type: ignore[method-assign]
    with pytest.raises(PeerDataError):
        feed.send()
    hub.post = honest  # type: ignore[method-assign]
    everything(feed)
    assert set(hub.taken) == {sequence}


def test_an_emergency_is_told_when_it_was_opened_and_not_before(log: AuditLog, feed: AccessFeed, hub: Hub) -> None:
    for what in ("asked for", "agreed to", "opened"):
        detail = {"what": what, "asked_by": "ionescu", "ticket": "t", "granted_for": PATIENT}
        event = AuditEvent(NOW, AuditEventType.EMERGENCY, "popa", reason="polytrauma", detail=detail)
        sequence = log.append(event).wait()
    everything(feed)
    told = {
        "sequence": sequence, "at": int(NOW.timestamp()), "patient": PATIENT, "recipient": "iasi", "role": "",
        "purpose": "ETREAT", "study_instance_uid": "", "consents": [],
    }  # fmt: skip
    assert hub.taken == {sequence: told}


def test_without_a_portal_nothing_is_told_and_later_everything(log: AuditLog, database: Database, hub: Hub) -> None:
    sequence = release(log)
    everything(feed_of(database, hub, wanted=False))
    assert hub.requests == []
    everything(feed_of(database, hub))
    assert sorted(hub.taken) == [sequence]


def test_it_runs_by_itself_and_starting_it_waits_for_nobody(log: AuditLog, database: Database, hub: Hub) -> None:
    feed = AccessFeed(
        hospital="iasi", wanted=lambda: True, database=database, client=hub, clock=lambda: NOW, poll_s=0.05
    )
    hub.fault = TransportError("the hub is away")
    feed.start()
    sequence = release(log)
    hub.fault = None
    eventually(lambda: sequence in hub.taken, what="the hub is told")
    feed.stop()
    feed._thread.join()
