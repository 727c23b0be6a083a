"""A key server loses nothing that it acknowledged: not by a restart, not by kill -9, not on a full disk."""

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.key_server_process import Hospital, Server, install, now
from contract.test_key_servers import CNP
from usmed.domain.errors import RefusedError, TransportError
from usmed.domain.identifiers import PatientIdentifier
from usmed.platform.audit_log import AuditLog
from usmed.platform.secret_client import SecretClient
from usmed.platform.signed_http import Identity
from usmed.platform.storage import open_database

MEMORY_FOLDER = Path("/dev/shm")
ROUNDS = 4
SENDERS = 4


class Acknowledged:
    """What a hospital sends, and what of it was acknowledged."""

    def __init__(self, hospital: Hospital, server: str) -> None:
        self.hospital = hospital
        self.server = server
        self.records: dict[PatientIdentifier, tuple[str, int]] = {}
        self.tickets: list[str] = []
        self.refusals: list[RefusedError] = []
        self._numbers = count(1)

    def send(self) -> None:
        """Bring a consent, use it, and take it back; note each step once it is acknowledged."""
        number = next(self._numbers)
        patient, id = PatientIdentifier("BACAU", str(number)), f"consent-{number}"
        given = self.hospital.record(id, patient)
        self.hospital.give(self.server, given)
        self.records[patient] = (id, 1)
        self.tickets.append(self.hospital.ticket(self.server, given, patient))
        self.hospital.give(self.server, self.hospital.record(id, patient, version=2, status="inactive"))
        self.records[patient] = (id, 2)

    def stream(self, stop: threading.Event) -> None:
        """Send until told to stop, whatever the answers."""
        while not stop.is_set():
            try:
                self.send()
            except RefusedError as error:
                self.refusals.append(error)
            except TransportError:
                time.sleep(0.01)

    def check(self) -> None:
        """Make sure that the server has all of it."""
        for patient, (id, version) in self.records.items():
            ((found, newest),) = self.hospital.held(self.server, patient)
            # It may have more than it could say before it died.
            assert found == id
            assert newest >= version


def verify(server: Server, acknowledged: Acknowledged) -> None:
    """Check the log of a server that is stopped: unbroken, and every acknowledged step is in it."""
    database = open_database(server.url, [])
    log = AuditLog(database)
    try:
        assert log.verify().unbroken
        events = log.tail(1_000_000)
        with database.read() as connection:
            held = {(one.id, one.version) for one in connection.execute(sa.text("SELECT * FROM consent_record"))}
    finally:
        log.close()
        database.close()
    signed = {one["detail"]["jti"] for one in events if one["event"] == "decision" and one["outcome"] == "success"}
    assert set(acknowledged.tickets) <= signed
    written = {
        (one["detail"]["consent"], one["detail"]["version"])
        for one in events
        if one["event"] == "consent" and "consent" in one["detail"]
    }
    # A consent and its record in the log are there together, or neither.
    assert written == held
    for id, version in acknowledged.records.values():
        assert {(id, number) for number in range(1, version + 1)} <= written


@pytest.fixture
def installed(tmp_path: Path, database_url: str) -> Iterator[tuple[Server, Hospital]]:
    servers, hospital = install(tmp_path, {"keys-1": database_url})
    yield servers["keys-1"], hospital
    hospital.client.close()
    servers["keys-1"].stop()


def test_kill_in_the_middle_of_a_stream_loses_nothing_acknowledged(installed: tuple[Server, Hospital]) -> None:
    server, hospital = installed
    acknowledged = Acknowledged(hospital, "keys-1")
    chance = random.Random(1)
    for _ in range(ROUNDS):
        server.start()
        before = len(acknowledged.tickets)
        stop = threading.Event()
        senders = [threading.Thread(target=acknowledged.stream, args=(stop,)) for _ in range(SENDERS)]
        for one in senders:
            one.start()
        deadline = time.monotonic() + 10
        while len(acknowledged.tickets) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
        stop.set()
        for one in senders:
            one.join()
    server.start()
    acknowledged.check()
    hospital.hang_up()
    server.stop()
    verify(server, acknowledged)
    assert acknowledged.refusals == []
    assert "Traceback" not in server.log()


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    servers, hospital = install(tmp_path, {"keys-1": f"sqlite:///{tmp_path / 'keys.db'}"})
    server = servers["keys-1"]
    acknowledged = Acknowledged(hospital, "keys-1")
    server.start()
    for _ in range(3):
        acknowledged.send()
    secret = os.urandom(32)
    shares = SecretClient(Identity("iasi", hospital.key), lambda: hospital.manifest, hospital.client.post, now)
    shares.put("research", secret, nodes=["iasi"])
    # The key that opens the shares was made at the first start.
    key = tmp_path / "keys-1.pem.encryption"
    assert key.read_text("ascii").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert key.stat().st_mode & 0o077 == 0
    begun = time.monotonic()
    # With the hospital's connection still open.
    server.stop()
    assert time.monotonic() - begun < 8
    server.start()
    acknowledged.check()
    assert shares.get("iasi/research").secret == secret
    acknowledged.send()
    hospital.hang_up()
    server.stop()
    verify(server, acknowledged)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    folder = MEMORY_FOLDER / f"usmed-keyserver-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_full_disk_is_told_and_nothing_acknowledged_is_lost(tmp_path: Path, small_disk: Path) -> None:
    servers, hospital = install(tmp_path, {"keys-1": f"sqlite:///{small_disk / 'keys.db'}"})
    server = servers["keys-1"]
    acknowledged = Acknowledged(hospital, "keys-1")
    filler = small_disk / "filler"
    try:
        server.start()
        acknowledged.send()
        free = os.statvfs(small_disk)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (256 << 10))
        deadline = time.monotonic() + 20
        while len(acknowledged.refusals) < 10:
            assert time.monotonic() < deadline
            try:
                acknowledged.send()
            except RefusedError as error:
                acknowledged.refusals.append(error)
        before = len(acknowledged.records)
        assert before > 1
        assert {error.code for error in acknowledged.refusals} == {"unavailable"}
        assert all("the database" in str(error) for error in acknowledged.refusals)
        # It still says so after a while, and still answers.
        assert json.loads(server.get("/health"))["version"]
        with pytest.raises(RefusedError, match="try again later"):
            acknowledged.send()
        filler.unlink()
        for _ in range(3):
            acknowledged.send()
        assert len(acknowledged.records) == before + 3
        acknowledged.check()
        hospital.hang_up()
        server.stop()
        verify(server, acknowledged)
        assert "Traceback" not in server.log()
    finally:
        filler.unlink(missing_ok=True)
        hospital.client.close()
        with suppress(AssertionError):
            server.stop()


def test_servers_tell_each_other_over_tls_and_catch_up(tmp_path: Path, new_database_url: Callable[[], str]) -> None:
    servers, hospital = install(tmp_path, {"keys-1": new_database_url(), "keys-2": new_database_url()})
    first, second = servers.values()

    def eventually(consents: list[tuple[str, int]], server: str) -> None:
        deadline = time.monotonic() + 10
        while hospital.held(server) != consents:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    try:
        first.start()
        hospital.give("keys-1", hospital.record("consent-1", CNP))
        # At its start it asks, and does not wait for its interval.
        second.start(USMED_EXCHANGE_INTERVAL_S="3600")
        eventually([("consent-1", 1)], "keys-2")
        first.kill()
        hospital.give("keys-2", hospital.record("consent-1", CNP, version=2, status="inactive"))
        first.start()
        eventually([("consent-1", 2)], "keys-1")
        assert json.loads(first.get("/health"))["status"] == "ok"
    finally:
        hospital.client.close()
        for one in servers.values():
            one.stop()
    assert "Traceback" not in first.log() + second.log()
