"""Roles of a hospital's staff: named sets of permissions, as two files say them, the second changing the first."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVERY = "*"
"""In a role's permissions: all that there are."""

ANYBODY = "anybody"
"""What needs no log-in. No role's to have."""

STAFF = "staff"
"""What whoever has a role may. No role's to have."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MEMBERS = {"means", "extends", "permissions", "without"}


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, and what they may.

    Attributes:
        name: the log-in; `http` for nobody.
        role: the role's name; empty for nobody.
        permissions: what the role may, with `STAFF` and `ANYBODY`.
        proved: how it is known who they are, as RFC 3875 §4.1.1 has it (`Basic`, ...); empty if it is a mere claim.
    """

    name: str
    role: str = ""
    permissions: frozenset[str] = frozenset({ANYBODY})
    proved: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """A role: what it is for, in English, and its permissions."""

    name: str
    means: str
    permissions: frozenset[str]

    def person(self, name: str, proved: str) -> Person:
        """Return somebody who has this role."""
        return Person(name, self.name, self.permissions | {ANYBODY, STAFF}, proved)


def read_roles(defaults: Any, changes: Any, known: Iterable[str], path: str) -> tuple[dict[str, Role], list[str]]:
    """Return the roles that are in force, and every fault.

    Args:
        defaults: the document of our own roles.
        changes: the hospital's document of the same form; {} if it has none.
        known: the permissions that there are.
        path: where `changes` stands, for messages.

    Returns:
        The roles by name, and what is wrong with `changes`, each fault with its path. With faults the roles are
        not to be used.
    """
    problems: list[str] = []
    permissions = frozenset(known) - {ANYBODY, STAFF}
    roles: dict[str, Role] = {}
    for name, document in defaults.items():
        roles[name] = _role(name, document, roles, roles, permissions, name, problems)
    if not isinstance(changes, dict):
        return roles, [*problems, f"{path}: must be an object of roles"]
    # A role may extend one that stands below it.
    own: dict[str, Role] = {}
    waiting = dict(changes)
    while waiting:
        ready = [name for name, document in waiting.items() if not _waits(name, document, waiting)]
        if not ready:
            problems += [f"{path}: {name}.extends: goes in a circle" for name in waiting]
            break
        for name in ready:
            where = f"{path}: {name}"
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                problems.append(f"{where}: is no name of a role: a-z, 0-9 and -, at most 32")
                waiting.pop(name)
                continue
            own[name] = _role(name, waiting.pop(name), roles, roles | own, permissions, where, problems)
    return roles | own, problems


def _waits(name: Any, document: Any, waiting: Mapping[Any, Any]) -> bool:
    above = document.get("extends") if isinstance(document, dict) else None
    return isinstance(above, str) and above != name and above in waiting


def _role(
    name: str,
    document: Any,
    defaults: Mapping[str, Role],
    known: Mapping[str, Role],
    permissions: frozenset[str],
    path: str,
    problems: list[str],
) -> Role:
    if not isinstance(document, dict):
        problems.append(f"{path}: must be an object")
        return Role(name, "", frozenset())
    problems += [f"{path}.{key}: unknown; a role has {', '.join(sorted(_MEMBERS))}" for key in set(document) - _MEMBERS]
    means = document.get("means", "")
    if not isinstance(means, str):
        problems.append(f"{path}.means: must be text")
        means = ""
    has, lacks = (_listed(document, key, permissions, path, problems) for key in ("permissions", "without"))
    inherited: frozenset[str] = frozenset()
    if "extends" in document:
        above = document["extends"]
        base = defaults.get(name) if above == name else known.get(above) if isinstance(above, str) else None
        if base is None:
            problems.append(f"{path}.extends: there is no role {above!r}")
        else:
            inherited, means = base.permissions, means or base.means
    elif "permissions" not in document:
        problems.append(f"{path}.permissions: is missing")
    return Role(name, means, (inherited - lacks) | has)


def _listed(
    document: Mapping[str, Any], key: str, permissions: frozenset[str], path: str, problems: list[str]
) -> frozenset[str]:
    listed = document.get(key, [])
    if not isinstance(listed, list):
        problems.append(f"{path}.{key}: must be a list")
        return frozenset()
    problems += [
        f"{path}.{key}: there is no permission {one!r}"
        for one in listed
        if not isinstance(one, str) or one not in permissions | {EVERY}
    ]
    return permissions if EVERY in listed else frozenset(one for one in listed if isinstance(one, str)) & permissions
