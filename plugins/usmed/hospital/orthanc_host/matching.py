"""Orthanc's `/tools/find` with the matching of C-FIND: case counts, except in names.

Orthanc's own C-FIND compares every attribute with its case but names without (PS3.4 C.2.2.2.1 leaves that open for PN;
the setting is `CaseSensitivePN`). `/tools/find` knows one way for all attributes of a lookup.
"""

from collections.abc import Mapping
from typing import Any

from usmed.hospital.orthanc_host import rest
from usmed.hospital.tag_names import as_number, tag_and_vr


class Matching:
    """Looks up in this Orthanc.

    Args:
        configuration: Orthanc's.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._case_sensitive_names = bool(configuration.get("CaseSensitivePN", False))

    def find(self, request: Mapping[str, Any], keys: Mapping[str, Any]) -> list[Any]:
        """Return what matches as C-FIND matches.

        Args:
            request: the body without `Query` and `CaseSensitive`; it asks for expanded answers.
            keys: matching keys.

        Raises:
            OrthancError: Orthanc refused or failed.
        """
        if self._case_sensitive_names or not any(map(_is_name, keys)):
            return rest_find({**request, "Query": dict(keys), "CaseSensitive": True})
        found = rest_find({**request, "Query": dict(keys), "CaseSensitive": False})
        exact = {name: value for name, value in keys.items() if not _is_name(name) and _has_case(str(value))}
        if not found or not exact:
            return found
        # Rare: a name together with a word that counts with its case. Both conditions, one after the other.
        strict = set(rest_find({"Level": request["Level"], "Query": exact, "CaseSensitive": True}))
        return [one for one in found if one["ID"] in strict]


def rest_find(request: Mapping[str, Any]) -> list[Any]:
    """POST to Orthanc's own `/tools/find`.

    Raises:
        OrthancError: Orthanc refused or failed.
    """
    found: list[Any] = rest.post_json("/tools/find", with_numbers(request))
    return found


def with_numbers(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same `/tools/find` with its attributes as `gggg,eeee`, which changes nothing but how long it takes."""
    quick = dict(request)
    if isinstance(query := request.get("Query"), Mapping):
        by_number = {as_number(name): value for name, value in query.items()}
        # One that is named twice has to match twice.
        quick["Query"] = by_number if len(by_number) == len(query) else query
    if isinstance(tags := request.get("RequestedTags"), list):
        quick["RequestedTags"] = [as_number(name) if isinstance(name, str) else name for name in tags]
    return quick


def _is_name(name: str) -> bool:
    known = tag_and_vr(name)
    return known is not None and known[1] == "PN"


def _has_case(value: str) -> bool:
    return value.upper() != value or value.lower() != value
