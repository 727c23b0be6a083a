"""The console in a real browser, on a real key server over TLS: register, log in, approve, with a virtual passkey."""

import base64
import hashlib
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions

from contract.test_key_servers import Installed, installed
from support.region import eventually, free_port
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


@dataclass
class Browser:
    """Headless Chromium with a passkey that a person has just touched."""

    folder: Path
    certificate: Path
    driver: Any = field(init=False)

    def __post_init__(self) -> None:
        options = ChromeOptions()
        # Trusts this certificate only: where the others are ignored, a page may not use passkeys.
        key = x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_key()
        digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        for one in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--lang=en",
            "--window-size=1440,1000", f"--user-data-dir={self.folder}",
            f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}",
        ):  # fmt: skip
            options.add_argument(one)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        passkey = VirtualAuthenticatorOptions()
        passkey.transport, passkey.has_resident_key = "internal", True
        passkey.has_user_verification = passkey.is_user_verified = passkey.is_user_consenting = True
        self.driver.add_virtual_authenticator(passkey)

    def click(self, selector: str) -> None:
        """Click what matches, once it is there."""
        eventually(lambda: self.driver.find_elements("css selector", selector), what=selector)[0].click()

    def type(self, name: str, text: str) -> None:
        """Fill in a field."""
        self.driver.find_element("name", name).send_keys(text)

    def text(self) -> str:
        """Return what a person reads."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def until(self, text: str) -> None:
        """Wait until the page says something."""
        eventually(lambda: text in self.text(), 10, f"{text!r} on {self.driver.current_url}:\n{self.text()}")

    def faults(self) -> list[str]:
        """Return what the browser complained of: a script that failed, a policy that was broken."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]


@pytest.fixture
def browser(installed: Installed, tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path / "chromium", installed.folder / "tls.pem")
    yield one
    one.driver.quit()


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
    assert browser.faults() == []
