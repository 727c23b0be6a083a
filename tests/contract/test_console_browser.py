"""The console in a real browser, on a real key server over TLS: register, log in, approve, with a virtual passkey."""

import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.test_key_servers import Installed, installed
from support.browser import DESK, PHONE, Browser
from support.process import eventually, free_port
from usmed.domain.approval import Kind, Operation, State, short_digest
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.store import CHAIN, RecordStore
from usmed.platform.notices import Outbox
from usmed.platform.storage import Database, open_database

__all__ = ["installed"]  # a fixture

REASON = "Accident feroviar la Pașcani: 40 de răniți, medici din Bacău și Suceava veniți în ajutor"


@dataclass
class Console:
    """A running key server, and its database seen from beside it."""

    installed: Installed
    address: str
    database: Database
    approvals: Approvals

    def propose(self, nonce: str, kind: Kind = Kind.PATIENTS, **particulars: Any) -> Operation:
        """Propose an operation of iasi's."""
        now = datetime.now(UTC).replace(microsecond=0)
        until = int((now + timedelta(hours=6)).timestamp())
        one = Operation(
            kind, "iasi", nonce, particulars or {"further": 40, "until": until, "reason": REASON}, now,
            now + timedelta(hours=8),
        )  # fmt: skip
        self.approvals.propose("iasi", one.to_json())
        return one

    def code(self) -> str:
        """Make a one-time code, as its administrator does."""
        made = self.installed("keyserver", "console-code")
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()


@pytest.fixture
def console(installed: Installed) -> Iterator[Console]:
    port = free_port()
    address = f"https://localhost:{port}"
    installed.environment |= {"USMED_KEYSERVER_PORT": str(port), "USMED_CONSOLE_ADDRESS": address}
    process = subprocess.Popen(
        [sys.executable, "-m", "usmed", "keyserver", "serve"], cwd=installed.folder, env=installed.environment
    )
    database = None
    try:
        context = ssl.create_default_context(cafile=str(installed.folder / "tls.pem"))
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", context=context, timeout=5):
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        database = open_database(installed.environment["USMED_DATABASE_URL"], [CHAIN])
        approvals = Approvals(
            server="keys-1", database=database, store=RecordStore(database), outbox=Outbox(database, wanted=False),
            clock=lambda: datetime.now(UTC),
        )  # fmt: skip
        yield Console(installed, address, database, approvals)
    finally:
        if database:
            database.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.fixture
def browser(installed: Installed, tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path / "chromium", [installed.folder / "tls.pem"])
    yield one
    one.close()


def enter(console: Console, browser: Browser) -> None:
    """Register a passkey."""
    browser.driver.get(f"{console.address}/console/")
    browser.click(".aside a")
    browser.until("One-time code")
    browser.type("code", console.code())
    browser.type("name", "Ana Șuteu")
    browser.click("button.main")
    browser.until("Overview")
    browser.until("Ana Șuteu")


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_an_administrator_registers_logs_in_and_approves(console: Console, browser: Browser) -> None:
    one, other = console.propose("nonce-of-operation-1"), console.propose("nonce-of-operation-2")
    enter(console, browser)
    # Out, and in again with the passkey alone.
    browser.click("button.quiet")
    browser.until("Log in with a passkey")
    browser.click("button.main")
    browser.until("Waiting for you: 2")
    browser.click("nav a:nth-child(2)")
    browser.until("Accident feroviar")
    browser.click(f"a[href$='{one.digest}']")
    for group in short_digest(one.digest).split("-"):
        browser.until(group)
    browser.until("40")
    browser.click("button[value=approve]")
    browser.until("approved")
    assert console.approvals.find(one.digest).state is State.APPROVED
    assert console.approvals.find(one.digest).decided_by.startswith("Ana Șuteu (passkey ")
    # Who is not verified by the passkey decides nothing, and reads why.
    browser.driver.set_user_verified(False)
    browser.driver.get(f"{console.address}/console/approvals/{other.digest}")
    browser.click("button[value=refuse]")
    eventually(lambda: browser.driver.find_element("css selector", ".message").is_displayed(), what="a reason")
    assert console.approvals.find(other.digest).state is State.PENDING
    browser.driver.set_user_verified(True)
    browser.click("button[value=refuse]")
    eventually(lambda: console.approvals.find(other.digest).state is State.REFUSED, what="it is refused")
    browser.until("refused")
    browser.driver.get(f"{console.address}/console/log?event=approval")
    browser.until("nonce-of-operation-1")
    for size in (PHONE, DESK):
        browser.resize(size)
        for page in ("", "approvals", f"approvals/{one.digest}", f"approvals/{other.digest}", "log"):
            browser.open(f"{console.address}/console/{page}")
            browser.picture(f"console-{page.partition('/')[0] or 'overview'}{page.count('/') * '-operation'}")
            assert browser.barriers() == [], page
            assert browser.overflow() <= 0, page
    assert browser.faults() == []
