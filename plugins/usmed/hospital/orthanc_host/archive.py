"""The archive behind the use cases: this Orthanc, through its built-in REST API."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import orthanc

from usmed.domain.identifiers import is_single_value, is_uid
from usmed.domain.lookup import Level, Query
from usmed.hospital.archive import ArchiveError, Match, Stored, StoredInstance, Study
from usmed.hospital.orthanc_host import rest
from usmed.hospital.orthanc_host.matching import Matching, rest_find

PROVENANCE_METADATA = 5301
"""Number of our study metadata; Orthanc leaves 1024 and above to users (Orthanc Book, "Metadata")."""

_FROM_PLUGINS = "Plugins"
"""Orthanc's metadata "Origin" of an instance that a plugin has stored; DICOM, REST and Lua have names of their own."""

_STUDY_TAGS = [
    "IssuerOfPatientID", "ModalitiesInStudy", "NumberOfStudyRelatedInstances", "OtherPatientIDsSequence",
]  # fmt: skip


class OrthancArchive:
    """Implements `usmed.hospital.archive.Archive`.

    Args:
        matching: looks up.
        files: Orthanc's storage directory; None where its files are not as long as what was stored (compressed).
    """

    def __init__(self, matching: Matching, files: Path | None) -> None:
        self._matching = matching
        self._files = files

    def find(self, query: Query, *, labels: bool = False) -> list[Match]:
        """See `Archive.find`."""
        request = {
            "Level": query.level.orthanc,
            "RequestedTags": list(query.tags),
            "ResponseContent": ["RequestedTags", "Labels"] if labels else ["RequestedTags"],
        }
        if query.case_sensitive:
            found = self._matching.find(request, query.keys)
        else:
            found = rest_find({**request, "Query": dict(query.keys), "CaseSensitive": False})
        return [Match(one["ID"], one.get("RequestedTags", {}), frozenset(one.get("Labels", ()))) for one in found]

    def studies_of_patient(self, patient_id: str) -> list[Study]:
        """See `Archive.studies_of_patient`."""
        # A number with * or ? in it would be read as a pattern, which finds it too, and more; `==` decides.
        return [one for one in self._studies({"PatientID": patient_id}) if one.patient_id.strip(" ") == patient_id]

    def studies(self, since: int, limit: int) -> list[Study]:
        """See `Archive.studies`."""
        return self._studies({}, Since=since, Limit=limit)

    def study(self, study_instance_uid: str) -> list[Study]:
        """See `Archive.study`."""
        if not is_uid(study_instance_uid):
            return []
        return self._studies({"StudyInstanceUID": study_instance_uid})

    def study_by_orthanc_id(self, orthanc_id: str) -> Study | None:
        """See `Archive.study_by_orthanc_id`."""
        try:
            uid = rest.get_json(f"/studies/{orthanc_id}")["MainDicomTags"]["StudyInstanceUID"]
        except rest.OrthancError as error:
            if error.code == rest.UNKNOWN_RESOURCE:
                return None
            raise
        return next((one for one in self.study(uid) if one.orthanc_id == orthanc_id), None)

    def instances(self, study_orthanc_id: str) -> list[StoredInstance]:
        """See `Archive.instances`."""
        try:
            found = rest.get_json(f"/studies/{study_orthanc_id}/instances?expand")
            series = {
                one["ID"]: one["MainDicomTags"]["SeriesInstanceUID"]
                for one in rest.get_json(f"/studies/{study_orthanc_id}/series?expand")
            }
            instances = [
                StoredInstance(
                    one["ID"],
                    one["FileUuid"],
                    one["MainDicomTags"]["SOPInstanceUID"],
                    series[one["ParentSeries"]],
                    int(one["FileSize"]),
                )
                for one in found
            ]
        except rest.OrthancError as error:
            if error.code == rest.UNKNOWN_RESOURCE:
                return []
            raise
        except KeyError as error:
            raise ArchiveError("the study changed while it was being listed") from error
        return sorted(instances, key=lambda one: (one.series_instance_uid, one.sop_instance_uid))

    def read(self, instance_orthanc_id: str) -> bytes:
        """See `Archive.read`."""
        try:
            data: bytes = orthanc.GetDicomForInstance(instance_orthanc_id)
        except orthanc.OrthancException as error:
            raise rest._translated(error) from error
        return data

    def read_unchecked(self, instance: StoredInstance) -> bytes:
        """See `Archive.read_unchecked`.

        Orthanc looks it up in its database, computes its MD5 and copies it a few times: half of what sending costs.
        """
        if self._files is not None:
            try:
                data = self._path(self._files, instance).read_bytes()
            except OSError:
                # Another plugin stores the files, or this one is gone, which Orthanc says by an error of its own.
                data = b""
            # Of another length is what was compressed at a time when Orthanc compressed.
            if len(data) == instance.size_bytes:
                return data
        return self.read(instance.orthanc_id)

    def store(self, dicom: bytes) -> Stored:
        """See `Archive.store`."""
        answer = json.loads(rest.post("/instances", dicom))
        return Stored(str(answer["ParentStudy"]), str(answer["ID"]), answer["Status"] != "AlreadyStored")

    def is_cut_short(self, instance: StoredInstance) -> bool:
        """See `Archive.is_cut_short`.

        Orthanc 1.13.0 can acknowledge an instance whose last bytes a full disk has refused, and its own check
        (`verify-md5`) looks at what it has in memory. Without that file another plugin stores, and knows better.
        """
        if self._files is None:
            return False
        try:
            return self._path(self._files, instance).stat().st_size < instance.size_bytes
        except OSError:
            return False

    def delete_instance(self, instance_orthanc_id: str) -> None:
        """See `Archive.delete_instance`."""
        try:
            rest.delete(f"/instances/{instance_orthanc_id}")
        except rest.OrthancError as error:
            if error.code != rest.UNKNOWN_RESOURCE:
                raise

    def label(self, study_orthanc_id: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """See `Archive.label`."""
        for label in add:
            rest.put(f"/studies/{study_orthanc_id}/labels/{label}", b"")
        for label in remove:
            rest.delete(f"/studies/{study_orthanc_id}/labels/{label}")

    def set_provenance(self, study_orthanc_id: str, provenance: Mapping[str, Any]) -> None:
        """See `Archive.set_provenance`."""
        rest.put(f"/studies/{study_orthanc_id}/metadata/{PROVENANCE_METADATA}", json.dumps(provenance))

    def clear_provenance(self, study_orthanc_id: str) -> None:
        """See `Archive.clear_provenance`."""
        rest.delete(f"/studies/{study_orthanc_id}/metadata/{PROVENANCE_METADATA}")

    def stored_by_plugins(self, study_orthanc_id: str) -> dict[str, str]:
        """See `Archive.stored_by_plugins`."""
        request = {
            "Level": Level.IMAGE.orthanc,
            "Query": {},
            "ParentStudy": study_orthanc_id,
            "ResponseContent": ["MainDicomTags", "Metadata"],
        }
        try:
            found = rest_find(request)
        except rest.OrthancError as error:
            if error.code == rest.UNKNOWN_RESOURCE:
                return {}
            raise
        return {
            one["MainDicomTags"]["SOPInstanceUID"]: one["ID"]
            for one in found
            if one.get("Metadata", {}).get("Origin") == _FROM_PLUGINS
        }

    def delete_instances(self, instance_orthanc_ids: Sequence[str]) -> None:
        """See `Archive.delete_instances`."""
        for some in batched(instance_orthanc_ids, 500, strict=False):
            try:
                rest.post("/tools/bulk-delete", json.dumps({"Resources": list(some)}))
            except rest.OrthancError as error:
                if error.code != rest.UNKNOWN_RESOURCE:
                    raise
                # One of them is gone already.
                for one in some:
                    self.delete_instance(one)

    def parent_studies(self, resource_orthanc_ids: Sequence[str]) -> list[Study]:
        """See `Archive.parent_studies`."""
        studies: dict[str, Study] = {}
        for resource in resource_orthanc_ids:
            for study_id in _study_ids(resource):
                if study_id not in studies:
                    study = self.study_by_orthanc_id(study_id)
                    if study is not None:
                        studies[study_id] = study
        return list(studies.values())

    def size_bytes(self) -> int:
        """See `Archive.size_bytes`. Orthanc keeps the sum, it does not look at the files."""
        return int(rest.get_json("/statistics")["TotalDiskSize"])

    @staticmethod
    def _path(files: Path, instance: StoredInstance) -> Path:
        name = instance.file_uuid
        return files / name[:2] / name[2:4] / name

    def _studies(self, query: Mapping[str, str], **paging: int) -> list[Study]:
        request = {
            "Level": Level.STUDY.orthanc,
            "Query": dict(query),
            "CaseSensitive": True,
            "ResponseContent": ["MainDicomTags", "Labels", "RequestedTags"],
            "RequestedTags": [*_STUDY_TAGS, "PatientID", "PatientName", "PatientBirthDate", "PatientSex"],
            **paging,
        }
        return [_study(one) for one in rest_find(request)]


def _study(found: Mapping[str, Any]) -> Study:
    tags = {**found.get("MainDicomTags", {}), **found.get("RequestedTags", {})}
    others = tags.get("OtherPatientIDsSequence") or []
    return Study(
        orthanc_id=found["ID"],
        study_instance_uid=tags.get("StudyInstanceUID", ""),
        patient_id=tags.get("PatientID", ""),
        issuer=tags.get("IssuerOfPatientID", ""),
        birth_date=tags.get("PatientBirthDate", "").strip(" "),
        sex=tags.get("PatientSex", "").strip(" "),
        study_date=tags.get("StudyDate", ""),
        accession_number=tags.get("AccessionNumber", ""),
        modalities=tuple(sorted(one for one in tags.get("ModalitiesInStudy", "").split("\\") if one)),
        labels=frozenset(found.get("Labels", ())),
        instances=int(tags.get("NumberOfStudyRelatedInstances", 0) or 0),
        other_identifiers=tuple(
            (str(item.get("IssuerOfPatientID", "")), str(item["PatientID"])) for item in others if item.get("PatientID")
        ),
        patient_name=tags.get("PatientName", ""),
    )


def _study_ids(resource: str) -> list[str]:
    """Return the Orthanc identifiers of the studies that a resource of any level belongs to or holds."""
    if not is_single_value(resource) or "/" in resource:
        return []
    for uri in (f"/studies/{resource}", f"/series/{resource}/study", f"/instances/{resource}/study"):
        try:
            return [str(rest.get_json(uri)["ID"])]
        except rest.OrthancError as error:
            if error.code != rest.UNKNOWN_RESOURCE:
                raise
    try:
        return [str(one["ID"]) for one in rest.get_json(f"/patients/{resource}/studies")]
    except rest.OrthancError as error:
        if error.code != rest.UNKNOWN_RESOURCE:
            raise
    return []
