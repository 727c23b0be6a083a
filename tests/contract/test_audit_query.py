"""Finding audit records by what they say: right, in pages that never slip, and at once among 100,000."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.postgresql import drop_database, new_database
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.platform import audit_query
from usmed.platform.audit_log import AuditLog, append_in
from usmed.platform.audit_query import Question, after, ask, last_sequence, records
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
MANY = 100_000
LONGEST_S = 0.3


def event(number: int) -> AuditEvent:
    return AuditEvent(
        NOW + timedelta(seconds=number),
        AuditEventType.EMERGENCY if number == 77 else AuditEventType.LOOKUP if number % 3 else AuditEventType.PULL,
        f"dr.{'ionescu' if number % 7 else 'țepeș'}",
        patient=f"BACAU:{number % 900}",
        study_instance_uid=f"1.2.840.{number}.5",
        outcome=Outcome.DENIED if number % 500 == 11 else Outcome.SUCCESS,
    )


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [])
    with opened.write() as connection:
        append_in(connection, [event(number) for number in range(2000)])
    yield opened
    opened.close()


def expected(question: Question) -> list[int]:
    """Return the numbers of the records that fit, the plain way."""

    def fits(one: AuditEvent) -> bool:
        return (
            question.patient in ("", one.patient)
            and question.agent in ("", one.agent)
            and question.event in ("", one.event)
            and question.outcome in ("", one.outcome)
            and question.study in one.study_instance_uid
            and (question.since is None or one.at >= question.since)
            and (question.until is None or one.at <= question.until)
        )

    return [number + 1 for number in reversed(range(2000)) if fits(event(number))]


MEMBERS = {
    "patient": "BACAU:11", "agent": "dr.țepeș", "event": "pull", "outcome": "denied", "study": "40.51",
    "since": NOW + timedelta(seconds=400), "until": NOW + timedelta(seconds=1700),
}  # fmt: skip


def test_every_question_finds_what_fits_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for stretch in (100_000, 300):
        monkeypatch.setattr(audit_query, "STRETCH", stretch)
        for count in range(3 if stretch == 300 else len(MEMBERS) + 1):
            for names in itertools.combinations(MEMBERS, count):
                question = Question(**{name: MEMBERS[name] for name in names})  # type: ignore[arg-type]
                found, before = [], 0
                for _ in range(60):
                    page = ask(database, question, before=before, limit=97)
                    found += [one["sequence"] for one in page.events]
                    assert not page.older or not before or page.older < before
                    before = page.older
                    if not before:
                        break
                assert found == expected(question), (stretch, names)
                assert not before


def test_pages_do_not_slip_while_the_log_grows(database: Database) -> None:
    first = ask(database, Question(), limit=10)
    with database.write() as connection:
        append_in(connection, [event(5000), event(5001)])
    second = ask(database, Question(), before=first.older, limit=10)
    assert [one["sequence"] for one in [*first.events, *second.events]] == list(range(2000, 1980, -1))
    assert ask(database, Question(), before=2).older == 0


def test_signs_of_a_pattern_are_plain_text(database: Database) -> None:
    assert ask(database, Question(study="%")).events == []
    assert ask(database, Question(study="1_2")).events == []


def test_records_come_as_they_are_stored_and_no_more_than_asked(database: Database) -> None:
    found = list(records(database, Question(event="pull"), limit=500))
    assert [one.sequence for one in found] == expected(Question(event="pull"))[:500]
    assert found[0].content.startswith(b'{"event":{"agent"')
    assert len(list(records(database, Question(), limit=5000))) == 2000


def test_the_log_is_followed_from_a_record_on(database: Database) -> None:
    assert [one["sequence"] for one in after(database, 1995, 3)] == [1996, 1997, 1998]
    assert after(database, 2000, 3) == []
    assert last_sequence(database) == 2000


def test_a_name_with_a_nul_is_recorded_and_found(database_url: str) -> None:
    database = open_database(database_url, [])
    log = AuditLog(database)
    log.append(AuditEvent(NOW, AuditEventType.LOOKUP, "WS\0X", patient="A:\0")).wait()
    assert log.verify().unbroken
    assert len(ask(database, Question(agent="WS\ufffdX")).events) == 1
    log.close()
    database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Give a log of 100,000 records."""
    on_disk = tmp_path_factory.mktemp("full") / "a.db"
    url = f"sqlite:///{on_disk}" if request.param == "sqlite" else new_database(request.getfixturevalue("postgresql"))
    opened = open_database(url, [])
    for start in range(0, MANY, 5000):
        with opened.write() as connection:
            append_in(connection, [event(number) for number in range(start, start + 5000)])
    yield opened
    opened.close()
    if request.param == "postgresql":
        drop_database(url)
    else:
        Path(on_disk).unlink()


def test_among_100_000_records_every_page_comes_at_once(full: Database) -> None:
    if full.is_postgresql:
        with full.write() as connection:
            connection.execute(sa.text("ANALYZE audit_record"))
    half = NOW + timedelta(seconds=MANY // 2)
    questions = [
        Question(),
        Question(patient="BACAU:11"),
        Question(agent="dr.țepeș"),
        Question(agent="nobody"),
        Question(event="emergency"),
        Question(outcome="denied"),
        Question(outcome="failure"),
        Question(event="lookup", outcome="failure"),
        Question(study="nothing has it"),
        Question(agent="dr.ionescu", study="1.2.840.3.5"),
        Question(since=half, until=half + timedelta(minutes=5)),
        Question(until=half),
        Question(agent="dr.ionescu", event="pull", until=NOW + timedelta(seconds=50)),
        Question(patient="BACAU:11", outcome="failure", since=half),
    ]
    took = {}
    for question in questions:
        for before in (0, MANY // 2):
            start = time.perf_counter()
            ask(full, question, before=before)
            took[str(question.told()), before] = time.perf_counter() - start
    worst = max(took, key=lambda one: took[one])
    print(f"slowest: {took[worst] * 1000:.0f} ms for {worst}")
    assert took[worst] <= LONGEST_S, (worst, took[worst])
