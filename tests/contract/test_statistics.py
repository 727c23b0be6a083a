"""The node's counts: each event once, each study once; the page, its table as CSV, and the numbers for Prometheus."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from joserfc.jwk import OKPKey
from werkzeug.test import Client

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.audit_patterns import Rules
from usmed.hospital.archive import StoredInstance, Study
from usmed.hospital.auditor import Auditor
from usmed.hospital.frame import Frame, create_entrance
from usmed.hospital.node_metrics import node_metrics
from usmed.hospital.oversight import Oversight
from usmed.hospital.statistician import Statistician
from usmed.hospital.statistics_pages import StatisticsServices, create_statistics_pages
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog, append_in
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Bucharest")
LOG_IN = {"REMOTE_USER": "admin", "AUTH_TYPE": "Basic"}
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Archive:
    """Studies with their instances' sizes."""

    sizes: dict[str, list[int]] = field(default_factory=dict)
    total: int = 0

    def study_by_orthanc_id(self, orthanc_id: str) -> Study | None:
        if orthanc_id not in self.sizes:
            return None
        modality = "MR" if orthanc_id.endswith("mr") else "CT"
        return Study(orthanc_id, f"1.2.{orthanc_id}", "7", "", "", "", "", "", ("SR", modality), frozenset(), 1, ())

    def instances(self, orthanc_id: str) -> list[StoredInstance]:
        return [StoredInstance("i", "f", "1", "1", size) for size in self.sizes[orthanc_id]]

    def size_bytes(self) -> int:
        return self.total


class Node:
    """A node's statistics."""

    def __init__(self, database: Database) -> None:
        self.database, self.audit, self.archive, self.now = database, AuditLog(database), Archive(), NOW
        self.free, self.sources = 500 * 10**9, {"1.2.theirs-mr": "iasi"}
        auditor = Auditor(
            hospital="bacau", key=OKPKey.generate_key("Ed25519"), database=database, audit=self.audit, rules=Rules(),
            systems=lambda: (), clock=lambda: self.now,
        )  # fmt: skip
        self.oversight = Oversight(auditor, None, self.process())
        app = Flask(__name__, root_path=str(files("usmed.hospital")), static_folder=None)
        frame = Frame(lambda: "Spitalul Bacău", self.audit, lambda: self.now)
        metrics = node_metrics(self.oversight, self.audit, lambda: {"iasi": 1})
        names = {"iasi": "Sf. Spiridon", "bacau": "Bacău"}
        pages = create_statistics_pages(StatisticsServices(self.oversight, frame, ZONE, lambda: names, metrics))
        app.register_blueprint(pages, url_prefix="/statistics")
        app.register_blueprint(create_entrance())
        self.app, self.browser = app, Client(app)

    def process(self) -> Statistician:
        """Return a counter as a process that starts makes it."""
        return Statistician(
            hospital="bacau", database=self.database, archive=self.archive,  # type: ignore[arg-type]
            source_of=lambda uid: self.sources.get(uid, ""), free_bytes=lambda: self.free, zone=ZONE,
            clock=lambda: self.now,
        )  # fmt: skip

    def put(self, *events: AuditEvent) -> None:
        with self.database.write() as connection:
            append_in(connection, events)

    def count(self) -> None:
        self.oversight.statistician.count()

    def counts(self) -> dict[tuple[str, str, str], int]:
        rows = self.oversight.statistician.store.between(date(2000, 1, 1), date(2100, 1, 1))
        return {(day.isoformat(), measure, label): value for day, measure, label, value in rows}

    def get(self, path: str = "", language: str = "en") -> str:
        return self.browser.get(
            f"/statistics{path}", environ_overrides=LOG_IN, headers={"Accept-Language": language}
        ).text

    def a_month(self) -> None:
        """Let a month pass."""
        end, size = self.now, 2 * 10**12
        for day in range(29, -1, -1):
            self.now = end - timedelta(days=day)
            busy = 1 if self.now.weekday() >= 5 else 3
            events = []
            for number in range(4 * busy):
                name = f"{day}-{number}-{'mr' if number % 3 == 0 else 'ct'}"
                self.archive.sizes[name] = [250_000_000 + 9_000_000 * number]
                self.sources[f"1.2.{name}"] = "iasi" if number % 4 == 1 else ""
                self.oversight.statistician.stable(name)
                events.append(looked_up(self.now, answers=number % 2))
                if number % 4 == 1:
                    events.append(pulled(self.now, 400 + 700 * number, "failed" if day % 9 == 0 else "complete"))
                if number == 2 or day % 5 == 0:
                    events.append(looked_up(self.now, peer="iasi", outcome=Outcome.DENIED))
            self.put(*events)
            size += busy * 10**9
            self.archive.total = size
            self.oversight.statistician._measured = None
            self.count()


def looked_up(at: datetime, answers: int = 0, **members: object) -> AuditEvent:
    return AuditEvent(at, AuditEventType.LOOKUP, "ionescu", detail={"answers": answers}, **members)  # type: ignore[arg-type]


def pulled(at: datetime, milliseconds: int, state: str = "complete") -> AuditEvent:
    detail = {"state": state, "size_bytes": 250_000_000, "first_image_ms": milliseconds}
    return AuditEvent(at, AuditEventType.PULL, "ionescu", "iasi", detail=detail)


@pytest.fixture
def node(new_database_url: Callable[[], str]) -> Iterator[Node]:
    database = open_database(new_database_url(), [CHAIN])
    made = Node(database)
    yield made
    made.audit.close()
    database.close()


def test_each_record_counts_once_by_the_hospitals_day_also_over_a_restart(node: Node) -> None:
    # In Bucharest it is past midnight.
    node.put(looked_up(NOW, 2), looked_up(NOW + timedelta(hours=5)), pulled(NOW, 1500))
    node.count()
    node.count()
    node.process().count()
    assert {place: value for place, value in node.counts().items() if "storage" not in place[1]} == {
        ("2026-11-22", "lookups", "success"): 1, ("2026-11-23", "lookups", "success"): 1, ("2026-11-22", "hits", ""): 1,
        ("2026-11-22", "pulls", "complete"): 1, ("2026-11-22", "pulled-bytes", "iasi"): 250_000_000,
        ("2026-11-22", "first-image", "2"): 1, ("2026-11-22", "first-image-ms", ""): 1500,
    }  # fmt: skip


def test_a_study_counts_once_with_what_it_grew_to_under_where_it_came_from(node: Node) -> None:
    counter = node.oversight.statistician
    node.archive.sizes |= {"ours": [5, 5], "theirs-mr": [7]}
    for name in ("ours", "theirs-mr", "gone"):
        counter.stable(name)
    node.count()
    node.archive.sizes["ours"].append(3)
    node.now += timedelta(days=2)
    counter.stable("ours")
    node.count()
    counts = node.counts().items()
    found = {(measure, label): value for (_, measure, label), value in counts if "storage" not in measure}
    assert found == {
        ("studies", "CT"): 1, ("studies", "MR"): 1, ("bytes", "CT"): 13, ("bytes", "MR"): 7,
        ("studies-of", "bacau"): 1, ("studies-of", "iasi"): 1, ("bytes-of", "bacau"): 13, ("bytes-of", "iasi"): 7,
    }  # fmt: skip
    assert {day for day, measure, _ in node.counts() if measure == "bytes"} == {"2026-11-22"}


def test_the_archives_size_is_measured_now_and_then(node: Node) -> None:
    node.archive.total = 5
    node.count()
    node.archive.total = 6
    node.count()
    assert node.counts()["2026-11-22", "storage-bytes", ""] == 5
    node.now += timedelta(minutes=11)
    node.count()
    assert node.counts()["2026-11-22", "storage-bytes", ""] == 6


def test_the_page_shows_plots_with_tables_beside_them_in_both_languages(node: Node) -> None:
    node.a_month()
    page = node.get(language="ro")
    assert page.count('<svg viewBox="0 0 640 240" role="img"') == 7
    assert page.count("<details>") == 7
    assert "În acest ritm, plin la" in page
    assert "Sf. Spiridon" in page
    assert "Time to the first image" in node.get("?days=365")
    assert "That did not work" in node.get("?days=31")
    for id in set(re.findall(r'aria-labelledby="([\w-]+) ', page)):
        assert page.count(f'id="{id}"') == 1


def test_an_empty_node_says_so(node: Node) -> None:
    page = node.get()
    assert "Nothing has been counted" in page
    assert "<svg" not in page


def test_the_table_is_there_as_csv(node: Node) -> None:
    node.put(looked_up(NOW, peer="=cmd()"))
    node.count()
    lines = node.get("/statistics.csv?days=30").splitlines()
    assert lines[0] == "day,measure,label,value"
    assert "2026-11-22,asked,'=cmd(),1" in lines


def test_prometheus_reads_the_same_numbers_and_the_dashboard_asks_for_no_others(node: Node) -> None:
    node.a_month()
    text = node.get("/metrics")
    values = dict(re.findall(r"^(usmed_[\w]+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE))
    counts = node.counts()
    lookups = sum(value for (_, measure, label), value in counts.items() if (measure, label) == ("lookups", "success"))
    assert float(values['usmed_lookups_total{outcome="success"}']) == lookups > 100
    assert float(values["usmed_storage_bytes"]) == node.archive.total
    assert float(values["usmed_unreachable_hospitals"]) == 1
    assert not re.search("ionescu|BACAU", text)
    told = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    dashboard = json.loads((REPOSITORY / "docs/how-to/grafana-node.json").read_text("utf-8"))
    asked = {name for one in dashboard["panels"] for target in one["targets"]
             for name in re.findall(r"usmed_\w+", target["expr"])}  # fmt: skip
    assert len(asked) >= 8
    assert asked - told - {"usmed_syslog_waiting"} == set()


def test_a_year_of_a_busy_hospital_is_shown_at_once(node: Node) -> None:
    store = node.oversight.statistician.store
    modalities = ("CT", "MR", "US", "CR", "DX", "MG", "NM", "XA")
    for day in range(365):
        found = {("studies", one): 40 for one in modalities} | {("bytes", one): 10**9 for one in modalities}
        found |= {("bytes-of", f"h{n}"): 10**9 for n in range(12)}
        store.add({(NOW.date() - timedelta(days=day)).isoformat(): {**found, ("lookups", "success"): 900}}, day)
    node.get("?days=365")
    begun = time.perf_counter()
    page = node.get("?days=365")
    took = time.perf_counter() - begun
    print(f"{took * 1000:.0f} ms")
    assert "others" in page
    assert took <= 0.3
