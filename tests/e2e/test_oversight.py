"""A real node watched over: its pages in Orthanc, its log on the way to a syslog server, its statistics."""

import io
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from lxml import etree

from contract.test_syslog import SCHEMA, Receiver
from e2e.studies import Patient, Study, national_number
from support.browser import Browser
from support.region import AUTH, Hospital, Hub, Region, eventually, permit
from usmed.platform.audit_export import check
from usmed.platform.region_file import load_region

ANA = Patient(national_number(741), "Șuteu^Ana-Maria")
STUDY = Study("oversight", ANA, instances=3)
ENGLISH = {"Accept-Language": "en"}


@dataclass(frozen=True)
class World:
    """A holds a study, B looks the patient up, fetches it, and is watched over."""

    a: Hospital
    b: Hospital
    receiver: Receiver


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("oversight")
    receiver = Receiver(folder)
    syslog = {
        "USMED_SYSLOG_HOST": "127.0.0.1",
        "USMED_SYSLOG_PORT": str(receiver.port),
        "USMED_SYSLOG_AUTHORITY_FILE": str(receiver.certificate),
    }
    section = {"Pull": {"Automatic": "click"}, "Lookup": {"DeadlineSeconds": 10, "CacheSeconds": 0}}
    a = Hospital("spiridon", "Spitalul „Sf. Spiridon” Iași", "SPIRIDON", folder / "a", section=section)
    b = Hospital("parhon", "Spitalul „Parhon”", "PARHON", folder / "b", section=section, settings=syslog)
    region = Region(folder, [a, b], Hub(folder / "hub"))
    try:
        region.start()
        for file in STUDY.files():
            a.store(file)
        region.consent(permit("RO-CNP", ANA.number, recipients=[b.id]))
        query = {"PatientID": ANA.number}
        eventually(lambda: b.find("Study", query), 40, "the study is found at B")
        begun = b.post("/usmed/fetch", {"StudyInstanceUID": STUDY.uid}, headers={"Content-Type": "application/json"})
        assert begun.status_code == 200, begun.text
        eventually(
            lambda: b.get(f"/usmed/transfers/{STUDY.uid}").json().get("State") == "complete", 60, "it is fetched"
        )
        yield World(a, b, receiver)
    finally:
        region.stop()
        receiver.stop()


def form(world: World, path: str, **given: str) -> requests.Response:
    page = world.b.get("/usmed/audit", headers=ENGLISH).text
    token = re.search(r'name="csrf" value="(\w+)"', page)
    assert token is not None
    address = f"{world.b.url}/usmed/{path}"
    return requests.post(address, {"csrf": token[1], **given}, auth=AUTH, headers=ENGLISH, timeout=30)


def test_the_bare_address_leads_to_a_page(world: World) -> None:
    for path in ("/usmed", "/usmed/"):
        answer = world.b.get(path)
        assert answer.status_code == 200
        assert answer.url == f"{world.b.url}/usmed/arrivals"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_an_auditor_finds_the_lookup_and_the_transfer_and_exports_them_signed(world: World) -> None:
    page = world.b.get(f"/usmed/audit?patient={ANA.number}", headers=ENGLISH).text
    assert "transfer here" in page
    assert STUDY.uid in page
    answer = form(world, "audit/export", patient=ANA.number)
    assert answer.headers["Content-Type"] == "application/zip"
    assert "attachment" in answer.headers["Content-Disposition"]
    assert world.b.region_file is not None
    found = check(answer.content, load_region(world.b.region_file).hospital_key)
    assert (found.hospital, found.about["asked"]) == ("parhon", {"patient": f"RO-CNP:{ANA.number}"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as bundle:
        assert STUDY.uid in bundle.read("records.csv").decode("utf-8-sig")


def test_the_syslog_server_has_the_whole_log_as_dicom_audit_messages(world: World) -> None:
    def is_told() -> bool:
        state = world.b.get("/usmed/status").json()["Syslog"]
        return bool(state["Waiting"] == 0 and state["Problem"] == "none")

    eventually(is_told, 30, "all is sent")
    sent = world.b.get("/usmed/status").json()["Syslog"]["Sent"]
    eventually(lambda: len(world.receiver.numbers()) >= sent, 10, "all is there")
    assert world.receiver.numbers() == list(range(1, len(world.receiver.numbers()) + 1))
    codes = set()
    for message in world.receiver.messages():
        root = etree.fromstring(message.partition(b"\xef\xbb\xbf")[2])
        SCHEMA.assertValid(root)
        codes.add(root.find("EventIdentification/EventID").get("csd-code"))
    assert {"110112", "110104", "110101"} <= codes
    assert "Șuteu".encode() not in world.receiver.received


def test_what_arrived_is_counted_and_prometheus_is_told(world: World) -> None:
    def counted() -> dict[str, str]:
        text = world.b.get("/usmed/statistics/metrics").text
        found = dict(re.findall(r"^(usmed_\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE))
        return found if 'usmed_studies_by_hospital_total{hospital="spiridon"}' in found else {}

    values = eventually(counted, 60, "the study is counted")
    assert values['usmed_studies_by_hospital_total{hospital="spiridon"}'] == "1"
    assert values['usmed_pulls_total{state="complete"}'] == "1"
    assert float(values['usmed_pulled_bytes_total{hospital="spiridon"}']) > 1000
    assert sum(float(one) for name, one in values.items() if name.startswith("usmed_first_images_total")) == 1
    assert float(values["usmed_storage_bytes"]) > 1000
    assert float(values["usmed_storage_free_bytes"]) > 1000
    assert requests.get(f"{world.b.url}/usmed/statistics/metrics", timeout=20).status_code == 401


def test_the_pages_look_right_in_orthanc(world: World, tmp_path: Path) -> None:
    browser = Browser(tmp_path / "chromium", language="ro", passkeys=False)
    try:
        browser.driver.execute_cdp_cmd("Network.enable", {})
        token = requests.auth._basic_auth_str(*AUTH)
        browser.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": token}})
        for name in ("audit", "audit/patterns", "audit/chain", "statistics"):
            browser.open(f"{world.b.url}/usmed/{name}")
            time.sleep(0.5)
            for size in ((390, 844), (1024, 768), (1440, 1000)):
                browser.resize(size)
                browser.picture(f"oversight-{name.replace('/', '-')}")
                assert browser.barriers() == [], name
                assert browser.overflow() <= 0, name
        assert browser.faults() == []
    finally:
        browser.close()


def test_a_restart_goes_on_where_the_log_stood(world: World) -> None:
    before = world.receiver.numbers()[-1]
    region_file = world.b.region_file
    assert world.b.stop() == 0
    world.b.start(region_file)
    world.b.wait_ready()
    world.b.get("/usmed/audit")
    eventually(lambda: world.receiver.numbers()[-1] > before, 30, "more")
    numbers = world.receiver.numbers()
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, numbers[-1] + 1))
