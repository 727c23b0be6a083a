"""`POST /tools/find`: Orthanc's own answer, and the region's behind it.

A lookup that names no single patient gets Orthanc's own answer, untouched.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import orthanc
from pydicom.datadict import keyword_for_tag

from usmed.domain.identifiers import orthanc_id
from usmed.domain.lookup import NEARLINE, UNIQUE_KEYS, Level, Query, Selector
from usmed.hospital.orthanc_host.answer import tag_and_vr
from usmed.hospital.regional_find import Addition, RegionalFind

REMOTE_LABEL = "usmed-remote"
"""The label of a study that is elsewhere, in answers only: there is no such study in this archive."""


class RestFind:
    """`POST /tools/find`: Orthanc's own answer, and the region's behind it.

    Attributes:
        remote_ids: Orthanc identifiers that were given out for studies which are elsewhere, each with its Study
            Instance UID: whoever asks for one afterwards gets the study.
    """

    def __init__(self, regional: RegionalFind) -> None:
        self._regional = regional
        self.remote_ids: dict[str, str] = {}

    def __call__(self, body: bytes, agent: str) -> bytes:
        """Return the JSON answer.

        Raises:
            OrthancException: as Orthanc's own route.
        """
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        _check(request)
        local: bytes = orthanc.RestApiPost("/tools/find", body)
        try:
            level = _LEVELS[request["Level"].capitalize()]
            keys = {_keyword(name): value for name, value in request.get("Query", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return local
        arriving = not self._regional.nothing_arriving
        query = Query(level, _texts(keys), _requested(request), bool(request.get("CaseSensitive", False)))
        selector = self._regional.selector(query)
        if any(name in request for name in ("ParentPatient", "ParentStudy", "ParentSeries", "MetadataQuery")):
            # They speak of what is in this archive's database; nothing remote can match.
            selector = None
        if selector is None and not arriving:
            return local
        added: list[dict[str, Any]] = []
        if selector is not None:
            added = self._added(request, query, selector, agent, local)
        if not added and not (arriving and level is Level.STUDY):
            # Most lookups end here: not a byte of Orthanc's answer is read or written again.
            return local
        found = json.loads(local)
        if arriving and level is Level.STUDY:
            self._mark_arriving(found)
        return json.dumps(_joined(request, found, added), ensure_ascii=False, indent=1).encode("utf-8")

    def _mark_arriving(self, found: list[Any]) -> None:
        """Say of each study of which only a part is here that it is not here yet."""
        for one in _expanded(found):
            if self._regional.is_arriving(str(one["ID"])):
                one["InstanceAvailability"] = NEARLINE

    def _added(
        self, request: Mapping[str, Any], query: Query, selector: Selector, agent: str, local: bytes
    ) -> list[dict[str, Any]]:
        """Return what the region adds to this answer, as Orthanc's resources."""
        tags = tuple(dict.fromkeys([*query.tags, *_MAIN_TAGS[query.level]]))
        asked = Query(query.level, query.keys, tags, query.case_sensitive)
        since, limit = int(request.get("Since", 0)), int(request.get("Limit", 0))

        @cache
        def everything() -> list[Any]:
            whole = orthanc.RestApiPost("/tools/find", json.dumps(_unpaged(request))) if since or limit else local
            return list(json.loads(whole))

        additions = self._regional.add(
            asked,
            selector,
            agent,
            lambda: _uids(query.level, everything()),
            have_local=query.level is Level.PATIENT and bool(everything()),
        )
        if not additions.entities:
            return []
        added: list[dict[str, Any]] = []
        for one in additions.entities:
            resource = _resource(request, query.level, one)
            if query.level is Level.STUDY:
                self._remember(resource["ID"], one.answer.study_instance_uid)
            if _label_admits(request) and all(other["ID"] != resource["ID"] for other in added):
                added.append(resource)
        if since or limit:
            # Remote answers stand behind all local ones; a page may hold the end of these and the start of those.
            added = added[max(0, since - len(everything())) :]
            if limit:
                added = added[: max(0, limit - len(json.loads(local)))]
        return added

    def _remember(self, identifier: str, study_instance_uid: str) -> None:
        if len(self.remote_ids) > 50_000:
            self.remote_ids.clear()
        self.remote_ids[identifier] = study_instance_uid


def _joined(request: Mapping[str, Any], found: list[Any], added: list[dict[str, Any]]) -> list[Any]:
    if not request.get("Expand") and "ResponseContent" not in request:
        have = set(found)
        return [*found, *(one["ID"] for one in added if one["ID"] not in have)]
    have = {one["ID"] for one in _expanded(found)}
    return [*found, *(one for one in added if one["ID"] not in have)]


def _check(request: Any) -> None:
    """Refuse what makes Orthanc 1.13 throw a C++ exception of another kind than its own.

    Orthanc answers 500 to it. Called from here the exception would run through the Python interpreter, which cannot
    know of it.

    Raises:
        OrthancException: an internal error, as Orthanc's own route says.
    """
    if isinstance(request, dict):
        query, expand = request.get("Query", {}), request.get("Expand", False)
        if not isinstance(query, dict) or isinstance(expand, str | list | dict):
            raise orthanc.OrthancException(int(orthanc.ErrorCode.INTERNAL_ERROR), "Internal error")


_LEVELS = {"Patient": Level.PATIENT, "Patients": Level.PATIENT, "Study": Level.STUDY, "Studies": Level.STUDY,
           "Series": Level.SERIES, "Instance": Level.IMAGE, "Instances": Level.IMAGE, "Image": Level.IMAGE,
           "Images": Level.IMAGE}  # fmt: skip

_MAIN_PATIENT = ("PatientBirthDate", "PatientName", "PatientSex")
_MAIN_TAGS: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: _MAIN_PATIENT,
    Level.STUDY: (
        *_MAIN_PATIENT, "AccessionNumber", "InstitutionName", "ReferringPhysicianName", "StudyDate",
        "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
    ),
    Level.SERIES: (
        "BodyPartExamined", "Manufacturer", "Modality", "ProtocolName", "SeriesDate", "SeriesDescription",
        "SeriesInstanceUID", "SeriesNumber", "SeriesTime", "StationName", "StudyInstanceUID",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
}  # fmt: skip
"""What Orthanc lists as MainDicomTags at each level (Orthanc Book, "Main DICOM tags")."""


def _keyword(name: str) -> str:
    if len(name) == 9 and name[4] == ",":
        return keyword_for_tag(int(name[:4] + name[5:], 16)) or name
    return name


def _texts(keys: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in keys.items() if isinstance(value, str) and value.strip(" ")}


def _requested(request: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_keyword(str(one)) for one in request.get("RequestedTags", ()))


def _uids(level: Level, found: Iterable[Any]) -> list[str]:
    key = UNIQUE_KEYS[level]
    uids = []
    for one in found:
        resource = one if isinstance(one, dict) and "MainDicomTags" in one else None
        if resource is None:
            identifier = one if isinstance(one, str) else one["ID"]
            plural = {"Study": "studies", "Series": "series", "Instance": "instances"}[level.orthanc]
            resource = json.loads(orthanc.RestApiGet(f"/{plural}/{identifier}"))
        tags = resource["MainDicomTags"]
        uids.append(str(tags.get(key, "")))
    return uids


def _expanded(found: Iterable[Any]) -> list[Any]:
    return [one for one in found if isinstance(one, dict)]


def _label_admits(request: Mapping[str, Any]) -> bool:
    """Tell whether the Labels filter lets a remote resource through; its only label is `usmed-remote`."""
    wanted = set(request.get("Labels", ()))
    if not wanted:
        return True
    constraint = request.get("LabelsConstraint", "All")
    if constraint == "None":
        return REMOTE_LABEL not in wanted
    return REMOTE_LABEL in wanted and (constraint == "Any" or wanted == {REMOTE_LABEL})


def _unpaged(request: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in request.items() if k not in ("Since", "Limit", "Expand", "ResponseContent")}


def _resource(request: Mapping[str, Any], level: Level, addition: Addition) -> dict[str, Any]:
    """Return a remote entity as a resource of Orthanc, with the identifier that it will have once it is here."""
    tags, patient, study = addition.tags, addition.filed_under, addition.answer.study_instance_uid
    series, sop = str(tags.get("SeriesInstanceUID", "")), str(tags.get("SOPInstanceUID", ""))
    chain = {
        Level.PATIENT: (patient,),
        Level.STUDY: (patient, study),
        Level.SERIES: (patient, study, series),
        Level.IMAGE: (patient, study, series, sop),
    }[level]
    content = set(request.get("ResponseContent", ("MainDicomTags", "Children", "Parent", "Labels", "Status")))
    resource: dict[str, Any] = {
        "ID": orthanc_id(*chain),
        "Type": level.orthanc,
        "InstanceAvailability": tags["InstanceAvailability"],
        "HeldBy": {
            "Hospital": addition.answer.holder,
            "Name": addition.holder_name,
            "Instances": addition.answer.instances,
        },
    }
    if "MainDicomTags" in content:
        main = {name: tags[name] for name in _MAIN_TAGS[level] if name in tags and name not in _MAIN_PATIENT}
        person = {name: tags[name] for name in _MAIN_PATIENT if name in tags} | {"PatientID": tags["PatientID"]}
        resource["MainDicomTags"] = _formatted(request, person if level is Level.PATIENT else main)
        if level is Level.STUDY:
            resource["PatientMainDicomTags"] = _formatted(request, person)
    if "Parent" in content and level is not Level.PATIENT:
        name = {Level.STUDY: "ParentPatient", Level.SERIES: "ParentStudy", Level.IMAGE: "ParentSeries"}[level]
        resource[name] = orthanc_id(*chain[:-1])
    if "Children" in content and level is not Level.IMAGE:
        resource[{Level.PATIENT: "Studies", Level.STUDY: "Series", Level.SERIES: "Instances"}[level]] = []
    if "Labels" in content:
        resource["Labels"] = [REMOTE_LABEL]
    if "Status" in content or "IsStable" in content:
        resource["IsStable"] = True
    if "LastUpdate" in content or "Status" in content:
        resource["LastUpdate"] = ""
    if "Metadata" in content:
        resource["Metadata"] = {}
    if "RequestedTags" in content or request.get("RequestedTags"):
        asked = _requested(request)
        resource["RequestedTags"] = _formatted(request, {name: tags[name] for name in asked if name in tags})
    return resource


def _formatted(request: Mapping[str, Any], tags: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `Short` and `Full` (Orthanc Book, "DICOM tags in JSON")."""
    if not request.get("Short") and not request.get("Full"):
        return dict(tags)
    formatted: dict[str, Any] = {}
    for name, value in tags.items():
        known = tag_and_vr(name)
        if known is None:
            continue
        code = f"{known[0] >> 16:04x},{known[0] & 0xFFFF:04x}"
        formatted[code] = value if request.get("Short") else {"Name": name, "Type": "String", "Value": value}
    return dict(sorted(formatted.items()))
