"""The table of a node's addresses: which permission each method and path needs. What is not in it is denied."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from usmed.domain.errors import ConfigurationError

METHODS = ("GET", "POST", "PUT", "DELETE")
"""What Orthanc's HTTP server knows."""

_PARAMETER = re.compile(r"\{[a-z-]+\}")
_REST = re.compile(r"\{[a-z-]+\.\.\.\}")

# The table is a tree of dictionaries by the parts of a path, with three keys that are no part of any: any one part, all
# the rest, and what stands here, by method.
_ONE, _ALL, _HERE = 1, 2, 0


class RouteTable:
    """Finds the permission of a request in about a microsecond, whatever the number of routes.

    Args:
        documents: by permission, an object with `routes`: each is text, METHODS PATH (see permissions.yaml).
        roots: what stands for `$name` at the beginning of a path, without slashes around it.
    """

    def __init__(self, documents: Mapping[str, Mapping[str, Any]], roots: Mapping[str, str]) -> None:
        self._root: dict[Any, Any] = {}
        self._routes: list[tuple[str, str, str]] = []
        problems: list[str] = []
        for permission, document in documents.items():
            for route in document["routes"]:
                methods, _, path = str(route).partition(" ")
                path = _with_roots(path, roots)
                for method in methods.split(","):
                    problem = self._add(method, path, permission)
                    if problem:
                        problems.append(f"{permission}: {route}: {problem}")
        if problems:
            raise ConfigurationError("the table of routes", problems)

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        """Yield method, path pattern and permission of each."""
        return iter(self._routes)

    def permission(self, method: str, path: str) -> str | None:
        """Return the permission that a request needs; None if its address is not listed: it is denied.

        Args:
            path: decoded, as Orthanc gives it. A slash at its end is ignored, as Orthanc does.
        """
        if not path.startswith("/"):
            return None
        parts = path[1:].split("/")
        if not parts[-1]:
            parts.pop()
        # Orthanc refuses an empty part; "." and ".." mean nothing to it, and nothing good.
        if "" in parts or "." in parts or ".." in parts:
            return None
        return _found(self._root, parts, 0, method)

    def _add(self, method: str, path: str, permission: str) -> str:
        if method not in METHODS:
            return f"{method} is no method"
        branch = self._root
        parts = [one for one in path.split("/")[1:] if one]
        for number, part in enumerate(parts):
            if _REST.fullmatch(part):
                if number < len(parts) - 1:
                    return "nothing can follow {x...}"
                branch = branch.setdefault(_ALL, {})
            elif _PARAMETER.fullmatch(part):
                branch = branch.setdefault(_ONE, {})
            elif "{" in part or "$" in part:
                return f"{part} is not understood"
            else:
                branch = branch.setdefault(part, {})
        here = branch.setdefault(_HERE, {})
        if method in here:
            return f"stands there twice, also under {here[method]}"
        here[method] = permission
        self._routes.append((method, path, permission))
        return ""


def _with_roots(path: str, roots: Mapping[str, str]) -> str:
    first, slash, rest = path.partition("/")
    return f"/{roots[first[1:]]}{slash}{rest}" if first.startswith("$") else path


def _found(branch: Mapping[Any, Any], parts: list[str], depth: int, method: str) -> str | None:
    if depth == len(parts):
        permission: str | None = branch.get(_HERE, {}).get(method)
        return permission
    # The exact part first; what it does not know may still be any part's: GET /jobs/{id}/cancel is a key named so.
    for key in (parts[depth], _ONE):
        inner = branch.get(key)
        if inner is not None:
            permission = _found(inner, parts, depth + 1, method)
            if permission is not None:
                return permission
    rest: str | None = branch.get(_ALL, {}).get(_HERE, {}).get(method)
    return rest


def paths(routes: Iterable[tuple[str, str, str]], example: str = "x") -> Iterator[tuple[str, str, str]]:
    """Yield each route with an example instead of what may be anything."""
    for method, path, permission in routes:
        yield method, re.sub(r"\{[a-z-]+(\.\.\.)?\}", example, path), permission
