"""What a key server's administrator does on its machine: decisions, codes, passkeys and settings by command line."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.test_key_servers import Installed, installed
from simulators.mail_server import mail_server
from support.region import eventually, free_port
from usmed.__main__ import main
from usmed.domain.approval import Change, Kind, Operation, State, short_digest
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.store import CHAIN, RecordStore
from usmed.platform.keys import generate_certificate
from usmed.platform.notices import Outbox
from usmed.platform.storage import Database, open_database

__all__ = ["installed"]  # a fixture

REASON = "Accident feroviar la Pașcani, 40 de răniți"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [CHAIN])
    yield opened
    opened.close()


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command has returned and printed."""

    returncode: int
    stdout: str
    stderr: str


type Run = Callable[..., Ran]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `usmed …` in this process: starting one for each takes a second."""

    def run(*arguments: str, **environment: str) -> Ran:
        given = {"USMED_DATABASE_URL": database_url, "USMED_KEYSERVER_ID": "keys-1", **environment}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        code = main(arguments)
        return Ran(code, *capsys.readouterr())

    return run


def approvals(database: Database, *, clock: Any = lambda: datetime.now(UTC)) -> Approvals:
    return Approvals(
        server="keys-1", database=database, store=RecordStore(database), outbox=Outbox(database), clock=clock
    )


def propose(database: Database, nonce: str) -> Operation:
    now = datetime.now(UTC).replace(microsecond=0)
    until = int((now + timedelta(hours=6)).timestamp())
    particulars = {"further": 40, "until": until, "reason": REASON}
    one = Operation(Kind.PATIENTS, "iasi", nonce, particulars, now, now + timedelta(hours=8))
    approvals(database).propose("iasi", one.to_json())
    return one


def test_decisions_by_command_line(run: Run, database: Database) -> None:
    assert run("keyserver", "approvals", "list").stdout == "nothing waits for a decision\n"
    one, other = propose(database, "nonce-of-operation-1"), propose(database, "nonce-of-operation-2")
    lines = run("keyserver", "approvals", "list").stdout.splitlines()
    assert sorted(line[:19] for line in lines) == sorted(short_digest(each.digest) for each in (one, other))
    shown = run("keyserver", "approvals", "show", short_digest(one.digest).lower()).stdout
    for text in (short_digest(one.digest), one.digest, one.nonce, "40", REASON, "pending", "patients-over-rate"):
        assert text in shown
    approved = run("keyserver", "approvals", "approve", short_digest(one.digest))
    assert approved.returncode == 0, approved.stderr
    assert re.search(r"state: +approved, by command line \(", approved.stdout)
    assert run("keyserver", "approvals", "refuse", other.digest).returncode == 0
    assert approvals(database).counts()[State.APPROVED] == approvals(database).counts()[State.REFUSED] == 1
    again = run("keyserver", "approvals", "approve", other.digest)
    assert again.returncode == 1
    assert "refused already, which is final" in again.stderr
    assert len(run("keyserver", "approvals", "list", "--all").stdout.splitlines()) == 2
    assert run("keyserver", "approvals", "list").stdout == "nothing waits for a decision\n"
    events = [json.loads(line) for line in run("audit", "tail").stdout.splitlines()]
    assert [event["detail"]["what"] for event in events] == ["proposed", "proposed", "approved", "refused", "approve"]
    assert all("command line (" in event["agent"] for event in events[2:])
    assert events[-1]["outcome"] == "denied"
    assert "unbroken" in run("audit", "verify").stdout


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_what_a_command_cannot_do(run: Run, tmp_path: Path) -> None:
    unknown = run("keyserver", "approvals", "approve", "0000-0000-0000-0000")
    assert (unknown.returncode, unknown.stderr) == (
        1, "usmed: there is no one operation '0000-0000-0000-0000' on this server\n",
    )  # fmt: skip
    elsewhere = run("keyserver", "approvals", "list", USMED_DATABASE_URL=f"sqlite:///{tmp_path}/none.db")
    assert elsewhere.returncode == 2
    assert "does not exist" in elsewhere.stderr
    assert not (tmp_path / "none.db").exists()
    assert "USMED_KEYSERVER_ID is not set" in run("keyserver", "approvals", "list", USMED_KEYSERVER_ID="").stderr
    assert run("keyserver", "passkeys").stdout == ""
    gone = run("keyserver", "passkeys", "--remove", "abc")
    assert (gone.returncode, gone.stderr) == (1, "usmed: there is no passkey 'abc'\n")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_a_code_is_printed_and_nothing_else(run: Run) -> None:
    made = run("keyserver", "console-code")
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}\n", made.stdout)
    tail = run("audit", "tail").stdout
    assert json.loads(tail)["detail"] == {"what": "console code made"}
    assert made.stdout.strip() not in tail


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_wrong_mail_and_console_settings_are_told_before_anything_starts(installed: Installed) -> None:
    refused = installed(
        "keyserver", "serve", USMED_SMTP_HOST="mail.example", USMED_SMTP_PORT="x", USMED_EMERGENCIES_PER_HOUR="0",
        USMED_EMERGENCIES_PER_DAY="many", USMED_CONSOLE_ADDRESS="http://keys/console",
    )  # fmt: skip
    assert refused.returncode == 2
    for name in ("SMTP_PORT", "SMTP_FROM", "SMTP_TO", "EMERGENCIES_PER_HOUR", "EMERGENCIES_PER_DAY", "CONSOLE_ADDRESS"):
        assert f"USMED_{name}" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_a_running_server_sends_what_waits(installed: Installed, database: Database, tmp_path: Path) -> None:
    certificate, port = tmp_path / "mail.pem", free_port()
    generate_certificate("localhost", certificate=certificate, key=Path(f"{certificate}.key"), now=datetime.now(UTC))
    (tmp_path / "mail-password").write_text("parola\n")
    environment = {
        **installed.environment, "USMED_KEYSERVER_PORT": str(free_port()), "USMED_SMTP_HOST": "localhost",
        "USMED_SMTP_PORT": str(port), "USMED_SMTP_FROM": "keys-1@example.org", "USMED_SMTP_TO": "ana@example.org",
        "USMED_SMTP_USER": "keys-1", "USMED_SMTP_PASSWORD_FILE": str(tmp_path / "mail-password"),
        "USMED_SMTP_CA_FILE": str(certificate),
    }  # fmt: skip
    one = propose(database, "nonce-of-operation-1")
    with mail_server(certificate, user="keys-1", password="parola", port=port) as server:
        command = [sys.executable, "-m", "usmed", "keyserver", "serve"]
        process = subprocess.Popen(command, cwd=installed.folder, env=environment)
        try:
            eventually(lambda: server.messages, 30, "the notice")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    (message,) = server.messages
    assert message["Subject"] == "[USMED keys-1] iasi asks for patients-over-rate"
    assert short_digest(one.digest) in message.get_content()
    assert Outbox(database).waiting() == (0, "")
    approvals(database).decide(one.digest, Change.REFUSE, by="test")


@pytest.mark.parametrize(("again", "code"), [("corect cal baterie", 0), ("corect cal bateria", 2)])
def test_a_new_keys_passphrase_is_typed_twice(tmp_path: Path, again: str, code: int) -> None:
    """At a terminal: one typing error would lose the key for ever."""
    out = tmp_path / "key.pem"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "usmed", "keyserver", "key", "--out", str(out)])
    shown = b""
    for prompt, typed in ((b"server's key: ", "corect cal baterie"), (b"The same again: ", again)):
        while not shown.endswith(prompt):
            shown += os.read(terminal, 1024)
        os.write(terminal, f"{typed}\n".encode())
    # What it prints has to be read, or it waits for that.
    with contextlib.suppress(OSError):
        while os.read(terminal, 1024):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    assert out.exists() == (code == 0)
