"""The how-tos of the desk and of emergencies: their commands as written, run by a shell against a real node."""

import hashlib
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter

from support.region import AUTH, CLERK, DOCTOR, ROOT, Hospital, Hub, Region, eventually

PAGES = ROOT / "docs" / "how-to"
ISSUER = "SF-SPIRIDON"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("how-to")
    one = Hospital("sf-spiridon", "Spitalul Sf. Spiridon", ISSUER, folder / "node")
    region = Region(folder, [one], Hub(folder / "hub"))
    try:
        region.start()
        yield one
    finally:
        region.stop()


def _commands(page: str) -> list[str]:
    """Return the page's shell commands, one by one."""
    blocks = re.findall(r"^ *```sh\n(.*?)```", (PAGES / page).read_text("utf-8"), flags=re.M | re.S)
    lines = [line for block in blocks for line in textwrap.dedent(block).splitlines()]
    return "\n".join(lines).replace("\\\n", "").replace("|\n", "| ").splitlines()


def _run(command: str, hospital: Hospital, folder: Path, shown: Mapping[str, str]) -> Any:
    """Run a command with what the page leaves to the reader: address, passwords, what an answer has shown before."""
    for name, value in {
        "http://localhost:8042": hospital.url, "--user clerk": f"--user {':'.join(CLERK)}",
        "--user admin": f"--user {':'.join(AUTH)}", "--user popa": f"--user {':'.join(DOCTOR)}",
        "--user ionescu": f"--user {':'.join(AUTH)}", **shown,
    }.items():  # fmt: skip
        command = command.replace(name, value)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout else None


def _placeholders(draft: Any) -> dict[str, str]:
    return {"/ID": f"/{draft['ID']}", '"..."': json.dumps(draft["Sha256"])}


def test_record_a_consent(hospital: Hospital, tmp_path: Path) -> None:
    page = (PAGES / "record-consent.md").read_text("utf-8")
    today = datetime.now(UTC).date()
    resource = re.findall(r"```json\n(.*?)```", page, flags=re.S)[0]
    resource = resource.replace("2026-11-21", str(today)).replace("2027-11-20", str(today + timedelta(days=364)))
    (tmp_path / "popescu.json").write_text(resource, "utf-8")
    commands = iter(_commands("record-consent.md"))
    write, scan, waiting, read, confirm, refuse, withdraw, numbers, waiting_again, confirm_again = commands
    paper = PdfWriter()
    paper.add_blank_page(595, 842)
    paper.write(tmp_path / "popescu.pdf")
    given = (tmp_path / "popescu.pdf").read_bytes()

    draft = _run(write, hospital, tmp_path, {})
    draft = _run(scan, hospital, tmp_path, _placeholders(draft))
    assert [one["Sha256"] for one in _run(waiting, hospital, tmp_path, {})] == [draft["Sha256"]]
    (tmp_path / "popescu.pdf").unlink()
    _run(read, hospital, tmp_path, _placeholders(draft))
    assert (tmp_path / "popescu.pdf").read_bytes() == given
    done = _run(confirm, hospital, tmp_path, _placeholders(draft))["Attested"]
    assert (done["Done"], done["Scan"]) == (True, hashlib.sha256(given).hexdigest())

    other = _run(write, hospital, tmp_path, {})
    assert _run(refuse, hospital, tmp_path, _placeholders(other))["Ended"]["State"] == "refused"

    # As large as it may be, through Orthanc's own HTTP server; and one byte more.
    large = _run(write, hospital, tmp_path, {})
    for size, refused in ((10 << 20, False), ((10 << 20) + 1, True)):
        (tmp_path / "popescu.pdf").write_bytes(given + b"\n" * (size - len(given)))
        if refused:
            with pytest.raises(AssertionError, match="more than 10 MB"):
                _run(scan, hospital, tmp_path, _placeholders(large))
        else:
            assert _run(scan, hospital, tmp_path, _placeholders(large))["Scan"]
    _run(refuse, hospital, tmp_path, _placeholders(large))

    back = _run(withdraw, hospital, tmp_path, _placeholders(draft))
    taken_back = _run(confirm, hospital, tmp_path, _placeholders(back))["Attested"]
    assert (taken_back["Status"], taken_back["Done"]) == ("inactive", True)

    joined = _run(numbers, hospital, tmp_path, {})
    assert [one["ID"] for one in _run(waiting_again, hospital, tmp_path, {})] == [joined["ID"]]
    assert _run(confirm_again, hospital, tmp_path, _placeholders(joined))["Attested"]["Done"]


def test_get_access_in_an_emergency(hospital: Hospital, tmp_path: Path) -> None:
    ask, waiting, confirm = _commands("emergency-access.md")
    asked = _run(ask, hospital, tmp_path, {})
    assert [one["ID"] for one in _run(waiting, hospital, tmp_path, {})] == [asked["ID"]]
    opened = _run(confirm, hospital, tmp_path, {"/ID": f"/{asked['ID']}"})
    assert opened["ConfirmedBy"] == AUTH[0]
    assert eventually(lambda: [one for one in hospital.audit() if one["event"] == "emergency"], 5, "it is recorded")
