"""`usmed region …` as administrators run it: a whole ceremony, with the hub and a key server as processes."""

import argparse
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from usmed.__main__ import main
from usmed.platform.commands_region import add_commands
from usmed.platform.region_file import load_region

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference/region-manifest.md"
SERVERS = ["keys-1", "keys-2", "keys-3"]


@dataclass
class Desk:
    """The machine where manifests are made: a folder, and nothing else."""

    folder: Path
    processes: bool = False
    """Whether each step of the ceremony is a process of its own, as for its users; it takes half a second longer."""

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "plugins"), "LC_ALL": "C.UTF-8"}

    def run(self, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        if not self.processes or arguments[0] != "region" or arguments[1] == "administrator-key":
            return self._run_here([str(one) for one in arguments], {**self.environment, **environment})
        return subprocess.run(
            [sys.executable, "-m", "usmed", *map(str, arguments)],
            env={**self.environment, **environment}, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip

    def _run_here(self, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            chdir(self.folder),
            patch.dict(os.environ, environment, clear=True),
            patch.object(sys, "stdin", io.StringIO()),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                code = main(arguments)
            except SystemExit as ended:
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def __call__(self, *arguments: Any) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: Any, code: int = 2) -> str:
        before = self.files()
        done = self.run(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert self.files() == before
        return done.stderr

    def files(self) -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in self.folder.iterdir() if one.is_file()}

    def administrator(self, name: str) -> str:
        """Make an administrator's key; return its public half."""
        (self.folder / f"{name}.passphrase").write_text(f"the passphrase of {name}\n", "utf-8")
        made = self("region", "administrator-key", "--out", f"{name}.key", "--passphrase-file", f"{name}.passphrase")
        return made.strip()

    def sign(self, file: str, name: str, *more: str) -> list[str]:
        return [
            *("region", "sign", file, "--key", f"{name}.key", "--as", name),
            *("--passphrase-file", f"{name}.passphrase", "--yes", *more),
        ]

    def key(self, name: str) -> str:
        return self("keys", "generate", "--out", f"{name}.pem").strip()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def found(desk: Desk, hub_port: int = 8443, key_port: int = 8044) -> None:
    """Make version 1 with three key servers, signed by two, as region-1.json."""
    desk("keys", "certificate", "--host", "localhost", "--out", "tls.pem")
    hub = ["--hub-address", f"https://localhost:{hub_port}", "--hub-key", desk.key("hub")]
    said = desk(
        *("region", "init", "--region", "moldova", "--name", "Regiunea Moldova", "--national-number", "RO-CNP", *hub),
        *("--hub-certificate", "tls.pem", "--threshold", 2, "--days", 90, "--out", "region-1.json"),
    )
    assert "not complete yet: $.hospitals: names no hospital" in said
    for number, name in enumerate(SERVERS):
        (desk.folder / "s.passphrase").write_text("the server's passphrase\n", "utf-8")
        made = desk.run("keyserver", "key", "--out", f"{name}.pem", USMED_PASSPHRASE_FILE="s.passphrase")
        desk(
            *("region", "add-key-server", "region-1.json", "--id", name, "--name", f"Cheia {name}"),
            *("--address", f"https://localhost:{key_port + number}", "--key", made.stdout.strip()),
            *("--certificate", "tls.pem", "--administrator", f"A. {name}"),
            *("--administrator-key", desk.administrator(name)),
        )
    desk(
        *("region", "add-hospital", "region-1.json", "--id", "iasi", "--name", "Sf. Spiridon", "--issuer", "SPIRIDON"),
        *("--address", "https://iasi:8043", "--key", desk.key("iasi"), "--issuer", "SF-MARIA"),
    )
    desk(*desk.sign("region-1.json", "keys-1"))
    desk(*desk.sign("region-1.json", "keys-3"))


def test_a_whole_ceremony(desk: Desk, tmp_path: Path) -> None:
    hub_port, key_port = free_port(), free_port()
    desk.processes = True
    found(desk, hub_port, key_port)
    assert "valid: the first version" in desk("region", "verify", "region-1.json")
    desk.processes = False
    assert load_region(desk.folder / "region-1.json").hospitals["iasi"].issuers == ("SPIRIDON", "SF-MARIA")

    desk(
        *("region", "add-hospital", "region-1.json", "--out", "region-2.json", "--id", "bacau", "--name", "Bacău"),
        *("--address", "https://bacau:8043", "--key", desk.key("bacau"), "--issuer", "BACAU"),
    )
    shown = desk(*desk.sign("region-2.json", "keys-1", "--previous", "region-1.json"))
    assert "+ hospital bacau: name Bacău; address https://bacau:8043" in shown
    assert "still needed: 1 of keys-2, keys-3" in shown
    digest = re.search(r"^SHA-256 ([0-9a-f]{64})$", shown, re.MULTILINE)
    assert digest is not None
    unfinished = desk.run("region", "verify", "region-2.json", "--previous", "region-1.json")
    assert (unfinished.returncode, "has 1 of the 2 signatures" in unfinished.stderr) == (1, True)
    with running_hub(desk, tmp_path, hub_port), running_key_server(desk, tmp_path, key_port) as audit:
        eventually(lambda: versions(audit()) == [1])
        refused = desk.refused("region", "publish", "region-2.json", code=1)
        assert "it has 1 of the 2 signatures that it needs" in refused
        desk(*desk.sign("region-2.json", "keys-2", "--previous", "region-1.json"))
        assert digest[1] in desk("region", "verify", "region-2.json", "--previous", "region-1.json")
        desk.processes = True
        assert desk("region", "publish", "region-2.json") == "the hub uses version 2\n"
        desk.processes = False
        assert desk("region", "publish", "region-1.json", "region-2.json") == "the hub uses version 2\n"
        # The key server asks the hub, and was not restarted.
        eventually(lambda: versions(audit()) == [1, 2])

        desk("region", "renew", "region-2.json", "--days", "30", "--out", "other.json")
        for name in ("keys-2", "keys-3"):
            desk(*desk.sign("other.json", name, "--previous", "region-2.json"))
        desk("region", "remove-hospital", "region-2.json", "--id", "iasi", "--out", "region-3.json")
        for name in ("keys-2", "keys-3"):
            desk(*desk.sign("region-3.json", name, "--previous", "region-2.json"))
        assert desk("region", "publish", "region-3.json") == "the hub uses version 3\n"
        # Another version 3, properly signed: the hub has one already.
        assert "is another than the one believed before" in desk.refused("region", "publish", "other.json", code=1)
        eventually(lambda: versions(audit()) == [1, 2, 3])
    assert "was not reached" in desk.refused("region", "publish", "region-3.json", code=1)


def test_a_key_server_is_rotated_and_one_replaced(desk: Desk) -> None:
    found(desk)
    new = desk.key("new")
    desk("region", "rotate-key-server", "region-1.json", "--id", "keys-2", "--key", new, "--out", "region-2.json")
    desk("region", "rotate-key-server", "region-2.json", "--id", "keys-2", "--address", "https://elsewhere:8044")
    shown = desk("region", "show", "region-2.json")
    assert f"https://elsewhere:8044, key {new}" in shown
    assert "a draft: nobody has signed it" in shown
    for name in ("keys-1", "keys-3"):
        desk(*desk.sign("region-2.json", name, "--previous", "region-1.json"))
    # keys-1 and its administrator are lost: the other two let another in.
    desk("region", "remove-key-server", "region-2.json", "--id", "keys-1", "--out", "region-3.json")
    desk(
        *("region", "add-key-server", "region-3.json", "--id", "keys-4", "--name", "Cheia 4", "--key", desk.key("k4")),
        *("--administrator-key", desk.administrator("keys-4"), "--address", "https://k4:8044", "--administrator", "A."),
    )
    desk(*desk.sign("region-3.json", "keys-4", "--previous", "region-2.json"))
    desk(*desk.sign("region-3.json", "keys-2", "--previous", "region-2.json"))
    chain = ["--previous", "region-1.json", "region-2.json"]
    refused = desk.run("region", "verify", "region-3.json", *chain)
    assert "signed by 2 of 2 administrators of version 3: keys-2, keys-4" in refused.stdout
    assert "still needed: 1 of keys-1, keys-3" in refused.stdout
    assert refused.returncode == 1
    desk(*desk.sign("region-3.json", "keys-3", "--previous", "region-2.json"))
    assert "valid: it follows version 2" in desk("region", "verify", "region-3.json", *chain)
    # An administrator's key changes: his last signature by the old one, his first by the new one.
    desk(
        *("region", "rotate-key-server", "region-3.json", "--id", "keys-2", "--out", "region-4.json"),
        *("--administrator", "Altcineva", "--administrator-key", desk.administrator("second")),
    )
    both = ["--previous", "region-3.json"]
    desk(*desk.sign("region-4.json", "keys-2", *both))
    desk("region", "sign", "region-4.json", "--key", "second.key", "--as", "keys-2", "--passphrase-file",
         "second.passphrase", "--yes", *both)  # fmt: skip
    shown = desk(*desk.sign("region-4.json", "keys-3", *both))
    assert shown.endswith(
        "signed by 2 of 2 administrators of version 4: keys-2, keys-3\n"
        "signed by 2 of 2 administrators of version 3: keys-2, keys-3\n"
    )
    desk("region", "set-threshold", "region-4.json", "3", "--out", "region-5.json")
    shown = desk(*desk.sign("region-5.json", "keys-3", "--previous", "region-4.json"))
    assert "~ region: threshold 2 -> 3" in shown
    assert "signed by 1 of 3 administrators of version 5" in shown


def test_a_portal_is_set_changed_and_removed(desk: Desk) -> None:
    found(desk)
    assert "\nportal: none\n" in desk("region", "show", "region-1.json")
    set_portal = ["region", "set-portal", "region-1.json"]
    said = desk(*set_portal, "https://portal.example", "--out", "region-2.json")
    assert "~ region: portal none -> https://portal.example" in said
    said = desk("region", "set-portal", "region-2.json", "https://Portal.example:443")
    assert "~ region: portal https://portal.example -> https://Portal.example:443" in said
    for name in ("keys-1", "keys-3"):
        shown = desk(*desk.sign("region-2.json", name, "--previous", "region-1.json"))
        assert "~ region: portal none -> https://Portal.example:443" in shown
    assert "\nportal: https://portal.example\n" in desk("region", "check", "region-2.json")
    assert load_region(desk.folder / "region-2.json").portal == "https://portal.example"
    for wrong in ("https://192.0.2.7:8443", "https://portal.example/portal", "http://portal.example"):
        refused = desk.refused(*set_portal, wrong, "--out", "region-3.json")
        assert "$.portal.address: must be https://NAME[:PORT]" in refused
    said = desk("region", "remove-portal", "region-2.json", "--out", "region-3.json")
    assert "~ region: portal https://Portal.example:443 -> none" in said
    assert "there is no portal" in desk.refused("region", "remove-portal", "region-3.json")


def test_what_must_not_be_signed_or_overwritten(desk: Desk) -> None:
    found(desk)
    desk("region", "renew", "region-1.json", "--days", "10", "--out", "region-2.json")
    previous = ["--previous", "region-1.json"]
    refused: list[tuple[list[str], str]] = [
        (["region", "renew", "region-1.json", "--out", "region-2.json"], "exists already"),
        (["region", "renew", "region-1.json"], "name the new file with --out"),
        (["region", "renew", "nothing.json", "--out", "x"], "nothing.json: 1 problem"),
        (["region", "renew", "region-1.json", "--out", "none/x.json"], "cannot be written"),
        (desk.sign("region-2.json", "keys-1"), "name the one before with --previous"),
        (desk.sign("region-1.json", "keys-1"), "keys-1 has signed already"),
        (desk.sign("region-2.json", "keys-1", "--previous", "region-2.json"), "is a draft, which nobody has signed"),
        (["region", "sign", "region-2.json", "--key", "keys-1.key", "--as", "keys-2", "--passphrase-file",
          "keys-1.passphrase", "--yes", *previous], "is not the key of the administrator of 'keys-2'"),
        (["region", "sign", "region-2.json", "--key", "keys-1.key", "--as", "keys-1", "--passphrase-file",
          "keys-2.passphrase", "--yes", *previous], "cannot be opened with this passphrase"),
        (["region", "sign", "region-2.json", "--key", "keys-1.key", "--as", "keys-1", *previous], "no terminal"),
        (desk.sign("region-2.json", "keys-1", *previous)[:-3] + previous, "there is no terminal to ask at"),
        (["region", "administrator-key", "--out", "keys-1.key", "--passphrase-file", "keys-1.passphrase"], "exists"),
        (["region", "remove-hospital", "region-2.json", "--id", "x"], "there is no hospital 'x' (there is: iasi)"),
        (["region", "add-hospital", "region-2.json", "--id", "B!", "--name", "B", "--address", "x", "--key", "y",
          "--issuer", "I"], "region-2.json (not written): 3 problem(s)"),
        (["region", "set-threshold", "region-2.json", "two"], "invalid int value"),
        (["region", "renew", "region-2.json", "--days", "0"], "must be 1 to 3650"),
        (["region", "check", "region-2.json"], "has to be signed by the administrators"),
    ]  # fmt: skip
    for arguments, reason in refused:
        assert reason in desk.refused(*arguments), arguments
    assert "a draft, which nobody has signed" in desk.refused("region", "verify", "region-2.json", code=1)
    desk(*desk.sign("region-2.json", "keys-1", *previous))
    assert "has 1 of the 2 signatures" in desk.refused("region", "renew", "region-2.json", "--out", "x.json", code=1)
    desk("region", "renew", "region-1.json", "--out", "region-2.json", "--replace")
    # Somebody puts another threshold under the signatures.
    signed = json.loads((desk.folder / "region-1.json").read_text())
    other = json.loads((desk.folder / "region-2.json").read_text())
    assert other["version"] == 2
    (desk.folder / "region-1.json").write_text(json.dumps({**signed, "payload": signed["payload"][:-4] + "AAAA"}))
    assert "region-1.json: 1 problem" in desk.refused("region", "verify", "region-1.json")


def test_a_public_key_may_look_like_an_option(desk: Desk) -> None:
    for key in ("-" + "A" * 42, "--" + "A" * 41):
        hub = ["--hub-address", "https://hub:8443", "--hub-key", key]
        desk("region", "init", "--region", "r", "--name", "R", *hub, "--out", "region.json", "--replace")
        document = json.loads((desk.folder / "region.json").read_text())
        assert document["hub"]["public_key"] == key


def test_a_region_without_key_servers_is_none(desk: Desk) -> None:
    hub = ["--hub-address", "https://hub:8443", "--hub-key", desk.key("hub")]
    desk("region", "init", "--region", "r", "--name", "R", *hub, "--out", "region.json")
    member = ["--address", "https://iasi:8043", "--key", desk.key("iasi"), "--issuer", "I"]
    desk("region", "add-hospital", "region.json", "--id", "iasi", "--name", "Iași", *member)
    for command in (("check", "region.json"), ("sign", "region.json", "--key", "hub.pem", "--as", "x", "--yes")):
        assert "$.key_servers: names no key server" in desk.refused("region", *command)
    # A hand-written one, as regions had it before, is made into a draft, and not without saying where to.
    document = json.loads((desk.folder / "region.json").read_text())
    for name in ("expires", "key_servers"):
        del document[name]
    (desk.folder / "region.yaml").write_text("# ours\n" + yaml.safe_dump(document), "utf-8")
    assert "name the new file with --out" in desk.refused("region", "renew", "region.yaml")
    assert "$.key_servers: is missing" in desk("region", "renew", "region.yaml", "--days", "90", "--out", "next.json")


# ---- processes ----


@contextmanager
def running(desk: Desk, environment: dict[str, str], *command: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "usmed", *command], cwd=desk.folder, env={**desk.environment, **environment}
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@contextmanager
def running_hub(desk: Desk, folder: Path, port: int) -> Iterator[None]:
    environment = {
        "USMED_DATABASE_URL": f"sqlite:///{folder}/hub.db", "USMED_REGION_FILE": "region-1.json",
        "USMED_PRIVATE_KEY_FILE": "hub.pem",
        "USMED_TLS_CERTIFICATE_FILE": "tls.pem", "USMED_TLS_PRIVATE_KEY_FILE": "tls.pem.key",
        "USMED_HUB_PORT": str(port),
    }  # fmt: skip
    with running(desk, environment, "hub"):
        eventually(lambda: connects(port))
        yield


@contextmanager
def running_key_server(desk: Desk, folder: Path, port: int) -> Iterator[Callable[[], list[Any]]]:
    """Start keys-1; yield what reads its audit log."""
    url = f"sqlite:///{folder}/keys-1.db"
    environment = {
        "USMED_DATABASE_URL": url, "USMED_REGION_FILE": "region-1.json",
        "USMED_PRIVATE_KEY_FILE": "keys-1.pem",
        "USMED_TLS_CERTIFICATE_FILE": "tls.pem", "USMED_TLS_PRIVATE_KEY_FILE": "tls.pem.key",
        "USMED_KEYSERVER_ID": "keys-1", "USMED_PASSPHRASE_FILE": "s.passphrase", "USMED_LISTEN_ADDRESS": "127.0.0.1",
        "USMED_KEYSERVER_PORT": str(port), "USMED_REGION_POLL_S": "1",
    }  # fmt: skip

    def audit() -> list[Any]:
        said = desk._run_here(["audit", "tail", "--database", url], desk.environment).stdout
        return [json.loads(line) for line in said.splitlines()]

    with running(desk, environment, "keyserver", "serve"):
        eventually(lambda: connects(port))
        yield audit


def versions(events: list[Any]) -> list[int]:
    return [one["detail"]["version"] for one in events if one["event"] == "configuration"]


def connects(port: int) -> bool:
    with ExitStack() as stack:
        try:
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
        except OSError:
            return False
        return True


def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


# ---- help ----


def actions() -> dict[str, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="usmed")
    add_commands(parser.add_subparsers())
    (region,) = (one.choices["region"] for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    (found,) = (one.choices for one in region._actions if isinstance(one, argparse._SubParsersAction))
    return dict(found)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in actions():
        with pytest.raises(SystemExit) as ended:
            main(["region", name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: usmed region {name}")


def test_the_reference_names_every_command_and_option() -> None:
    """An undocumented option fails this test, and so does one that is gone."""
    rows = re.findall(r"^\| `usmed region ([a-z-]+)([^`]*)` \|", REFERENCE.read_text("utf-8"), re.MULTILINE)
    common = set(re.findall(r"`(--[a-z-]+)", REFERENCE.read_text("utf-8").split("Every command that changes")[1]))
    documented = {name: set(re.findall(r"--[a-z-]+", usage)) for name, usage in rows}
    for name, parser in actions().items():
        options = {text for one in parser._actions for text in one.option_strings if text.startswith("--")} - {"--help"}
        if name != "init" and common <= options:
            options -= common
        assert documented.pop(name) == options, name
    assert documented == {}
