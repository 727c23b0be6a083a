"""What the image and the documents promise each other: settings are documented, compose files hold no secrets."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts" / "lib"))

from sample_data.persons import STUDIES  # noqa: E402

INSTALL = (REPOSITORY / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
COMPOSE_FILES = sorted((REPOSITORY / "docker").glob("compose.*.yaml"))


def documented() -> set[str]:
    """Return the settings in install.md's table; `_PORT` after `USMED_X_HOST` in one cell is USMED_X_PORT."""
    names = set()
    for cell in re.findall(r"^\| (`USMED_[^|]*) \|", INSTALL, re.MULTILINE):
        prefix = ""
        for name in re.findall(r"`([A-Z0-9_]+)`", cell):
            if name.startswith("_"):
                names.add(prefix + name)
            else:
                names.add(name)
                prefix = name.rpartition("_")[0]
    return names


@pytest.mark.parametrize(
    "file", ["orthanc.json", "docker/entrypoint", "docker/settings.sh", "docker/compose.hospital.yaml"]
)
def test_every_setting_is_documented(file: str) -> None:
    """An undocumented option fails this test."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    used = {name.removesuffix("_") for name in re.findall(r"\bUSMED_[A-Z0-9_]+", text)}
    # X_FILE holds the value of X; the entry point's help abbreviates the names that begin with USMED_POSTGRESQL.
    missing = {name for name in used if name not in documented() and name.removesuffix("_FILE") not in documented()}
    assert missing == set()


def test_every_documented_setting_exists() -> None:
    """And a setting that is gone leaves the table."""
    sources = [REPOSITORY / "orthanc.json", *(REPOSITORY / "docker").iterdir(), *(REPOSITORY / "plugins").rglob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in sources if file.is_file())
    assert {name for name in documented() if name not in text} == set()


def uncommented(text: str) -> str:
    """Remove // comments; none of the file's strings holds two slashes followed by a space."""
    return re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.MULTILINE)


def test_orthanc_json_is_valid_with_nothing_set() -> None:
    """With every variable unset the file is JSON, has our plugin first, and lets nobody in from outside."""
    text = (REPOSITORY / "orthanc.json").read_text(encoding="utf-8")
    configuration = json.loads(uncommented(re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda match: match[1] or "", text)))
    assert configuration["Plugins"][0].endswith("libOrthancPython.so")
    assert all(plugin.endswith(".so") for plugin in configuration["Plugins"])
    assert configuration["RemoteAccessAllowed"] is False
    assert configuration["AuthenticationEnabled"] is True
    assert configuration["PostgreSQL"]["EnableIndex"] is False


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_services_run_with_few_rights_and_without_secrets(file: Path) -> None:
    """No actor has a capability, a password in its environment, or a port on every address."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    actors = {name: service for name, service in services.items() if "profiles" not in service}
    assert len(actors) >= 2
    for service in actors.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert not [name for name in service.get("environment", {}) if re.search(r"PASSWORD$|_URL$|SECRET$", name)]
        for port in service.get("ports", []):
            assert port.startswith(
                ("127.0.0.1:", "${USMED_LAN_ADDRESS:-127.0.0.1}:", "${USMED_REGION_ADDRESS:-127.0.0.1}:")
            )


def test_the_patient_to_try_is_in_the_sample_data() -> None:
    """What scripts/demo tells people to look up is a patient of the sample region."""
    demo = (REPOSITORY / "scripts" / "demo").read_text(encoding="utf-8")
    told = set(re.findall(r"PatientID=(\w+)", demo)) | set(re.findall(r"--patient [A-Z-]+:(\w+)", demo))
    numbers = {number for study in STUDIES for _, number in study.identifiers}
    assert told
    assert told <= numbers


def test_no_key_can_enter_the_image() -> None:
    """The build context is a list of what may enter; a file left in the checkout is not on it."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert all(rule.startswith(("!", "**/")) for rule in rules[1:])


def test_the_build_sees_what_it_copies() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    seen = {one.removeprefix("!") for one in lines if one.startswith("!")}
    copied = set(re.findall(r"^COPY (\S+)", (REPOSITORY / "docker/Dockerfile").read_text(), re.M))
    assert copied
    assert copied <= seen
