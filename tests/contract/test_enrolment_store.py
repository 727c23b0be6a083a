"""The table of enrolments that a hospital's desk has begun: the same on both engines."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from usmed.domain.enrolment import Basis, Credential, Guardian
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import TRANSITIONS, Change, State
from usmed.hospital.enrolment_store import KEPT, Enrolling, EnrolmentStore
from usmed.hospital.store import CHAIN
from usmed.platform.storage import open_database

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
PASSKEY = Credential(b"\x00id", b"\xffkey")
ODD = PatientIdentifier('SF "SPIRIDON"', "100%_ă/7")
ONE = Enrolling(
    id="one", patient_id="7", issuer="", numbers=frozenset({ODD, PatientIdentifier("RO-CNP", "1800101221144")}),
    birth_date="18000101", guardian=Guardian(Basis.COURT, NOW + timedelta(days=400)), lost_phone=True,
    state=State.WAITING, staff="ionescu", created=NOW, expires=NOW + timedelta(hours=24), address="https://p.example/e/",
)  # fmt: skip


@pytest.fixture
def store(database_url: str) -> Iterator[EnrolmentStore]:
    database = open_database(database_url, [CHAIN])
    yield EnrolmentStore(database)
    database.close()


def test_what_was_kept_comes_back(store: EnrolmentStore) -> None:
    assert store.get("one") is None
    other = replace(ONE, id="other", guardian=None, lost_phone=False, typed="1800101221144", record_sha256="ab")
    for one in (ONE, other):
        store.add(one)
        assert store.get(one.id) == one


WAYS = {
    State.WAITING: (), State.ANSWERED: (Change.ANSWER,), State.ENROLLED: (Change.ANSWER, Change.ENROL),
    State.VOID: (Change.REVOKE,), State.EXPIRED: (Change.EXPIRE,),
}  # fmt: skip


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("change", list(Change))
def test_every_change_is_that_of_the_table(store: EnrolmentStore, state: State, change: Change) -> None:
    store.add(ONE)
    for step in WAYS[state]:
        assert store.change("one", step)
    expected = TRANSITIONS.get((state, change))
    assert store.change("one", change) is (expected is not None)
    held = store.get("one")
    assert held is not None
    assert held.state is (expected or state)


def test_a_change_keeps_the_passkey_and_the_end_that_came_with_it(store: EnrolmentStore) -> None:
    store.add(ONE)
    later = NOW + timedelta(hours=30)
    assert store.change("one", Change.ANSWER, credential=PASSKEY, expires=later)
    # A second answer changes nothing.
    assert not store.change("one", Change.ANSWER, credential=Credential(b"x", b"y"))
    assert store.get("one") == replace(ONE, state=State.ANSWERED, credential=PASSKEY, expires=later)
    assert not store.change("none", Change.ANSWER)


def test_enrolled_ones_are_found_by_each_number_and_by_no_other(store: EnrolmentStore) -> None:
    store.add(ONE)
    assert store.enrolled([ODD]) == []
    for step in WAYS[State.ENROLLED]:
        store.change("one", step)
    for number in ONE.numbers:
        assert [one.id for one in store.enrolled([number, PatientIdentifier("X", "Y")])] == ["one"]
    # Wildcards of LIKE, and the number of another issuer.
    for stranger in (PatientIdentifier(ODD.issuer, "1000_ă/7"), PatientIdentifier("RO-CNP", ODD.value)):
        assert store.enrolled([stranger]) == []


def test_open_ones_and_new_ones_are_listed_and_old_ones_that_came_to_nothing_forgotten(store: EnrolmentStore) -> None:
    old = NOW - KEPT - timedelta(seconds=1)
    for id, created in (("open", NOW - timedelta(days=20)), ("void", old), ("done", old)):
        store.add(replace(ONE, id=id, created=created))
    store.change("void", Change.REVOKE)
    for step in WAYS[State.ENROLLED]:
        store.change("done", step)
    assert store.get("void") is not None
    store.add(ONE)
    assert store.get("void") is None
    assert store.get("done") is not None
    assert [one.id for one in store.recent(NOW - timedelta(days=7), 10)] == ["one", "open"]
    assert [one.id for one in store.recent(NOW - timedelta(days=7), 1)] == ["one"]
