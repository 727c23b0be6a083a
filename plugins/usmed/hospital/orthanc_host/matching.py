"""Orthanc's `/tools/find` as C-FIND and the region need it.

Orthanc's own C-FIND compares every attribute with its case but names without (PS3.4 C.2.2.2.1 leaves that open for PN;
the setting is `CaseSensitivePN`); `/tools/find` knows one way for all attributes of a lookup. And it keeps to
`LimitFindResults` and `LimitFindInstances`, which are meant for what people list, not for what a study consists of.
"""

from collections.abc import Mapping
from typing import Any

from usmed.domain.lookup import Level
from usmed.hospital.orthanc_host import rest
from usmed.hospital.orthanc_host.answer import tag_and_vr


class Matching:
    """Looks up in this Orthanc.

    Args:
        configuration: Orthanc's.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._case_sensitive_names = bool(configuration.get("CaseSensitivePN", False))
        self._limits = {
            Level.IMAGE.orthanc: int(configuration.get("LimitFindInstances", 0)),
            **dict.fromkeys(
                (level.orthanc for level in (Level.PATIENT, Level.STUDY, Level.SERIES)),
                int(configuration.get("LimitFindResults", 0)),
            ),
        }

    def find(self, request: Mapping[str, Any], keys: Mapping[str, Any], *, limited: bool = False) -> list[Any]:
        """Return what matches as C-FIND matches.

        Args:
            request: the body without `Query` and `CaseSensitive`; it asks for expanded answers.
            keys: matching keys.
            limited: whether Orthanc's limits hold.

        Raises:
            OrthancError: Orthanc refused or failed.
        """
        find = rest_find if limited else self.every
        if self._case_sensitive_names or not any(map(_is_name, keys)):
            return find({**request, "Query": dict(keys), "CaseSensitive": True})
        exact = {name: value for name, value in keys.items() if not _is_name(name) and _has_case(str(value))}
        loose = {**request, "Query": dict(keys), "CaseSensitive": False}
        if not exact:
            return find(loose)
        # Rare: a name together with a word that counts with its case. Both conditions, one after the other.
        found = self.every(loose)
        strict = {"Level": request["Level"], "Query": exact, "CaseSensitive": True}
        identifiers = set(self.every(strict)) if found else set()
        found = [one for one in found if one["ID"] in identifiers]
        return found[: self._limits[request["Level"]] or None] if limited else found

    def every(self, request: Mapping[str, Any]) -> list[Any]:
        """Return everything that `/tools/find` finds, page by page where a limit makes pages.

        Raises:
            OrthancError: Orthanc refused or failed.
        """
        limit = self._limits[request["Level"]]
        found = rest_find(request)
        last = len(found)
        while limit and last >= limit:
            page = rest_find({**request, "Since": len(found)})
            last = len(page)
            found += page
        return found


def rest_find(request: Mapping[str, Any]) -> list[Any]:
    """POST to Orthanc's own `/tools/find`.

    Raises:
        OrthancError: Orthanc refused or failed.
    """
    found: list[Any] = rest.post_json("/tools/find", request)
    return found


def _is_name(name: str) -> bool:
    known = tag_and_vr(name)
    return known is not None and known[1] == "PN"


def _has_case(value: str) -> bool:
    return value.upper() != value or value.lower() != value
