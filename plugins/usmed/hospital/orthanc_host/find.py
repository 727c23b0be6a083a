"""C-FIND and `/tools/find`: the local answer first, then what the region adds.

A lookup that names no single patient goes straight to Orthanc's own `/tools/find`.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orthanc

from usmed.domain.identifiers import Naming, orthanc_id
from usmed.domain.lookup import (
    NEARLINE,
    ONLINE,
    UNIQUE_KEYS,
    Level,
    Query,
    RemoteAnswer,
    RemoteAnswers,
    Selector,
    only_remote,
)
from usmed.hospital.archive import Archive, Match
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup, shown_identifier
from usmed.hospital.pulls import Pulls

log = logging.getLogger(__name__)

_PATIENT_COUNTS = {"NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"}


class RegionalFind:
    """Joins local and remote answers of one lookup."""

    def __init__(
        self,
        *,
        naming: Naming,
        archive: Archive,
        lookup: FederatedLookup | None,
        fetch: Fetch | None,
        pulls: Pulls | None,
        hospital_name: Callable[[str], str],
        own_aet: str,
    ) -> None:
        self._naming = naming
        self._archive = archive
        self._lookup = lookup
        self._fetch = fetch
        self._pulls = pulls
        self._hospital_name = hospital_name
        self._own_aet = own_aet

    def selector(self, query: Query) -> Selector | None:
        """Tell which single patient a lookup names, if the region is to be asked."""
        return self._lookup.select(query) if self._lookup is not None else None

    def remote(
        self, query: Query, selector: Selector, agent: str, local_uids: Callable[[], Iterable[str]]
    ) -> tuple[RemoteAnswers, list[RemoteAnswer]]:
        """Ask the region; return everything it said, and the answers that are not here already."""
        assert self._lookup is not None
        assert self._fetch is not None
        assert self._pulls is not None
        if query.level is not Level.PATIENT and "StudyInstanceUID" in query.keys and self._whole(query):
            return RemoteAnswers(), []
        answers = self._lookup.find(query, selector, agent)
        if query.level in (Level.PATIENT, Level.STUDY):
            self._fetch.looked_up(answers, agent)
        if not answers.answers or query.level is Level.PATIENT:
            return answers, list(answers.answers)
        partial = {one.study_instance_uid for one in answers.answers if self._is_partial(one)}
        return answers, only_remote(query.level, answers.answers, local_uids(), partial)

    def is_arriving(self, study_instance_uid: str) -> bool:
        """Tell whether only a part of this study is here."""
        return (
            self._pulls is not None
            and not self._pulls.nothing_arriving
            and self._pulls.arriving(study_instance_uid) is not None
        )

    def tags(self, level: Level, selector: Selector, answers: RemoteAnswers, answer: RemoteAnswer) -> dict[str, Any]:
        """Return a remote answer's tags as they are shown here: our patient number, where it is, how to get it."""
        here = level is not Level.PATIENT and self._is_here(answer)
        shown = {
            **answer.tags,
            "PatientID": shown_identifier(selector, self._naming, answers, answer),
            "RetrieveAETitle": self._own_aet,
            "InstanceAvailability": ONLINE if here else NEARLINE,
            "InstitutionName": self._hospital_name(answer.holder),
        }
        if selector.identifier is not None:
            shown["IssuerOfPatientID"] = selector.identifier.issuer
        return shown

    def _whole(self, query: Query) -> bool:
        uid = str(query.keys["StudyInstanceUID"])
        return bool(self._archive.study(uid)) and not self.is_arriving(uid)

    def _is_here(self, answer: RemoteAnswer) -> bool:
        return not self._is_partial(answer) and any(
            one.instances >= answer.instances for one in self._archive.study(answer.study_instance_uid)
        )

    def _is_partial(self, answer: RemoteAnswer) -> bool:
        """Tell whether a guest copy is here that lacks something the holder has."""
        assert self._pulls is not None
        if self._pulls.arriving(answer.study_instance_uid) is not None:
            return True
        row = self._pulls.row(answer.study_instance_uid)
        return row is not None and row.instances < answer.instances


class DicomFind:
    """The C-FIND service class provider (PS3.4 C.4.1)."""

    def __init__(self, regional: RegionalFind, own_aets: Callable[[str], bool]) -> None:
        self._regional = regional
        self._is_own = own_aets

    def __call__(self, answers: Any, query: Any, connection: Any) -> None:
        remote_aet = connection.GetConnectionRemoteAet()
        level, keys, tags = _read(query)
        if not self._is_own(remote_aet):
            # What a system outside the hospital may see is for the federation to answer, with consent.
            log.warning("C-FIND by %s is answered empty: it is not a system of this hospital", remote_aet)
            return
        asked = Query(level, keys, tuple(tags))
        local = _local(asked)
        region = RemoteAnswers()
        remote: list[RemoteAnswer] = []
        selector = self._regional.selector(asked)
        if selector is not None:
            unique = UNIQUE_KEYS.get(level, "PatientID")
            region, remote = self._regional.remote(
                asked, selector, remote_aet, lambda: [str(one.tags.get(unique, "")) for one in local]
            )
        replaced = {one.study_instance_uid for one in remote} if level is Level.STUDY else frozenset()
        for match in local:
            uid = str(match.tags.get("StudyInstanceUID", ""))
            if uid in replaced:
                continue
            arriving = level is not Level.PATIENT and self._regional.is_arriving(uid)
            availability = NEARLINE if arriving else ONLINE
            _add(answers, level, tags, {"InstanceAvailability": availability, **match.tags}, self._regional._own_aet)
        if selector is not None:
            for shown in remote_tags(self._regional, level, selector, region, remote, bool(local)):
                _add(answers, level, tags, shown, self._regional._own_aet)


def remote_tags(
    regional: RegionalFind,
    level: Level,
    selector: Selector,
    region: RemoteAnswers,
    remote: list[RemoteAnswer],
    have_local: bool,
) -> list[dict[str, Any]]:
    """Return the tags of the remote answers as shown here; at PATIENT level at most one, if none is local."""
    shown = [regional.tags(level, selector, region, one) for one in remote]
    if level is not Level.PATIENT:
        return shown
    if have_local or not shown:
        return []
    patients = {one["PatientID"]: one for one in shown}
    for patient_id, one in patients.items():
        mine = [answer for answer, tags in zip(remote, shown, strict=True) if tags["PatientID"] == patient_id]
        one["NumberOfPatientRelatedStudies"] = str(len(mine))
        one["NumberOfPatientRelatedInstances"] = str(sum(answer.instances for answer in mine))
    return list(patients.values())


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
        value = query.GetFindQueryValue(index)
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


def _add(answers: Any, level: Level, asked: Mapping[str, Any], tags: Mapping[str, Any], own_aet: str) -> None:
    """Answer with the keys that were asked for, and those that every answer has (PS3.4 C.4.1.1.3.2)."""
    from usmed.hospital.orthanc_host.answer import encode_answer

    content = {name: tags.get(name, "") for name in asked}
    content["QueryRetrieveLevel"] = level.value
    content["RetrieveAETitle"] = own_aet
    content["SpecificCharacterSet"] = "ISO_IR 192"
    answers.FindAddAnswer(encode_answer(content))


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
        local: bytes = orthanc.RestApiPost("/tools/find", body)
        try:
            request = json.loads(body)
            level = _LEVELS[request["Level"].capitalize()]
            keys = {_keyword(name): value for name, value in request.get("Query", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return local
        arriving = self._regional._pulls is not None and not self._regional._pulls.nothing_arriving
        query = Query(level, _texts(keys), _requested(request), bool(request.get("CaseSensitive", False)))
        selector = self._regional.selector(query)
        if any(name in request for name in ("ParentPatient", "ParentStudy", "ParentSeries", "MetadataQuery")):
            # They speak of what is in this archive's database; nothing remote can match.
            selector = None
        if selector is None and not arriving:
            return local
        found = json.loads(local)
        if arriving and level is Level.STUDY:
            self._mark_arriving(found)
        if selector is not None:
            found = self._join(request, query, selector, agent, found)
        return json.dumps(found, ensure_ascii=False, indent=1).encode("utf-8")

    def _mark_arriving(self, found: list[Any]) -> None:
        """Say of each study of which only a part is here that it is not here yet."""
        for one in _expanded(found):
            assert self._regional._pulls is not None
            if self._regional._pulls.arriving(str(one["ID"])) is not None:
                one["InstanceAvailability"] = NEARLINE

    def _join(
        self, request: Mapping[str, Any], query: Query, selector: Selector, agent: str, found: list[Any]
    ) -> list[Any]:
        tags = tuple(dict.fromkeys([*query.tags, *_MAIN_TAGS[query.level]]))
        asked = Query(query.level, query.keys, tags, query.case_sensitive)
        region, remote = self._regional.remote(asked, selector, agent, lambda: _uids(query.level, found))
        added: list[dict[str, Any]] = []
        for shown, answer in zip(
            [self._regional.tags(query.level, selector, region, one) for one in remote], remote, strict=True
        ):
            resource = _resource(request, query.level, shown, answer, self._regional._hospital_name(answer.holder))
            if query.level is Level.STUDY:
                self._remember(resource["ID"], answer.study_instance_uid)
            if _label_admits(request) and all(one["ID"] != resource["ID"] for one in [*added, *_expanded(found)]):
                added.append(resource)
        since, limit = int(request.get("Since", 0)), int(request.get("Limit", 0))
        if since or limit:
            # Remote answers stand behind all local ones; a page may hold the end of these and the start of those.
            everything = {**request, "Since": 0, "Limit": 0, "Expand": False}
            everything.pop("ResponseContent", None)
            total = len(json.loads(orthanc.RestApiPost("/tools/find", json.dumps(everything))))
            added = added[max(0, since - total) :]
            if limit:
                added = added[: max(0, limit - len(found))]
        if not request.get("Expand") and "ResponseContent" not in request:
            have = set(found)
            return [*found, *(one["ID"] for one in added if one["ID"] not in have)]
        return [*found, *added]

    def _remember(self, identifier: str, study_instance_uid: str) -> None:
        if len(self.remote_ids) > 50_000:
            self.remote_ids.clear()
        self.remote_ids[identifier] = study_instance_uid


_LEVELS = {"Patient": Level.PATIENT, "Patients": Level.PATIENT, "Study": Level.STUDY, "Studies": Level.STUDY,
           "Series": Level.SERIES, "Instance": Level.IMAGE, "Instances": Level.IMAGE}  # fmt: skip

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
    from pydicom.datadict import keyword_for_tag

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


REMOTE_LABEL = "usmed-remote"


def _resource(
    request: Mapping[str, Any], level: Level, tags: Mapping[str, Any], answer: RemoteAnswer, holder_name: str
) -> dict[str, Any]:
    """Return a remote entity as a resource of Orthanc, with the identifier that it will have once it is here."""
    patient, study = str(tags["PatientID"]), answer.study_instance_uid
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
        "HeldBy": {"Hospital": answer.holder, "Name": holder_name},
    }
    if "MainDicomTags" in content:
        main = {name: tags[name] for name in _MAIN_TAGS[level] if name in tags and name not in _MAIN_PATIENT}
        person = {name: tags[name] for name in _MAIN_PATIENT if name in tags} | {"PatientID": patient}
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
    from usmed.hospital.orthanc_host.answer import tag_and_vr

    formatted: dict[str, Any] = {}
    for name, value in tags.items():
        known = tag_and_vr(name)
        if known is None:
            continue
        code = f"{known[0] >> 16:04x},{known[0] & 0xFFFF:04x}"
        formatted[code] = value if request.get("Short") else {"Name": name, "Type": "String", "Value": value}
    return dict(sorted(formatted.items()))
