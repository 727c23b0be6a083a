"""A consent on paper at the desk, in a real browser and through two log-ins: written with its scan, read, attested."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pypdf import PdfWriter

from e2e.studies import Patient, Study, national_number
from support.browser import DESK, PHONE, Browser
from support.region import AUTH, CLERK, Hospital, Hub, Region

ANA = Patient(national_number(731), "Șuteu^Ana-Maria")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("paper")
    one = Hospital("spiridon", "Spitalul „Sf. Spiridon” Iași", "SPIRIDON", folder / "a")
    region = Region(folder, [one], Hub(folder / "hub"))
    try:
        region.start()
        for file in Study("paper ana", ANA).files():
            one.store(file)
        yield one
    finally:
        region.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "chromium", language="ro", passkeys=False)
    opened.driver.execute_cdp_cmd("Network.enable", {})
    yield opened
    opened.close()


def log_in(browser: Browser, who: tuple[str, str]) -> None:
    token = base64.b64encode(":".join(who).encode()).decode()
    browser.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {token}"}})


def check(browser: Browser, name: str) -> None:
    """Look at a page in both widths."""
    for size in (PHONE, DESK):
        browser.resize(size)
        browser.picture(f"paper-{name}")
        assert browser.barriers() == []
        assert browser.overflow() == 0


def press(browser: Browser, selector: str) -> None:
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", browser.one(selector))
    browser.click(selector)


def test_a_consent_goes_from_one_member_of_staff_to_another(
    hospital: Hospital, browser: Browser, tmp_path: Path
) -> None:
    scan, picture = tmp_path / "popescu.pdf", tmp_path / "popescu.jpg"
    paper = PdfWriter()
    paper.add_blank_page(595, 842)
    paper.write(scan)
    picture.write_bytes(b"\xff\xd8\xff\xe0 JFIF")

    log_in(browser, CLERK)
    browser.open(f"{hospital.url}/usmed/desk/paper")
    browser.until("Acorduri pe hârtie")
    check(browser, "1-none")
    browser.type("PatientID", ANA.number)
    press(browser, "button.main")
    browser.until("Ce spune hârtia?")
    for selector in ("[value=permit]", "[name=who][value=some]", "[name=recipients]", "[name=what][value=some]"):
        press(browser, selector)
    press(browser, "[value=kind-ct]")
    browser.one("[name=scan]").send_keys(str(picture))
    check(browser, "2-form")
    press(browser, "button.main")
    browser.until("nu este PDF", 60)
    assert browser.one("[value=kind-ct]").is_selected()
    check(browser, "3-no-scan")
    browser.one("[name=scan]").send_keys(str(scan))
    press(browser, "button.main")
    browser.until("Un alt angajat trebuie", 90)
    check(browser, "4-waits")
    address = browser.driver.current_url

    log_in(browser, AUTH)
    browser.open(f"{hospital.url}/usmed/desk/paper")
    browser.until("așteaptă a doua persoană")
    check(browser, "5-list")
    press(browser, ".list a")
    browser.until("Am citit scanarea")
    check(browser, "6-to-attest")
    assert requests.get(f"{address}/scan", auth=AUTH, timeout=20).content == scan.read_bytes()
    press(browser, "[name=read]")
    press(browser, ".seen + .actions button")
    browser.until("Pacientul îl ia înapoi", 60)
    check(browser, "7-attested")
    assert browser.faults() == []
    entry = hospital.get(f"/usmed/consents/{address.rpartition('/')[2]}").json()["Attested"]
    assert entry["Scan"]
    assert entry["KeyServers"]
