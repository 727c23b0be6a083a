"""What Orthanc Explorer shows of the region on a patient's and a study's page: who holds what, and where it stands."""

from collections.abc import Callable, Mapping
from typing import Any

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.lookup import Level, Query, RemoteAnswer, RemoteAnswers, Selector
from usmed.domain.pull import UNFINISHED, State
from usmed.domain.region import RegionManifest
from usmed.hospital.archive import Archive, Study
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import PullRow

_TAGS = ("StudyDescription", "StudyTime", "AccessionNumber", "BodyPartExamined")


class RegionPanel:
    """Builds the panel's content as JSON."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        region: Callable[[], RegionManifest],
        lookup: FederatedLookup,
        pulls: Pulls,
        archive: Archive,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._region = region
        self._lookup = lookup
        self._pulls = pulls
        self._archive = archive

    def patient(self, patient_id: str, agent: str, issuer: str = "") -> dict[str, Any]:
        """Return the panel of a patient.

        Args:
            patient_id: PatientID as it stands in this archive.
            agent: who looks.
            issuer: IssuerOfPatientID, if the archive's objects name one.

        Returns:
            `{"hospital", "permission", "message", "studies": [...], "missing": {hospital: reason}}`. `permission` is
            false when the region shows nothing, which does not tell whether there is anything.
        """
        try:
            identifier = self._naming.identify(patient_id, issuer)
        except PeerDataError as error:
            return self._empty(str(error))
        return self._panel(identifier, agent)

    def study(self, study: Study, agent: str) -> dict[str, Any]:
        """Return the panel of one study: as of its patient, with only this study."""
        try:
            panel = self._panel(study.identifier(self._naming), agent)
        except PeerDataError as error:
            return self._empty(str(error))
        panel["studies"] = [one for one in panel["studies"] if one["StudyInstanceUID"] == study.study_instance_uid]
        row = self._pulls.row(study.study_instance_uid)
        if row is not None and not panel["studies"]:
            panel["studies"] = [self._from_row(row)]
        return panel

    def _panel(self, identifier: PatientIdentifier, agent: str) -> dict[str, Any]:
        query = Query(Level.STUDY, {"PatientID": identifier.value, "IssuerOfPatientID": identifier.issuer}, _TAGS)
        answers = self._lookup.find(query, Selector(identifier=identifier), agent)
        studies = [self._remote(answer) for answer in answers.answers]
        region = self._region()
        return {
            "hospital": region.hospitals[self._hospital].name,
            "permission": bool(answers.answers),
            "message": "" if answers.answers else _NOTHING,
            "studies": sorted(studies, key=lambda one: str(one["StudyDate"]), reverse=True),
            "missing": {self._name(peer): reason for peer, reason in _missing(answers).items()},
        }

    def _remote(self, answer: RemoteAnswer) -> dict[str, Any]:
        tags = answer.tags
        row = self._pulls.row(answer.study_instance_uid)
        here = self._archive.study(answer.study_instance_uid)
        instances = here[0].instances if here else 0
        shown = {
            "StudyInstanceUID": answer.study_instance_uid,
            "StudyDate": tags.get("StudyDate", ""),
            "StudyDescription": tags.get("StudyDescription", ""),
            "ModalitiesInStudy": tags.get("ModalitiesInStudy", ""),
            "Instances": answer.instances,
            "Holder": self._name(answer.holder),
            "OrthancStudy": here[0].orthanc_id if here else "",
            **_state(row, instances, answer.instances),
        }
        self._add_progress(shown, answer.study_instance_uid)
        return shown

    def _from_row(self, row: PullRow) -> dict[str, Any]:
        here = self._archive.study(row.study_instance_uid)
        shown = {
            "StudyInstanceUID": row.study_instance_uid,
            "StudyDate": here[0].study_date if here else "",
            "StudyDescription": "",
            "ModalitiesInStudy": "\\".join(here[0].modalities) if here else "",
            "Instances": row.instances,
            "Holder": self._name(row.source),
            "OrthancStudy": here[0].orthanc_id if here else "",
            **_state(row, here[0].instances if here else 0, row.instances),
        }
        self._add_progress(shown, row.study_instance_uid)
        return shown

    def _add_progress(self, shown: dict[str, Any], study_instance_uid: str) -> None:
        progress = self._pulls.progress(study_instance_uid)
        if progress is not None and progress.manifest is not None:
            shown["Arrived"] = sum(progress.verified)
            shown["Instances"] = len(progress.verified)

    def _name(self, hospital_id: str) -> str:
        hospital = self._region().hospitals.get(hospital_id)
        return hospital.name if hospital else hospital_id

    def _empty(self, message: str) -> dict[str, Any]:
        return {"hospital": "", "permission": False, "message": message, "studies": [], "missing": {}}


_NOTHING = (
    "This hospital has no permission from this patient to see studies of other hospitals."
    " That does not tell whether there are any."
)


def _missing(answers: RemoteAnswers) -> Mapping[str, str]:
    return answers.missing


def _state(row: PullRow | None, here: int, there: int) -> dict[str, Any]:
    """Return State (here, arriving, waiting, refused, failed, remote), Arrived, Reason."""
    if row is not None and row.state in UNFINISHED:
        return {"State": "waiting" if row.state is State.WAITING else "arriving", "Arrived": row.arrived,
                "Reason": row.reason}  # fmt: skip
    if row is not None and row.state in (State.REFUSED, State.FAILED):
        return {"State": row.state.value, "Arrived": row.arrived, "Reason": row.reason}
    if here and here >= there:
        return {"State": "here", "Arrived": here, "Reason": ""}
    reason = f"{here} of {there} images are here" if here else ""
    return {"State": "remote", "Arrived": here, "Reason": reason}
