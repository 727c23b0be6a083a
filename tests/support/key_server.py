"""A key server as a real process, with an administrator of its own."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from joserfc.jwk import OKPKey

from support.process import Process, eventually, free_port
from usmed.platform.keys import generate_certificate, load_encrypted_key, public_key_text

ROOT = Path(__file__).parents[2]
PASSPHRASE = "corect cal baterie capsă"
UNLIMITED = {"USMED_PATIENTS_PER_HOUR": "1000000", "USMED_PATIENTS_PER_DAY": "10000000"}
"""Settings for a test that asks for more patients than a hospital does. What the rates refuse has tests of its own."""


class KeyServer:
    """One key server; its key is encrypted under the passphrase in a file, as an administrator would have it."""

    def __init__(
        self, server_id: str, folder: Path, address: str = "127.0.0.1", *, settings: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id, self.folder, self.address, self.port = server_id, folder, address, free_port(address)
        self.settings = dict(settings or {})
        self.certificate_file, self.tls_key_file = folder / "tls.pem", folder / "tls.key"
        self.key_file, self.passphrase_file = folder / "key.pem", folder / "passphrase"
        self.passphrase_file.write_text(PASSPHRASE, "utf-8")
        generate_certificate(address, certificate=self.certificate_file, key=self.tls_key_file, now=datetime.now(UTC))
        self.region_file = Path()
        self.public_key = self.command("keyserver", "key", "--out", str(self.key_file)).stdout.strip()
        self.administrator = OKPKey.generate_key("Ed25519", private=True)
        self.process: Process | None = None

    @property
    def key(self) -> OKPKey:
        """Return its private key, which in the world only its own process has."""
        return load_encrypted_key(self.key_file, PASSPHRASE)

    def member(self) -> dict[str, Any]:
        """Return its entry of the region manifest."""
        return {
            "id": self.id,
            "name": f"Chei {self.id}",
            "address": f"https://{self.address}:{self.port}",
            "public_key": self.public_key,
            "administrator": {
                "name": f"Administrator {self.id}",
                "public_key": public_key_text(self.administrator),
            },
            "tls_certificate": self.certificate_file.read_text(),
        }

    @property
    def environment(self) -> dict[str, str]:
        """Return its settings."""
        return {
            "PYTHONPATH": str(ROOT / "plugins"),
            "USMED_KEYSERVER_ID": self.id,
            "USMED_DATABASE_URL": f"sqlite:///{self.folder / 'usmed-keyserver.db'}",
            "USMED_REGION_FILE": str(self.region_file),
            "USMED_PRIVATE_KEY_FILE": str(self.key_file),
            "USMED_PASSPHRASE_FILE": str(self.passphrase_file),
            "USMED_TLS_CERTIFICATE_FILE": str(self.certificate_file),
            "USMED_TLS_PRIVATE_KEY_FILE": str(self.tls_key_file),
            "USMED_LISTEN_ADDRESS": self.address,
            "USMED_KEYSERVER_PORT": str(self.port),
            **self.settings,
        }

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of its administrator."""
        return subprocess.run(
            [sys.executable, "-m", "usmed", *arguments],
            env={**os.environ, **self.environment}, cwd=self.folder, check=check, capture_output=True, text=True,
        )  # fmt: skip

    def start(self, region_file: Path | None = None) -> None:
        """Start it and wait until it answers."""
        if region_file is not None:
            self.region_file = region_file
        arguments = [sys.executable, "-m", "usmed", "keyserver", "serve"]
        self.process = Process(arguments, self.folder / "keyserver.log", self.environment, self.folder)
        self.process.start()

        def ready() -> bool:
            assert self.process is not None
            assert self.process.running, f"{self.process.exit_code}: {self.process.text()[-3000:]}"
            try:
                url = f"https://{self.address}:{self.port}/health"
                return requests.get(url, timeout=2, verify=str(self.certificate_file)).status_code == 200
            except (requests.ConnectionError, requests.Timeout):
                return False

        eventually(ready, 60, f"key server {self.id}")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it."""
        return self.process.stop(how) if self.process is not None else 0

    def audit(self) -> list[dict[str, Any]]:
        """Return its last audit records."""
        from usmed.platform.audit_log import AuditLog
        from usmed.platform.storage import open_database

        database = open_database(self.environment["USMED_DATABASE_URL"], ["usmed.keyserver.migrations"])
        log = AuditLog(database)
        try:
            return log.tail(1000)
        finally:
            log.close()
            database.close()
