"""Orthanc Explorer in a real browser: what a radiologist sees of the region, and what the page asks of the server."""

import base64
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from simulators.cutting_proxy import CuttingProxy, bad_line
from support.region import AUTH, Hospital, Hub, Region, eventually, on_paper, permit
from usmed.domain.identifiers import PatientIdentifier
from usmed.hospital.orthanc_host.explorer import explorer_script
from usmed.hub.requests import Requests
from usmed.platform.region_file import load_region
from usmed.platform.storage import open_database

NASTY = "RM <script>document.title='owned'</script>\"'&amp;"
NASTY_HOSPITAL = "Spitalul <b>Clinic</b> „Sf. Spiridon” 'Iași' & fiii"
NO_PERMISSION = (
    "This hospital has no permission from this patient to see studies of other hospitals."
    " That does not tell whether there are any."
)


def _patient(person: int, name: str) -> Patient:
    return Patient(national_number(person), name)


NASTY_NAME = 'Țurcanu^Ștefan "Fane" <b>\'&amp;</b>'
KNOWN = _patient(601, NASTY_NAME)
WALK_IN = _patient(602, "Ungureanu^Ioana")
CUT_OFF = _patient(603, "Lupu^Ana")
UNREACHED = _patient(604, "Munteanu^Radu")
STRANGER = _patient(605, NASTY_NAME)
EXPECTED = _patient(606, "Sârbu^Elena")
NOBODY = national_number(699)


def _study(label: str, patient: Patient, description: str, **options: Any) -> Study:
    return Study(f"explorer {label}", patient, attributes={"StudyDescription": description}, **options)


CT = _study("ct", KNOWN, "CT torace cu substanță de contrast", instances=60, date="20240115")
MR = _study("mr", KNOWN, NASTY, modality="MR", series=2, date="20221103")
OWN = _study("own", KNOWN, "CT control", date="20250611")
AT_C = _study("at-c", KNOWN, "CT control", date="20250611")
OF_STRANGER = _study("stranger", STRANGER, "CT control", date="20250611")
FOR_WALK_IN = _study("walk-in", WALK_IN, "CT abdomen și pelvis", instances=40, date="20230505")
CUT = _study("cut", CUT_OFF, "CT craniu", instances=40)
CUT_OWN = _study("cut-own", CUT_OFF, "CT control")
PRIOR = _study("prior", EXPECTED, "CT coloană", instances=20)
EXPECTED_OWN = _study("expected-own", EXPECTED, "CT control")
FAR = _study("far", UNREACHED, "CT genunchi")
FAR_OWN = _study("far-own", UNREACHED, "CT control")

SLOW = 100e3
"""Bytes per second on A's line while a test watches a study arrive: 60 CT slices would take some twenty seconds."""


CRAWLING = 8e3
"""So slow that four MR slices take some seconds."""


class Relayed(Hospital):
    """A hospital that the others reach over a line that a test slows down or cuts."""

    line: CuttingProxy

    def member(self) -> dict[str, Any]:
        """Return its entry of the region manifest, with the line's address."""
        return super().member() | {"address": f"https://{self.address}:{self.line.port}"}


@dataclass(frozen=True)
class World:
    """A holds studies; B may have what the patients say; C may have nothing. `consent` is that of CUT_OFF."""

    region: Region
    a: Relayed
    b: Hospital
    c: Hospital
    consent: str

    @property
    def line(self) -> CuttingProxy:
        """Return the line to A."""
        return self.a.line


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("explorer")
    section = {
        "Pull": {"Automatic": "click"},
        "Hub": {"ConsentSeconds": 1},
        "Lookup": {"CacheSeconds": 0.5, "CircuitSeconds": 1, "DeadlineSeconds": 5},
    }
    # Orthanc's own configuration takes no quotes in its name; the region manifest does.
    a = Relayed(
        "spiridon", NASTY_HOSPITAL, "SPIRIDON", folder / "a", section=section, settings={"USMED_NAME": "Spiridon"}
    )
    b = Hospital("parhon", "Spitalul „Parhon”", "PARHON", folder / "b", address="127.0.0.2", section=section)
    c = Hospital("regional", "Institutul Regional", "REGIONAL", folder / "c", address="127.0.0.3", section=section)
    region = Region(folder, [a, b, c], Hub(folder / "hub"))
    with contextlib.ExitStack() as stack:
        a.line = stack.enter_context(bad_line((a.address, a.federation_port)))
        stack.callback(region.stop)
        region.start()
        placed = {
            a: [CT, MR, FOR_WALK_IN, CUT, PRIOR, FAR],
            b: [OWN, CUT_OWN, EXPECTED_OWN, FAR_OWN],
            c: [AT_C, OF_STRANGER],
        }
        for hospital, studies in placed.items():
            for study in studies:
                for file in study.files():
                    hospital.store(file)
        region.consent(*(_for_b(one) for one in (KNOWN, WALK_IN, EXPECTED, UNREACHED)))
        consent = a.attest(on_paper(_for_b(CUT_OFF)))["Attested"]["ID"]
        for one in [*placed[a], AT_C]:
            eventually(lambda study=one: study.uid in _seen(b, study.patient), 30, "the region knows the studies")  # type: ignore[misc]
        yield World(region, a, b, c, consent)


def _for_b(patient: Patient) -> dict[str, Any]:
    return permit(NATIONAL_ISSUER, patient.number, recipients=["parhon"])


def _seen(hospital: Hospital, patient: Patient) -> set[str]:
    found = hospital.find("Study", {"PatientID": patient.number})
    return {one["MainDicomTags"]["StudyInstanceUID"] for one in found}


class Browser:
    """Headless Chromium, logged in."""

    def __init__(self, folder: Path) -> None:
        options = ChromeOptions()
        for one in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--lang=en",
            "--window-size=1440,1000", f"--user-data-dir={folder}",
        ):  # fmt: skip
            options.add_argument(one)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        token = base64.b64encode(":".join(AUTH).encode()).decode()
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {token}"}})

    def open(self, hospital: Hospital, page: str) -> None:
        """Load Orthanc Explorer afresh at one of its pages."""
        self.driver.get("about:blank")
        self.driver.get(f"{hospital.url}/app/explorer.html#{page}")

    def go(self, page: str) -> None:
        """Go on to another page, as a click on a link does."""
        self.driver.execute_script("$.mobile.changePage('#' + arguments[0])", page)
        eventually(lambda: self.driver.execute_script("return $.mobile.activePage.attr('id')") == page, what=page)

    def patient(self, hospital: Hospital, patient: Patient) -> None:
        """Open a patient's page."""
        (identifier,) = hospital.post(
            "/tools/find", {"Level": "Patient", "Query": {"PatientID": patient.number}}
        ).json()
        self.open(hospital, f"patient?uuid={identifier}")

    def look_up(self, hospital: Hospital, patient_id: str) -> None:
        """Open the lookup page and look up a Patient ID."""
        self.open(hospital, "lookup")
        eventually(lambda: self.one("#lookup-submit").is_enabled(), what="the lookup page")
        self.one("#lookup-patient-id").send_keys(patient_id)
        self.one("#lookup-submit").click()

    def all(self, selector: str) -> list[WebElement]:
        """Return what matches a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> WebElement:
        """Wait for the one element that matches."""
        return eventually(lambda: self.all(selector), what=selector)[0]

    def text(self, selector: str) -> str:
        """Return the text that a person sees in what matches, without blank lines, or nothing."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText).join('\\n')"
        return re.sub(r"\n+", "\n", self.driver.execute_script(script, selector))

    def value(self, selector: str, attribute: str) -> str:
        """Return an attribute of the first that matches."""
        return str(self.one(selector).get_attribute(attribute))

    def html(self, selector: str) -> str:
        """Return the source of the first that matches."""
        return str(self.driver.execute_script("return document.querySelector(arguments[0]).outerHTML", selector))

    def click(self, selector: str) -> None:
        """Click what may still be moving into the page, once it is there."""
        self.one(selector)
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def asked(self) -> list[str]:
        """Return what of the node's own addresses was asked since the last call."""
        script = "const r = performance.getEntriesByType('resource').map((one) => one.name);"
        script += "performance.clearResourceTimings(); return r"
        return [one.partition("/usmed/")[2] for one in self.driver.execute_script(script) if "/usmed/" in one]

    def complaints(self) -> list[str]:
        """Return the errors on the browser's console since the last call."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        yield browser
    finally:
        browser.driver.quit()


@pytest.fixture(autouse=True)
def _no_complaints(browser: Browser) -> Iterator[None]:
    browser.complaints()
    yield
    assert browser.complaints() == []


def row(study: Study) -> str:
    """Return the selector of a study's line in the panel."""
    return f'.usmed-row[data-study="{study.uid}"]'


def in_list(study: Study, of: str) -> str:
    """Return the selector of a study's line in one of Orthanc's own lists."""
    return f'{of} > li[data-study="{study.uid}"]'


def test_a_patients_page_shows_who_holds_what(world: World, browser: Browser) -> None:
    browser.patient(world.b, KNOWN)
    browser.one(row(MR))
    assert {one.get_attribute("data-study") for one in browser.all(".usmed-row")} == {CT.uid, MR.uid, AT_C.uid}
    assert world.c.name in browser.text(row(AT_C))
    assert browser.text(f"{row(CT)} .usmed-what").splitlines() == [
        "CT torace cu substanță de contrast", "January 15, 2024 · 60 images", NASTY_HOSPITAL,
    ]  # fmt: skip
    assert browser.text(f"{row(CT)} .usmed-modality") == "CT"
    assert browser.text(f"{row(MR)} .usmed-status") == "Not here"
    assert [one.tag_name for one in browser.all(f"{row(CT)} .usmed-standing [aria-label]")] == ["button"]
    assert "CT control" in browser.text("#list-studies")
    # Names from elsewhere are text, and nothing but text.
    assert NASTY in browser.text(f"{row(MR)} h3")
    assert browser.all("#patient script, #patient img, .usmed-region b") == []
    assert browser.driver.title != "owned"


def test_fetch_shows_progress_then_opens(world: World, browser: Browser) -> None:
    world.line.bytes_per_second = SLOW
    try:
        browser.patient(world.b, KNOWN)
        browser.one(f"{row(CT)} button").click()
        seen = eventually(lambda: re.findall(r"Arriving: (\d+) of 60", browser.text(row(CT))), what="progress")
        bar = f"{row(CT)} [role=progressbar]"
        assert browser.value(bar, "aria-valuemax") == "60"
        assert browser.value(bar, "aria-label") == "CT torace cu substanță de contrast"
        eventually(lambda: int(browser.value(bar, "aria-valuenow")) > int(seen[0]), what="the bar moves by itself")
        # Come back while it is on its way: neither list says that it is whole.
        browser.patient(world.b, KNOWN)
        mark = f"{in_list(CT, '#list-studies')} .usmed-mark"
        eventually(lambda: re.search(r"Arriving from .* \d+ of 60 images", browser.text(mark)), what="the mark")
        assert not browser.one(f"{in_list(CT, '#list-studies')} .ui-li-count").is_displayed()
        world.line.bytes_per_second = None
        eventually(lambda: "Here" in browser.text(row(CT)), 30, "the study")
    finally:
        world.line.bytes_per_second = None
    assert "CT torace cu substanță de contrast is here" in browser.driver.execute_script(
        "return document.querySelector('[aria-live=polite]').textContent"
    )
    eventually(lambda: "Copy from" in browser.text(mark), what="Orthanc's own list knows it")
    browser.click(f"{row(CT)} a")
    eventually(lambda: "Serie 1" in browser.text("#list-series"), what="the study's page")
    assert browser.text("#list-series .ui-li-count") == "60"
    eventually(
        lambda: "2 more studies of this patient at other hospitals" in browser.text("#study .usmed-region"),
        what="the panel",
    )


def test_a_walk_in_is_found_by_number_fetched_and_opened(world: World, browser: Browser) -> None:
    assert WALK_IN.number not in world.b.get("/patients?expand").text
    browser.look_up(world.b, WALK_IN.number)
    line = in_list(FOR_WALK_IN, "#lookup-result ul")
    browser.one(f"{line}.usmed-remote")
    assert f"At {NASTY_HOSPITAL} · 40 images · not here yet" in browser.text(f"{line} .usmed-mark")
    world.line.bytes_per_second = SLOW
    try:
        browser.click(f"{line} a")
        eventually(lambda: re.search(r"Arriving: [1-9]\d* of 40", browser.text(".usmed-card")), what="progress")
        assert "CT abdomen și pelvis\nUngureanu^Ioana\n" in browser.text(".usmed-card")
        assert not browser.one("#list-series").is_displayed()
        browser.driver.refresh()
        eventually(lambda: re.search(r"Arriving: \d+ of 40", browser.text(".usmed-card")), what="the same after reload")
        assert "CT abdomen și pelvis\nUngureanu^Ioana\n" in browser.text(".usmed-card")
        world.line.bytes_per_second = None
        eventually(lambda: browser.text("#list-series .ui-li-count") == "40", 30, "the study's page opens by itself")
    finally:
        world.line.bytes_per_second = None
    assert not browser.one(".usmed-card").is_displayed()


def test_without_permission_a_known_patient_looks_like_an_unknown_one(world: World, browser: Browser) -> None:
    panels = []
    for patient in (KNOWN, STRANGER):
        browser.patient(world.c, patient)
        eventually(lambda: NO_PERMISSION in browser.text(".usmed-region"), what="the panel")
        # But for whose page it is, which is in its address too.
        panels.append(re.sub(r"orthanc=[\w-]+", "orthanc=", browser.html(".usmed-region")))
    assert panels[0] == panels[1]
    assert world.a.name not in browser.text("#patient")
    results = []
    for number in (WALK_IN.number, NOBODY):
        browser.look_up(world.c, number)
        eventually(lambda: NO_PERMISSION in browser.text("#lookup-result"), what="the lookup")
        results.append(browser.html("#lookup-result"))
    assert results[0] == results[1]


def test_where_permission_is_missing_the_patient_can_be_asked(world: World, browser: Browser) -> None:
    browser.patient(world.c, STRANGER)
    browser.one(".usmed-ask input").send_keys("Radiologie")
    browser.click(".usmed-ask button")
    eventually(lambda: "Waiting for the answer" in browser.text(".usmed-ask"), what="it was asked")
    assert "(Radiologie)" in browser.text(".usmed-ask")
    # Come back: still asked, and no second request.
    browser.patient(world.c, STRANGER)
    eventually(lambda: "Waiting for the answer" in browser.text(".usmed-ask"), what="it is remembered")
    assert browser.all(".usmed-ask button") == []
    patient = PatientIdentifier(NATIONAL_ISSUER, STRANGER.number)
    with _requests(world) as requests:
        (asked,) = requests.open_for([patient])
        assert (asked.hospital, asked.department, asked.role) == (world.c.id, "Radiologie", "staff")
        requests.answer(asked.id, [patient])
    # What the patient answered is nowhere but in what may be seen then.
    eventually(lambda: "The patient has answered" in browser.text(".usmed-ask"), 30, "the answer")
    assert browser.all(".usmed-ask button")


@contextlib.contextmanager
def _requests(world: World) -> Iterator[Requests]:
    """Give the hub's requests, which the portal shows to patients."""
    database = open_database(world.region.hub.database_url, ["usmed.hub.migrations"])
    manifest = load_region(world.region.file)
    try:
        yield Requests(database, lambda: manifest, lambda: datetime.now(UTC))
    finally:
        database.close()


def test_other_pages_ask_nothing_and_leaving_stops_asking(world: World, browser: Browser) -> None:
    browser.open(world.b, "find-studies")
    for page in ("find-patients", "jobs", "plugins", "upload", "query-retrieve"):
        browser.go(page)
    assert browser.asked() == []
    browser.patient(world.b, KNOWN)
    browser.one(f"{row(MR)} button")
    world.line.bytes_per_second = CRAWLING
    try:
        browser.one(f"{row(MR)} button").click()
        eventually(lambda: [one for one in browser.asked() if one.startswith("transfers")], what="it is asking")
        browser.go("jobs")
        browser.asked()
        browser.driver.execute_async_script("setTimeout(arguments[0], 1500)")
        assert browser.asked() == []
        assert _state(world.b, MR) != "complete"
    finally:
        world.line.bytes_per_second = None
    eventually(lambda: _state(world.b, MR) == "complete", 30, "it goes on without the page")


def test_an_interrupted_study_says_why_and_can_be_tried_again(world: World, browser: Browser) -> None:
    world.line.bytes_per_second = SLOW
    browser.patient(world.b, CUT_OFF)
    browser.one(f"{row(CUT)} button").click()
    eventually(lambda: re.search(r"Arriving: [1-9]\d* of 40", browser.text(row(CUT))), what="progress")
    with _stalled(world):
        world.line.cut()
        eventually(lambda: "It goes on by itself" in browser.text(row(CUT)), what="interrupted")
        assert re.search(r"Interrupted at [1-9]\d* of 40", browser.text(row(CUT)))
        reason = browser.text(f"{row(CUT)} .usmed-reason")
        assert reason.startswith(NASTY_HOSPITAL)
        assert reason.endswith(": the connection broke off")
        world.a.withdraw(world.consent)
    world.line.bytes_per_second = None
    browser.click(f"{row(CUT)} button[aria-label^='Try again']")

    def given_up() -> bool:
        # Refused; or, once the withdrawal has taken what had come, as a study that nobody may give.
        return re.search("Refused|Could not be fetched", browser.text(f"{row(CUT)} .usmed-status")) is not None

    eventually(given_up, 30, "refused")
    world.region.consent(_for_b(CUT_OFF))
    eventually(lambda: CUT.uid in _seen(world.b, CUT_OFF), 20, "the new consent")

    def tried_again() -> bool:
        # B remembers for a moment that there is no consent.
        if given_up():
            browser.click(f"{row(CUT)} button[aria-label^='Try again']")
        return "Here" in browser.text(f"{row(CUT)} .usmed-status")

    eventually(tried_again, 30, "the study")
    # The browser notes an answer of 404 as a fault of the page.
    assert all("/usmed/fetch" in one and "404" in one for one in browser.complaints())


def test_where_lookups_fetch_a_page_shows_it_without_a_click(world: World, browser: Browser) -> None:
    browser.driver.get("about:blank")
    world.b.stop()
    world.b.section = {**world.b.section, "Pull": {"Automatic": "lookup"}}
    world.b.start(world.region.file)
    world.line.bytes_per_second = SLOW
    try:
        browser.patient(world.b, EXPECTED)
        eventually(lambda: "Arriving" in browser.text(row(PRIOR)), what="it began by itself")
        world.line.bytes_per_second = None
        eventually(lambda: "Here" in browser.text(row(PRIOR)), 30, "the study")
    finally:
        world.line.bytes_per_second = None


def test_a_node_without_a_region_shows_its_own_pages_as_ever(world: World, browser: Browser, tmp_path: Path) -> None:
    alone = Hospital("alone", "Singur", "ALONE", tmp_path / "alone", plain=True)
    alone.start()
    try:
        for file in OWN.files():
            alone.store(file)
        browser.open(alone, "find-patients")
        # It is never loaded here; if it were, it would find nothing to say.
        script = explorer_script()
        browser.driver.execute_script(script)
        browser.click("#all-patients a")
        eventually(lambda: "CT control" in browser.text("#list-studies"), what="the patient's page")
        browser.click("#list-studies a")
        eventually(lambda: "Serie 1" in browser.text("#list-series"), what="the study's page")
        eventually(lambda: browser.all(".usmed-region") == [], what="no panel")
        browser.complaints()  # 404 for the addresses of a region
    finally:
        alone.stop()


def test_who_did_not_answer_is_named(world: World, browser: Browser) -> None:
    world.a.stop()
    browser.patient(world.b, UNREACHED)
    eventually(lambda: "did not answer" in browser.text(".usmed-note"), what="the box")
    assert browser.text(".usmed-note").startswith(
        f"{NASTY_HOSPITAL} did not answer. Studies that it holds are missing here."
    )
    assert NO_PERMISSION not in browser.text("#patient")
    browser.look_up(world.b, UNREACHED.number)
    eventually(lambda: f"{NASTY_HOSPITAL} did not answer" in browser.text("#lookup-result"), what="the lookup page")
    assert "CT control" in browser.text("#lookup-result ul")
    browser.patient(world.c, KNOWN)
    eventually(lambda: NO_PERMISSION in browser.text(".usmed-region"), what="C's page, which is not to know of A")
    assert browser.all(".usmed-note") == []


def _state(hospital: Hospital, study: Study) -> str:
    return str(hospital.get(f"/usmed/transfers/{study.uid}").json()["State"])


@contextlib.contextmanager
def _stalled(world: World) -> Iterator[None]:
    world.line.stall()
    try:
        yield
    finally:
        world.line.flow()
