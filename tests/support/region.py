"""A whole region as real processes on loopback: hospitals (Orthanc with the plugin) and the hub."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import yaml

from support.key_server import KeyServer
from support.process import Process, eventually, free_port
from support.signed_region import sign_region
from usmed.platform.keys import generate_certificate, generate_key, public_key_text

ROOT = Path(__file__).parents[2]
PLUGINS = "/usr/share/orthanc/plugins"
PASSWORD = "test"
AUTH = ("admin", PASSWORD)
CLERK = ("clerk", PASSWORD)


class Hospital:
    """One hospital: Orthanc with our plugin (or without, `plain=True`)."""

    def __init__(
        self,
        hospital_id: str,
        name: str,
        issuer: str,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        plain: bool = False,
        tls: bool = True,
        settings: Mapping[str, str] | None = None,
        section: Mapping[str, Any] | None = None,
        modalities: Mapping[str, Any] | None = None,
        orthanc: Mapping[str, Any] | None = None,
    ) -> None:
        self.id, self.name, self.issuer, self.folder = hospital_id, name, issuer, folder
        self.address, self.plain, self.tls = address, plain, tls
        self.http_port, self.dicom_port, self.federation_port = (free_port(address) for _ in range(3))
        self.aet = hospital_id.upper().replace("-", "")[:16]
        self.settings = dict(settings or {})
        self.section, self.modalities, self.orthanc = dict(section or {}), dict(modalities or {}), dict(orthanc or {})
        self.key_file = folder / "key.pem"
        self.certificate_file, self.tls_key_file = folder / "tls.pem", folder / "tls.key"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.key_file.exists():
            self.key = generate_key(self.key_file)
            generate_certificate(
                address, certificate=self.certificate_file, key=self.tls_key_file, now=datetime.now(UTC)
            )
        self.environment: dict[str, str] = {}
        self.process: Process | None = None
        self.session = requests.Session()
        self.session.auth = AUTH

    def member(self) -> dict[str, Any]:
        """Return this hospital's entry of the region manifest."""
        return {
            "id": self.id,
            "name": self.name,
            "address": f"http{'s' * self.tls}://{self.address}:{self.federation_port}",
            "public_key": public_key_text(self.key),
            "issuers": [self.issuer],
            **({"tls_certificate": self.certificate_file.read_text()} if self.tls else {}),
        }

    @property
    def url(self) -> str:
        """Return the address of Orthanc's REST API."""
        return f"http://{self.address}:{self.http_port}"

    def write_configuration(self, region_file: Path | None) -> Path:
        """Write this hospital's orthanc.json: the project's own, with what the test changes."""
        text = (ROOT / "orthanc.json").read_text("utf-8")
        environment = {
            "USMED_NAME": self.name,
            "USMED_STORAGE_DIRECTORY": str(self.folder / "storage"),
            "USMED_PLUGIN": str(ROOT / "plugins" / "hospital.py"),
            "USMED_HTTP_PORT": str(self.http_port),
            "USMED_DICOM_PORT": str(self.dicom_port),
            "USMED_AET": self.aet,
            "USMED_REMOTE_ACCESS": "true",
            "USMED_ADMIN_PASSWORD": PASSWORD,
            "USMED_FEDERATION_ADDRESS": self.address,
            "USMED_FEDERATION_PORT": str(self.federation_port),
            "USMED_STABLE_AGE_S": "1",
            "USMED_DICOM_MODALITIES": ", ".join(
                f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.modalities.items()
            ),
        }
        if region_file is not None and not self.plain:
            environment |= {
                "USMED_HOSPITAL": self.id,
                "USMED_REGION_FILE": str(region_file),
                "USMED_PRIVATE_KEY_FILE": str(self.key_file),
            }
            if self.tls:
                environment |= {
                    "USMED_TLS_CERTIFICATE_FILE": str(self.certificate_file),
                    "USMED_TLS_PRIVATE_KEY_FILE": str(self.tls_key_file),
                }
        environment |= self.settings

        def value(match: re.Match[str]) -> str:
            return environment.get(match[1], match[2] or "")

        text = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text)
        document = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
        for section, members in self.section.items():
            document["Usmed"].setdefault(section, {}).update(members)
        # Two people, as a consent on paper needs them.
        document["RegisteredUsers"] = {**document["RegisteredUsers"], CLERK[0]: CLERK[1]}
        document.update(self.orthanc)
        if self.plain:
            document["Plugins"] = [one for one in document["Plugins"] if "Python" not in one]
            document["DicomModalities"] = self.modalities
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
        return path

    def start(self, region_file: Path | None = None) -> None:
        """Start Orthanc and wait until it answers."""
        if region_file is not None or self.process is None:
            self.write_configuration(region_file)
        arguments = ["Orthanc", str(self.folder / "orthanc.json")]
        self.process = Process(arguments, self.folder / "orthanc.log", self.environment, ROOT)
        self.process.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until Orthanc answers."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.running, f"{self.process.exit_code}: {self.process.text()[-3000:]}"
            try:
                return self.session.get(f"{self.url}/system", timeout=2).status_code == 200
            except (requests.ConnectionError, requests.Timeout):
                return False

        eventually(ready, 90, f"Orthanc of {self.id}")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End Orthanc."""
        return self.process.stop(how) if self.process is not None else 0

    # ---- what tests do with it ----

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET from Orthanc."""
        return self.session.get(self.url + path, timeout=options.pop("timeout", 60), **options)

    def post(self, path: str, document: Any = None, **options: Any) -> requests.Response:
        """POST JSON (or `data=`) to Orthanc."""
        if document is not None:
            options["data"] = json.dumps(document)
        return self.session.post(self.url + path, timeout=options.pop("timeout", 60), **options)

    def find(self, level: str, query: Mapping[str, str], **options: Any) -> list[Any]:
        """POST /tools/find, expanded."""
        answer = self.post("/tools/find", {"Level": level, "Query": dict(query), "Expand": True, **options})
        answer.raise_for_status()
        return list(answer.json())

    def store(self, dicom: bytes) -> dict[str, Any]:
        """Store an instance over REST."""
        answer = self.post("/instances", data=dicom)
        answer.raise_for_status()
        return dict(answer.json())

    def attest(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """Record a consent on paper at the desk: the clerk writes it down, the administrator confirms it."""
        draft = self._desk("", {"Resource": resource}, CLERK)
        return self._desk(f"/{draft['ID']}/confirmation", {"Sha256": draft["Sha256"]}, AUTH)

    def withdraw(self, consent_id: str) -> dict[str, Any]:
        """Take a consent back that was recorded at this desk."""
        draft = self._desk(f"/{consent_id}/withdrawal", {}, CLERK)
        return self._desk(f"/{consent_id}/confirmation", {"Sha256": draft["Sha256"]}, AUTH)

    def _desk(self, path: str, body: Mapping[str, Any], who: tuple[str, str]) -> dict[str, Any]:
        answer = self.as_staff(who, f"/consents{path}", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def as_staff(self, who: tuple[str, str], path: str, body: Mapping[str, Any]) -> requests.Response:
        """POST to one of the node's own addresses, logged in as CLERK or AUTH."""
        return requests.post(f"{self.url}/usmed{path}", json=body, auth=who, timeout=60)

    def audit(self) -> list[dict[str, Any]]:
        """Return the last audit records, from the database file."""
        from usmed.platform.audit_log import AuditLog
        from usmed.platform.storage import open_database

        database = open_database(self.database_url, ["usmed.hospital.migrations"])
        log = AuditLog(database)
        try:
            return log.tail(1000)
        finally:
            log.close()
            database.close()

    @property
    def database_url(self) -> str:
        """Return the address of the node's own database."""
        return self.settings.get("USMED_DATABASE_URL") or f"sqlite:///{self.folder / 'storage' / 'usmed.db'}"


class Hub:
    """The regional hub."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", database_url: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.address, self.port = folder, address, free_port(address)
        self.key_file = folder / "key.pem"
        self.key = generate_key(self.key_file)
        self.certificate_file, self.tls_key_file = folder / "tls.pem", folder / "tls.key"
        generate_certificate(address, certificate=self.certificate_file, key=self.tls_key_file, now=datetime.now(UTC))
        self.database_url = database_url or f"sqlite:///{folder / 'usmed-hub.db'}"
        self.process: Process | None = None
        self.region_file = Path()

    def member(self) -> dict[str, Any]:
        """Return the hub's entry of the region manifest."""
        return {
            "address": f"https://{self.address}:{self.port}",
            "public_key": public_key_text(self.key),
            "tls_certificate": self.certificate_file.read_text(),
        }

    @property
    def environment(self) -> dict[str, str]:
        """Return the hub's settings."""
        return {
            "PYTHONPATH": str(ROOT / "plugins"),
            "USMED_DATABASE_URL": self.database_url,
            "USMED_REGION_FILE": str(self.region_file),
            "USMED_PRIVATE_KEY_FILE": str(self.key_file),
            "USMED_TLS_CERTIFICATE_FILE": str(self.certificate_file),
            "USMED_TLS_PRIVATE_KEY_FILE": str(self.tls_key_file),
            "USMED_HUB_PORT": str(self.port),
        }

    def start(self, region_file: Path | None = None) -> None:
        """Start the hub and wait until it answers."""
        if region_file is not None:
            self.region_file = region_file
        self.process = Process(
            [sys.executable, "-m", "usmed", "hub"], self.folder / "hub.log", self.environment, self.folder
        )
        self.process.start()

        def ready() -> bool:
            assert self.process is not None
            assert self.process.running, f"{self.process.exit_code}: {self.process.text()[-3000:]}"
            try:
                url = f"https://{self.address}:{self.port}/health"
                return requests.get(url, timeout=2, verify=str(self.certificate_file)).status_code == 200
            except (requests.ConnectionError, requests.Timeout):
                return False

        eventually(ready, 90, "the hub")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the hub."""
        return self.process.stop(how) if self.process is not None else 0

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a staff command where the hub's settings are."""
        return subprocess.run(
            [sys.executable, "-m", "usmed", *arguments],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            check=check,
            capture_output=True,
            text=True,
        )

    def consent(self, *resources: Mapping[str, Any]) -> list[str]:
        """Record FHIR Consents with one command; return their ids."""
        paths = [self.folder / f"consent-{time.monotonic_ns()}-{index}.json" for index in range(len(resources))]
        for path, resource in zip(paths, resources, strict=True):
            path.write_text(json.dumps(resource), "utf-8")
        printed = self.command("consent", "record", *map(str, paths)).stdout
        return re.findall(r"^recorded (\S+) version", printed, flags=re.M)


class Region:
    """Hospitals, their hub and, if there are any, key servers of which `threshold` have to agree."""

    def __init__(
        self,
        folder: Path,
        hospitals: Sequence[Hospital],
        hub: Hub,
        key_servers: Sequence[KeyServer] = (),
        *,
        threshold: int = 0,
    ) -> None:
        self.folder, self.hub, self.threshold = folder, hub, threshold
        self.key_servers = {one.id: one for one in key_servers}
        self.hospitals = {one.id: one for one in hospitals}
        self.file = folder / "region.yaml"

    def write_manifest(
        self, extra: Sequence[Mapping[str, Any]] = (), *, version: int = 1, life: timedelta = timedelta(days=30)
    ) -> None:
        """Write region.yaml; `extra` are further hospitals (simulators). With key servers it is signed."""
        document = {
            "version": 1,
            "region": "test",
            "name": "Regiune de încercare",
            "issued": datetime.now(UTC).isoformat(timespec="seconds"),
            "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
            "hub": self.hub.member(),
            "hospitals": [one.member() for one in self.hospitals.values() if not one.plain] + list(extra),
        }
        if not self.key_servers:
            self.file.write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
            return
        document |= {
            "version": version,
            "expires": (datetime.now(UTC) + life).isoformat(timespec="seconds"),
            "threshold": self.threshold,
            "key_servers": [one.member() for one in self.key_servers.values()],
        }
        self.file.write_bytes(sign_region(document, {one.id: one.administrator for one in self.key_servers.values()}))

    def start(self, extra: Sequence[Mapping[str, Any]] = ()) -> None:
        """Start the hub, then the hospitals."""
        self.write_manifest(extra)
        self.hub.start(self.file)
        for one in self.key_servers.values():
            one.start(self.file)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: one.start(self.file), self.hospitals.values()))

    def stop(self) -> None:
        """End everything, and make sure that nothing had crashed, or did on the way out."""
        with ThreadPoolExecutor() as pool:
            ends = {one.id: pool.submit(one.stop) for one in self.hospitals.values()}
        self.hub.stop()
        for server in self.key_servers.values():
            server.stop()
        crashed = {name: code for name, end in ends.items() if (code := end.result()) not in (0, -signal.SIGKILL)}
        assert crashed == {}, crashed

    def __getitem__(self, hospital_id: str) -> Hospital:
        return self.hospitals[hospital_id]


@contextmanager
def running_region(folder: Path, hospitals: Sequence[Hospital], hub: Hub) -> Iterator[Region]:
    """Start a region, and end it whatever happens."""
    region = Region(folder, hospitals, hub)
    try:
        region.start()
        yield region
    finally:
        region.stop()
        shutil.rmtree(folder / "build", ignore_errors=True)


def permit(
    issuer: str, value: str, *, recipients: Sequence[str] = (), kind: str = "permit", **provision: Any
) -> dict[str, Any]:
    """Return a FHIR R4 Consent for tests."""
    actors = [
        {
            "role": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]
            },
            "reference": {"identifier": {"system": "urn:usmed:hospital", "value": one}},
        }
        for one in recipients
    ]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"identifier": {"system": f"urn:usmed:issuer:{issuer}", "value": value}},
        "dateTime": "2026-01-01",
        "provision": {"type": kind, **({"actor": actors} if actors else {}), **provision},
    }


def on_paper(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return a consent of `permit` as it can be given on paper: for treatment, and for less than a year."""
    today = datetime.now(UTC).date()
    period = {"start": "2026-01-01", "end": (today + timedelta(days=300)).isoformat()}
    purpose = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}]
    return {**resource, "provision": {"period": period, "purpose": purpose, **resource["provision"]}}
