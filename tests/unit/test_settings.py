"""The node's settings: every fault at once with its path, and orthanc.json explains every one of them."""

import json
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from usmed.domain.errors import ConfigurationError
from usmed.hospital.settings import AutomaticPull, Settings
from usmed.hospital.settings_reader import checks_passwords, modality_allows_get, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


@pytest.fixture
def federated(tmp_path: Path) -> Json:
    """A configuration of a node of a region."""
    for name in ("region.yaml", "key.pem", "tls.pem", "tls.key"):
        (tmp_path / name).touch()
    return {
        "DicomModalities": {"ct": ["CT", "10.0.0.1", 104]},
        "Usmed": {
            "Hospital": "parhon",
            "RegionFile": str(tmp_path / "region.yaml"),
            "PrivateKeyFile": str(tmp_path / "key.pem"),
            "Federation": {
                "TlsCertificateFile": str(tmp_path / "tls.pem"),
                "TlsPrivateKeyFile": str(tmp_path / "tls.key"),
            },
            "Own": {"Modalities": ["ct"]},
            "Staff": {"Users": {"ana": "radiologist"}},
        },
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"ana": "secret"},
        "Plugins": ["/p/libOrthancGdcm.so", "/p/libOrthancPython.so", "/p/libOrthancDicomWeb.so"],
    }


def problems(configuration: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refusal:
        read_settings(configuration, "orthanc.json")
    assert str(refusal.value).startswith(f"orthanc.json: {len(refusal.value.problems)} problem(s):\n  - ")
    return list(refusal.value.problems)


@pytest.mark.parametrize("configuration", [{}, {"Usmed": {}}, {"Usmed": {"Hospital": ""}}], ids=str)
def test_with_nothing_set_the_node_stands_alone(configuration: Json) -> None:
    settings = read_settings(configuration, "orthanc.json")
    assert settings == Settings()
    assert not settings.federated


def test_a_node_of_a_region(federated: Json) -> None:
    federated["Usmed"] |= {"Pull": {"Automatic": "click", "MaximumStudies": 5}, "Lookup": {"DeadlineSeconds": 2}}
    federated["Usmed"]["Foreign"] = {"Modalities": {"their-pacs": "regional"}}
    federated["DicomModalities"]["their-pacs"] = {"AET": "P", "Host": "h", "Port": 104, "AllowGet": False}
    settings = read_settings(federated, "orthanc.json")
    assert settings.federated
    assert settings.Pull.Automatic is AutomaticPull.CLICK
    assert (settings.Pull.MaximumStudies, settings.Pull.Connections) == (5, 4)
    assert settings.Lookup.DeadlineSeconds == 2
    assert settings.Foreign.Modalities == {"their-pacs": "regional"}


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({}, False),
        ({"AuthenticationEnabled": True}, True),
        ({"AuthenticationEnabled": False}, False),
        ({"RemoteAccessAllowed": True}, True),
        ({"RemoteAccessAllowed": True, "AuthenticationEnabled": False}, False),
        ({"RemoteAccessAllowed": False, "AuthenticationEnabled": True}, True),
    ],
)
def test_whether_orthanc_checks_passwords(configuration: Json, expected: bool) -> None:
    assert checks_passwords(configuration) is expected


FAULTS: list[tuple[str, Any, str]] = [
    ("Usmed", None, "Usmed: must be an object"),
    ("Usmed", [], "Usmed: must be an object"),
    ("Usmed.Hopsital", "x", "Usmed.Hopsital: unknown setting"),
    ("Usmed.hospital", "x", "Usmed.hospital: unknown setting"),
    ("Usmed.Hospital", 5, "Usmed.Hospital: must be text"),
    ("Usmed.Hospital", None, "Usmed.Hospital: must be text"),
    ("Usmed.RegionFile", "", "Usmed.RegionFile: is needed when Hospital is set"),
    ("Usmed.RegionFile", "/none/region.yaml", "Usmed.RegionFile: there is no file '/none/region.yaml'"),
    ("Usmed.PrivateKeyFile", "", "Usmed.PrivateKeyFile: is needed when Hospital is set"),
    ("Usmed.PrivateKeyFile", "/", "Usmed.PrivateKeyFile: there is no file '/'"),
    ("Usmed.Federation", 8043, "Usmed.Federation: must be an object"),
    ("Usmed.Federation.Port", "8043", "Usmed.Federation.Port: must be a whole number from 1 to 65535"),
    ("Usmed.Federation.Port", 0, "Usmed.Federation.Port: must be a whole number from 1 to 65535"),
    ("Usmed.Federation.Port", 65536, "Usmed.Federation.Port: must be"),
    ("Usmed.Federation.Port", 8043.0, "Usmed.Federation.Port: must be"),
    ("Usmed.Federation.Port", True, "Usmed.Federation.Port: must be"),
    ("Usmed.Federation.MaximumBodyBytes", 100, "Usmed.Federation.MaximumBodyBytes: must be a whole number from 4096"),
    ("Usmed.Federation.TlsPrivateKeyFile", "", "Usmed.Federation: TlsCertificateFile and TlsPrivateKeyFile go"),
    ("Usmed.Federation.Tls", "x", "Usmed.Federation.Tls: unknown setting"),
    ("Usmed.Lookup", {"DeadlineSeconds": "1.5"}, "Usmed.Lookup.DeadlineSeconds: must be a number from 0.05 to 60"),
    ("Usmed.Lookup", {"DeadlineSeconds": 0}, "Usmed.Lookup.DeadlineSeconds: must be"),
    ("Usmed.Lookup", {"DeadlineSeconds": 61}, "Usmed.Lookup.DeadlineSeconds: must be"),
    ("Usmed.Lookup", {"CircuitSeconds": -1}, "Usmed.Lookup.CircuitSeconds: must be a number from 0"),
    ("Usmed.Pull", {"Automatic": "always"}, "Usmed.Pull.Automatic: must be one of lookup, arrival, click"),
    ("Usmed.Pull", {"Automatic": ["lookup"]}, "Usmed.Pull.Automatic: must be one of"),
    ("Usmed.Pull", {"Modalities": "CT"}, "Usmed.Pull.Modalities: must be a list of text"),
    ("Usmed.Pull", {"Modalities": ["CT", 1]}, "Usmed.Pull.Modalities: must be a list of text"),
    ("Usmed.Pull", {"Connections": 0}, "Usmed.Pull.Connections: must be a whole number from 1 to 16"),
    ("Usmed.Pull", {"Connections": 17}, "Usmed.Pull.Connections: must be"),
    ("Usmed.Retention", {"GuestDays": -1}, "Usmed.Retention.GuestDays: must be a whole number from 0"),
    ("Usmed.Retention", {"AfterWithdrawal": "forget"}, "Usmed.Retention.AfterWithdrawal: must be one of delete, keep"),
    ("Usmed.Retention", {"AfterWithdrawal": "keep"}, "Usmed.Retention.LegalBasis: must say by which law"),
    ("Usmed.Retention", {"AfterWithdrawal": "keep", "LegalBasis": " "}, "Usmed.Retention.LegalBasis: must say"),
    ("Usmed.Own", {"Modalities": {"ct": "x"}}, "Usmed.Own.Modalities: must be a list of text"),
    ("Usmed.Foreign", {"Peers": ["x"]}, "Usmed.Foreign.Peers: must be an object of text"),
    ("Usmed.Foreign", {"Peers": {"x": 1}}, "Usmed.Foreign.Peers: must be an object of text"),
    ("Usmed.Foreign", {"Modalities": {"ct": "regional"}}, "Usmed.Foreign.Modalities.ct: is also in"),
    ("Usmed.Audit", {"Patterns": {"Opens": "6:00"}}, 'Usmed.Audit.Patterns.Opens: must be a time of day, "HH:MM"'),
    ("Usmed.Audit", {"Patterns": {"Closes": "24:00"}}, "Usmed.Audit.Patterns.Closes: must be"),
    ("Usmed.Audit", {"Patterns": {"Zone": "Moldova"}}, "Usmed.Audit.Patterns.Zone: there is no time zone 'Moldova'"),
    ("Usmed.Audit", {"Patterns": {"Zone": "../x"}}, "Usmed.Audit.Patterns.Zone: there is no time zone"),
    ("Usmed.Audit", {"Patterns": {"Watched": ["7"]}}, "Usmed.Audit.Patterns.Watched: '7' is no patient's number"),
    ("Usmed.Audit", {"Patterns": {"WindowMinutes": 0}}, "Usmed.Audit.Patterns.WindowMinutes: must be a whole number"),
    ("Usmed.Staff", {"Users": {"ana": "reader"}}, "Usmed.Staff.Users.ana: there is no role 'reader'; there are"),
    ("Usmed.Staff", {"Users": {"bogdan": "surgeon"}}, "Usmed.Staff.Users: 'ana' of RegisteredUsers has no role"),
    ("Usmed.Staff", {"OtherUsers": "all"}, "Usmed.Staff.OtherUsers: there is no role 'all'"),
    ("Usmed.Staff", {"RolesFile": "/none", "OtherUsers": "x"}, "Usmed.Staff.RolesFile: /none: No such file"),
    ("AuthenticationEnabled", False, "Usmed.Staff.Anonymous: must name the role of everybody who can connect"),
    # settings of Orthanc's own that would open a way around consent
    ("LimitFindResults", 100, "LimitFindResults: must be 0"),
    ("LimitFindInstances", 1, "LimitFindInstances: must be 0"),
    ("Plugins", ["/"], "Plugins: must name files, libOrthancPython.so before libOrthancDicomWeb.so"),
    ("Plugins", ["/p/libOrthancDicomWeb.so", "/p/libOrthancPython.so"], "Plugins: must name files"),
    ("Plugins", ["/p/libOrthancGdcm.so", "/p/libOrthancDicomWeb.so"], "Plugins: must name files"),
    ("DicomAlwaysAllowGet", True, "DicomAlwaysAllowGet: must be false"),
    ("ExecuteLuaEnabled", True, "ExecuteLuaEnabled: must be false"),
    ("RestApiWriteToFileSystemEnabled", True, "RestApiWriteToFileSystemEnabled: must be false"),
    ("DicomModalities.stranger", ["S", "h", 104], 'DicomModalities.stranger: is foreign (not in Usmed.Own.Modalities)'),
    ("DicomModalities.stranger", {"AET": "S", "Host": "h", "Port": 104}, "DicomModalities.stranger: is foreign"),
    ("DicomModalities.stranger", {"AET": "S", "AllowGet": True}, "DicomModalities.stranger: is foreign"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "expected"), FAULTS, ids=lambda one: str(one)[:40])
def test_each_fault_is_named_with_its_path(federated: Json, path: str, value: Any, expected: str) -> None:
    read_settings(federated, "orthanc.json")
    *steps, last = path.split(".")
    element = federated
    for step in steps:
        element = element.setdefault(step, {})
    element[last] = value
    found = problems(federated)
    assert any(one.startswith(expected) for one in found)
    # Where a section or a list is not understood, what stood in it may be missed elsewhere.
    assert len(found) == 1 or path in ("Usmed", "Usmed.Own")


def test_all_faults_at_once(federated: Json) -> None:
    federated["DicomAlwaysAllowGet"] = True
    federated["Usmed"] |= {"RegionFile": "", "Lookup": {"DeadlineSeconds": 0, "Deadline": 1}, "Pool": {}}
    federated["Usmed"]["Federation"] |= {"Port": 0, "TlsCertificateFile": ""}
    federated["DicomModalities"]["stranger"] = ["S", "h", 104]
    assert {one.partition(":")[0] for one in problems(federated)} == {
        "DicomAlwaysAllowGet", "DicomModalities.stranger", "Usmed.Federation", "Usmed.Federation.Port",
        "Usmed.Lookup.Deadline", "Usmed.Lookup.DeadlineSeconds", "Usmed.Pool", "Usmed.RegionFile",
    }  # fmt: skip


def test_a_node_that_stands_alone_is_not_told_how_to_configure_orthanc() -> None:
    read_settings({"DicomAlwaysAllowGet": True, "DicomModalities": {"x": ["X", "h", 1]}}, "orthanc.json")
    # What is wrong in our own section is wrong all the same.
    assert problems({"Usmed": {"RegionFile": "/none"}}) == ["Usmed.RegionFile: there is no file '/none'"]


@pytest.mark.parametrize(
    ("modality", "allowed"),
    [
        (["A", "h", 104], True),
        (["A", "h", 104, "Generic"], True),
        ({"AET": "A"}, True),
        ({"AET": "A", "AllowGet": True}, True),
        ({"AET": "A", "AllowGet": False}, False),
        ({"AET": "A", "AllowGet": 0}, True),
        (None, True),
    ],
)
def test_orthanc_lets_a_modality_get_unless_its_long_form_says_no(modality: Any, allowed: bool) -> None:
    assert modality_allows_get(modality) is allowed


# ---- orthanc.json explains them ----


def reference() -> str:
    return (REPOSITORY / "orthanc.json").read_text("utf-8")


def documented() -> Json:
    """Return the section "Usmed" of orthanc.json with no variable set."""
    text = re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda match: match[1] or "", reference())
    return dict(json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))["Usmed"])


def names(kind: Any, prefix: str = "") -> set[str]:
    hints = get_type_hints(kind)
    found: set[str] = set()
    for one in fields(kind):
        found |= (
            names(hints[one.name], f"{prefix}{one.name}.") if is_dataclass(hints[one.name]) else {prefix + one.name}
        )
    return found


def leaves(section: Json, settings: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in section.items():
        inner = getattr(settings, name, None)
        found |= leaves(value, inner, f"{prefix}{name}.") if is_dataclass(inner) else {prefix + name}
    return found


def test_every_setting_stands_in_orthanc_json_and_the_other_way_round() -> None:
    assert leaves(documented(), Settings()) == names(Settings)


def test_orthanc_json_states_the_defaults() -> None:
    stated = documented()
    # The one user of that file.
    assert stated["Staff"].pop("Users") == {"admin": "administrator"}
    defaults = json.loads(json.dumps(asdict(Settings())))
    assert defaults["Staff"].pop("Users") == {}
    assert stated == defaults


def test_every_setting_is_explained() -> None:
    """Above each line stands a comment, or a line of the same group that has one."""
    lines = reference().partition('  "Usmed": {')[2].splitlines()[1:]
    explained, unexplained = False, []
    for line in map(str.strip, lines):
        if line.startswith("//"):
            explained = True
        elif not line:
            explained = False
        elif line.startswith('"') and not line.endswith("{") and not explained:
            unexplained.append(line)
    assert unexplained == []
