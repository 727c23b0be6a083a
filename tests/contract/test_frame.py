"""The frame of the node's pages: where `/usmed/` leads, what the navigation shows, languages and colours, policies."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Blueprint, Flask, Response
from werkzeug.test import Client

from usmed.domain.errors import RefusedError
from usmed.hospital.frame import ENTRIES, Frame, create_entrance, dress, page
from usmed.hospital.page_requests import REACHES
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import open_database

LOG_IN = {"REMOTE_USER": "ionescu", "AUTH_TYPE": "Basic"}


class Node:
    """A node with the pages that a test gives it."""

    def __init__(self, audit: AuditLog) -> None:
        self.audit = audit
        self.app = Flask(__name__, root_path=str(files("usmed.hospital")), static_folder=None)
        self.app.register_blueprint(create_entrance())
        self.frame = Frame(lambda: "Spitalul „Sf. Spiridon”", audit, lambda: datetime.now(UTC))
        self.browser = Client(self.app)

    def add(self, name: str) -> None:
        pages = Blueprint(name, __name__)
        dress(pages, self.frame)

        @pages.get("")
        def start() -> Response:
            return page("problem.html", fault=f"this is {name}")

        @pages.get("/deep/<name>")
        def deep(name: str) -> Response:
            raise RefusedError("odd", "not here")

        self.app.register_blueprint(pages, url_prefix=f"/{name}")

    def get(self, path: str, who: Mapping[str, Any] | None = None) -> str:
        return self.browser.get(path, environ_overrides=LOG_IN if who is None else who).text


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}", [CHAIN])
    audit = AuditLog(database)
    yield Node(audit)
    audit.close()
    database.close()


@pytest.mark.parametrize("shown", ["https://pacs.example/usmed", "https://pacs.example/a/b/usmed/"])
def test_the_address_itself_leads_to_the_first_page_there_is(node: Node, shown: str) -> None:
    node.add("audit")
    node.add("statistics")
    # What the browser shows; Orthanc hands it on without the prefix and without the slash.
    prefix = shown.removesuffix("/").removesuffix("usmed")
    for _ in range(4):
        path = shown.removeprefix(f"{prefix}usmed").rstrip("/")
        answer = node.browser.get(environ_overrides={**LOG_IN, "PATH_INFO": path})
        if answer.status_code == 200:
            break
        assert answer.status_code == 303
        shown = urljoin(shown, answer.headers["Location"])
    assert shown == f"{prefix}usmed/audit"
    assert "this is audit" in answer.text


def test_the_navigation_shows_the_pages_that_there_are_and_where_one_is(node: Node) -> None:
    node.add("statistics")
    node.add("audit")
    shown = re.findall(r'<li><a href="([^"]*)"( aria-current="page")?>([^<]*)', node.get("/statistics?lang=en"))
    assert shown == [("audit", "", "Audit"), ("statistics", ' aria-current="page"', "Statistics")]
    assert re.findall(r'<li><a href="([^"]*)"', node.get("/audit/deep/x")) == ["../../audit", "../../statistics"]
    assert list(ENTRIES) == ["patient", "transfers", "arrivals", "desk", "audit", "statistics", "region", "settings"]


def test_a_page_is_for_staff_and_says_what_was_refused_in_the_frame(node: Node) -> None:
    node.add("audit")
    assert "this is audit" not in node.get("/audit", {"REMOTE_USER": "ionescu"})
    assert "this is audit" not in node.get("/audit", {"REMOTE_USER": "http", "AUTH_TYPE": "Basic"})
    assert "A fost refuzat: not here" in node.get("/audit/deep/x")
    refused = [(one["agent"], one["reason"].partition(":")[0], one["detail"]["what"]) for one in node.audit.tail()]
    assert refused[-1] == ("ionescu", "odd", "GET /audit/deep/<name>")
    assert [one[1] for one in refused] == ["nobody", "nobody", "odd"]


def test_language_and_colours_are_chosen_and_remembered(node: Node) -> None:
    node.add("audit")
    assert '<html lang="ro">' in node.get("/audit")
    assert "screen and (prefers-color-scheme: dark)" in node.get("/audit")
    assert 'href="?PatientID=7&amp;lang=en"' in node.get("/audit?PatientID=7")
    node.get("/audit?lang=en")
    node.get("/audit?look=dark")
    chosen = node.get("/audit")
    assert '<html lang="en">' in chosen
    assert 'media="screen"' in chosen
    node.get("/audit?look=light")
    assert "dark.css" not in node.get("/audit")


def test_policies_let_nothing_in_that_is_not_from_here(node: Node) -> None:
    node.add("audit")
    answer = node.browser.get("/audit", environ_overrides=LOG_IN)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"\s(style|on\w+)=|<style|<script>", answer.text)
    for name in re.findall(r'"(static/[\w.]+)"', answer.text):
        assert node.browser.get(f"/{name}").status_code == 200, name
    assert node.browser.get("/static/frame.py").status_code == 404


def test_the_navigation_shows_what_somebody_may_see(node: Node) -> None:
    node.add("audit")
    node.add("statistics")
    may_see = {**LOG_IN, REACHES: lambda path: path == "/statistics"}
    shown = node.get("/statistics", may_see)
    assert re.findall(r'<a href="([^"]+)"[^>]*>(?:Audit|Statistici)', shown) == ["statistics"]
    nothing = {**LOG_IN, REACHES: lambda path: False}
    assert node.browser.get("/home", environ_overrides=nothing).headers["Location"] == "../app/explorer.html"


def test_who_is_in_a_session_can_leave_it_and_who_is_not_is_not_offered_to(node: Node) -> None:
    node.add("audit")
    assert 'action="log-out"' not in node.get("/audit")
    assert node.get("/audit", {**LOG_IN, "AUTH_TYPE": "Session"}).count('action="log-out"') == 2
