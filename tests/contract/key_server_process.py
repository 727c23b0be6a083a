"""Key servers as processes of their own, over TLS, as their administrators set them up; a hospital that asks them."""

import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from joserfc.jwk import OKPKey

from contract.hub_region import consent
from contract.test_key_servers import CNP, PLUGINS, STAFF
from support.signed_region import sign_region
from support.wishes import wish_of
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import attest, consent_document, read_record
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.ticket_decision import propose
from usmed.platform.keys import generate_certificate, generate_encrypted_key, public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient

PASSPHRASE = "corect cal baterie capsă"


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


@dataclass
class Server:
    """One key server; `url` is its database."""

    folder: Path
    id: str
    port: int
    url: str
    process: "subprocess.Popen[str] | None" = None
    output: list[str] = field(default_factory=list)

    def start(self, **settings: str) -> None:
        """Start it, and wait until it answers."""
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(PLUGINS), "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1",
            "USMED_DATABASE_URL": self.url, "USMED_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "USMED_KEYSERVER_ID": self.id, "USMED_PRIVATE_KEY_FILE": str(self.folder / f"{self.id}.pem"),
            "USMED_REGION_FILE": str(self.folder / "region.yaml"), "USMED_LISTEN_ADDRESS": "127.0.0.1",
            "USMED_TLS_CERTIFICATE_FILE": str(self.folder / "tls.pem"),
            "USMED_TLS_PRIVATE_KEY_FILE": str(self.folder / "tls.pem.key"), "USMED_KEYSERVER_PORT": str(self.port),
            "USMED_PATIENTS_PER_HOUR": "100000", "USMED_PATIENTS_PER_DAY": "100000", "USMED_EXCHANGE_INTERVAL_S": "1",
            **settings,
        }  # fmt: skip
        command = [sys.executable, "-m", "usmed", "keyserver", "serve"]
        log = (self.folder / f"{self.id}.log").open("a")
        # A session of its own: all of it has to be killed together.
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stderr=log, start_new_session=True,
                                        text=True)  # fmt: skip
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                self.get("/health")
                return
            except OSError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def get(self, path: str) -> bytes:
        """Return what it answers to an unsigned question."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls.pem"))
        with urllib.request.urlopen(f"https://localhost:{self.port}{path}", context=context, timeout=5) as answer:
            return bytes(answer.read())

    def kill(self) -> None:
        """Kill it as a power cut would: nothing of it gets to do anything more."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        """Stop it as a service manager does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0, self.log()

    def log(self) -> str:
        """Return what it wrote."""
        return (self.folder / f"{self.id}.log").read_text("utf-8")


@dataclass
class Hospital:
    """A hospital of that region."""

    key: OKPKey
    manifest: RegionManifest
    client: SignedClient

    def hang_up(self) -> None:
        """Close its connections; the next question opens new ones."""
        self.client.close()
        self.client = SignedClient(Identity("iasi", self.key), lambda: self.manifest, now)

    def record(self, id: str, patient: PatientIdentifier, **changes: Any) -> dict[str, Any]:
        """Return a consent on paper; `version` and `status` make it a withdrawal."""
        version = changes.pop("version", 1)
        provision = {"period": {"start": "2026-11-01", "end": f"{now() + timedelta(days=180):%Y-%m-%d}"}}
        resource = consent(patient.issuer, patient.value, provision=provision, **changes)
        document = consent_document(resource, id=id, version=version)
        return {
            "document": document,
            "proof": attest(self.key, document, hospital="iasi", staff=["ionescu", "popa"], now=now()),
        }

    def give(self, server: str, *records: dict[str, Any]) -> None:
        """Bring records; returns once they are acknowledged."""
        answer = self.client.post(server, "/v1/records", {"records": list(records), "enrolments": []}, deadline_s=10)
        assert answer == {"problems": []}

    def ticket(self, server: str, record: dict[str, Any], patient: PatientIdentifier) -> str:
        """Get a signature for a ticket; return its jti."""
        read = read_record(
            record, keys=self.manifest.key_of, credentials=lambda _: (), relying_party=None, now=now()
        )
        ticket = propose(
            jti=secrets.token_urlsafe(18), region=self.manifest.region, requester="iasi", requester_key=self.key,
            staff=STAFF, patient=frozenset([patient]), purpose=Purpose.TREAT, records=[read], enrolments=[],
            issued=now().replace(microsecond=0),
        )  # fmt: skip
        document = {"wish": wish_of(ticket.to_json()), "records": [], "enrolments": []}
        self.client.post(server, "/v1/tickets", document, deadline_s=10)
        return ticket.jti

    def held(self, server: str, patient: PatientIdentifier = CNP) -> list[tuple[str, int]]:
        """Return the consents that a server holds of a patient: ids and versions."""
        named = {"identifiers": [{"issuer": patient.issuer, "value": patient.value}]}
        found = self.client.post(server, "/v1/records/for", named, deadline_s=10)
        return [(one["document"]["id"], one["document"]["version"]) for one in found["records"]]


def install(folder: Path, urls: dict[str, str], threshold: int = 1) -> tuple[dict[str, Server], Hospital]:
    """Make keys, certificate and manifest of a region with these key servers (id to URL of the database)."""
    (folder / "passphrase").write_text(PASSPHRASE, "utf-8")
    others = (HUB, "iasi", *(f"{one}-admin" for one in urls))
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in others}
    keys |= {name: generate_encrypted_key(folder / f"{name}.pem", PASSPHRASE) for name in urls}
    generate_certificate("localhost", certificate=folder / "tls.pem", key=folder / "tls.pem.key", now=now())
    certificate = (folder / "tls.pem").read_text("ascii")
    public = {name: public_key_text(key) for name, key in keys.items()}
    servers = {name: Server(folder, name, free_port(), url) for name, url in urls.items()}
    manifest = {
        "version": 1, "region": "moldova", "name": "Moldova", "issued": "2026-11-21T10:00:00Z", "threshold": threshold,
        "hub": {"address": "https://localhost:8443", "public_key": public[HUB]},
        "hospitals": [{"id": "iasi", "name": "Iași", "address": "https://iasi:8043", "public_key": public["iasi"],
                       "issuers": ["BACAU", "RO-CNP"]}],
        "key_servers": [
            {"id": one.id, "name": one.id, "address": f"https://localhost:{one.port}", "public_key": public[one.id],
             "tls_certificate": certificate,
             "administrator": {"name": one.id, "public_key": public[f"{one.id}-admin"]}}
            for one in servers.values()
        ],
    }  # fmt: skip
    manifest["expires"] = "2100-01-01T00:00:00Z"
    administrators = {one: keys[f"{one}-admin"] for one in urls}
    (folder / "region.yaml").write_bytes(sign_region(manifest, administrators))
    region = load_region(folder / "region.yaml")
    client = SignedClient(Identity("iasi", keys["iasi"]), lambda: region, now)
    return servers, Hospital(keys["iasi"], region, client)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
