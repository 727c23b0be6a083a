"""A key server loses no approval and no share that it acknowledged, and none appears that nobody sent.

As `test_key_server_durability`, for what administrators decide: over TLS, with a passkey, on a console that is killed.
"""

import json
import os
import random
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3

from contract.key_server_process import Hospital, Server, install, now
from contract.test_key_server_durability import installed, small_disk
from simulators.authenticator import Authenticator
from usmed.domain.approval import Change, Operation, State, parse_operation
from usmed.domain.errors import RefusedError, TransportError, UsmedError
from usmed.domain.secret_sharing import Release
from usmed.keyserver.console.app import DOOR
from usmed.keyserver.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.secret_client import SecretClient
from usmed.platform.signed_http import Identity
from usmed.platform.staff.access import Access
from usmed.platform.storage import open_database

__all__ = ["installed", "small_disk"]  # fixtures

ROUNDS = 3
SENDERS = 2
REASON = "Restaurarea arhivei după incendiu, proces-verbal 12"
AFTER = {Change.APPROVE: State.APPROVED, Change.REFUSE: State.REFUSED}


class Console:
    """An administrator at the console of a running server, with a passkey that outlives the server's process."""

    def __init__(self, server: Server) -> None:
        self.origin = f"https://localhost:{server.port}"
        self._pool = urllib3.PoolManager(ca_certs=str(server.folder / "tls.pem"), maxsize=SENDERS, retries=False)
        self._passkey = Authenticator(self.origin)
        self._headers = {"Origin": self.origin}
        database = open_database(server.url, [CHAIN])
        try:
            code = {"code": Access(database, lambda: datetime.now(UTC), DOOR).make_code("test"), "name": "Ana Șuteu"}
        finally:
            database.close()
        response = self._passkey.create(self._post("/register/options", code))
        self._post("/register", {**code, "response": response})
        page = self._pool.request("GET", f"{self.origin}/console/", headers=self._headers, timeout=5).data.decode()
        self._headers["X-CSRF-Token"] = re.search(r'data-csrf="([0-9a-f]{64})"', page)[1]  # type: ignore[index]

    def decide(self, digest: str, change: Change) -> None:
        """Approve or refuse; returns once it is acknowledged."""
        options = self._post(f"/approvals/{digest}/options", {"decision": change.value})
        response = self._passkey.get(options)
        self._post(f"/approvals/{digest}", {"decision": change.value, "response": response})

    def close(self) -> None:
        """Hang up."""
        self._pool.clear()

    def _post(self, path: str, document: Any) -> Any:
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            answer = self._pool.request(
                "POST", f"{self.origin}/console{path}", body=json.dumps(document), headers=headers, timeout=10
            )
        except urllib3.exceptions.HTTPError as error:
            raise TransportError(str(error)) from error
        if "Set-Cookie" in answer.headers:
            self._headers["Cookie"] = answer.headers["Set-Cookie"].partition(";")[0]
        if answer.status != 200:
            raise RefusedError(answer.json()["error"], f"{answer.json()['error']}: {answer.json()['message']}")
        return answer.json()


class Acknowledged:
    """What a hospital and an administrator do, and what of it was acknowledged; `tried`, `deciding`: begun at least."""

    def __init__(self, hospital: Hospital, console: Console) -> None:
        self.hospital, self.console = hospital, console
        self.secrets: dict[str, bytes] = {}
        self.shares: set[str] = set()
        self.tried: dict[str, Operation] = {}
        self.deciding: dict[str, Change] = {}
        self.states: dict[str, State] = {}
        self.used: set[str] = set()
        self.failures: list[str] = []
        self._numbers = count(1)

    def client(self) -> SecretClient:
        """Return the hospital's client, over its connections of now."""
        hospital = self.hospital
        return SecretClient(Identity("iasi", hospital.key), lambda: hospital.manifest, hospital.client.post, now)

    def send(self) -> None:
        """Put a secret, propose its release, have it decided, and get it if it was approved; note each step."""
        number, client = next(self._numbers), self.client()
        id = f"iasi/secret-{number}"
        self.secrets[id] = secrets.token_bytes(32)
        client.put(id.partition("/")[2], self.secrets[id], nodes=["iasi"], release=Release.APPROVAL)
        self.shares.add(id)
        standing = client.propose(id, REASON)
        digest = standing.operation.digest
        self.tried[digest] = standing.operation
        if not standing.states:
            raise TransportError(str(standing))
        self.states[digest] = standing.states["keys-1"]
        self.decide(digest, Change.REFUSE if number % 3 == 0 else Change.APPROVE)
        if self.states[digest] is State.APPROVED:
            self.get(digest)

    def decide(self, digest: str, change: Change) -> None:
        """Decide on the console."""
        self.deciding[digest] = change
        self.console.decide(digest, change)
        self.states[digest] = AFTER[change]

    def get(self, digest: str) -> None:
        """Get an approved secret."""
        client, id = self.client(), str(self.tried[digest].particulars["secret"])
        assert client.get(id, client.approvals.standing(self.tried[digest])).secret == self.secrets[id]
        self.used.add(digest)

    def stream(self, stop: threading.Event) -> None:
        """Send until told to stop, whatever the answers."""
        while not stop.is_set():
            try:
                self.send()
            except UsmedError as error:
                self.failures.append(str(error))
                time.sleep(0.01)

    def check(self) -> None:
        """Make sure that the running server has all of it: what was in flight may be there, too."""
        client = self.client()
        for digest, state in self.states.items():
            found = client.approvals.standing(self.tried[digest]).states["keys-1"]
            in_flight = {AFTER[self.deciding[digest]]} if digest in self.deciding else set()
            assert found is state or (state is State.PENDING and found in in_flight)
            if found is State.APPROVED:
                self.get(digest)
        assert self.shares <= {one.id for one in client.report()} <= set(self.secrets)

    def verify(self, server: Server) -> None:
        """Check database and log of a server that is stopped: they say the same, and nothing that nobody did."""
        database = open_database(server.url, [])
        log = AuditLog(database)
        try:
            assert log.verify().unbroken
            events = log.tail(1_000_000)
            with database.read() as connection:
                rows = connection.execute(sa.text("SELECT digest, document, state FROM approval")).all()
                used = set(connection.scalars(sa.text("SELECT digest FROM approval_use")))
                held = set(connection.scalars(sa.text("SELECT id FROM secret_share")))
        finally:
            log.close()
            database.close()
        states = {row.digest: State(row.state) for row in rows}
        assert all(parse_operation(json.loads(row.document)) == self.tried[row.digest] for row in rows)
        assert set(self.states) <= set(states)
        for digest, state in states.items():
            if state is State.PENDING:
                assert self.states.get(digest, State.PENDING) is State.PENDING
            else:
                assert AFTER[self.deciding[digest]] is state
        assert self.used <= used <= {digest for digest, state in states.items() if state is State.APPROVED}
        assert self.shares <= held <= set(self.secrets)
        # Each step and its record in the log are there together, or neither, and once.
        succeeded = [one["detail"] for one in events if (one["event"], one["outcome"]) == ("approval", "success")]
        done = Counter((one["what"], one["sha256"]) for one in succeeded)
        expected = Counter(("proposed", digest) for digest in states)
        expected += Counter((state.value, digest) for digest, state in states.items() if state is not State.PENDING)
        assert done == expected + Counter(("used", digest) for digest in used)
        given = [one["detail"] for one in events if one["event"] == "share"]
        taken_in = Counter(one["secret"] for one in given if one["what"] == "share taken in")
        assert taken_in == Counter(held)
        assert {one["operation"] for one in given if one["what"] == "share released"} == used


def test_kill_in_the_middle_of_decisions_loses_nothing_acknowledged(installed: tuple[Server, Hospital]) -> None:
    server, hospital = installed
    chance = random.Random(2)
    server.start()
    acknowledged = Acknowledged(hospital, Console(server))
    for number in range(ROUNDS):
        if number:
            server.start()
        before = len(acknowledged.used)
        stop = threading.Event()
        senders = [threading.Thread(target=acknowledged.stream, args=(stop,)) for _ in range(SENDERS)]
        for one in senders:
            one.start()
        deadline = time.monotonic() + 10
        while len(acknowledged.used) == before:
            assert time.monotonic() < deadline, acknowledged.failures[-3:]
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
        stop.set()
        for one in senders:
            one.join()
    server.start()
    acknowledged.check()
    # What was killed while it was decided can be decided now.
    for digest, state in list(acknowledged.states.items()):
        if state is State.PENDING:
            with suppress(RefusedError):
                acknowledged.decide(digest, acknowledged.deciding.get(digest, Change.APPROVE))
    assert {*acknowledged.states.values()} >= {State.APPROVED}
    stop_and_verify(server, acknowledged)
    # Nothing was refused for a reason of its own.
    codes = re.compile(r"\b(bad-request|not-permitted|needs-approval|decided|nonce-taken|unknown|exists|too-many): ")
    assert [one for one in acknowledged.failures if codes.search(one)] == []


def stop_and_verify(server: Server, acknowledged: Acknowledged) -> None:
    acknowledged.hospital.hang_up()
    acknowledged.console.close()
    server.stop()
    acknowledged.verify(server)
    assert "Traceback" not in server.log()


def test_a_full_disk_and_a_restart_lose_nothing_acknowledged(tmp_path: Path, small_disk: Path) -> None:
    servers, hospital = install(tmp_path, {"keys-1": f"sqlite:///{small_disk / 'keys.db'}"})
    server, filler = servers["keys-1"], small_disk / "filler"
    try:
        server.start()
        acknowledged = Acknowledged(hospital, Console(server))
        for _ in range(3):
            acknowledged.send()
        free = os.statvfs(small_disk)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (256 << 10))
        until(acknowledged, lambda: len(acknowledged.failures) >= 10)
        assert all("the database" in one for one in acknowledged.failures)
        # What is there can be looked at, what is to be decided cannot be decided, and that is told.
        waiting = next(iter(acknowledged.tried))
        with pytest.raises(RefusedError, match="unavailable: the database does not answer"):
            acknowledged.console.decide(waiting, Change.REFUSE)
        filler.unlink()
        before = len(acknowledged.used)
        until(acknowledged, lambda: len(acknowledged.used) >= before + 3)
        for digest, state in list(acknowledged.states.items()):
            if state is State.PENDING:
                acknowledged.decide(digest, acknowledged.deciding.get(digest, Change.REFUSE))
        assert set(acknowledged.states.values()) == {State.APPROVED, State.REFUSED}
        acknowledged.check()
        hospital.hang_up()
        server.stop()
        server.start()
        acknowledged.check()
        acknowledged.send()
        stop_and_verify(server, acknowledged)
    finally:
        filler.unlink(missing_ok=True)
        hospital.client.close()
        with suppress(AssertionError):
            server.stop()


def until(acknowledged: Acknowledged, reached: Callable[[], bool]) -> None:
    """Send until something is so."""
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline, acknowledged.failures[-3:]
        try:
            acknowledged.send()
        except UsmedError as error:
            acknowledged.failures.append(str(error))
