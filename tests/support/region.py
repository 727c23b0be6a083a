"""A whole region as real processes on loopback: hospitals (Orthanc with the plugin), the hub, and key servers."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from support.key_server import UNLIMITED, KeyServer
from support.process import Process, eventually, free_port
from support.signed_region import sign_region
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.enrolment import enrol
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB
from usmed.hospital.circuit import Circuit
from usmed.hospital.tickets import NoTicketError, Tickets
from usmed.platform.keys import generate_certificate, generate_key, public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient

ROOT = Path(__file__).parents[2]
PLUGINS = "/usr/share/orthanc/plugins"
PASSWORD = "test"
AUTH = ("admin", PASSWORD)
CLERK = ("clerk", PASSWORD)
DOCTOR = ("doctor", PASSWORD)
NATIONAL_ISSUER = "RO-CNP"


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
        self.region_file: Path | None = None
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
        # Two people, as a consent on paper needs them, and one who treats patients.
        document["RegisteredUsers"] |= dict([CLERK, DOCTOR])
        document["Usmed"]["Staff"]["Users"] |= {CLERK[0]: "desk-clerk", DOCTOR[0]: "radiologist"}
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
            self.region_file = region_file
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

    def ticket(self, *identifiers: tuple[str, str]) -> Any:
        """Return the access ticket that this hospital gets for whoever these numbers name; None if it gets none."""
        assert self.region_file is not None
        return access_ticket(Identity(self.id, self.key), self.region_file, *identifiers)

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

    @property
    def portal(self) -> str:
        """Return where patients find the portal: under a name, because browsers bind passkeys to names."""
        return f"https://localhost:{self.port}"

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


class Region:
    """Hospitals, their hub and key servers, of which `threshold` have to agree; one that knows no rates by default."""

    def __init__(
        self,
        folder: Path,
        hospitals: Sequence[Hospital],
        hub: Hub,
        key_servers: Sequence[KeyServer] = (),
        *,
        threshold: int = 1,
    ) -> None:
        self.folder, self.hub, self.threshold = folder, hub, threshold
        servers = key_servers or [KeyServer("keys-1", folder / "keys-1", settings=UNLIMITED)]
        self.key_servers = {one.id: one for one in servers}
        self.hospitals = {one.id: one for one in hospitals}
        self.file = folder / "region.json"
        self.version = 1
        self._said: dict[str, dict[str, Any]] = {}

    def write_manifest(
        self, extra: Sequence[Mapping[str, Any]] = (), *, version: int = 1, life: timedelta = timedelta(days=30)
    ) -> None:
        """Write the signed manifest; `extra` are further hospitals (simulators)."""
        members = [one.member() for one in self.hospitals.values() if not one.plain]
        self.version = version
        self.file.write_bytes(self.signed(self.document([*members, *extra], life=life)))

    def signed(self, document: dict[str, Any]) -> bytes:
        """Return the file of a manifest that all administrators have signed."""
        return sign_region(document, {one.id: one.administrator for one in self.key_servers.values()})

    def document(
        self, hospitals: Sequence[Mapping[str, Any]], life: timedelta = timedelta(days=30)
    ) -> dict[str, Any]:
        """Return a manifest with these hospitals, before anybody has signed it."""
        now = _now()
        return {
            "version": self.version,
            "region": "test",
            "name": "Regiune de încercare",
            "issued": now.isoformat(timespec="seconds"),
            "expires": (now + life).isoformat(timespec="seconds"),
            "national_number": {"issuer": NATIONAL_ISSUER, "kind": "ro.cnp"},
            "hub": self.hub.member(),
            "portal": {"address": self.hub.portal},
            "hospitals": list(hospitals),
            "threshold": self.threshold,
            "key_servers": [one.member() for one in self.key_servers.values()],
        }

    def start(self, extra: Sequence[Mapping[str, Any]] = ()) -> None:
        """Start the hub, then the hospitals."""
        self.write_manifest(extra)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: one.start(self.file), [self.hub, *self.key_servers.values()]))
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

    # ---- what patients say: attested and told as a hospital's desk does it, many at once ----

    def consent(self, *resources: Mapping[str, Any]) -> list[str]:
        """Let two members of staff attest consents on paper, and everybody know them; return their ids.

        A resource with the `id` of an earlier one is the next version of that one.
        """
        documents = []
        for one in map(on_paper, resources):
            resource = dict(one)
            id = str(resource.pop("id", f"said-{secrets.token_hex(8)}"))
            version = self._said[id]["version"] + 1 if id in self._said else 1
            documents.append(consent_document(resource, id=id, version=version))
        self._attest(documents)
        return [str(one["id"]) for one in documents]

    def withdraw(self, *ids: str) -> None:
        """Let two members of staff attest that patients take consents back."""
        documents = []
        for id in ids:
            last = self._said[id]
            resource = {**last["resource"], "status": "inactive"}
            documents.append(consent_document(resource, id=id, version=last["version"] + 1))
        self._attest(documents)

    def same_person(self, *numbers: tuple[str, str]) -> None:
        """Let the hospital that assigns these numbers state to key servers and hub that they are one person's."""
        by = self._speaks_for(next(issuer for issuer, _ in numbers if issuer != NATIONAL_ISSUER))
        patient = [PatientIdentifier(*one) for one in numbers]
        token = enrol(by.key, hospital=by.id, patient=patient, credentials=(), now=_now())
        stated = [{"hospital": by.id, "token": token}]
        self._tell(by, [], stated, self.key_servers, "/v1/records")
        self._tell(by, [], stated, [HUB], "/v1/consents/records")

    def _attest(self, documents: Sequence[dict[str, Any]]) -> None:
        told: dict[str, tuple[Hospital, list[Any]]] = {}
        for document in documents:
            self._said[document["id"]] = document
            by = self._speaks_for(document["resource"]["patient"]["identifier"]["system"].rpartition(":")[2])
            proof = attest(by.key, document, hospital=by.id, staff=["ionescu", "popa"], now=_now())
            told.setdefault(by.id, (by, []))[1].append({"document": document, "proof": proof})
        for by, records in told.values():
            self._tell(by, records, [], self.key_servers, "/v1/records")
            self._tell(by, records, [], [HUB], "/v1/consents/records")
            if taken := [one for one in records if _takes_away(one["document"])]:
                nodes = [one for one in self.hospitals.values() if not one.plain]
                running = [one.id for one in nodes if one.process is not None and one.process.running]
                self._tell(by, taken, [], running, "/federation/v1/records")

    def _speaks_for(self, issuer: str) -> Hospital:
        nodes = [one for one in self.hospitals.values() if not one.plain]
        return next((one for one in nodes if one.issuer == issuer), nodes[0])

    def _tell(
        self, by: Hospital, records: Sequence[Any], enrolments: Sequence[Any], members: Iterable[str], path: str
    ) -> None:
        with _client(Identity(by.id, by.key), self.file) as client:
            for member in members:
                for start in range(0, max(len(records), 1), 50):
                    body = {"records": records[start : start + 50], "enrolments": enrolments}
                    answer = client.post(member, path, body, deadline_s=60)
                    assert answer["problems"] == [], (member, answer["problems"])


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


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _client(identity: Identity, region_file: Path) -> Iterator[SignedClient]:
    region = load_region(region_file)
    client = SignedClient(identity, lambda: region, _now)
    try:
        yield client
    finally:
        client.close()


def access_ticket(identity: Identity, region_file: Path, *identifiers: tuple[str, str]) -> Any:
    """Return the signed access ticket that a hospital gets for whoever these numbers name; None if it gets none."""
    region = load_region(region_file)
    with _client(identity, region_file) as client:
        tickets = Tickets(
            hospital=identity.id, key=region.hospitals[identity.id].key, region=lambda: region, client=client,
            circuit=Circuit(1, time.monotonic), clock=_now, deadline_s=10,
        )  # fmt: skip
        try:
            return tickets.get([PatientIdentifier(*one) for one in identifiers], "test").signed
        except NoTicketError:
            return None
        finally:
            tickets.close()


def _takes_away(document: Mapping[str, Any]) -> bool:
    return document["version"] > 1 or '"deny"' in json.dumps(document["resource"])


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
    """Return a consent of `permit` as it can be given on paper: for treatment, and for less than a year; a denial as it
    is."""
    provision = resource["provision"]
    if provision["type"] == "deny":
        return dict(resource)
    end = (datetime.now(UTC).date() + timedelta(days=300)).isoformat()
    period = {"start": "2026-01-01", "end": end, **provision.get("period", {})}
    purpose = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}]
    return {**resource, "provision": {"purpose": purpose, **provision, "period": period}}
