"""The patient's side, all of it real: enrolled at a desk, asked by a doctor, permits on a phone, takes it back.

Two people in two browsers: the clerk in the hospital's pages inside Orthanc, the patient on the region's portal.
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.studies import Patient, Study, national_number
from support.browser import DESK, PHONE, Browser
from support.key_server import UNLIMITED, KeyServer
from support.process import eventually
from support.region import CLERK, Hospital, Hub, Region

CT, MR = "CT torace", "RM cranian"


@dataclass(frozen=True)
class World:
    """A holds what was made earlier, B is where the patient is now, C is a third; two of three key servers decide."""

    region: Region
    a: Hospital
    b: Hospital
    c: Hospital

    @property
    def hub(self) -> Hub:
        """Return the hub, which has the portal."""
        return self.region.hub


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("patient")
    section = {"Hub": {"ConsentSeconds": 1}, "Lookup": {"CacheSeconds": 0.5, "CircuitSeconds": 1}}
    a = Hospital("spiridon", "Spitalul „Sf. Spiridon”", "SPIRIDON", folder / "a", section=section)
    b = Hospital("parhon", "Spitalul „Parhon”", "PARHON", folder / "b", address="127.0.0.2", section=section)
    c = Hospital("regional", "Institutul Regional", "REGIONAL", folder / "c", address="127.0.0.3", section=section)
    servers = [KeyServer(f"keys-{n}", folder / f"keys-{n}", settings=UNLIMITED) for n in (1, 2, 3)]
    region = Region(folder, [a, b, c], Hub(folder / "hub"), servers, threshold=2)
    try:
        region.start()
        yield World(region, a, b, c)
    finally:
        region.stop()


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def new(*certificates: Path, **options: object) -> Browser:
        opened.append(Browser(tmp_path / f"chromium-{len(opened)}", certificates, language="ro", **options))  # type: ignore[arg-type]
        return opened[-1]

    yield new
    for one in opened:
        one.close()


def look_up(hospital: Hospital, patient: Patient) -> set[str]:
    """Look a patient up as a radiologist does; return the studies."""
    found = hospital.find("Study", {"PatientID": patient.number})
    return {one["MainDicomTags"]["StudyInstanceUID"] for one in found}


def here(hospital: Hospital, study: Study) -> bool:
    """Tell whether a study is in a hospital's own archive, whole: asked without the region."""
    found = hospital.get("/usmed/transfers", params={"studies": study.uid}).json()
    return any(one["State"] == "complete" for one in found) and study.uid in local(hospital)


def local(hospital: Hospital) -> set[str]:
    """Return the studies on a hospital's own disk."""
    studies = hospital.get("/studies?expand").json()
    return {one["MainDicomTags"]["StudyInstanceUID"] for one in studies}


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_from_the_desk_to_the_phone_and_back(
    world: World, open_browser: Callable[..., Browser], size: tuple[int, int]
) -> None:
    person = 801 if size is PHONE else 802
    patient = Patient(national_number(person), "Șuteu^Ana-Maria")
    studies = [
        Study(f"patient {person} ct", patient, attributes={"StudyDescription": CT}, date="20240115"),
        Study(f"patient {person} mr", patient, attributes={"StudyDescription": MR}, modality="MR", date="20230212"),
    ]
    for study in studies:
        for file in study.files():
            world.a.store(file)
    assert look_up(world.b, patient) == set()

    # At A's desk the clerk has seen the identity card; the patient's phone makes a passkey.
    clerk = open_browser(passkeys=False)
    token = base64.b64encode(":".join(CLERK).encode()).decode()
    clerk.driver.execute_cdp_cmd("Network.enable", {})
    clerk.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {token}"}})
    clerk.open(f"{world.a.url}/usmed/desk/patient?PatientID={patient.number}")
    clerk.click("input[name=seen]")
    clerk.click("button.main")
    address = clerk.one(".address").text

    phone = open_browser(world.hub.certificate_file, size=size)

    def seen(name: str) -> None:
        phone.picture(f"patient-{name}")
        assert phone.barriers() == [], name
        assert phone.overflow() <= 0, name

    phone.open(address)
    phone.click(".button.main")
    born = patient.number[1:7]
    for name, text in (("day", born[4:]), ("month", born[2:4]), ("year", f"19{born[:2]}")):
        phone.type(name, text)
    phone.click("button.main")
    phone.click(".ceremony button")
    phone.until("Arătați acest număr")
    seen("1-number")
    digits = eventually(lambda: clerk.driver.find_elements("css selector", ".digits"), 20, "the clerk sees a number")
    assert all(part in phone.text() for part in digits[0].text.split())
    clerk.click("button.main")
    phone.until("Gata, sunteți înscris", 30)
    phone.click(".button.main")

    # A doctor at B asks; two taps on the phone permit.
    asked = world.b.as_staff(CLERK, "/requests", {"PatientID": patient.number, "Department": "Cardiologie"})
    assert asked.status_code == 200, asked.text
    phone.open(f"{world.hub.portal}/portal/")
    phone.until("Cardiologie")
    seen("2-home-asked")
    phone.click("a[href*='/requests/']")
    phone.until("Cardiologie")
    phone.click("button.main")
    phone.until("Este ceea ce doriți?")
    phone.click(".ceremony button")
    phone.until("Este valabil.", 30)
    seen("3-permitted")
    consent = phone.driver.current_url.rpartition("/")[2]

    # The studies are found at B, and arrive.
    eventually(lambda: look_up(world.b, patient) == {one.uid for one in studies}, 30, "B finds them")
    for study in studies:
        eventually(lambda study=study: here(world.b, study), 60, "the study arrives at B")  # type: ignore[misc]
    assert look_up(world.c, patient) == set()

    # Who had them is on the phone.
    def shown() -> bool:
        phone.open(f"{world.hub.portal}/portal/access")
        return world.b.name in phone.text()

    eventually(shown, 60, "the access is shown")
    seen("4-access")

    # Taken back: done, by k of n, and the copies are gone. What A made stays.
    phone.open(f"{world.hub.portal}/portal/consents/{consent}")
    phone.click("form .danger")
    phone.until("Retrageți acest acord?")
    phone.click(".ceremony button")
    phone.until("Gata: nimeni nu mai poate obține nimic", 60)
    seen("5-taken-back")
    uids = {one.uid for one in studies}
    eventually(lambda: not uids & local(world.b), 60, "the copies are gone")
    assert look_up(world.b, patient) == set()
    assert uids <= local(world.a)
    gone = [one for one in world.b.audit() if one["event"] == "retention" and one["study_instance_uid"] in uids]
    assert len(gone) == len(studies)
    assert phone.faults() == []
