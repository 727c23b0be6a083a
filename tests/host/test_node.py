"""The node as a process: it starts with nothing configured, refuses what is wrong as a whole, stops cleanly."""

import io
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread

from host.archive_data import instances, uid
from host.conftest import Pair
from support.region import (
    AUTH,
    PLUGINS,
    ROOT,
    Hospital,
    Hub,
    Process,
    Region,
    eventually,
    free_port,
    permit,
    running_region,
)

# ---- Alone: orthanc.json as it stands, read by Orthanc itself ----


@dataclass(frozen=True)
class Alone:
    """A node that was started by hand, with only a folder and ports that are free here."""

    url: str
    dicom_port: int
    folder: Path
    process: Process

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, auth=("admin", ""), timeout=20)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("alone")
    http_port, dicom_port = free_port(), free_port()
    environment = {
        "USMED_STORAGE_DIRECTORY": str(folder / "storage"), "USMED_HTTP_PORT": str(http_port),
        "USMED_DICOM_PORT": str(dicom_port), "USMED_FEDERATION_PORT": str(free_port()),
    }  # fmt: skip
    process = Process(["Orthanc", str(ROOT / "orthanc.json")], folder / "orthanc.log", environment, ROOT)
    process.start()
    node = Alone(f"http://127.0.0.1:{http_port}", dicom_port, folder, process)

    def ready() -> bool:
        assert process.running, process.text()[-3000:]
        try:
            return node.get("/system").status_code == 200
        except requests.ConnectionError:
            return False

    try:
        eventually(ready, 60, "the node")
        yield node
    finally:
        process.stop()


def test_a_node_with_nothing_configured_is_a_local_archive(alone: Alone) -> None:
    assert "no hospital is configured: this node stands alone, as a plain Orthanc" in alone.process.text()
    assert {"python", "dicom-web"} <= set(alone.get("/plugins").json())
    # SQLite, in the folder that was named.
    assert alone.get("/system").json()["DatabaseBackendPlugin"] is None
    assert (alone.folder / "storage" / "index").exists()
    for file in list(instances())[:6]:
        answer = requests.post(alone.url + "/instances", data=file, auth=("admin", ""), timeout=20)
        assert answer.status_code == 200
    query = {"Level": "Study", "Query": {"PatientID": "1234"}, "Expand": True}
    found = requests.post(alone.url + "/tools/find", json=query, auth=("admin", ""), timeout=20).json()
    assert len(found) == 2
    assert len(alone.get("/dicom-web/studies?PatientID=1234").json()) == 2
    assert alone.get(f"/dicom-web/studies/{uid(1)}/series").status_code == 200


def test_a_node_that_stands_alone_has_no_region(alone: Alone) -> None:
    assert alone.get("/usmed/status").status_code == 404
    assert not (alone.folder / "storage" / "usmed.db").exists()
    listening = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listening.splitlines() if f"pid={alone.process.pid}," in line]
    assert len(ours) == 2, "HTTP and DICOM, nothing for other hospitals"


def test_nobody_gets_in_without_the_password(alone: Alone) -> None:
    assert requests.get(alone.url + "/studies", timeout=10).status_code == 401


# ---- Wrong configurations: everything that is wrong, before anything starts ----


def started(tmp_path: Path, change: Callable[[dict[str, Any]], None], region: dict[str, Any] | None = None) -> Process:
    """Start a node of a region whose configuration was changed; return its process."""
    node = Hospital("node", "Nod", "NODE", tmp_path / "node")
    manifest = tmp_path / "region.json"
    parts = Region(tmp_path, [node], Hub(tmp_path / "hub"))
    manifest.write_bytes(parts.signed(parts.document([node.member()]) | (region or {})))
    path = node.write_configuration(manifest)
    configuration = json.loads(path.read_text("utf-8"))
    change(configuration)
    path.write_text(json.dumps(configuration), "utf-8")
    process = Process(["Orthanc", str(path)], tmp_path / "orthanc.log", {}, ROOT)
    process.start()
    return process


def refused(process: Process) -> str:
    """Wait for the process to refuse; return what it said."""
    try:
        assert process.wait(60) not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    finally:
        process.stop(signal.SIGKILL)
    return process.text()


def test_a_wrong_configuration_names_every_fault_and_the_process_ends(tmp_path: Path) -> None:
    def change(configuration: dict[str, Any]) -> None:
        configuration["Usmed"]["Lookup"] = {"DeadlineSeconds": "soon", "Dedline": 1}
        configuration["Usmed"]["Federation"]["Port"] = 0
        configuration["Usmed"]["PrivateKeyFile"] = "/none/key.pem"
        configuration["Usmed"]["Own"]["Modalities"] = "ct"
        configuration["Usmed"]["Hopsital"] = "x"
        configuration["DicomAlwaysAllowGet"] = True
        configuration["DicomModalities"] = {"stranger": ["S", "h", 104]}

    text = refused(started(tmp_path, change))
    for fault in (
        "Usmed.Lookup.DeadlineSeconds: must be a number", "Usmed.Lookup.Dedline: unknown setting",
        "Usmed.Federation.Port: must be a whole number from 1 to 65535",
        "Usmed.PrivateKeyFile: there is no file '/none/key.pem'", "Usmed.Own.Modalities: must be a list of text",
        "Usmed.Hopsital: unknown setting", "DicomAlwaysAllowGet: must be false",
        "DicomModalities.stranger: is foreign",
    ):  # fmt: skip
        assert fault in text
    assert not (tmp_path / "node" / "storage" / "usmed.db").exists()


WRONG: list[tuple[str, Callable[[dict[str, Any]], None], dict[str, Any], list[str]]] = [
    (
        "a faulty region manifest",
        lambda configuration: None,
        {"version": 0, "issued": "today", "colour": "red"},
        ["$.version: must be 1 or more", "$.issued: must be a time with its zone", "$.colour: unknown key"],
    ),
    (
        "a hospital that the region does not know",
        lambda configuration: configuration["Usmed"].update(
            Hospital="other", Foreign={"Modalities": {"pacs": "nowhere"}}
        ),
        {},
        [
            "Usmed.Hospital: there is no hospital 'other'",
            "Usmed.Foreign.Modalities.pacs: there is no hospital 'nowhere'",
        ],
    ),
    (
        "a database that is none",
        lambda configuration: configuration["Usmed"].update(DatabaseUrl="mysql://host/db"),
        {},
        ["neither sqlite:///FILE nor postgresql+psycopg://"],
    ),
    (
        "a database that does not answer",
        lambda configuration: configuration["Usmed"].update(DatabaseUrl="postgresql+psycopg://u:secret@127.0.0.1:1/d"),
        {},
        ["the database failed"],
    ),
]


@pytest.mark.parametrize(("change", "region", "faults"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_what_else_can_be_wrong(
    change: Callable[[dict[str, Any]], None], region: dict[str, Any], faults: list[str], tmp_path: Path
) -> None:
    text = refused(started(tmp_path, change, region))
    assert [fault for fault in faults if fault not in text] == []
    assert "secret" not in text


def test_a_key_that_is_not_the_hospitals(tmp_path: Path) -> None:
    other = Hospital("other", "Altul", "OTHER", tmp_path / "other")

    def change(configuration: dict[str, Any]) -> None:
        configuration["Usmed"]["PrivateKeyFile"] = str(other.key_file)

    assert "does not belong to the public_key of 'node'" in refused(started(tmp_path, change))


# ---- Routes: whose are they, with both plugins loaded ----


def test_the_plugins_are_loaded_in_the_order_that_routes_need(pair: Pair) -> None:
    configuration = json.loads(
        (ROOT / "orthanc.json").read_text("utf-8").partition('"Plugins": ')[2].partition("]")[0] + "]"
    )
    names = [Path(one).name for one in configuration]
    assert names.index("libOrthancPython.so") < names.index("libOrthancDicomWeb.so")
    text = pair.node.process.text() if pair.node.process else ""
    assert text.index("libOrthancPython.so") < text.index("libOrthancDicomWeb.so")
    assert Path(PLUGINS, "libOrthancPython.so").exists()


def test_searching_is_ours_and_retrieving_the_dicomweb_plugins(pair: Pair) -> None:
    assert "00080056" in pair.node.get("/dicom-web/studies?PatientID=1234").json()[0]
    answers = [
        one.get(f"/dicom-web/studies/{uid(1)}/series/{uid(1, 1)}/instances/{uid(1, 1, 1)}", headers={"Accept": accept})
        for one in pair
        for accept in ('multipart/related; type="application/dicom"',)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    parts = [answer.content.split(b"\r\n\r\n", 1)[1] for answer in answers]
    files = [dcmread(io.BytesIO(part), force=True).SOPInstanceUID for part in parts]
    assert files == [uid(1, 1, 1)] * 2


def test_storing_over_dicomweb_still_works(pair: Pair) -> None:
    """STOW-RS posts to the address that our search answers with GET."""
    file = next(iter(instances()))
    dataset = dcmread(io.BytesIO(file))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(900), uid(900, 1)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(900, 1, 1)
    dataset.PatientID = "STOW"
    out = io.BytesIO()
    dataset.save_as(out)
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + out.getvalue() + b"\r\n--b--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    for one in pair:
        answer = one.post("/dicom-web/studies", data=body, headers={"Content-Type": kind, "Accept": "application/json"})
        assert answer.status_code == 200
        assert answer.json()["00081199"]["Value"][0]["00081155"]["Value"] == [uid(900, 1, 1)]
        found = one.find("Study", {"PatientID": "STOW"})
        assert len(found) == 1
        assert one.session.delete(f"{one.url}/studies/{found[0]['ID']}", timeout=20).status_code == 200


# ---- Stopping ----

STUDY = uid(500)


def big_study(patient: str, instances_: int) -> Iterator[bytes]:
    """Yield a study of this hospital's own patient, some 130 KB an instance."""
    template = dcmread(io.BytesIO(next(iter(instances()))))
    template.PatientID, template.PatientName = patient, "Mare^Studiu"
    template.StudyInstanceUID, template.SeriesInstanceUID = STUDY, uid(500, 1)
    template.Rows = template.Columns = 360
    template.PixelData = bytes(360 * 360)
    for number in range(1, instances_ + 1):
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = uid(500, 1, number)
        template.InstanceNumber = number
        out = io.BytesIO()
        template.save_as(out)
        yield out.getvalue()


def stopped(hospital: Hospital) -> float:
    """Send SIGTERM; return how long it took to end, with exit code 0."""
    started_at = time.monotonic()
    assert hospital.stop() == 0
    return time.monotonic() - started_at


def test_a_node_stops_within_ten_seconds_though_a_pull_hangs_and_takes_it_up_again(tmp_path: Path) -> None:
    source = Hospital("source", "Sursa", "SRC", tmp_path / "source", address="127.0.0.2")
    node = Hospital("node", "Nod", "NODE", tmp_path / "node", section={"Pull": {"Connections": 1}})
    hub = Hub(tmp_path / "hub")
    count = 150
    with running_region(tmp_path, [source, node], hub) as region:
        for file in big_study("S-1", count):
            source.store(file)
        eventually(lambda: all(study["IsStable"] for study in source.find("Study", {})), 30, "a stable study")
        region.consent(permit("SRC", "S-1", recipients=["node"]))

        def ask() -> bool:
            return node.post("/usmed/fetch", json={"StudyInstanceUID": STUDY}).status_code == 200

        eventually(ask, 40, "the hub knows the study and the consent")
        path = f"/usmed/transfers/{STUDY}"
        eventually(lambda: node.get(path).json()["Arrived"] > 3, 30, "the first instances")
        assert source.process is not None
        source.process.suspend()
        try:
            halfway = node.get(path).json()
            assert halfway["Unfinished"]
            assert halfway["Arrived"] < count
            assert stopped(node) < 10
            text = node.process.text() if node.process else ""
            assert "The jobs engine has stopped" in text
            assert "killed" not in text.lower()
        finally:
            source.process.resume()
        node.start(region.file)
        # What had arrived is not asked for again.
        assert node.get(path).json()["Arrived"] >= 3
        done = eventually(lambda: (now := node.get(path).json())["State"] == "complete" and now, 60, "the whole study")
        assert done["Arrived"] == count
        assert len(node.get("/instances").json()) == count
        assert stopped(node) < 10
        assert stopped(source) < 10


def test_a_node_at_rest_stops_at_once(tmp_path: Path) -> None:
    node = Hospital("node", "Nod", "NODE", tmp_path / "node")
    with running_region(tmp_path, [node], Hub(tmp_path / "hub")):
        assert requests.get(f"{node.url}/system", auth=AUTH, timeout=10).status_code == 200
        assert stopped(node) < 10
