"""The page of arrivals: who comes, filtered and turned over; as fast with ten thousand; merges that a person ends."""

import html
import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client

from usmed.domain.adt import Merge
from usmed.domain.arrival import Arrival, Prefetch, Source
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import State
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.arrivals_pages import Services, create_arrivals_pages
from usmed.hospital.frame import Frame, create_entrance
from usmed.hospital.store import CHAIN, PullStore
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

DAY, NOW = date(2026, 11, 22), datetime(2026, 11, 22, 9, tzinfo=UTC)
LOG_IN = {"REMOTE_USER": "ionescu", "AUTH_TYPE": "Basic"}
MOST_MS = 300


def arrival(number: int, **changes: Any) -> Arrival:
    identifier = PatientIdentifier("SPIRIDON", f"{number}")
    fields: dict[str, Any] = {
        "day": DAY, "identifier": identifier, "identifiers": frozenset({identifier}), "name": f"Țîrlea^Ștefan^{number}",
        "birth_date": "19800101", "sex": "M", "time": f"{number // 600 % 24:02d}{number % 60:02d}", "modality": "CT",
        "place": "UPU 2", "source": Source.HL7,
    }  # fmt: skip
    return Arrival(**(fields | changes))


class Node:
    """The part of a node that has the page."""

    def __init__(self, database: Database) -> None:
        self.database, self.store, self.audit = database, ArrivalStore(database), AuditLog(database)
        self.pulls = PullStore(database)
        frame = Frame(lambda: "Spitalul „Sf. Spiridon”", self.audit, lambda: NOW)
        names = {"parhon": "Spitalul Parhon"}
        services = Services(
            self.store, self.pulls.standing, database, lambda: DAY, lambda one: names.get(one, one), frame
        )
        pages = create_arrivals_pages(services)
        app = Flask(__name__, root_path=str(files("usmed.hospital")), static_folder=None)
        app.register_blueprint(create_entrance())
        app.register_blueprint(pages, url_prefix="/arrivals")
        self.browser = Client(app)

    def add(self, *arrivals: Arrival) -> None:
        with self.database.write() as connection:
            for one in arrivals:
                self.store.arrive(connection, one)

    def get(self, path: str = "/arrivals?lang=en", who: dict[str, str] | None = None) -> str:
        return self.browser.get(path, environ_overrides=LOG_IN if who is None else who).text

    def shown(self, path: str = "/arrivals?lang=en") -> list[str]:
        return re.findall(r'<tr data-key="SPIRIDON:(\d+)">', self.get(path))


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    database = open_database(database_url, [CHAIN])
    running = Node(database)
    yield running
    running.audit.close()
    database.close()


def words(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))


def test_an_arrival_is_shown_with_how_far_its_studies_are(node: Node) -> None:
    node.add(arrival(7), arrival(8, time="", modality="", place="", name="", source=Source.WORKLIST))
    uids = ["1.1", "1.2", "1.3"]
    for uid in uids[:2]:
        node.pulls.ask(uid, source="parhon", patient_id="7", identifiers=frozenset(), requested_by="arrival", now=NOW)
    with node.database.write() as connection:
        connection.exec_driver_sql("UPDATE pull SET state = 'complete' WHERE study_instance_uid = '1.1'")
    node.store.set(arrival(7), Prefetch.ARRIVING, studies=uids, reason="parhon: too late")
    page = node.get()
    assert "00:07 Țîrlea Ștefan 7" in words(page)
    assert "Arriving 2 of 3 studies here Spitalul Parhon: too late" in words(page)
    assert "No name" in page
    assert node.shown() == ["8", "7"]
    assert "Se aduc" in node.get("/arrivals?lang=ro")
    assert node.pulls.standing(["1.1", "1.2", "9"]) == {"1.1": (State.COMPLETE, ""), "1.2": (State.QUEUED, "")}


def test_by_state_and_by_day(node: Node) -> None:
    node.add(arrival(1), arrival(2), arrival(3, day=date(2026, 11, 23)))
    node.store.set(arrival(2), Prefetch.NOT_PERMITTED)
    assert node.shown() == ["1", "2"]
    assert node.shown("/arrivals?state=not-permitted") == ["2"]
    assert node.shown("/arrivals?state=failed") == []
    assert node.shown("/arrivals?state=nonsense") == ["1", "2"]
    assert node.shown("/arrivals?day=2026-11-23") == ["3"]
    assert node.shown("/arrivals?day=nonsense") == ["1", "2"]
    assert "nothing tells whether there is anything" in node.get()
    assert "Nobody, so far." in node.get("/arrivals?day=2026-11-20&lang=en")


def test_ten_thousand_arrivals_are_turned_over_in_no_time(node: Node) -> None:
    node.add(*(arrival(n) for n in range(10_000)))
    with node.database.write() as connection:
        connection.exec_driver_sql("UPDATE arrival SET state = 'here', studies = '[\"1.2.3\"]' WHERE value < '4'")
    node.get()
    slowest = 0.0
    for path in ("", "?page=100", "?page=200", "?state=here&page=20", "?state=waiting", "?page=99999"):
        start = time.perf_counter()
        found = node.shown(f"/arrivals{path}")
        slowest = max(slowest, time.perf_counter() - start)
        assert len(found) == 50, path
    print(f"slowest page of 10,000 arrivals: {slowest * 1000:.0f} ms")
    assert slowest * 1000 < MOST_MS
    everybody = [node.store.entries(DAY, None, offset=n, limit=1000) for n in range(0, 10_000, 1000)]
    assert len({one.arrival.identifier for some in everybody for one in some}) == 10_000
    assert "9951–10000 of 10000" in words(node.get("/arrivals?page=200&lang=en"))


def test_a_page_is_for_staff_and_safe_from_what_a_name_may_hold(node: Node) -> None:
    node.add(arrival(1, name='<script>alert(1)</script>^"x"', place="<b>", modality="<i>"))
    page = node.get()
    assert "<script>alert" not in page
    assert "<b>&lt;" in page
    assert "data-key" not in node.get(who={"REMOTE_USER": "ionescu"})
    assert [one["event"] for one in node.audit.tail()] == ["refused"]


def test_a_merge_is_ended_by_a_person_once_and_written_down(node: Node) -> None:
    merge = Merge(PatientIdentifier("SPIRIDON", "1042"), frozenset({PatientIdentifier("SPIRIDON", "77")}))
    with node.database.write() as connection:
        node.store.note_merge(connection, merge, NOW)
    assert "one patient's: 1 Look at them" in words(node.get())
    page = node.get("/arrivals/merges?lang=en")
    (address,) = set(re.findall(r'action="([^"]*)"', page))
    (token,) = set(re.findall(r'name="csrf" value="([^"]*)"', page))
    path = f"/arrivals/merges/{address.rpartition('/')[2]}"

    def post(**form: str) -> int:
        return node.browser.post(path, data=form, environ_overrides=LOG_IN).status_code

    post(outcome="done")
    post(outcome="nonsense", csrf=token)
    assert len(node.store.merges()) == 1
    assert post(outcome="not-one", csrf=token) == 303
    assert post(outcome="done", csrf=token) == 200
    assert node.store.merges() == []
    events = [(one["event"], one["agent"], one.get("detail", {}).get("outcome")) for one in node.audit.tail()]
    assert events == [
        ("refused", "ionescu", None), ("refused", "ionescu", None), ("identity", "ionescu", "not-one"),
        ("refused", "ionescu", None),
    ]  # fmt: skip
    assert "There is nothing to look at." in node.get("/arrivals/merges?lang=en")
