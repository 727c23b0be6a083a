"""Asking a patient for consent from inside the hospital: one open request of a patient, whatever the hub does."""

import base64
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, jsonify
from werkzeug.test import Client

from support.staff import logged_in
from usmed.domain.errors import PeerDataError, RefusedError, TransportError
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.hospital.circuit import Circuit
from usmed.hospital.patient_request_pages import create_patient_request_pages, offered
from usmed.hospital.patient_requests import AT_ONCE, PatientRequests, RequestState
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 10, 0, 30, tzinfo=UTC)
PATIENT = PatientIdentifier("RO-CNP", "1800101221144")
NAMING = Naming("SPIRIDON", NationalNumber("RO-CNP"))


class Hub:
    """Takes requests as the hub does; `fault` is what it says instead."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.looked = 0
        self.fault: Exception | None = None

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 0) -> Any:
        assert member_id == "hub"
        if path == "/v1/requests/state":
            self.looked += 1
        else:
            assert path == "/v1/requests"
            self.asked.append(document)
        if self.fault is not None:
            raise self.fault
        if path == "/v1/requests/state":
            return {"states": {id: self.states[id] for id in document["ids"]}}
        self.states[document["id"]] = "open"
        return {"state": "open"}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def audit(database: Database) -> Iterator[AuditLog]:
    opened = AuditLog(database)
    yield opened
    opened.close()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def requests(database: Database, audit: AuditLog, hub: Hub) -> PatientRequests:
    return requests_of(database, audit, hub)


def requests_of(database: Database, audit: AuditLog, hub: Hub, *, possible: bool = True) -> PatientRequests:
    return PatientRequests(
        possible=lambda: possible, database=database, client=hub, circuit=Circuit(0, lambda: 0.0), audit=audit,
        clock=lambda: NOW,
    )  # fmt: skip


def test_a_request_says_who_asks_and_not_which_person(requests: PatientRequests, hub: Hub, audit: AuditLog) -> None:
    assert requests.last(PATIENT) is None
    made = requests.ask(PATIENT, " Radiologie ", "ionescu")
    assert (made.state, made.department, made.asked) == (RequestState.OPEN, "Radiologie", NOW)
    assert hub.asked == [
        {
            "id": made.id,
            "identifier": {"issuer": "RO-CNP", "value": "1800101221144"},
            "purpose": "TREAT",
            "department": "Radiologie",
            "role": "staff",
        }
    ]
    assert requests.last(PATIENT) is not None
    (event,) = audit.tail()
    assert (event["agent"], event["patient"], event["outcome"]) == ("ionescu", str(PATIENT), "success")
    assert event["detail"]["request"] == made.id


def test_while_one_waits_for_its_answer_no_second_one_is_made(
    requests: PatientRequests, hub: Hub, database: Database, audit: AuditLog
) -> None:
    first = requests.ask(PATIENT, "Radiologie", "ionescu")
    assert requests.ask(PATIENT, "Cardiologie", "popa").id == first.id
    assert requests_of(database, audit, hub).ask(PATIENT, "Radiologie", "popa").id == first.id
    assert len(hub.asked) == 1
    other = requests.ask(PatientIdentifier("SPIRIDON", "1800101221144"), "Radiologie", "ionescu")
    assert other.id != first.id


def test_an_answer_whose_arrival_is_unknown_is_asked_for_under_the_same_id(
    requests: PatientRequests, hub: Hub, audit: AuditLog
) -> None:
    hub.fault = TransportError("the hub did not answer in time")
    with pytest.raises(TransportError):
        requests.ask(PATIENT, "Radiologie", "ionescu")
    assert requests.last(PATIENT).state is RequestState.UNSENT  # type: ignore[union-attr]
    assert audit.tail()[-1]["outcome"] == "failure"
    hub.fault = None
    made = requests.ask(PATIENT, "Radiologie", "ionescu")
    assert [one["id"] for one in hub.asked] == [made.id, made.id]
    # Another department's is another request: the hub refuses another content under an id.
    hub.fault = TransportError("the hub did not answer in time")
    other = PatientIdentifier("SPIRIDON", "7")
    with pytest.raises(TransportError):
        requests.ask(other, "Radiologie", "ionescu")
    hub.fault = None
    assert requests.ask(other, "Cardiologie", "ionescu").id != hub.asked[-2]["id"]


def test_the_state_is_the_hubs_and_an_answered_request_leaves_room_for_another(
    requests: PatientRequests, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usmed.hospital.patient_requests.ASKED_EVERY_S", 0.0)
    assert requests.look(PATIENT) is None
    first = requests.ask(PATIENT, "Radiologie", "ionescu")
    assert requests.look(PATIENT) == first
    hub.fault = TransportError("the hub is away")
    assert requests.look(PATIENT) == first
    hub.fault = None
    for said, state in (("answered", RequestState.ANSWERED), ("expired", RequestState.EXPIRED)):
        made = requests.ask(PATIENT, "Radiologie", "ionescu")
        hub.states[made.id] = said
        assert requests.look(PATIENT).state is state  # type: ignore[union-attr]
        assert requests.last(PATIENT).state is state  # type: ignore[union-attr]
    # A hub that was set up anew knows none of them.
    made = requests.ask(PATIENT, "Radiologie", "ionescu")
    hub.states[made.id] = "unknown"
    assert requests.look(PATIENT).state is RequestState.EXPIRED  # type: ignore[union-attr]
    assert len({one["id"] for one in hub.asked}) == 3


def test_many_pages_that_look_ask_the_hub_once_in_a_while(requests: PatientRequests, hub: Hub) -> None:
    requests.ask(PATIENT, "Radiologie", "ionescu")
    for _ in range(20):
        requests.look(PATIENT)
    assert hub.looked == 1


def test_a_hub_that_hangs_is_waited_for_by_few_and_then_by_one(
    database: Database, audit: AuditLog, hub: Hub
) -> None:
    hanging, goes_on, now = threading.Semaphore(0), threading.Event(), [0.0]
    post = hub.post

    def hang(*rest: Any, **more: Any) -> Any:
        hanging.release()
        assert goes_on.wait(30)
        hub.fault = TransportError("the hub did not answer in time")
        return post(*rest, **more)

    hub.post = hang  # type: ignore[method-assign]
    requests = PatientRequests(
        possible=lambda: True, database=database, client=hub, circuit=Circuit(5, lambda: now[0]), audit=audit,
        clock=lambda: NOW,
    )  # fmt: skip
    numbers = [PatientIdentifier("SPIRIDON", str(one)) for one in range(AT_ONCE + 2)]

    def asks(patient: PatientIdentifier) -> threading.Thread:
        def ask() -> None:
            with pytest.raises(TransportError):
                requests.ask(patient, "Radiologie", "ionescu")

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        return thread

    threads = [asks(one) for one in numbers[:AT_ONCE]]
    assert all(hanging.acquire(timeout=30) for _ in threads)
    for patient in (numbers[0], numbers[-1]):
        with pytest.raises(TransportError, match="just being asked"):
            requests.ask(patient, "Radiologie", "popa")
    goes_on.set()
    for one in threads:
        one.join(30)
    # It did not answer: nobody waits for it until it is tried again, and then one.
    for patient in numbers:
        with pytest.raises(TransportError, match="away"):
            requests.ask(patient, "Radiologie", "popa")
    assert len(hub.asked) == AT_ONCE
    goes_on.clear()
    now[0] = 6.0
    last = asks(numbers[0])
    assert hanging.acquire(timeout=30)
    with pytest.raises(TransportError, match="away"):
        requests.ask(numbers[1], "Radiologie", "popa")
    goes_on.set()
    last.join(30)
    assert len(hub.asked) == AT_ONCE + 1


def test_what_the_hub_refuses_is_said_and_recorded(requests: PatientRequests, hub: Hub, audit: AuditLog) -> None:
    hub.fault = RefusedError("too-many", "hub: this patient was asked 5 times within a day: wait")
    with pytest.raises(RefusedError, match="5 times"):
        requests.ask(PATIENT, "Radiologie", "ionescu")
    event = audit.tail()[-1]
    assert (event["outcome"], "5 times" in event["reason"]) == ("denied", True)


@pytest.mark.parametrize("department", ["", "  ", "x" * 65, "Radio\nlogie", "a\u202eb"])
def test_a_department_is_words_that_a_patient_can_read(requests: PatientRequests, hub: Hub, department: str) -> None:
    with pytest.raises(PeerDataError, match="Department"):
        requests.ask(PATIENT, department, "ionescu")
    assert hub.asked == []


# ---- over HTTP ----


def pages_of(requests: PatientRequests) -> Client:
    app = Flask(__name__)
    app.register_blueprint(create_patient_request_pages(requests, NAMING), url_prefix="/requests")
    app.register_error_handler(RefusedError, lambda error: (jsonify(message=str(error)), 403))

    @app.get("/panel/<notice>")
    def panel(notice: str) -> Any:
        return jsonify(offered({"notice": notice}, requests, NAMING, PATIENT.value, ""))

    return Client(app)


def as_(user: str) -> dict[str, Any]:
    token = base64.b64encode(f"{user}:x".encode()).decode()
    checked = logged_in(user)
    return {"headers": {"Authorization": f"Basic {token}"}, "environ_overrides": checked}


def test_asking_needs_a_log_in_and_shows_what_was_asked(requests: PatientRequests) -> None:
    client = pages_of(requests)
    body = {"PatientID": PATIENT.value, "Department": "Radiologie"}
    assert client.post("/requests", json=body).status_code == 403
    assert client.get(f"/requests?PatientID={PATIENT.value}").status_code == 403
    made = client.post("/requests", json=body, **as_("ionescu")).json
    assert made == {
        "ID": made["ID"], "PatientID": PATIENT.value, "IssuerOfPatientID": "RO-CNP", "Department": "Radiologie",
        "AskedBy": "ionescu", "AskedAt": "2026-11-22T10:00:30+00:00", "State": "open",
    }  # fmt: skip
    assert client.get(f"/requests?PatientID={PATIENT.value}", **as_("popa")).json == {"Request": made}
    assert client.get("/requests?PatientID=7", **as_("popa")).json == {"Request": None}


def test_a_panel_offers_it_where_permission_is_missing_and_nowhere_else(
    requests: PatientRequests, database: Database, audit: AuditLog, hub: Hub
) -> None:
    client = pages_of(requests)
    offer = {"PatientID": PATIENT.value, "IssuerOfPatientID": "RO-CNP", "Request": None}
    assert client.get("/panel/no-permission", **as_("ionescu")).json["ask"] == offer
    requests.ask(PATIENT, "Radiologie", "ionescu")
    assert client.get("/panel/no-permission", **as_("ionescu")).json["ask"]["Request"]["State"] == "open"
    assert "ask" not in client.get("/panel/several-patients", **as_("ionescu")).json
    assert "ask" not in client.get("/panel/no-permission").json
    without_portal = pages_of(requests_of(database, audit, hub, possible=False))
    assert "ask" not in without_portal.get("/panel/no-permission", **as_("ionescu")).json
    with pytest.raises(RefusedError, match="no portal"):
        requests_of(database, audit, hub, possible=False).ask(PATIENT, "Radiologie", "ionescu")
