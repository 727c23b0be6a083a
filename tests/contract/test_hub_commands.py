"""The commands of the hub's staff, with settings from the environment, as they are run."""

import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa

from contract.hub_region import ADMINISTRATORS, CNP, Clock, attested, consent, key_server, study
from support.signed_region import sign_region
from usmed.__main__ import main
from usmed.domain.consent_record import consent_document
from usmed.hub.locator import Locator
from usmed.hub.registry import Registry
from usmed.hub.tables import CHAIN
from usmed.platform.keys import load_private_key, public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.storage import open_database

PLUGINS = Path(__file__).parents[2] / "plugins"
HOW_TO = Path(__file__).parents[2] / "docs/how-to/record-consent.md"


@dataclass
class Result:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Commands:
    """Runs `usmed` in a folder with a region of two hospitals and the hub's key."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str | Path) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with (
            chdir(self.folder),
            patch.dict(os.environ, self.environment, clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                code = main([str(one) for one in arguments])
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Result(code, out.getvalue(), err.getvalue())

    def write(self, name: str, document: Any) -> Path:
        path = self.folder / name
        path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
        return path

    def database_url(self) -> str:
        return self.environment["USMED_DATABASE_URL"]


@pytest.fixture
def usmed(tmp_path: Path, database_url: str) -> Commands:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PLUGINS), "LC_ALL": "C.UTF-8"}
    commands = Commands(tmp_path, environment)
    names = ("h", "iasi", "bacau")
    keys = {name: commands("keys", "generate", "--out", tmp_path / f"{name}.key").stdout.strip() for name in names}
    manifest = {
        "version": 1,
        "region": "moldova",
        "name": "Regiunea Moldova (demonstrație)",
        "issued": "2026-11-21T10:00:00Z",
        "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
        "hub": {"address": "https://localhost:8443", "public_key": keys["h"]},
        "hospitals": [
            {"id": name, "name": name, "address": f"https://{name}:8043", "public_key": keys[name], "issuers": [issuer]}
            for name, issuer in (("iasi", "SF-SPIRIDON"), ("bacau", "BACAU"))
        ],
        **key_server(),
    }
    region = tmp_path / "region.json"
    region.write_bytes(sign_region(manifest, ADMINISTRATORS))
    environment["USMED_REGION_FILE"] = str(region)
    environment["USMED_PRIVATE_KEY_FILE"] = str(tmp_path / "h.key")
    environment["USMED_DATABASE_URL"] = database_url
    return commands


def bring(usmed: Commands, *documents: dict[str, Any]) -> None:
    """Let the hub take in consents that a hospital attests."""
    database = open_database(usmed.database_url(), [CHAIN])
    region, clock = load_region(usmed.folder / "region.json"), Clock()
    keys = {name: load_private_key(usmed.folder / f"{name}.key") for name in region.hospitals}
    records = [attested(region, keys, one, clock()) for one in documents]
    try:
        assert Registry(database, lambda: region, clock).take("bacau", records) == []
    finally:
        database.close()


def test_consents_are_listed_with_what_they_say(usmed: Commands) -> None:
    given = consent("RO-CNP", CNP, to="bacau")
    bring(
        usmed,
        consent_document(given, id="consent-1", version=1),
        consent_document(consent("BACAU", "9", type="deny"), id="consent-2", version=1),
    )
    listed = usmed("consent", "list", "--patient", f"RO-CNP:{CNP}")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert re.fullmatch(r"    on paper, recorded at iasi, here since 20[-\d]{8} [:\d]{5} UTC; no scan", lines.pop(1))
    assert lines == [
        f"consent-1 version 1 active RO-CNP:{CNP}",
        "    until 2027-11-01 00:00 UTC",
        "    permit: to bacau; for TREAT",
    ]
    lines = usmed("consent", "list", "--json").stdout.splitlines()
    assert [json.loads(one)["id"] for one in lines] == ["consent-1", "consent-2"]
    assert json.loads(lines[0])["resource"] == given
    bring(usmed, consent_document({**given, "status": "inactive"}, id="consent-1", version=2))
    assert usmed("consent", "list").stdout.startswith(f"consent-1 version 2 inactive RO-CNP:{CNP}\n")
    events = [json.loads(one) for one in usmed("audit", "tail", "--patient", f"RO-CNP:{CNP}").stdout.splitlines()]
    assert [(one["detail"]["what"], one["detail"]["version"]) for one in events] == [("recorded", 1), ("withdrawn", 2)]
    assert events[0]["agent"] == "bacau"


@pytest.mark.parametrize("action", ["record", "withdraw"])
def test_whoever_runs_the_hub_writes_no_consents(usmed: Commands, action: str) -> None:
    file = usmed.write("da.json", consent("RO-CNP", CNP))
    assert usmed("consent", action, file).returncode == 2
    assert usmed("consent", "list").stdout == ""


def test_the_how_to_does_what_it_says(usmed: Commands) -> None:
    text = HOW_TO.read_text("utf-8")
    resource = json.loads(text.split("```json\n")[1].split("```")[0])
    bring(usmed, consent_document(resource, id="6f0c1a5e-8d0b-4f0e-9a37-1f1f0f6b7a55", version=1))
    command, *shown = text.split("```\nusmed ")[1].split("```")[0].splitlines()
    first, paper, *others = usmed(*command.split()).stdout.splitlines()
    assert [first, *others] == [shown[0], *shown[2:]]
    # Who recorded it, when and from which scan is another matter each time.
    assert re.sub("at .*; .*", "", paper) == re.sub("at .*; .*", "", shown[1]) == "    on paper, recorded "


def test_contradictions_are_shown_to_a_person(usmed: Commands) -> None:
    region = load_region(usmed.folder / "region.json")
    database = open_database(usmed.database_url(), [CHAIN])
    locator = Locator(database, lambda: region, Clock())
    locator.feed(region.hospitals["iasi"], [study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP))], [])
    locator.feed(region.hospitals["bacau"], [study("2.1", ("BACAU", "9"), ("RO-CNP", CNP), sex="F")], [])
    database.close()
    result = usmed("patients", "contradictions")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        f"2026-11-21 10:00 RO-CNP:{CNP}: not a valid national number, or it does not fit the birth date and sex",
        f"    kept apart: bacau, BACAU:9, RO-CNP:{CNP}, born 19630615, sex F",
        "1 contradiction(s)",
    ]


def test_candidates_are_shown_and_decided_and_undone(usmed: Commands) -> None:
    region = load_region(usmed.folder / "region.json")
    database = open_database(usmed.database_url(), [CHAIN])
    locator = Locator(database, lambda: region, Clock())
    locator.feed(region.hospitals["iasi"], [study("1.1", ("SF-SPIRIDON", "7"), name="Ştefan^Ion")], [])
    locator.feed(region.hospitals["bacau"], [study("2.1", ("BACAU", "9"), name="STEFAN ION")], [])
    database.close()
    one = "chart 1 of person 1: Ştefan^Ion, iasi, SF-SPIRIDON:7, born 19630615, sex M"
    other = "chart 2 of person 2: STEFAN ION, bacau, BACAU:9, born 19630615, sex M"
    assert [line.strip() for line in usmed("patients", "candidates").stdout.splitlines()] == [
        "100 of 100", one, other, "1 pair(s) wait for a decision",
    ]  # fmt: skip
    who = ("--by", "Maria Ionescu", "--reason", "identity card")
    assert usmed("patients", "link", "1", "2").returncode == 2, "a decision needs a person and a reason"
    linked = usmed("patients", "link", "1", "2", *who)
    assert (linked.returncode, linked.stderr) == (0, "")
    assert linked.stdout.splitlines()[1:] == [
        "    one: iasi, SF-SPIRIDON:7, born 19630615, sex M",
        "    other: bacau, BACAU:9, born 19630615, sex M",
    ]
    assert usmed("patients", "show", "BACAU:9").stdout.startswith("    chart 2 of person 1: STEFAN ION")
    assert usmed("patients", "show", "2").stdout.endswith("2 chart(s) of 1 person(s)\n")
    assert usmed("patients", "candidates").stdout == "0 pair(s) wait for a decision\n"
    again = usmed("patients", "link", "1", "2", *who)
    assert again.returncode != 0
    assert "one person already" in again.stderr
    assert usmed("patients", "undo", "1", *who).returncode == 0
    assert usmed("patients", "different", "1", "2", *who).returncode == 0
    assert usmed("patients", "unlink", "1", *who).returncode != 0
    heads = [line for line in usmed("patients", "history").stdout.splitlines() if not line.startswith(" ")]
    assert [line.split("UTC  ")[1].partition(",")[0] for line in heads] == [
        "different", "undo of 1", "link (undone by 2)",
    ]  # fmt: skip
    assert usmed("patients", "history", "1").stdout.splitlines()[0] == heads[2]
    assert "tefan" not in usmed("audit", "tail").stdout


def test_a_registrar_is_invited_by_name(usmed: Commands) -> None:
    made = usmed("registrar", "invite", "Maria Ionescu")
    assert made.returncode == 0, made.stderr
    address, code = made.stdout.splitlines()
    assert address == "https://localhost:8443/registrar/register", "this region has no portal"
    assert re.fullmatch(r"([0-9A-Z]{4}-){3}[0-9A-Z]{4}", code)
    assert usmed("registrar", "invite", " ").returncode != 0
    assert usmed("registrar", "passkeys").stdout == ""
    assert "no passkey" in usmed("registrar", "passkeys", "--remove", "00").stderr
    (event,) = [json.loads(one) for one in usmed("audit", "tail").stdout.splitlines()]
    assert event["detail"] == {"what": "registrar code made", "for": "Maria Ionescu"}
    assert code not in str(event)


def test_audit_verify_says_unbroken_or_where_it_broke(usmed: Commands) -> None:
    for number in (7, 8, 9):
        bring(usmed, consent_document(consent("BACAU", str(number)), id=f"consent-{number}", version=1))
    good = usmed("audit", "verify")
    assert good.returncode == 0
    assert good.stdout.startswith("3 record(s), head ")
    assert good.stdout.endswith(", unbroken\n")
    database = open_database(usmed.database_url(), [])
    with database.write() as connection:
        connection.execute(
            sa.text("UPDATE audit_record SET content = replace(content, 'BACAU:8', 'BACAU:7') WHERE sequence = 2")
        )
    database.close()
    bad = usmed("audit", "verify")
    assert bad.returncode == 1
    assert bad.stderr.startswith("usmed: broken at record 2: the record was altered")


def test_audit_verify_does_not_call_a_missing_log_unbroken(usmed: Commands) -> None:
    result = usmed("audit", "verify", "--database", usmed.folder / "none.db")
    assert result.returncode == 2
    assert "does not exist" in result.stderr
    assert not (usmed.folder / "none.db").exists()
    del usmed.environment["USMED_DATABASE_URL"]
    assert "name it with --database" in usmed("audit", "verify").stderr


def test_keys_are_never_overwritten(usmed: Commands) -> None:
    again = usmed("keys", "generate", "--out", usmed.folder / "h.key")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    region = load_region(usmed.folder / "region.json")
    assert usmed("keys", "public", usmed.folder / "h.key").stdout.strip() == public_key_text(region.hub.key)


def test_region_check_lists_members_or_every_fault(usmed: Commands) -> None:
    good = usmed("region", "check", usmed.folder / "region.json")
    assert good.returncode == 0
    assert "Regiunea Moldova (demonstrație)" in good.stdout
    assert "numbers of SF-SPIRIDON: iasi" in good.stdout
    bad = usmed("region", "check", usmed.write("bad.yaml", "version: 0\nhub: {}\nmore: 1\nhospitals: []\n"))
    assert bad.returncode == 2
    for path in ("$.version", "$.more", "$.hub.public_key", "$.hospitals"):
        assert path in bad.stderr


def test_every_command_has_help(usmed: Commands) -> None:
    for command in (
        "",
        "hub",
        "keys generate",
        "keys certificate",
        "region check",
        "audit verify",
        "audit tail",
        "consent list",
        *(f"patients {one}" for one in ("contradictions", "candidates", "show", "link", "different", "unlink", "undo")),
        "patients history",
        "registrar invite",
        "registrar passkeys",
    ):
        result = usmed(*command.split(), "--help")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("usage: usmed")


def test_the_hub_refuses_wrong_settings_all_at_once(usmed: Commands) -> None:
    usmed.environment |= {
        "USMED_PRIVATE_KEY_FILE": str(usmed.folder / "iasi.key"),
        "USMED_MAXIMUM_BODY_BYTES": "many",
        "USMED_DATABASE_URL_FILE": "/nowhere",
    }
    result = usmed("hub")
    assert result.returncode == 2
    assert "is not the region's hub's" in result.stderr
    assert "USMED_MAXIMUM_BODY_BYTES" in result.stderr
    assert "USMED_DATABASE_URL and USMED_DATABASE_URL_FILE are both given" in result.stderr


def test_the_hub_serves_over_tls_and_stops_on_sigterm(usmed: Commands, unused_port: Callable[[], int]) -> None:
    assert usmed("keys", "certificate", "--host", "localhost", "--out", usmed.folder / "tls.pem").returncode == 0
    port = unused_port()
    environment = {
        **usmed.environment,
        "USMED_TLS_CERTIFICATE_FILE": str(usmed.folder / "tls.pem"),
        "USMED_TLS_PRIVATE_KEY_FILE": str(usmed.folder / "tls.pem.key"),
        "USMED_HUB_PORT": str(port),
    }
    context = ssl.create_default_context(cafile=str(usmed.folder / "tls.pem"))
    process = subprocess.Popen([sys.executable, "-m", "usmed", "hub"], cwd=usmed.folder, env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"https://localhost:{port}/health", context=context, timeout=5) as answer:
                    assert json.load(answer)["status"] == "ok"
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    events = [json.loads(one) for one in usmed("audit", "tail").stdout.splitlines()]
    assert [one["detail"]["what"] for one in events] == ["region manifest", "started", "stopped"]


@pytest.fixture
def unused_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
