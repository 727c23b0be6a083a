"""QIDO-RS `GET /dicom-web/studies` (PS3.18 §10.6): the DICOMweb plugin cannot be asked for a route that we took.

So the search for studies is answered here, from Orthanc's `/tools/find` and the region, in DICOM JSON or XML. All
other DICOMweb routes stay with the DICOMweb plugin.
"""

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import orthanc
from pydicom.datadict import keyword_for_tag

from usmed.domain.lookup import NEARLINE, ONLINE, Level, Query
from usmed.hospital.orthanc_host.matching import rest_find
from usmed.hospital.regional_find import Additions, RegionalFind
from usmed.hospital.tag_names import tag_and_vr

log = logging.getLogger(__name__)

JSON_TYPE = "application/dicom+json"

DEFAULT_TAGS = (
    "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
    "ReferringPhysicianName", "RetrieveURL", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
"""What a study answer always has (PS3.18 Table 10.6.3-3)."""

_COMPUTED = {"RetrieveURL", "InstanceAvailability", "SpecificCharacterSet", "TimezoneOffsetFromUTC"}


class QidoStudies:
    """Searches for studies. Matching is the DICOMweb plugin's: no attribute counts with its case, but a PatientID."""

    def __init__(self, regional: RegionalFind) -> None:
        self._regional = regional

    def search(self, arguments: Mapping[str, str], base_url: str, agent: str) -> list[dict[str, Any]]:
        """Return the matches as DICOM JSON datasets.

        Args:
            arguments: the query's arguments, each once. (Orthanc gives a Python plugin the last of several with one
                name, so who asks for any further field gets all that the index has: PS3.18 §10.6.3.3 allows more.)
            base_url: the DICOMweb root as the caller reaches it, without a slash at its end.
            agent: who asks.

        Raises:
            OrthancException: an argument that is no number, or not true or false, as the DICOMweb plugin says.
        """
        request = _read(arguments)
        query = Query(Level.STUDY, request.keys, request.tags, case_sensitive=False)
        selector = self._regional.selector(query)
        found = self._local(request, everything=selector is not None)
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
        return [_shown(request, tags, base_url) for tags in rows]

    def _local(self, request: "_Request", *, everything: bool) -> list[dict[str, Any]]:
        patient_id = request.keys.get("PatientID", "")
        body = {
            "Level": "Study",
            "Query": request.keys,
            "RequestedTags": [tag for tag in request.tags if tag not in _COMPUTED],
            "ResponseContent": ["RequestedTags", "MainDicomTags"],
            "CaseSensitive": False,
            "Limit": 0 if everything or patient_id or not request.limit else request.offset + request.limit,
        }
        found = rest_find(body)
        rows = [
            {**one["MainDicomTags"], **one.get("PatientMainDicomTags", {}), **one["RequestedTags"]} for one in found
        ]
        # Two patients whose numbers differ by case are two patients.
        return [tags for tags in rows if not patient_id or _is_number(str(tags.get("PatientID") or ""), patient_id)]


@dataclass(frozen=True)
class _Request:
    keys: dict[str, str]
    tags: tuple[str, ...]
    limit: int
    offset: int
    more: bool


def _shown(request: _Request, tags: Mapping[str, Any], base_url: str) -> dict[str, Any]:
    content = {name: tags[name] for name in (tags if request.more else request.tags) if tags.get(name) is not None}
    content["RetrieveURL"] = f"{base_url}/studies/{tags['StudyInstanceUID']}"
    content["InstanceAvailability"] = tags["InstanceAvailability"]
    if tags["InstanceAvailability"] == NEARLINE and "InstitutionName" in tags:
        # Who holds it: said even when nobody asked, because a viewer cannot know that it should.
        content["InstitutionName"] = tags["InstitutionName"]
    return to_dicom_json({**content, "SpecificCharacterSet": "ISO_IR 192"})


def _read(arguments: Mapping[str, str]) -> _Request:
    keys: dict[str, str] = {}
    tags = list(DEFAULT_TAGS)
    limit = offset = 0
    more = False
    for name, value in arguments.items():
        if name == "limit":
            limit = _number(value)
        elif name == "offset":
            offset = _number(value)
        elif name == "fuzzymatching":
            if value not in ("true", "false"):
                raise orthanc.OrthancException(int(orthanc.ErrorCode.BAD_REQUEST), "Bad request")
        elif name == "includefield":
            more = True
            tags += [keyword for one in value.split(",") if (keyword := _name(one))]
        elif keyword := _name(name):
            tags.append(keyword)
            if value:
                # The DICOMweb plugin reads a comma as the separator of a list, whatever the attribute.
                keys[keyword] = value.replace(",", "\\")
        elif name:
            log.info("an argument of a DICOMweb search was ignored: it is no DICOM attribute")
    return _Request(keys, tuple(dict.fromkeys(tags)), limit, offset, more)


def _number(value: str) -> int:
    """Read an unsigned number of 32 bits as the DICOMweb plugin does: -1 is the largest."""
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", value) or abs(int(value)) >= 1 << 32:
        raise orthanc.OrthancException(int(orthanc.ErrorCode.BAD_FILE_FORMAT), "Bad file format")
    return int(value) % (1 << 32)


def _name(text: str) -> str:
    """Return the keyword of an attribute named by keyword, `ggggeeee` or `gggg,eeee`; empty for no attribute."""
    plain = text.replace(",", "")
    if re.fullmatch("[0-9a-fA-F]{8}", plain):
        return keyword_for_tag(int(plain, 16)) or f"{plain[:4]},{plain[4:]}".lower()
    return text if tag_and_vr(text) is not None else ""


def _is_number(value: str, key: str) -> bool:
    """Tell whether a PatientID matches, character by character; the key may be a list or have wild cards."""
    for one in key.split("\\"):
        pattern = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in one.strip(" "))
        if re.fullmatch(pattern, value.strip(" "), re.DOTALL):
            return True
    return False


def base_url(headers: Mapping[str, str], configuration: Mapping[str, Any]) -> str:
    """Return the DICOMweb root as the caller reaches it, without a slash at its end.

    Args:
        headers: the request's, names in lower case. A proxy says by `Forwarded` (RFC 7239) how it is reached.
        configuration: Orthanc's.
    """
    dicomweb = configuration.get("DicomWeb", {})
    secure = bool(dicomweb.get("Ssl", configuration.get("SslEnabled", False)))
    scheme, host = "https" if secure else "http", dicomweb.get("Host") or headers.get("host", "localhost")
    forwarded = {
        part.partition("=")[0].strip().lower(): part.partition("=")[2].strip(' "')
        for part in headers.get("forwarded", "").partition(",")[0].split(";")
    }
    scheme, host = forwarded.get("proto") or scheme, forwarded.get("host") or host
    root = str(dicomweb.get("PublicRoot", dicomweb.get("Root", "/dicom-web/"))).strip("/")
    return f"{scheme}://{host}/{root}"


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
    if vr in ("FL", "FD"):
        return [_as(float, one) for one in parts]
    if vr == "AT":
        return [one.replace(",", "").upper() for one in parts]
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


_NAMESPACES = {
    "xmlns": "http://dicom.nema.org/PS3.19/models/NativeDICOM",
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:schemaLocation": "http://dicom.nema.org/PS3.19/models/NativeDICOM",
}
"""As the DICOMweb plugin writes them."""


def to_multipart_xml(datasets: Iterable[Mapping[str, Any]]) -> tuple[str, bytes]:
    """Return content type and body of the XML form (PS3.18 §10.6.3.2, PS3.19 §A.1)."""
    boundary = uuid.uuid4().hex
    parts = []
    for dataset in datasets:
        root = Element("NativeDicomModel", _NAMESPACES)
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
