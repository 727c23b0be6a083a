"""Roles are sets of permissions, the hospital's own file changes ours, and every fault is told at once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from usmed.domain.staff_role import ANYBODY, STAFF, Role, read_roles
from usmed.hospital.staff.rules import permissions, roles

REPOSITORY = Path(__file__).resolve().parents[2]
KNOWN = [ANYBODY, STAFF, "a.read", "a.write", "b.read"]
DEFAULTS = {
    "reader": {"means": "Reads", "permissions": ["a.read"]},
    "writer": {"extends": "reader", "permissions": ["a.write"]},
    "all": {"permissions": ["*"]},
}


def read(changes: Any) -> tuple[dict[str, Role], list[str]]:
    return read_roles(DEFAULTS, changes, KNOWN, "roles.yaml")


def may(changes: Any, name: str) -> set[str]:
    found, problems = read(changes)
    assert problems == []
    return set(found[name].permissions)


def test_a_role_has_what_it_lists_and_what_it_extends() -> None:
    assert may({}, "writer") == {"a.read", "a.write"}
    assert may({}, "all") == {"a.read", "a.write", "b.read"}


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"reader": {"permissions": ["b.read"]}}, "reader", {"b.read"}),
        ({"reader": {"extends": "reader", "permissions": ["b.read"]}}, "reader", {"a.read", "b.read"}),
        ({"night": {"extends": "writer", "without": ["a.read"]}}, "night", {"a.write"}),
        ({"night": {"extends": "all", "without": ["a.write"]}}, "night", {"a.read", "b.read"}),
        ({"one": {"extends": "two"}, "two": {"permissions": ["b.read"]}}, "one", {"b.read"}),
        ({"nothing": {"permissions": []}}, "nothing", set()),
        ({"night": {"permissions": ["a.read"]}}, "writer", {"a.read", "a.write"}),
    ],
)
def test_the_hospital_replaces_extends_and_adds(changes: Any, name: str, expected: set[str]) -> None:
    assert may(changes, name) == expected


def test_whoever_has_a_role_may_what_all_staff_may() -> None:
    person = read({})[0]["reader"].person("ana", "Basic")
    assert person.permissions == {"a.read", STAFF, ANYBODY}
    assert (person.name, person.role, person.proved) == ("ana", "reader", "Basic")


def test_every_fault_at_once_with_its_path() -> None:
    _, problems = read(
        {
            "Reader": {"permissions": []},
            7: {"permissions": []},
            "a": [],
            "b": {"permissions": ["a.raed", 3], "colour": "red"},
            "c": {"extends": "nobody"},
            "d": {"means": 1},
            "e": {"extends": "f"},
            "f": {"extends": "e"},
            "g": {"permissions": "a.read", "without": ["staff"]},
        }
    )
    assert sorted(problems) == sorted(
        [
            "roles.yaml: Reader: is no name of a role: a-z, 0-9 and -, at most 32",
            "roles.yaml: 7: is no name of a role: a-z, 0-9 and -, at most 32",
            "roles.yaml: a: must be an object",
            "roles.yaml: b.permissions: there is no permission 'a.raed'",
            "roles.yaml: b.permissions: there is no permission 3",
            "roles.yaml: b.colour: unknown; a role has extends, means, permissions, without",
            "roles.yaml: c.extends: there is no role 'nobody'",
            "roles.yaml: d.means: must be text",
            "roles.yaml: d.permissions: is missing",
            "roles.yaml: e.extends: goes in a circle",
            "roles.yaml: f.extends: goes in a circle",
            "roles.yaml: g.permissions: must be a list",
            "roles.yaml: g.without: there is no permission 'staff'",
        ]
    )


def test_a_file_that_is_no_object() -> None:
    assert read(["reader"])[1] == ["roles.yaml: must be an object of roles"]


def test_our_own_roles_have_no_fault() -> None:
    found, problems = roles("")
    assert problems == []
    assert list(found) == [
        "radiologist", "referring-physician", "surgeon", "technologist", "desk-clerk", "researcher", "auditor",
        "data-protection-officer", "administrator",
    ]  # fmt: skip
    assert found["administrator"].permissions == set(permissions()) - {ANYBODY, STAFF}
    assert all(one.means for one in found.values())


@pytest.mark.parametrize(
    ("role", "lacks"),
    [
        ("desk-clerk", "archive.view"),
        ("desk-clerk", "emergencies.ask"),
        ("researcher", "archive.find"),
        ("auditor", "archive.find"),
        ("data-protection-officer", "archive.view"),
        ("radiologist", "archive.delete"),
        ("technologist", "emergencies.ask"),
        ("surgeon", "archive.export"),
    ],
)
def test_what_a_role_must_not_have(role: str, lacks: str) -> None:
    assert lacks in permissions()
    assert lacks not in roles("")[0][role].permissions


@pytest.mark.parametrize(
    ("content", "fault"), [(b"\xff", "is no YAML"), (b"a: [", "is no YAML"), (b"x" * ((1 << 20) + 1), "more than")]
)
def test_a_file_that_cannot_be_read(tmp_path: Any, content: bytes, fault: str) -> None:
    file = tmp_path / "roles.yaml"
    file.write_bytes(content)
    assert fault in roles(str(file))[1][0]


def test_the_reference_says_what_the_tables_say() -> None:
    """docs/reference/permissions.md is made by scripts/lib/permissions_page.py."""
    made = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "lib" / "permissions_page.py"],
        env={"PYTHONPATH": str(REPOSITORY / "plugins")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (REPOSITORY / "docs" / "reference" / "permissions.md").read_text("utf-8") == made.stdout
