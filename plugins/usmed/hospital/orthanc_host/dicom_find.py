"""C-FIND (PS3.4 C.4.1): the local answer first, then what the region adds."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orthanc
from pydicom.datadict import tag_for_keyword

from usmed.domain.lookup import NEARLINE, ONLINE, UNIQUE_KEYS, Level, Query
from usmed.hospital.orthanc_host.answer import encode_answer
from usmed.hospital.orthanc_host.matching import Matching
from usmed.hospital.regional_find import Additions, RegionalFind

log = logging.getLogger(__name__)

_LEVELS = {
    "PATIENT": Level.PATIENT, "PATIENTS": Level.PATIENT, "STUDY": Level.STUDY, "STUDIES": Level.STUDY,
    "SERIES": Level.SERIES, "IMAGE": Level.IMAGE, "IMAGES": Level.IMAGE, "INSTANCE": Level.IMAGE,
    "INSTANCES": Level.IMAGE,
}  # fmt: skip
"""What Orthanc takes for a Query/Retrieve Level, in any case."""

_RETRIEVE_AE_TITLE, _AVAILABILITY = "RetrieveAETitle", "InstanceAvailability"
_OURS = frozenset({_RETRIEVE_AE_TITLE, _AVAILABILITY})
"""Keys that this module answers, and matches, itself."""


@dataclass
class _Asked:
    """A C-FIND request.

    Attributes:
        level, level_text: Query/Retrieve Level, and as it was written.
        keys: matching keys with a value, by DICOM keyword, or `gggg,eeee` for what has none.
        tags: return keys, by the same names, each with its `gggg,eeee`.
    """

    level: Level
    level_text: str
    keys: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class DicomFind:
    """The C-FIND service class provider.

    Args:
        regional: what the region adds.
        is_own: tells whether an AE title is one of this hospital's systems.
        matching: looks up in this archive.
    """

    def __init__(self, regional: RegionalFind, is_own: Callable[[str], bool], matching: Matching) -> None:
        self._regional = regional
        self._is_own = is_own
        self._matching = matching

    def __call__(self, answers: Any, query: Any, connection: Any) -> None:
        remote_aet = connection.GetConnectionRemoteAet()
        asked = _read(query)
        if not self._is_own(remote_aet):
            # What a system outside the hospital may see is for the federation to answer, with consent.
            log.warning("C-FIND by %s is answered empty: it is not a system of this hospital", remote_aet)
            return
        local = self._local(asked)
        added = self._added(asked, local, remote_aet)
        for tags in local:
            uid = str(tags.get(_STUDY_UID) or "")
            if uid in added.replaced:
                continue
            arriving = asked.level is not Level.PATIENT and self._regional.is_arriving(uid)
            content = {name: tags.get(code) for name, code in asked.tags.items()}
            self._answer(answers, asked, content, NEARLINE if arriving else ONLINE)
        for one in added.entities:
            content = {name: one.tags.get(name) for name in asked.tags}
            self._answer(answers, asked, content, one.tags[_AVAILABILITY])

    def _local(self, asked: _Asked) -> list[Mapping[str, Any]]:
        """Return the tags of the local matches by `gggg,eeee`: several private elements have one name in Orthanc."""
        wanted = {code for name, code in asked.tags.items() if name not in _OURS}
        if asked.level is not Level.PATIENT:
            wanted |= {_STUDY_UID, _code(UNIQUE_KEYS[asked.level])}
        request = {
            "Level": asked.level.orthanc,
            "ResponseContent": ["RequestedTags"],
            "RequestedTags": sorted(wanted),
            "Short": True,
        }
        keys = {name: value for name, value in asked.keys.items() if name not in _OURS}
        return [one["RequestedTags"] for one in self._matching.find(request, keys)]

    def _added(self, asked: _Asked, local: list[Mapping[str, Any]], remote_aet: str) -> Additions:
        keys = {name: value for name, value in asked.keys.items() if name not in _OURS}
        query = Query(asked.level, keys, tuple(asked.tags))
        selector = self._regional.selector(query)
        if selector is None:
            return Additions()
        unique = _code(UNIQUE_KEYS.get(asked.level, "PatientID"))
        return self._regional.add(
            query,
            selector,
            remote_aet,
            lambda: [str(tags.get(unique) or "") for tags in local],
            have_local=bool(local),
        )

    def _answer(self, answers: Any, asked: _Asked, content: dict[str, Any], availability: str) -> None:
        """Answer with the keys that were asked for, and those that every answer has (PS3.4 C.4.1.1.3.2)."""
        ours = {_RETRIEVE_AE_TITLE: self._regional.own_aet, _AVAILABILITY: availability}
        if any(asked.keys.get(name, value).strip(" ") != value for name, value in ours.items()):
            return
        # A key without a value here is answered too, empty.
        content = {name: "" if value is None else value for name, value in content.items()}
        content |= {name: ours[name] for name in _OURS & content.keys()}
        content["QueryRetrieveLevel"] = asked.level_text
        content[_RETRIEVE_AE_TITLE] = self._regional.own_aet
        # Orthanc turns it into its DefaultEncoding before it goes out.
        content["SpecificCharacterSet"] = "ISO_IR 192"
        answers.FindAddAnswer(encode_answer(content))


def _read(query: Any) -> _Asked:
    """Read a C-FIND request.

    Raises:
        OrthancException: no Query/Retrieve Level, or none that there is, as Orthanc's own C-FIND.
    """
    asked: _Asked | None = None
    keys: dict[str, str] = {}
    tags: dict[str, str] = {}
    for index in range(query.GetFindQuerySize()):
        group, element = query.GetFindQueryTagGroup(index), query.GetFindQueryTagElement(index)
        value = _value(query, index)
        if (group, element) == (0x0008, 0x0052):
            level = _LEVELS.get(value.strip().upper())
            if level is None:
                raise orthanc.OrthancException(5, "C-FIND with an unknown QueryRetrieveLevel")
            asked = _Asked(level, value)
        elif (group, element) != (0x0008, 0x0005) and element != 0:
            code = f"{group:04x},{element:04x}"
            name = query.GetFindQueryTagName(index)
            # Orthanc calls every private creator and every unknown element by one name.
            if tag_for_keyword(name) != (group << 16) + element:
                name = code
            tags[name] = code
            if value.strip(" "):
                keys[name] = value
    if asked is None:
        raise orthanc.OrthancException(8, "Missing QueryRetrieveLevel in C-FIND")
    asked.keys, asked.tags = keys, tags
    return asked


def _value(query: Any, index: int) -> str:
    """Return a key's value. The SDK refuses to give one for an empty key of a binary VR (Rows, say): it is empty."""
    try:
        return str(query.GetFindQueryValue(index))
    except orthanc.OrthancException:
        return ""


def _code(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return f"{tag >> 16:04x},{tag & 0xFFFF:04x}"


_STUDY_UID = _code("StudyInstanceUID")
