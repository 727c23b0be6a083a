"""QIDO-RS `GET /dicom-web/studies` (PS3.18 §10.6): the DICOMweb plugin cannot be asked for a route that we took.

So the search for studies is answered here, from Orthanc's `/tools/find` and the region, in DICOM JSON or XML. All
other DICOMweb routes stay with the DICOMweb plugin.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import orthanc
from pydicom.datadict import keyword_for_tag

from usmed.domain.errors import PeerDataError
from usmed.domain.lookup import NEARLINE, ONLINE, Level, Query
from usmed.hospital.orthanc_host.answer import tag_and_vr
from usmed.hospital.regional_find import Additions, RegionalFind

JSON_TYPE = "application/dicom+json"

DEFAULT_TAGS = (
    "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
    "ReferringPhysicianName", "RetrieveURL", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
"""What a study answer always has (PS3.18 Table 10.6.3-3)."""

_COMPUTED = {"RetrieveURL", "InstanceAvailability", "SpecificCharacterSet", "TimezoneOffsetFromUTC"}
_ALL = ("StudyDescription", "InstitutionName", "RequestedProcedureDescription", "RequestingPhysician",
        "IssuerOfPatientID", "OtherPatientIDs", "PatientAge", "TimezoneOffsetFromUTC")  # fmt: skip


class QidoStudies:
    """Searches for studies."""

    def __init__(self, regional: RegionalFind, case_sensitive_names: bool) -> None:
        self._regional = regional
        self._case_sensitive = case_sensitive_names

    def search(self, arguments: Mapping[str, str], base_url: str, agent: str) -> list[dict[str, Any]]:
        """Return the matches as DICOM JSON datasets.

        Args:
            arguments: the query's arguments, each once.
            base_url: the DICOMweb root as the caller reaches it, without a slash at its end.
            agent: who asks.

        Raises:
            PeerDataError: an argument that PS3.18 does not know.
        """
        request = _read(arguments)
        found = self._local(request)
        query = Query(Level.STUDY, request.keys, request.tags, case_sensitive=True)
        selector = self._regional.selector(query)
        added = Additions()
        if selector is not None:
            added = self._regional.add(
                query,
                selector,
                agent,
                lambda: [str(one.get("StudyInstanceUID", "")) for one in found],
                have_local=bool(found),
            )
        rows = []
        for tags in found:
            uid = str(tags.get("StudyInstanceUID", ""))
            if uid not in added.replaced:
                rows.append({"InstanceAvailability": NEARLINE if self._regional.is_arriving(uid) else ONLINE, **tags})
        rows += [one.tags for one in added.entities]
        rows = rows[request.offset :]
        if request.limit:
            rows = rows[: request.limit]
        asked = dict.fromkeys(request.tags)
        shown = []
        for tags in rows:
            content = {name: tags[name] for name in asked if tags.get(name) is not None}
            content["RetrieveURL"] = f"{base_url}/studies/{tags['StudyInstanceUID']}"
            content["InstanceAvailability"] = tags["InstanceAvailability"]
            if tags["InstanceAvailability"] == NEARLINE and "InstitutionName" in tags:
                # Who holds it: said even when nobody asked, because a viewer cannot know that it should.
                content["InstitutionName"] = tags["InstitutionName"]
            shown.append(to_dicom_json({"SpecificCharacterSet": "ISO_IR 192", **content}))
        return shown

    def _local(self, request: "_Request") -> list[dict[str, Any]]:
        paging = {} if self._regional.selector(Query(Level.STUDY, request.keys)) is not None else {
            "Limit": request.offset + request.limit if request.limit else 0
        }  # fmt: skip
        body = {
            "Level": "Study",
            "Query": request.keys,
            "RequestedTags": [tag for tag in request.tags if tag not in _COMPUTED],
            "ResponseContent": ["RequestedTags", "MainDicomTags"],
            "CaseSensitive": self._case_sensitive or "PatientID" in request.keys,
            **paging,
        }
        found = json.loads(orthanc.RestApiPost("/tools/find", json.dumps(body)))
        return [{**one["MainDicomTags"], **one["RequestedTags"]} for one in found]


class _Request:
    def __init__(self, keys: dict[str, str], tags: tuple[str, ...], limit: int, offset: int) -> None:
        self.keys = keys
        self.tags = tags
        self.limit = limit
        self.offset = offset


def _read(arguments: Mapping[str, str]) -> _Request:
    keys: dict[str, str] = {}
    tags = list(DEFAULT_TAGS)
    limit = offset = 0
    for name, value in arguments.items():
        if name == "limit":
            limit = _number(name, value)
        elif name == "offset":
            offset = _number(name, value)
        elif name == "fuzzymatching":
            continue
        elif name == "includefield":
            for one in value.split(","):
                tags += _ALL if one == "all" else [_name(one)]
        else:
            keyword = _name(name)
            tags.append(keyword)
            if value:
                # Both separators of a list of UIDs (PS3.18 §8.3.4.1).
                keys[keyword] = value.replace(",", "\\") if keyword.endswith("UID") else value
    return _Request(keys, tuple(dict.fromkeys(tags)), limit, offset)


def _number(name: str, value: str) -> int:
    if not value.isdigit() or len(value) > 9:
        raise PeerDataError(f"{name} must be a number")
    return int(value)


def _name(text: str) -> str:
    """Return the keyword of an attribute named by keyword, `ggggeeee` or `gggg,eeee`."""
    plain = text.replace(",", "")
    if len(plain) == 8 and all(character in "0123456789abcdefABCDEF" for character in plain):
        code = f"{plain[:4]},{plain[4:]}".lower()
        return keyword_for_tag(int(plain, 16)) or code
    if tag_and_vr(text) is None:
        raise PeerDataError(f"{text!r} is not a DICOM attribute")
    return text


def to_dicom_json(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dataset in the DICOM JSON Model (PS3.18 §F.2), sorted by tag.

    Args:
        tags: keyword or `gggg,eeee` to text (values of a multi-valued attribute separated by a backslash), or to a
            list of such mappings for a sequence.
    """
    elements: dict[str, Any] = {}
    for name, value in tags.items():
        known = tag_and_vr(name)
        if known is None:
            continue
        tag, vr = known
        element: dict[str, Any] = {"vr": vr}
        values = _values(vr, value)
        if values:
            element["Value"] = values
        elements[f"{tag:08X}"] = element
    return dict(sorted(elements.items()))


def _values(vr: str, value: Any) -> list[Any]:
    if vr == "SQ":
        return [to_dicom_json(item) for item in value] if isinstance(value, list) else []
    text = str(value)
    if not text:
        return []
    parts = text.split("\\") if vr not in ("LT", "ST", "UT", "UR") else [text]
    if vr == "PN":
        return [_person_name(one) for one in parts]
    if vr in ("IS", "US", "SS", "UL", "SL"):
        return [_as(int, one) for one in parts]
    if vr in ("DS", "FL", "FD"):
        return [_as(float, one) for one in parts]
    return [one if one else None for one in parts]


def _person_name(text: str) -> dict[str, str]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {name: group for name, group in groups if group}


def _as(kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        # Said as it stands rather than lost (PS3.18 §F.2.2 allows text for what is no number).
        return text


def to_multipart_xml(datasets: Iterable[Mapping[str, Any]]) -> tuple[str, bytes]:
    """Return content type and body of the XML form (PS3.18 §10.6.3.2, PS3.19 §A.1)."""
    boundary = uuid.uuid4().hex
    parts = []
    for dataset in datasets:
        root = Element("NativeDicomModel", {"xml:space": "preserve"})
        _xml(root, dataset)
        text = tostring(root, encoding="utf-8", xml_declaration=True)
        parts.append(b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom+xml\r\n\r\n" + text + b"\r\n")
    body = b"".join(parts) + b"--" + boundary.encode() + b"--\r\n"
    return f'multipart/related; type="application/dicom+xml"; boundary={boundary}', body


def _xml(parent: Element, dataset: Mapping[str, Any]) -> None:
    for tag, element in dataset.items():
        keyword = keyword_for_tag(int(tag, 16))
        node = SubElement(parent, "DicomAttribute", {"tag": tag, "vr": element["vr"]})
        if keyword:
            node.set("keyword", keyword)
        for number, value in enumerate(element.get("Value", ()), start=1):
            if element["vr"] == "SQ":
                _xml(SubElement(node, "Item", {"number": str(number)}), value)
            elif element["vr"] == "PN":
                person = SubElement(node, "PersonName", {"number": str(number)})
                for group, text in value.items():
                    _name_parts(SubElement(person, group), text)
            elif value is not None:
                SubElement(node, "Value", {"number": str(number)}).text = str(value)


def _name_parts(node: Element, text: str) -> None:
    names = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
    for name, part in zip(names, text.split("^"), strict=False):
        if part:
            SubElement(node, name).text = part
