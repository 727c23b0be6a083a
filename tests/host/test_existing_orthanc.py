"""docs/how-to/existing-orthanc.md, followed as it is written: our plugin in Debian's own Orthanc and configuration."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from host.archive_data import instances, uid
from host.conftest import WORKSTATION
from support.region import ROOT, Hub, Process, Region, eventually, free_port
from usmed.platform.keys import generate_certificate, generate_key, public_key_text

DEBIAN = Path("/usr/share/usmed/debian-orthanc")
"""What Debian's packages put into /etc/orthanc; docker/Dockerfile.test keeps it."""

GUIDE = (ROOT / "docs" / "how-to" / "existing-orthanc.md").read_text("utf-8")


def examples() -> list[str]:
    """Return the JSON examples of the guide, in order."""
    return [re.sub("^   ", "", block, flags=re.M) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)]


class Existing:
    """An Orthanc as Debian's package configures it, in a folder instead of /etc and /var."""

    def __init__(self, folder: Path) -> None:
        assert DEBIAN.is_dir(), f"{DEBIAN} is missing: build the test image anew"
        self.etc, self.port, self.dicom_port = folder / "etc", free_port(), free_port()
        shutil.copytree(DEBIAN, self.etc)
        self.change("orthanc.json", '"/var/lib/orthanc/db-v6"', json.dumps(str(folder / "storage")))
        self.change("orthanc.json", '"HttpPort" : 8042', f'"HttpPort" : {self.port}')
        self.change("orthanc.json", '"DicomPort" : 4242', f'"DicomPort" : {self.dicom_port}')
        self.process = Process(["Orthanc", str(self.etc)], folder / "orthanc.log", {}, folder)

    def change(self, file: str, before: str, after: str) -> None:
        """Change a configuration file by hand, as an administrator would."""
        path = self.etc / file
        text = path.read_text("utf-8")
        assert before in text, f"{before} is not in {file}"
        path.write_text(text.replace(before, after), "utf-8")

    def follow_the_guide(self) -> None:
        """Make the three changes."""
        plugins, python, usmed = examples()
        self.change("orthanc.json", '"Plugins" : [\n    "/usr/share/orthanc/plugins/"\n  ]', plugins.strip())
        (self.etc / "python.json").write_text(python.replace("/opt/usmed", str(ROOT)), "utf-8")
        (self.etc / "usmed.json").write_text(usmed, "utf-8")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process.start()
        eventually(self._ready, 60, "Debian's Orthanc")

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=20)

    def post(self, path: str, data: bytes | str) -> requests.Response:
        return requests.post(f"http://127.0.0.1:{self.port}{path}", data=data, timeout=20)

    def _ready(self) -> bool:
        assert self.process.running, self.process.text()[-3000:]
        try:
            return self.get("/system").status_code == 200
        except requests.ConnectionError:
            return False


@pytest.fixture
def existing(tmp_path: Path) -> Iterator[Existing]:
    orthanc = Existing(tmp_path)
    yield orthanc
    orthanc.process.stop()


def test_a_node_that_stands_alone(existing: Existing) -> None:
    existing.follow_the_guide()
    existing.start()
    assert {"python", "dicom-web"} <= set(existing.get("/plugins").json())
    assert "this node stands alone" in existing.process.text()
    for file in list(instances())[:8]:
        assert existing.post("/instances", file).status_code == 200
    study = {"Level": "Study", "Query": {"PatientID": "1234"}, "RequestedTags": ["IssuerOfPatientID"]}
    assert len(existing.post("/tools/find", json.dumps(study)).json()) == 2
    assert len(existing.get("/dicom-web/studies?PatientID=1234").json()) == 2
    assert existing.get("/usmed/status").status_code == 404
    # What the guide says of studies that were there before.
    assert existing.post(f"/studies/{existing.get('/studies').json()[0]}/reconstruct", "{}").status_code == 200


def test_a_node_that_joins_a_region(existing: Existing, tmp_path: Path) -> None:
    existing.follow_the_guide()
    key = generate_key(tmp_path / "node.key")
    generate_certificate(
        "127.0.0.1", certificate=tmp_path / "tls.pem", key=tmp_path / "tls.pem.key", now=datetime.now(UTC)
    )
    port = free_port()
    hospital = {
        "id": "old", "name": "Old Orthanc", "address": f"https://127.0.0.1:{port}",
        "public_key": public_key_text(key), "issuers": ["OLD"],
        "tls_certificate": (tmp_path / "tls.pem").read_text(),
    }  # fmt: skip
    region = Region(tmp_path, [], Hub(tmp_path / "hub"))
    region.write_manifest([hospital])
    usmed = json.loads((existing.etc / "usmed.json").read_text("utf-8"))
    usmed["Usmed"] = {
        "Hospital": "old", "RegionFile": str(region.file), "PrivateKeyFile": str(tmp_path / "node.key"),
        "Federation": {
            "ListenAddress": "127.0.0.1", "Port": port, "TlsCertificateFile": str(tmp_path / "tls.pem"),
            "TlsPrivateKeyFile": str(tmp_path / "tls.pem.key"),
        },
        "Own": {"Modalities": ["ws"]}, "Staff": {"Anonymous": "radiologist"},
    }  # fmt: skip
    (existing.etc / "usmed.json").write_text(json.dumps(usmed), "utf-8")
    existing.change("orthanc.json", '"DicomModalities" : {', f'"DicomModalities" : {{ "ws": ["{WORKSTATION}", "h", 4]')
    existing.start()
    assert requests.get(f"https://127.0.0.1:{port}/health", verify=str(tmp_path / "tls.pem"), timeout=10).ok
    assert existing.get("/usmed/status").status_code == 200
    for file in list(instances())[:8]:
        assert existing.post("/instances", file).status_code == 200
    found = existing.get("/dicom-web/studies?PatientID=1234").json()
    assert {one["00080056"]["Value"][0] for one in found} == {"ONLINE"}
    assert len(found) == 2
    command = ["findscu", "-S", "-v", "-aet", WORKSTATION, "-aec", "ORTHANC", "-k", "QueryRetrieveLevel=STUDY"]
    keys = ["-k", f"StudyInstanceUID={uid(1)}", "-k", "PatientName"]
    done = subprocess.run(
        [*command, *keys, "127.0.0.1", str(existing.dicom_port)], capture_output=True, text=True, check=True, timeout=30
    )
    assert "Popescu^Ana" in done.stdout + done.stderr
    assert (tmp_path / "storage" / "usmed.db").exists()


def test_debians_list_of_plugins_is_refused_by_a_node_of_a_region(existing: Existing, tmp_path: Path) -> None:
    """A folder loads DICOMweb before or after us, as the file system will have it."""
    existing.follow_the_guide()
    existing.change("orthanc.json", examples()[0].strip(), '"Plugins" : [ "/usr/share/orthanc/plugins/" ]')
    usmed = {"Usmed": {"Hospital": "old", "RegionFile": str(DEBIAN / "orthanc.json"), "PrivateKeyFile": "/none"}}
    (existing.etc / "usmed.json").write_text(json.dumps(usmed), "utf-8")
    existing.process.start()
    assert existing.process.wait(60) != 0
    text = existing.process.text()
    assert "Plugins: must name files, libOrthancPython.so before libOrthancDicomWeb.so" in text
    assert "Usmed.PrivateKeyFile: there is no file '/none'" in text


def test_the_guide_names_the_packages_of_the_image() -> None:
    image = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    installed = set(re.findall(r"python3-[a-z0-9-]+", image))
    named = set(re.findall(r"python3-[a-z0-9-]+", GUIDE.partition("## Configuration")[0])) - {"python3-"}
    # Shares of secrets are the key server's; comparing names is the hub's.
    assert installed - named <= {"python3-pycryptodome", "python3-rapidfuzz"}
    assert named <= installed


def test_the_guide_names_settings_that_there_are() -> None:
    reference = (ROOT / "orthanc.json").read_text("utf-8")
    for name in ("ExtraMainDicomTags", "IssuerOfPatientID", "SpecificCharacterSet", "SOPClassUID", "Usmed", "Hospital"):
        assert f'"{name}"' in examples()[2]
        assert f'"{name}"' in reference
