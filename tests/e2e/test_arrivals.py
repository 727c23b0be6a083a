"""The patient arrives: an HL7 message or a worklist file brings the studies ahead; the page shows how far they are."""

import base64
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from contract.test_worklist_files import worklist
from e2e.studies import Patient, Study, national_number
from support.browser import DESK, PHONE, Browser
from support.hl7 import Sender, adt
from support.region import AUTH, Hospital, Hub, Region, eventually, free_port, on_paper, permit
from usmed.domain.arrival import Arrival, Prefetch, Source
from usmed.domain.identifiers import PatientIdentifier
from usmed.hospital.arrival_store import ArrivalStore, Entry
from usmed.hospital.store import CHAIN
from usmed.platform.storage import open_database

TABLET = (1024, 768)
ANA, ION, DAN, EVA, LIA = (
    Patient(national_number(800 + n), name)
    for n, name in enumerate(("Șuteu^Ana", "Țîrlea^Ion", "Dănilă^Dan", "Mureșan^Eva", "Ghiță^Lia"))
)


@dataclass(frozen=True)
class Place:
    """A holds the earlier studies; to B the patients come."""

    region: Region
    a: Hospital
    b: Hospital
    port: int
    worklists: Path

    def tell(self, event: str, patient: Patient, *more: str) -> None:
        """Let B's hospital information system send a message about a patient."""
        pid = {3: f"{patient.number}^^^CNP", 5: patient.name, 7: patient.birth_date, 8: patient.sex}
        control_id = f"{time.monotonic_ns()}"
        with closing(Sender(self.port)) as sender:
            stamp = f"{datetime.now(UTC):%Y%m%d%H%M}"
            ack = sender.send(adt(event, control_id, pid=pid, pv1={44: stamp, 3: "UPU^2"}, more=more))
            assert (ack.code, ack.control_id) == ("AA", control_id), ack

    def entry(self, patient: Patient) -> Entry | None:
        """Return what B knows of a patient's arrival."""
        database = open_database(self.b.database_url, [CHAIN])
        try:
            store, today = ArrivalStore(database), datetime.now(UTC).date()
            everybody = [one for day in _days(today) for one in store.entries(day, None, offset=0, limit=100)]
            return next((one for one in everybody if one.arrival.identifier.value == patient.number), None)
        finally:
            database.close()

    def until(self, patient: Patient, state: Prefetch, within_s: float = 40) -> Entry:
        """Wait until a patient's prefetch is in a state."""
        end = time.monotonic() + within_s
        while (entry := self.entry(patient)) is None or entry.state is not state:
            assert time.monotonic() < end, entry
            time.sleep(0.1)
        return entry


def _days(today: date) -> list[date]:
    return [today - timedelta(days=1), today]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("arrivals")
    port, worklists = free_port(), folder / "worklists"
    worklists.mkdir()
    section = {
        "Hl7": {
            "ListenAddress": "127.0.0.1", "Port": port, "Senders": {"HIS^SPIRIDON": "127.0.0.0/8"},
            "Issuers": {"HIS": "PARHON", "CNP": "RO-CNP"},
        },
        "Arrivals": {"WorklistFolder": str(worklists), "WorklistSeconds": 1},
        "Pull": {"Automatic": "arrival"},
        "Lookup": {"DeadlineSeconds": 10, "CircuitSeconds": 0},
        "Hub": {"ConsentSeconds": 1},
    }  # fmt: skip
    a = Hospital("spiridon", "Spitalul „Sf. Spiridon” Iași", "SPIRIDON", folder / "a")
    b = Hospital("parhon", "Spitalul „Parhon”", "PARHON", folder / "b", section=section)
    region = Region(folder, [a, b], Hub(folder / "hub"))
    try:
        region.start()
        for n, patient in enumerate((ANA, ANA, ION, DAN, EVA)):
            for file in Study(f"arrivals {n}", patient, instances=3).files():
                a.store(file)
        for patient in (ANA, DAN, EVA):
            region.consent(permit("RO-CNP", patient.number, recipients=["parhon"]))

        # By what a lookup of B's finds, not by the hub's tables.
        def known(patient: Patient, count: int) -> bool:
            found = b.find("Study", {"PatientID": patient.number, "StudyInstanceUID": ""})
            return len(found) == count

        for patient, count in ((ANA, 2), (DAN, 1), (EVA, 1)):
            eventually(lambda patient=patient, count=count: known(patient, count), 40, "studies are known")  # type: ignore[misc]
        yield Place(region, a, b, port, worklists)
    finally:
        region.stop()


def here(hospital: Hospital, patient: Patient) -> int:
    """Return how many whole studies of a patient a hospital itself has."""
    studies = hospital.get("/studies?expand").json()
    mine = [one for one in studies if one["PatientMainDicomTags"]["PatientID"] == patient.number]
    return sum("usmed-arriving" not in one["Labels"] for one in mine)


def test_an_admission_brings_the_studies_that_the_patient_permits(place: Place) -> None:
    place.tell("A04", ANA)
    entry = place.until(ANA, Prefetch.HERE)
    assert len(entry.studies) == here(place.b, ANA) == 2
    assert entry.arrival.name == "Șuteu^Ana"


def test_without_permission_nothing_comes_and_with_it_by_itself(place: Place) -> None:
    place.tell("A01", ION)
    assert place.until(ION, Prefetch.NOT_PERMITTED).studies == ()
    place.b.attest(on_paper(permit("RO-CNP", ION.number, recipients=["parhon"])))
    # It is asked again half a minute after the first time, and then two minutes after that.
    assert len(place.until(ION, Prefetch.HERE, 170).studies) == 1
    assert here(place.b, ION) == 1


def test_a_worklist_file_is_an_arrival_too(place: Place) -> None:
    today = f"{datetime.now(UTC):%Y%m%d}"
    (place.worklists / "eva.wl").write_bytes(
        worklist(EVA.number, (today, "1430", "MR"), name=EVA.name, PatientBirthDate=EVA.birth_date, PatientSex=EVA.sex)
    )
    assert place.until(EVA, Prefetch.HERE).arrival.modality == "MR"
    assert here(place.b, EVA) == 1


def test_a_hospital_that_is_away_is_asked_again_also_by_a_node_that_was_killed(place: Place) -> None:
    place.a.stop()
    place.tell("A04", DAN)
    failed = place.until(DAN, Prefetch.FAILED)
    assert "spiridon" in failed.reason
    assert failed.due > 0
    place.b.stop(signal.SIGKILL)
    place.a.start()
    place.b.start()
    assert place.until(DAN, Prefetch.HERE, 90).attempts == 0
    assert here(place.b, DAN) == 1


def log_in(browser: Browser) -> None:
    token = base64.b64encode(":".join(AUTH).encode()).decode()
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {token}"}})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "chromium", language="ro", passkeys=False)
    log_in(opened)
    yield opened
    opened.close()


def test_the_page_shows_who_comes_and_changes_by_itself(place: Place, browser: Browser) -> None:
    place.tell("A40", ANA, "MRG|4711^^^HIS")
    browser.open(f"{place.b.url}/usmed/arrivals")
    browser.until("Ana")
    browser.until("Toate aici")
    assert "Verificați-le" in browser.text()
    browser.driver.execute_script(
        "window.untouched = true; document.querySelector('[data-rows=states] a').focus(); window.scrollTo(0, 40)"
    )
    assert "Lia" not in browser.text()
    place.tell("A04", LIA)
    browser.until("Lia", 15)
    browser.until("Fără acord", 15)
    # The same page, with whatever somebody was in.
    where = "return window.untouched && document.activeElement.closest('[data-key]').dataset.key"
    assert browser.driver.execute_script(where) == "all"
    for name, address in (("list", ""), ("merges", "/merges"), ("empty", "?day=2020-01-01"), ("dark", "?look=dark")):
        browser.open(f"{place.b.url}/usmed/arrivals{address}")
        for size in (PHONE, TABLET, DESK):
            browser.resize(size)
            browser.picture(f"arrivals-{name}")
            assert browser.barriers() == [], (name, size)
            assert browser.overflow() <= 0, (name, size)
    browser.open(f"{place.b.url}/usmed/arrivals/merges?lang=en")
    browser.until("4711")
    browser.click("[value=done]")
    browser.until("There is nothing to look at.")
    assert browser.faults() == []


def test_the_page_works_without_javascript(place: Place, browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.open(f"{place.b.url}/usmed/arrivals?lang=en&look=light")
    shown = browser.driver.find_element("css selector", "main").text
    assert "Ana" in shown
    browser.driver.find_element("css selector", "[data-key=here] a").click()
    assert "state=here" in browser.driver.current_url
    assert "Lia" not in browser.driver.find_element("css selector", "main").text


def test_a_page_of_ten_thousand_arrivals_comes_at_once(place: Place) -> None:
    day = datetime.now(UTC).date() + timedelta(days=30)
    database = open_database(place.b.database_url, [CHAIN])
    store = ArrivalStore(database)
    with database.write() as connection:
        for n in range(10_000):
            number = PatientIdentifier("PARHON", f"{n}")
            name, clock = f"Pop^{n}", f"{n // 60 % 24:02d}{n % 60:02d}"
            store.arrive(
                connection,
                Arrival(day, number, frozenset({number}), name, "19700101", "M", clock, "CT", "UPU", Source.HL7),
            )
    database.close()
    taken = []
    for n in (1, 50, 100, 150, 200, 1, 50, 100, 200):
        start = time.perf_counter()
        page = place.b.get(f"/usmed/arrivals?day={day}&page={n}")
        taken.append(time.perf_counter() - start)
        assert page.text.count("<tr data-key=") == 50
    print("ms:", [round(one * 1000) for one in taken])
    assert sorted(taken)[len(taken) // 2] < 0.3
