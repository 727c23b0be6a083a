"""Headless Chromium as people use it: with a passkey, as wide as a phone or a desk; and what is wrong with a page."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions
from selenium.webdriver.remote.webelement import WebElement

from support.process import eventually

PHONE, DESK = (390, 844), (1440, 1000)
SERIOUS = {"serious", "critical"}
PICTURES = Path(os.environ.get("USMED_PICTURES") or f"{tempfile.gettempdir()}/usmed-pictures")
"""Where pictures of pages are kept; `scripts/test` brings them to build/pictures."""


class Browser:
    """A browser with a profile of its own.

    Args:
        folder: of its profile; empty.
        certificates: PEM files of the servers that it trusts. Where any certificate is accepted, a page may not use
            passkeys.
        size: width and height in CSS pixels, as a device has them.
        passkeys: whether it has a device that makes passkeys.
        resolve: names and the loopback addresses that they stand for.
    """

    def __init__(
        self,
        folder: Path,
        certificates: Iterable[Path] = (),
        *,
        size: tuple[int, int] = DESK,
        language: str = "en",
        passkeys: bool = True,
        resolve: Sequence[tuple[str, str]] = (),
    ) -> None:
        options = ChromeOptions()
        for one in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--lang={language}", f"--accept-lang={language}", f"--user-data-dir={folder}",
        ):  # fmt: skip
            options.add_argument(one)
        if trusted := ",".join(map(_key_digest, certificates)):
            options.add_argument(f"--ignore-certificate-errors-spki-list={trusted}")
        if resolve:
            rules = ",".join(f"MAP {name} {address}" for name, address in resolve)
            options.add_argument(f"--host-resolver-rules={rules}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver: Any = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.resize(size)
        if passkeys:
            device = VirtualAuthenticatorOptions()
            device.transport, device.has_resident_key = "internal", True
            device.has_user_verification = device.is_user_verified = device.is_user_consenting = True
            self.driver.add_virtual_authenticator(device)

    def resize(self, size: tuple[int, int]) -> None:
        """Be a device of another size: a headless window does not get as narrow as a phone."""
        self.size = width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, address: str) -> None:
        """Load a page."""
        self.driver.get(address)

    def one(self, selector: str) -> WebElement:
        """Wait for what matches a CSS selector; return the first."""
        found: list[WebElement] = eventually(
            lambda: self.driver.find_elements("css selector", selector), 20, f"{selector} on\n{self.text()}"
        )
        return found[0]

    def click(self, selector: str) -> None:
        """Click what matches, once it is there, where a person would have scrolled to: not behind what is fixed."""
        found = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
        found.click()

    def type(self, name: str, text: str) -> None:
        """Fill in a field."""
        self.driver.find_element("name", name).send_keys(text)

    def text(self) -> str:
        """Return what a person reads."""
        return str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))

    def until(self, text: str, timeout_s: float = 20) -> None:
        """Wait until the page says something."""
        eventually(lambda: text in self.text(), timeout_s, f"{text!r} on {self.driver.current_url}:\n{self.text()}")

    def faults(self) -> list[str]:
        """Return what the browser complained of since the last call: a script that failed, a policy that was broken."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page, however long it is, among those that the run leaves behind."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        (PICTURES / f"{name}-{self.size[0]}.png").write_bytes(base64.b64decode(shot["data"]))

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the device."""
        script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.driver.execute_script(script))

    def barriers(self) -> list[str]:
        """Return what axe-core finds on the page that is serious for people with disabilities.

        Run past the page's own policy, which lets no script in.
        """
        spec = find_spec("axe_core_python")
        if spec is None or spec.origin is None:
            pytest.skip("axe-core-python is not installed")
        source = Path(spec.origin).with_name("axe.min.js").read_text("utf-8")
        self.driver.execute_script(source)
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((all) => done(all.violations), (fault) => done(String(fault)))"
        )
        assert isinstance(found, list), found
        return [
            f"{one['id']}: {one['help']}: {', '.join(str(node['target']) for node in one['nodes'])}"
            for one in found
            if one["impact"] in SERIOUS
        ]

    def close(self) -> None:
        """End it."""
        self.driver.quit()


def _key_digest(certificate: Path) -> str:
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(public).digest()).decode()
