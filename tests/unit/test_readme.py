"""README.md says what is there: the help it shows is the scripts' own, and the files it names exist."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["demo", "test"])
def test_the_help_shown_is_the_help_printed(script: str) -> None:
    """The block after "`./scripts/X --help`:" is what the script prints."""
    shown = re.search(rf"`\./scripts/{script} --help`:\n\n```text\n(.*?)```", README, re.DOTALL)
    printed = subprocess.run([REPOSITORY / "scripts" / script, "--help"], capture_output=True, text=True, check=True)
    assert shown is not None
    assert shown[1] == printed.stdout


def test_every_file_linked_or_listed_is_there() -> None:
    """Links to files, and the table of folders."""
    named = re.findall(r"\]\(([^):]+)\)", README) + re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert len(named) > 10
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_every_script_is_listed() -> None:
    """`scripts/` in the table of folders names each of them."""
    scripts = {file.name for file in (REPOSITORY / "scripts").iterdir() if file.is_file()}
    (line,) = re.findall(r"^\| `scripts/` \| (.*) \|$", README, re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", line)) == scripts
