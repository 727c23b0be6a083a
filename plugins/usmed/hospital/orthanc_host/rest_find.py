"""`POST /tools/find`: Orthanc's own answer, and the region's behind it.

A lookup that names no single patient gets Orthanc's own answer, untouched.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import orthanc
from pydicom.datadict import keyword_for_tag

from usmed.domain.identifiers import orthanc_id
from usmed.domain.lookup import NEARLINE, UNIQUE_KEYS, Level, Query, Selector
from usmed.hospital.orthanc_host.matching import with_numbers
from usmed.hospital.orthanc_host.ordering import in_order, order_tags
from usmed.hospital.regional_find import Addition, RegionalFind
from usmed.hospital.tag_names import tag_and_vr

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
        quick = json.dumps(with_numbers(request)) if isinstance(request, dict) else body
        local: bytes = orthanc.RestApiPost("/tools/find", quick)
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
        added: list[_Added] = []
        everything = _Everything(request, local)
        if selector is not None:
            added = self._added(request, query, selector, agent, everything)
        if not added and not (arriving and level is Level.STUDY):
            # Most lookups end here: not a byte of Orthanc's answer is read or written again.
            return local
        if added and request.get("OrderBy"):
            found = _in_order(request, everything, added)
        else:
            found = _joined(request, json.loads(local), _page(request, everything, added))
        if arriving and level is Level.STUDY:
            self._mark_arriving(found)
        return json.dumps(found, ensure_ascii=False, indent=1).encode("utf-8")

    def _mark_arriving(self, found: list[Any]) -> None:
        """Say of each study of which only a part is here that it is not here yet."""
        for one in _expanded(found):
            if self._regional.is_arriving(str(one["ID"])):
                one["InstanceAvailability"] = NEARLINE

    def _added(
        self, request: Mapping[str, Any], query: Query, selector: Selector, agent: str, everything: "_Everything"
    ) -> "list[_Added]":
        """Return what the region adds to this answer, as Orthanc's resources, each with its tags; not paged."""
        tags = dict.fromkeys([*query.tags, *_MAIN_TAGS[query.level], *_UIDS[query.level], *_order(request)])
        asked = Query(query.level, query.keys, tuple(tags), query.case_sensitive)
        additions = self._regional.add(
            asked,
            selector,
            agent,
            lambda: _uids(query.level, everything.resources),
            have_local=query.level is Level.PATIENT and bool(everything.resources),
        )
        added: dict[str, _Added] = {}
        for one in additions.entities:
            resource = _resource(request, query.level, one)
            if query.level is Level.STUDY:
                self._remember(resource["ID"], one.answer.study_instance_uid)
            if _label_admits(request):
                added.setdefault(resource["ID"], (resource, one.tags))
        return list(added.values())

    def _remember(self, identifier: str, study_instance_uid: str) -> None:
        if len(self.remote_ids) > 50_000:
            self.remote_ids.clear()
        self.remote_ids[identifier] = study_instance_uid


type _Added = tuple[dict[str, Any], Mapping[str, Any]]


class _Everything:
    """All that is here and matches, whatever page was asked for; looked up only when somebody asks."""

    def __init__(self, request: Mapping[str, Any], local: bytes) -> None:
        self._request = request
        self._local = local

    @cached_property
    def resources(self) -> list[Any]:
        """Return it in the form that was asked for."""
        if not self._request.get("Since") and not self._request.get("Limit"):
            return list(json.loads(self._local))
        return list(json.loads(orthanc.RestApiPost("/tools/find", json.dumps(_unpaged(self._request)))))

    def tags(self, names: Iterable[str]) -> list[Mapping[str, Any]]:
        """Return these tags of each, in the same order."""
        request = {
            **{k: v for k, v in _unpaged(self._request).items() if k not in ("Expand", "Short", "Full")},
            "ResponseContent": ["RequestedTags"],
            "RequestedTags": list(names),
        }
        return [one["RequestedTags"] for one in json.loads(orthanc.RestApiPost("/tools/find", json.dumps(request)))]


def _order(request: Mapping[str, Any]) -> list[str]:
    return order_tags(request.get("OrderBy") or ())


def _in_order(request: Mapping[str, Any], everything: _Everything, added: list[_Added]) -> list[Any]:
    """Return the page that was asked for of local and remote answers in one order."""
    expanded = _is_expanded(request)
    here = everything.resources
    have = {one["ID"] if expanded else one for one in here}
    remote = [(one if expanded else one["ID"], tags) for one, tags in added if one["ID"] not in have]
    entries = [*zip(here, everything.tags(_order(request)), strict=True), *remote]
    since, limit = int(request.get("Since", 0)), int(request.get("Limit", 0))
    return in_order(entries, request["OrderBy"])[since : since + limit if limit else None]


def _page(request: Mapping[str, Any], everything: _Everything, added: list[_Added]) -> list[dict[str, Any]]:
    """Return those remote answers that are on the page that was asked for: they stand behind all local ones."""
    resources = [resource for resource, _ in added]
    since, limit = int(request.get("Since", 0)), int(request.get("Limit", 0))
    if not since and not limit:
        return resources
    here = len(everything.resources)
    resources = resources[max(0, since - here) :]
    return resources[: max(0, limit - max(0, here - since))] if limit else resources


def _is_expanded(request: Mapping[str, Any]) -> bool:
    return bool(request.get("Expand")) or "ResponseContent" in request


def _joined(request: Mapping[str, Any], found: list[Any], added: list[dict[str, Any]]) -> list[Any]:
    if not _is_expanded(request):
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
        "SeriesInstanceUID", "SeriesNumber", "SeriesTime", "StationName",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPInstanceUID"),
}  # fmt: skip
"""What Orthanc lists as MainDicomTags at each level (Orthanc Book, "Main DICOM tags")."""

_UIDS: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: (),
    Level.STUDY: (),
    Level.SERIES: ("StudyInstanceUID",),
    Level.IMAGE: ("StudyInstanceUID", "SeriesInstanceUID"),
}
"""What an Orthanc identifier is made of besides."""


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
    return {k: v for k, v in request.items() if k not in ("Since", "Limit")}


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
        known = {name: value for name, value in tags.items() if value is not None}
        main = {name: known[name] for name in _MAIN_TAGS[level] if name in known and name not in _MAIN_PATIENT}
        person = {name: known[name] for name in (*_MAIN_PATIENT, "PatientID") if name in known}
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
    if level is not Level.IMAGE and ("Status" in content or "IsStable" in content):
        resource["IsStable"] = True
    if level is not Level.IMAGE and ("LastUpdate" in content or "Status" in content):
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
