"""The federated lookup: whatever the other hospitals answer, it answers in time and says who is missing."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.domain.audit import AuditEvent, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, TransportError
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.domain.lookup import Level, Query, Selector
from usmed.hospital.circuit import Circuit
from usmed.hospital.identities import Resolution
from usmed.hospital.lookup import LOOKUP_PATH, MAXIMUM_ANSWERS, FederatedLookup

NAMING = Naming("PARHON", NationalNumber("RO-CNP"))
HERE, THERE = PatientIdentifier("PARHON", "1234"), PatientIdentifier("SF-SPIRIDON", "_7")
SELECTOR = Selector(identifier=HERE)
QUERY = Query(Level.STUDY, {"PatientID": "1234", "StudyDate": "20200101-"}, ("StudyDescription", "PatientName"))


def answer(study: str = "1.2.3", **changes: Any) -> dict[str, Any]:
    one: dict[str, Any] = {
        "identifier": {"issuer": THERE.issuer, "value": THERE.value},
        "study_instance_uid": study,
        "instances": 5,
        "tags": {"StudyInstanceUID": study, "StudyDate": "20200131"},
    }
    return {**one, **changes}


class Peers:
    """Answers as the test says: a document, an exception, or a function."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, Any]] = []

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 0) -> Any:
        self.asked.append((member_id, path, document))
        given = self.answers[member_id]
        if isinstance(given, Exception):
            raise given
        return given() if callable(given) else given


class Known:
    """Resolves every selector to the same patient."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution

    def resolve(self, selector: Selector, deadline_s: float) -> Resolution:
        return self.resolution

    def everybody(self) -> tuple[str, ...]:
        return self.resolution.holders

    def forget(self) -> None:
        pass


class Signs:
    """Gives a ticket for whomever it is asked about."""

    def emergency(self, patient: object) -> None:
        return None

    def get(self, patient: Collection[PatientIdentifier], agent: str, *, deadline_s: float) -> Any:
        ticket = SimpleNamespace(patient=frozenset(patient), purpose=Purpose.TREAT)
        return SimpleNamespace(ticket=ticket, signed={"payload": "signed"})


class Log:
    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def append(self, event: AuditEvent) -> None:
        self.events.append(event)


Make = Callable[..., FederatedLookup]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def make(log: Log) -> Iterator[Make]:
    made: list[FederatedLookup] = []

    def build(peers: Any, resolution: Resolution | None = None, deadline_s: float = 0.4) -> FederatedLookup:
        known = resolution or Resolution(frozenset({HERE, THERE}), tuple(peers.answers))
        lookup = FederatedLookup(
            hospital="parhon", naming=NAMING, identities=Known(known), tickets=Signs(),  # type: ignore[arg-type]
            client=peers,
            circuit=Circuit(30, time.monotonic), audit=log, clock=lambda: datetime.now(UTC),  # type: ignore[arg-type]
            deadline_s=deadline_s, cache_s=10,
        )  # fmt: skip
        made.append(lookup)
        return lookup

    yield build
    for one in made:
        one.close()


def test_the_others_are_asked_by_the_patients_numbers_never_by_a_bare_one(make: Make) -> None:
    peers = Peers({"sf-spiridon": {"answers": [answer()]}})
    found = make(peers).find(QUERY, SELECTOR, "WS")
    assert [one.study_instance_uid for one in found.answers] == ["1.2.3"]
    member, path, document = peers.asked[0]
    assert (member, path) == ("sf-spiridon", LOOKUP_PATH)
    assert document["identifiers"] == [
        {"issuer": "PARHON", "value": "1234"}, {"issuer": "SF-SPIRIDON", "value": "_7"},
    ]  # fmt: skip
    assert document["ticket"] == {"payload": "signed"}
    assert document["keys"] == {"StudyDate": "20200101-"}
    assert "PatientID" not in document["tags"]


def test_one_that_is_off_does_not_take_away_the_others(make: Make, log: Log) -> None:
    def silent() -> Any:
        threading.Event().wait(2)

    peers = Peers(
        {
            "a": {"answers": [answer("1.1")]},
            "b": TransportError("b was not reached"),
            "c": RefusedError("unsigned", "c refused"),
            "d": PeerDataError("d answered more than 8388608 bytes"),
            "e": silent,
            "f": {"answers": [answer("1.2")]},
        }
    )
    lookup = make(peers)
    started = time.monotonic()
    found = lookup.find(QUERY, SELECTOR, "WS")
    assert time.monotonic() - started < 0.4 + 0.25
    assert [one.holder for one in found.answers] == ["a", "f"]
    assert found.missing == {
        "b": "b was not reached", "c": "c refused", "d": "d answered more than 8388608 bytes",
        "e": "no answer within 0.4 s",
    }  # fmt: skip
    assert log.events[-1].outcome is Outcome.PARTIAL
    assert "e: no answer within 0.4 s" in log.events[-1].reason
    # The next lookup does not pay again: who failed is left alone, and it still says who is missing.
    peers.asked.clear()
    started = time.monotonic()
    again = lookup.find(QUERY, SELECTOR, "WS")
    assert time.monotonic() - started < 0.2
    assert sorted(member for member, _, _ in peers.asked) == ["a", "c", "f"]
    assert again.missing.keys() == found.missing.keys()


GARBAGE: list[Any] = [
    None, [], {}, "text", 5, {"answers": None}, {"answers": 5}, {"answers": "text"}, {"answers": [None]},
    {"answers": [[]]}, {"answers": {"0": answer()}}, {"answers": [answer(identifier=None)]},
    {"answers": [answer(identifier={"issuer": "", "value": ""})]}, {"answers": [answer(study_instance_uid=None)]},
    {"answers": [answer(study_instance_uid=["1.2.3"])]}, {"answers": [answer(study_instance_uid="x")]},
    {"answers": [answer(tags=None)]}, {"answers": [answer(tags=[["StudyInstanceUID", "1.2.3"]])]},
    {"answers": [answer(tags={})]}, {"answers": [answer(tags={"StudyInstanceUID": "1.2.4"})]},
    {"answers": [answer(tags={"StudyInstanceUID": "1.2.3", "StudyDate": 5})]},
    {"answers": [answer(tags={"StudyInstanceUID": "1.2.3", "StudyDate": {"x": 1}})]},
    {"answers": [answer(tags={"StudyInstanceUID": "1.2.3", "PatientName": ["x"]})]},
    {"answers": [answer(tags={"StudyInstanceUID": "1.2.3", "PatientName": [{"x": 1}]})]},
    {"answers": [answer(instances="5")]}, {"answers": [answer(instances=-1)]}, {"answers": [answer(instances=1.5)]},
    {"answers": [answer(instances=True)]}, {"answers": [answer(instances=None)]},
    {"answers": [answer()] * (MAXIMUM_ANSWERS + 1)},
    # of whom nobody asked
    {"answers": [answer(identifier={"issuer": "SF-SPIRIDON", "value": "7"})]},
    {"answers": [answer(identifier={"issuer": "SF-SPIRIDON", "value": "%7"})]},
    {"answers": [answer(identifier={"issuer": "PARHON", "value": "_7"})]},
    {"answers": [answer(identifier={"issuer": "sf-spiridon", "value": "_7"})]},
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda one: str(one)[:70])
def test_garbage_is_named_and_shown_to_nobody(garbage: Any, make: Make) -> None:
    found = make(Peers({"bad": garbage, "good": {"answers": [answer("1.9")]}})).find(QUERY, SELECTOR, "WS")
    assert [one.holder for one in found.answers] == ["good"]
    assert list(found.missing) == ["bad"]
    assert found.missing["bad"].startswith("bad ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["1.2.3", "_7", "SF-SPIRIDON"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["answers", "identifier", "issuer", "value", "tags", "instances", "StudyInstanceUID",
                             "study_instance_uid", "x"]),
            inner, max_size=5,
        )
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_no_answer_breaks_the_lookup(document: Any) -> None:
    peers = Peers({"bad": {"answers": document} if not isinstance(document, dict) else document})
    lookup = FederatedLookup(
        hospital="parhon", naming=NAMING, identities=Known(Resolution(frozenset({THERE}), ("bad",))),  # type: ignore[arg-type]
        tickets=Signs(), client=peers, circuit=Circuit(30, time.monotonic), audit=Log(),  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC), deadline_s=5, cache_s=10,
    )  # fmt: skip
    try:
        found = lookup.find(QUERY, SELECTOR, "WS")
    finally:
        lookup.close()
    assert found.answers == () or document


def test_only_what_was_asked_for_is_taken(make: Make) -> None:
    tags = {"StudyInstanceUID": "1.2.3", "PatientName": "A^B", "PatientID": "9", "NumberOfPatientRelatedStudies": "x",
            "StudyDescription": None, "InstitutionName": "elsewhere"}  # fmt: skip
    found = make(Peers({"a": {"answers": [answer(tags=tags)]}})).find(QUERY, SELECTOR, "WS")
    assert found.answers[0].tags == {"StudyInstanceUID": "1.2.3", "PatientName": "A^B"}


def test_another_study_than_the_one_asked_for_is_refused(make: Make) -> None:
    query, selector = Query(Level.STUDY, {"StudyInstanceUID": "1.2.3"}), Selector(study_instance_uid="1.2.3")
    found = make(Peers({"a": {"answers": [answer("1.2.3"), answer("1.2.4")]}})).find(query, selector, "WS")
    assert found.answers == ()
    assert "another study" in found.missing["a"]


def test_the_same_lookup_within_seconds_asks_nobody_again_until_something_changes(make: Make) -> None:
    peers = Peers({"a": {"answers": [answer()]}})
    lookup = make(peers)
    first = lookup.find(QUERY, SELECTOR, "WS")
    assert lookup.find(QUERY, SELECTOR, "WS") is first
    assert len(peers.asked) == 1
    lookup.forget()
    lookup.find(QUERY, SELECTOR, "WS")
    assert len(peers.asked) == 2


def test_nobody_to_ask_costs_nothing(make: Make, log: Log) -> None:
    found = make(Peers({}), Resolution(frozenset(), ())).find(QUERY, SELECTOR, "WS")
    assert (found.answers, found.missing) == ((), {})
    away = make(Peers({}), Resolution(frozenset(), (), "the regional hub is away")).find(QUERY, SELECTOR, "WS")
    assert away.missing == {"hub": "the regional hub is away"}
    assert [one.outcome for one in log.events] == [Outcome.SUCCESS, Outcome.PARTIAL]
