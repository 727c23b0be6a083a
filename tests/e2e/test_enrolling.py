"""Enrolling a patient at the desk in a real browser: from Orthanc Explorer to the signed enrolment."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import requests

from e2e.studies import Patient, Study, national_number
from support.browser import DESK, PHONE, Browser
from support.phone import Phone
from support.process import eventually
from support.region import AUTH, CLERK, Hospital, Hub, Region
from usmed.domain.enrolment import Credential, comparison_code
from usmed.hub.invitations import Invitations
from usmed.platform.region_file import load_region
from usmed.platform.storage import open_database

ANA = Patient(national_number(701), "Șuteu^Ana-Maria")
ION = Patient(national_number(702), "Popescu^Ion")
CHILD = Patient("SP00077", "Munteanu^Mara")
TWO = Patient("SP00078", "Ionescu^Dan")


@dataclass(frozen=True)
class World:
    region: Region
    hospital: Hospital
    hub: Hub

    def answer(self, code: str, birth_date: str, credential: Credential) -> None:
        """Answer as the patient's phone does, where the portal puts it."""
        database = open_database(self.hub.database_url, ["usmed.hub.migrations"])
        try:
            manifest = load_region(self.region.file)
            Invitations(database, lambda: manifest, lambda: datetime.now(UTC)).answer(code, birth_date, credential)
        finally:
            database.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("enrolling")
    hospital = Hospital("spiridon", "Spitalul „Sf. Spiridon” Iași", "SPIRIDON", folder / "a")
    hub = Hub(folder / "hub")
    region = Region(folder, [hospital], hub)
    try:
        region.start()
        born = {"PatientBirthDate": "20170412", "PatientSex": "F"}
        for study in (
            Study("enrolling ana", ANA),
            Study("enrolling ion", ION),
            Study("enrolling child", CHILD, attributes=born),
            Study("enrolling two 1", TWO),
            Study("enrolling two 2", Patient(TWO.number, "Ionescu^Daniela")),
        ):
            for file in study.files():
                hospital.store(file)
        yield World(region, hospital, hub)
    finally:
        region.stop()


@pytest.fixture(scope="module", params=["ro", "en"])
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"), language=request.param, passkeys=False)
    token = base64.b64encode(":".join(CLERK).encode()).decode()
    opened.driver.execute_cdp_cmd("Network.enable", {})
    opened.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {token}"}})
    opened.language = request.param  # type: ignore[attr-defined]
    yield opened
    opened.close()


def check(browser: Browser, name: str) -> None:
    """Look at a page in both widths."""
    for size in (PHONE, DESK):
        browser.resize(size)
        browser.picture(f"enrolling-{name}-{browser.language}")  # type: ignore[attr-defined]
        assert browser.overflow() == 0, (name, size)
        assert browser.barriers() == [], (name, size)
    assert browser.faults() == [], name


def test_a_clerk_enrols_a_patient(world: World, browser: Browser) -> None:
    patient = ANA if browser.language == "ro" else ION  # type: ignore[attr-defined]
    (found,) = world.hospital.post("/tools/find", {"Level": "Patient", "Query": {"PatientID": patient.number}}).json()
    browser.open(f"{world.hospital.url}/app/explorer.html#patient?uuid={found}")
    browser.one(".usmed-region a[href*='desk/patient']")
    browser.picture(f"enrolling-explorer-{browser.language}")  # type: ignore[attr-defined]
    browser.faults()
    browser.click(".usmed-region a[href*='desk/patient']")
    browser.one("form.card")
    assert patient.name.replace("^", " ") in browser.text()
    check(browser, "1-patient")
    browser.click("input[name=seen]")
    browser.click("button.main")
    browser.one(".qr svg")
    check(browser, "2-waiting")
    address = browser.one(".address").text
    code = address.removeprefix(f"{world.hub.portal}/portal/enrol/")
    assert re.fullmatch(r"[\w-]{32}", code), address
    phone = Phone(id=code[:16].encode())
    birth_date = f"{'19' if patient.number[0] in '12' else '20'}{patient.number[1:7]}"
    world.answer(code, birth_date, phone.credential)
    digits = comparison_code(phone.credential)
    eventually(lambda: digits in browser.text(), 20, "the page moves on by itself")
    check(browser, "3-answered")
    browser.click("button.main")
    browser.one(".done")
    eventually(lambda: "1 din 1" in browser.text() or "1 of 1" in browser.text(), 20, "the key server knows it")
    check(browser, "4-done")
    browser.open(f"{world.hospital.url}/usmed/desk/")
    browser.one(".list")
    assert browser.driver.current_url.endswith("/usmed/desk/start")
    check(browser, "0-start")


def test_a_child_a_contradiction_and_a_cancelled_one(world: World, browser: Browser) -> None:
    desk = f"{world.hospital.url}/usmed/desk"
    browser.open(f"{desk}/patient?PatientID={CHILD.number}")
    browser.one("input[value=parent]:checked")
    assert browser.one("input[name=until]").get_attribute("value") == "2035-04-11"
    check(browser, "5-child")
    browser.click("input[value=patient]")
    browser.click("input[name=seen]")
    browser.click("button.main")
    browser.one(".message")
    check(browser, "6-fault")
    browser.click("input[value=parent]")
    browser.click("input[name=seen]")
    browser.click("button.main")
    browser.one(".qr svg")
    browser.click("button.bad")
    browser.one("a.main")
    check(browser, "7-cancelled")
    browser.open(f"{desk}/patient?PatientID={TWO.number}")
    browser.one(".message")
    check(browser, "8-contradiction")


def test_without_a_log_in_or_its_form_nothing_is_done(world: World) -> None:
    url = f"{world.hospital.url}/usmed/desk"
    assert requests.get(f"{url}/", timeout=20).status_code == 401
    form = {"PatientID": ANA.number, "seen": "yes", "basis": "patient"}
    answer = requests.post(f"{url}/enrolments", data=form, auth=AUTH, timeout=20)
    assert "action=" not in answer.text
    assert world.hospital.audit()[-1]["reason"].startswith("stale-form")
