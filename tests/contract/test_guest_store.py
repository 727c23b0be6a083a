"""What is written down of guest copies and of what has to be checked: the same on both engines, and after a restart."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from usmed.domain.consent import Consent, Purpose, StudyFacts
from usmed.domain.consent_record import ConsentRecord, ProofKind
from usmed.domain.guest_copy import Change, GuestCopy
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import Event, State
from usmed.domain.ticket import AccessTicket, ConsentReference, Staff
from usmed.hospital.guest_store import Check, GuestStore, Held
from usmed.hospital.store import CHAIN, PullStore, ToldStore
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
CNP, LOCAL = PatientIdentifier("RO-CNP", "1800101221144"), PatientIdentifier("SF-SPIRIDON", "_7")
UIDS = [f"1.2.3.{number}" for number in range(1000)]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def guests(database: Database) -> GuestStore:
    return GuestStore(database)


def ask(database: Database, uid: str = "1.2.3") -> PullStore:
    pulls = PullStore(database)
    pulls.ask(uid, source="a", patient_id="7", identifiers=frozenset({LOCAL}), requested_by="WS", now=NOW)
    return pulls


def ticket(purpose: Purpose = Purpose.TREAT, *consents: str) -> AccessTicket:
    return AccessTicket(
        jti="j" * 22, region="r", requester="b", key_thumbprint="k" * 43, staff=Staff("x", "staff"),
        patient=frozenset({CNP}), purpose=purpose, scope=(),
        consents=tuple(ConsentReference(one, 1, "0" * 64) for one in consents),
        issued=NOW, expires=LATER,
    )  # fmt: skip


def released(guests: GuestStore, uid: str = "1.2.3", **changes: Any) -> None:
    given = {
        "ticket": ticket(Purpose.TREAT, "c-1"), "number": LOCAL, "sop_instance_uids": UIDS[:2], "unheeded": (),
        "now": NOW, **changes,
    }  # fmt: skip
    guests.released(uid, "7", **given)


def test_a_copy_from_asking_to_its_end(database: Database, guests: GuestStore) -> None:
    pulls = ask(database)
    facts = StudyFacts("1.2.3", "a", frozenset(), None)
    known = frozenset({LOCAL})
    assert guests.copies() == [Held(GuestCopy(facts, known, known, frozenset(), False), State.QUEUED, frozenset())]
    released(guests)
    (held,) = guests.copies()
    assert held.copy == GuestCopy(facts, known, frozenset({LOCAL, CNP}), frozenset({"c-1"}), False)
    whole = replace(facts, modalities=frozenset({"CT", "SR"}), study_date=date(2024, 1, 15))
    guests.arrived(whole, {LOCAL, CNP})
    (held,) = guests.copies()
    assert held.copy == GuestCopy(whole, frozenset({LOCAL, CNP}), frozenset({LOCAL, CNP}), frozenset({"c-1"}), False)
    guests.set_withdrawn("1.2.3", {"c-1", "c-0"})
    assert guests.copies()[0].withdrawn == guests.withdrawn("1.2.3") == {"c-0", "c-1"}
    pulls.move("1.2.3", Event.LEAVE)
    assert guests.copies()[0].state is State.LEAVING
    pulls.forget_complete("1.2.3")
    assert guests.brought("1.2.3")
    pulls.forget_left("1.2.3")
    assert (guests.copies(), guests.brought("1.2.3"), guests.withdrawn("1.2.3")) == ([], {}, frozenset())


def test_the_last_ticket_says_whether_it_is_an_emergencys(database: Database, guests: GuestStore) -> None:
    ask(database)
    released(guests, ticket=ticket(Purpose.ETREAT))
    assert guests.copies()[0].copy.emergency
    released(guests)
    assert not guests.copies()[0].copy.emergency


def test_what_was_once_brought_stays_known_as_a_guest(guests: GuestStore) -> None:
    released(guests, sop_instance_uids=UIDS)
    released(guests, sop_instance_uids=[*UIDS[:1], "9.9"])
    guests.released(
        "1.2.3", "8", ticket=ticket(), number=LOCAL, sop_instance_uids=["5.5"], unheeded=(), now=NOW
    )
    assert guests.brought("1.2.3") == {"7": frozenset([*UIDS, "9.9"]), "8": frozenset({"5.5"})}
    assert guests.brought("1.2.4") == {}


def test_one_that_is_to_go_is_not_asked_for_again(database: Database) -> None:
    pulls = ask(database)
    before = pulls.move("1.2.3", Event.LEAVE, reason="why")
    ask(database)
    assert pulls.get("1.2.3") == before


def test_what_is_told_is_to_be_checked_after_a_restart(database_url: str) -> None:
    consent = Consent("c-1", 2, frozenset({CNP}), None, None, False, ())
    database = open_database(database_url, [CHAIN])
    ToldStore(database).save(ConsentRecord(consent, "0" * 64, ProofKind.STAFF, "a"), {}, frozenset({CNP, LOCAL}), NOW)
    database.close()
    database = open_database(database_url, [CHAIN])
    due = GuestStore(database).due(NOW, 10)
    assert {one.change for one in due} == {Change("c-1", frozenset({one})) for one in (CNP, LOCAL)}
    assert [(one.told, one.attempts) for one in due] == [(1, 0)] * 2
    database.close()


def test_a_check_waits_and_is_done_once(guests: GuestStore) -> None:
    guests.hint([CNP], NOW)
    (first,) = guests.due(NOW, 10)
    assert first == Check(Change("", frozenset({CNP})), 1, 0)
    guests.again([first], LATER, "key servers: \0 away")
    assert guests.due(NOW, 10) == []
    (second,) = guests.due(LATER, 10)
    assert second == replace(first, attempts=1)
    guests.done([second])
    assert guests.due(LATER, 10) == []


def test_what_is_told_anew_while_it_is_worked_on_is_not_done(guests: GuestStore) -> None:
    guests.hint([CNP], NOW)
    (first,) = guests.due(NOW, 10)
    guests.hint([CNP], LATER)
    guests.done([first])
    guests.again([first], LATER + timedelta(hours=1), "later")
    assert guests.due(LATER, 10) == [replace(first, told=2)]


def test_as_many_as_asked_for_the_oldest_first(guests: GuestStore) -> None:
    for number in range(5):
        guests.hint([PatientIdentifier("A", str(number))], NOW - timedelta(seconds=number))
    assert [min(one.change.numbers).value for one in guests.due(NOW, 2)] == ["4", "3"]


def test_how_far_the_hubs_list_was_read(guests: GuestStore) -> None:
    assert guests.cursor() == 0
    guests.read_to(7)
    guests.read_to(3)
    assert guests.cursor() == 3
