"""The registrars' pages in a real browser: register, compare, link, see which copies crossed, undo; phone and desk."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from contract.hub_region import study
from contract.key_servers import Servers
from contract.portal_region import PortalRegion, running_portal_region
from contract.test_hub_review import OWN, THEIRS, find
from contract.test_portal_browser import Site
from support.browser import DESK, PHONE, Browser
from usmed.hub.registrar.app import DOOR
from usmed.platform.staff.access import Access

OTHER = ("SUCEAVA", "120")


@pytest.fixture
def region(on_sqlite: Servers, tmp_path: Path) -> Iterator[PortalRegion]:
    with running_portal_region(on_sqlite, lambda: f"sqlite:///{tmp_path / uuid4().hex}.db") as running:
        man = {"name": "Ștefănescu^Ion Vasile", "birth_date": "19630605"}
        running.feed("iasi", study("1.1", OWN, ("SF-MARIA", "2024-117"), **man))
        running.feed("bacau", study("2.1", THEIRS, name="STEFANESCU^ION", birth_date="19630506"))
        woman = {"birth_date": "19770214", "sex": "F"}
        running.feed("suceava", study("3.1", OTHER, name="Popescu-Ionescu^Ana Maria", **woman))
        running.feed("iasi", study("1.4", ("SF-SPIRIDON", "80"), name="Popescu^Ana", **woman))
        number = ("RO-CNP", "2630615123459")
        running.feed("iasi", study("1.5", ("SF-SPIRIDON", "81"), number, name="Lupu^Elena", sex="F"))
        running.feed("bacau", study("2.5", ("BACAU", "55"), number, name="Lupu^Ileana", sex="F"))
        find(running)
        yield running


@pytest.fixture
def browser(region: PortalRegion, tmp_path: Path) -> Iterator[Browser]:
    site = Site(region, tmp_path)
    one = Browser(tmp_path / "chromium", [site.certificate], resolve=[(site.host, f"127.0.0.1:{site.port}")])
    yield one
    one.close()
    site.stop()


def look(browser: Browser, name: str) -> None:
    """Look at the page on a phone and at a desk."""
    for size in (PHONE, DESK):
        browser.resize(size)
        browser.picture(f"registrar-{name}")
        assert browser.barriers() == [], name
        assert browser.overflow() <= 0, name


def test_a_registrar_links_and_undoes(region: PortalRegion, browser: Browser) -> None:
    address = f"{region.manifest.portal}/registrar"
    code = Access(region.database, lambda: datetime.now(UTC), DOOR).make_code("test", "Maria Ionescu")
    browser.open(f"{address}/?lang=ro")
    look(browser, "login")
    browser.click(".aside a")
    browser.type("code", code)
    look(browser, "register")
    browser.click("button.main")
    browser.until("De hotărât")
    look(browser, "queue")
    browser.click(".pairs a[href$='/pair/1/2']")
    browser.until("≠ diferit")
    look(browser, "pair")
    browser.type("reason", "Buletin văzut la Iași, confirmat la telefon de Bacău")
    browser.click("button[value=link]")
    browser.until("Hotărârea a fost înregistrată")
    look(browser, "linked")
    access = {
        "sequence": 1, "at": int(region.clock().timestamp()), "patient": {"issuer": OWN[0], "value": OWN[1]},
        "recipient": "bacau", "role": "", "purpose": "TREAT", "study_instance_uid": "1.1", "consents": [],
    }  # fmt: skip
    region.post("iasi", "/v1/accesses", {"accesses": [access]})
    browser.type("reason", "Spitalul Bacău a sunat: alt pacient")
    browser.click("button.danger")
    browser.until("Sunați aceste spitale")
    look(browser, "undone")
    browser.open(f"{address}/history")
    look(browser, "history")
    browser.open(f"{address}/find?issuer=RO-CNP&value=2630615123459")
    look(browser, "find")
    browser.click("main ul.plain li a")
    browser.until("Fișele unei persoane")
    look(browser, "person")
    browser.open(f"{address}/?lang=en")
    browser.until("To decide")
    look(browser, "queue-en")
    browser.open(f"{address}/pair/1/999")
    browser.until("not there any more")
    look(browser, "problem")
    assert [one for one in browser.faults() if "404" not in one] == []
