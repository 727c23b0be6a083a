"""C-FIND (PS3.4 C.4.1): the local answer first, then what the region adds."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from usmed.domain.lookup import NEARLINE, ONLINE, UNIQUE_KEYS, Level, Query
from usmed.hospital.archive import Match
from usmed.hospital.orthanc_host.answer import encode_answer
from usmed.hospital.regional_find import Additions, RegionalFind

log = logging.getLogger(__name__)


class DicomFind:
    """The C-FIND service class provider.

    Args:
        regional: what the region adds.
        is_own: tells whether an AE title is one of this hospital's systems.
    """

    def __init__(self, regional: RegionalFind, is_own: Callable[[str], bool]) -> None:
        self._regional = regional
        self._is_own = is_own

    def __call__(self, answers: Any, query: Any, connection: Any) -> None:
        remote_aet = connection.GetConnectionRemoteAet()
        level, keys, tags = _read(query)
        if not self._is_own(remote_aet):
            # What a system outside the hospital may see is for the federation to answer, with consent.
            log.warning("C-FIND by %s is answered empty: it is not a system of this hospital", remote_aet)
            return
        asked = Query(level, keys, tuple(tags))
        local = _local(asked)
        added = Additions()
        selector = self._regional.selector(asked)
        if selector is not None:
            unique = UNIQUE_KEYS.get(level, "PatientID")
            added = self._regional.add(
                asked,
                selector,
                remote_aet,
                lambda: [str(one.tags.get(unique, "")) for one in local],
                have_local=bool(local),
            )
        for match in local:
            uid = str(match.tags.get("StudyInstanceUID", ""))
            if uid in added.replaced:
                continue
            arriving = level is not Level.PATIENT and self._regional.is_arriving(uid)
            availability = NEARLINE if arriving else ONLINE
            self._answer(answers, level, tags, {"InstanceAvailability": availability, **match.tags})
        for one in added.entities:
            self._answer(answers, level, tags, one.tags)

    def _answer(self, answers: Any, level: Level, asked: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Answer with the keys that were asked for, and those that every answer has (PS3.4 C.4.1.1.3.2)."""
        content = {name: tags.get(name, "") for name in asked}
        content["QueryRetrieveLevel"] = level.value
        content["RetrieveAETitle"] = self._regional.own_aet
        content["SpecificCharacterSet"] = "ISO_IR 192"
        answers.FindAddAnswer(encode_answer(content))


def _read(query: Any) -> tuple[Level, dict[str, str], dict[str, tuple[int, int]]]:
    """Return level, matching keys and return keys of a C-FIND request.

    Raises:
        OrthancException: no Query/Retrieve Level, as Orthanc's own C-FIND.
    """
    level: Level | None = None
    keys: dict[str, str] = {}
    tags: dict[str, tuple[int, int]] = {}
    for index in range(query.GetFindQuerySize()):
        group, element = query.GetFindQueryTagGroup(index), query.GetFindQueryTagElement(index)
        value = _value(query, index)
        if (group, element) == (0x0008, 0x0052):
            level = Level.IMAGE if value.strip() == "INSTANCE" else Level(value.strip())
        elif (group, element) != (0x0008, 0x0005) and element != 0:
            name = query.GetFindQueryTagName(index)
            if name == "Unknown Tag & Data" or not name.isidentifier():
                name = f"{group:04x},{element:04x}"
            tags[name] = (group, element)
            if value.strip(" "):
                keys[name] = value
    if level is None:
        raise orthanc.OrthancException(8, "Missing QueryRetrieveLevel in C-FIND")
    return level, keys, tags


def _value(query: Any, index: int) -> str:
    """Return a key's value. The SDK refuses to give one for an empty key of a binary VR (Rows, say): it is empty."""
    try:
        return str(query.GetFindQueryValue(index))
    except orthanc.OrthancException:
        return ""


_COMPUTED = frozenset({"RetrieveAETitle", "InstanceAvailability", "TimezoneOffsetFromUTC", "SpecificCharacterSet"})


def _local(query: Query) -> list[Match]:
    unique = UNIQUE_KEYS.get(query.level)
    tags = [*query.tags, *(() if unique is None or unique in query.tags else (unique,))]
    if query.level in (Level.SERIES, Level.IMAGE) and "StudyInstanceUID" not in tags:
        tags.append("StudyInstanceUID")
    found = json.loads(
        orthanc.RestApiPost(
            "/tools/find",
            json.dumps(
                {
                    "Level": query.level.orthanc,
                    "Query": {k: v for k, v in query.keys.items() if k not in _COMPUTED},
                    "ResponseContent": ["RequestedTags"],
                    "RequestedTags": [tag for tag in tags if tag not in _COMPUTED],
                    "CaseSensitive": query.case_sensitive,
                }
            ),
        )
    )
    return [Match(one["ID"], one["RequestedTags"], frozenset()) for one in found]
