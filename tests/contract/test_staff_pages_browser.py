"""The pages Audit and Statistics in a real browser: on a phone, a tablet, a reading-room monitor; in light and dark."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from contract.test_audit_pages import NOW, Pages, looked_up
from contract.test_statistics import Node
from support.browser import DESK, PHONE, Browser
from support.process import eventually
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.hospital.store import CHAIN
from usmed.platform.storage import open_database

TABLET = (1024, 768)


class Site:
    """The node's pages below `/usmed`, as Orthanc serves them: somebody has logged in."""

    def __init__(self, application: Any) -> None:
        def logged_in(environ: dict[str, Any], start_response: Any) -> Any:
            # Orthanc takes a slash away from an address's end.
            path = environ["PATH_INFO"].rstrip("/")
            return application({**environ, "PATH_INFO": path, "REMOTE_USER": "auditor", "AUTH_TYPE": "Basic"},
                               start_response)  # fmt: skip

        mounted = DispatcherMiddleware(lambda environ, start: [], {"/usmed": logged_in})
        self._server = make_server("127.0.0.1", 0, mounted, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/usmed"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}", [CHAIN])
    made = Pages(database)
    yield made
    made.auditor.stop()
    made.audit.close()
    database.close()


@pytest.fixture
def site(pages: Pages) -> Iterator[Site]:
    running = Site(pages.app)
    yield running
    running.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "chromium", language="ro", passkeys=False)
    yield opened
    opened.close()


def look(browser: Browser, name: str) -> None:
    """Look at the page on every device."""
    for size in (PHONE, TABLET, DESK):
        browser.resize(size)
        browser.picture(f"staff-{name}")
        assert browser.barriers() == [], (name, size)
        assert browser.overflow() <= 0, (name, size)
    assert browser.faults() == []


def events() -> list[AuditEvent]:
    counts = {"level": "STUDY", "answers": 3, "holders": 2}
    found = [looked_up(number, minutes=number, detail=counts) for number in range(6)]
    silent = {"outcome": Outcome.PARTIAL, "reason": "SF-MARIA: did not answer in time"}
    found.append(looked_up(7, "dr.țepeș-brâncoveanu", **silent))
    pulled = AuditEvent(
        NOW - timedelta(hours=1), AuditEventType.PULL, "ionescu", "iasi", "BACAU:7", "1.2.826.0.1.3680043.8.498.12345",
        detail={"state": "complete", "instances": 512, "arrived": 512},
    )  # fmt: skip
    denied = AuditEvent(NOW, AuditEventType.DECISION, "iasi", "iasi", "RO-CNP:2630615123459", outcome=Outcome.DENIED,
                        reason="no consent permits it")  # fmt: skip
    return [*found, pulled, denied]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_an_auditor_searches_checks_and_looks_at_what_is_unusual(
    pages: Pages, site: Site, browser: Browser, colours: str
) -> None:
    pages.put(*events())
    browser.open(f"{site.url}/?lang=ro")
    browser.until("Jurnalul de audit")
    assert browser.driver.current_url == f"{site.url}/audit"
    browser.open(f"{site.url}/audit?look={colours}")
    browser.open(f"{site.url}/audit")
    browser.click("summary")
    look(browser, f"audit-search-{colours}")
    browser.type("agent", "ionescu")
    browser.click(".search button.main")
    eventually(lambda: "agent=ionescu" in browser.driver.current_url, 20, "found")
    browser.open(f"{site.url}/audit/patterns")
    eventually(lambda: not pages.auditor.patterns.running, 20, "looked through")
    browser.open(f"{site.url}/audit/patterns")
    browser.until("Mulți pacienți în timp scurt")
    look(browser, f"audit-patterns-{colours}")
    browser.click(".tabs li:last-child a")
    browser.until("Complet și nemodificat")
    look(browser, f"audit-chain-{colours}")
    with pages.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_record WHERE sequence = 4")
    browser.click("main > form button")
    browser.until("rupt la înregistrarea 4")
    look(browser, f"audit-broken-{colours}")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_statistics_are_drawn(tmp_path: Path, browser: Browser, colours: str) -> None:
    database = open_database(f"sqlite:///{tmp_path / 's.db'}", [CHAIN])
    node = Node(database)
    node.a_month()
    site = Site(node.app)
    try:
        browser.open(f"{site.url}/statistics?look={colours}")
        browser.open(f"{site.url}/statistics")
        browser.until("Spațiul ocupat")
        browser.click(".plots section:nth-child(2) summary")
        look(browser, f"statistics-{colours}")
        browser.click(".tabs li:nth-child(2) a")
        eventually(lambda: "days=90" in browser.driver.current_url, 20, "ninety days")
    finally:
        site.stop()
        node.audit.close()
        database.close()
