"""What Orthanc Explorer shows of the region on a patient's and a study's page: who holds what, and where it stands."""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming
from usmed.domain.lookup import Level, Query, RemoteAnswer, Selector
from usmed.domain.pull import UNFINISHED, State
from usmed.domain.region import HUB, RegionManifest
from usmed.hospital.archive import Archive, Study
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import PullRow
from usmed.hospital.tickets import KEY_SERVERS


class Notice(StrEnum):
    """Why a panel shows no studies; a page puts it in words of its own language."""

    NONE = ""
    NO_PERMISSION = "no-permission"
    UNUSABLE_NUMBER = "unusable-number"
    SEVERAL_PATIENTS = "several-patients"


_TAGS = ("StudyDescription", "StudyTime", "AccessionNumber", "BodyPartExamined")


class RegionPanel:
    """Builds the panel's content as JSON.

    Every panel is `{"hospital", "permission", "starting", "notice", "message", "studies": [...], "missing": {hospital's
    name: reason}, "hub", "key_servers"}`. `starting`: some studies that are remote now may be on their way soon.
    `permission` is false when the region shows nothing, which does not tell whether there is anything; `notice` is
    the reason (`Notice`), `message` the same in words, empty when only those who did not answer could tell. `hub` is
    empty, or why the regional hub was not asked; `key_servers`, or why they give no permission now. A study is
    `{"StudyInstanceUID", "StudyDate", "StudyDescription", "ModalitiesInStudy", "Instances", "Holder",
    "OrthancStudy", "State", "Arrived", "Reason"}`; `State` is here, arriving, waiting, refused, failed or remote.
    """

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        region: Callable[[], RegionManifest],
        lookup: FederatedLookup,
        fetch: Fetch,
        pulls: Pulls,
        archive: Archive,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._region = region
        self._lookup = lookup
        self._fetch = fetch
        self._pulls = pulls
        self._archive = archive

    def patient(self, patient_id: str, agent: str, issuer: str = "") -> dict[str, Any]:
        """Return the panel of a patient. It is a lookup: it starts pulls where the hospital set it so.

        Args:
            patient_id: PatientID as it stands in this archive.
            agent: who looks.
            issuer: IssuerOfPatientID, if the archive's objects name one.
        """
        try:
            identifier = self._naming.identify(patient_id, issuer)
        except PeerDataError as error:
            return self._empty(Notice.UNUSABLE_NUMBER, str(error))
        return self._panel(Selector(identifier=identifier), agent)

    def named(self, keys: Mapping[str, str], agent: str) -> dict[str, Any]:
        """Return the panel of the one patient whom a lookup names.

        Args:
            keys: its matching keys, by DICOM keyword.
            agent: who looks.
        """
        selector = self._lookup.select(Query(Level.STUDY, keys))
        if selector is None:
            return self._empty(Notice.SEVERAL_PATIENTS, "this lookup names no single patient: the region is not asked")
        return self._panel(selector, agent)

    def study(self, study: Study, agent: str) -> dict[str, Any]:
        """Return the panel of one study: as of its patient, with only this study; `others` counts the rest."""
        try:
            panel = self._panel(Selector(identifier=study.identifier(self._naming)), agent)
        except PeerDataError as error:
            return self._empty(Notice.UNUSABLE_NUMBER, str(error)) | {"others": 0}
        everything = panel["studies"]
        mine = [one for one in everything if one["StudyInstanceUID"] == study.study_instance_uid]
        row = self._pulls.row(study.study_instance_uid)
        panel["studies"] = mine or ([self._from_row(row)] if row is not None else [])
        panel["others"] = len(everything) - len(mine)
        return panel

    def _panel(self, selector: Selector, agent: str) -> dict[str, Any]:
        if selector.identifier is not None:
            keys = {"PatientID": selector.identifier.value, "IssuerOfPatientID": selector.identifier.issuer}
        elif selector.study_instance_uid:
            keys = {"StudyInstanceUID": selector.study_instance_uid}
        else:
            keys = {"AccessionNumber": selector.accession_number}
        answers = self._lookup.find(Query(Level.STUDY, keys, _TAGS), selector, agent)
        starting = self._fetch.looked_up(answers, agent)
        studies = [self._remote(answer) for answer in answers.answers]
        missing = {peer: re.sub(rf"^{peer}(?: was not reached)?: ", "", why) for peer, why in answers.missing.items()}
        # Without any answer, those who did not answer may be just the ones who would have shown something.
        nothing = not answers.answers and not missing
        return {
            **self._empty(Notice.NO_PERMISSION if nothing else Notice.NONE, _NOTHING if nothing else ""),
            "permission": bool(answers.answers),
            "starting": starting,
            "studies": sorted(studies, key=lambda one: str(one["StudyDate"]), reverse=True),
            "hub": missing.pop(HUB, ""),
            "key_servers": missing.pop(KEY_SERVERS, ""),
            "missing": {self._name(peer): reason for peer, reason in missing.items()},
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
            **self._state(row, instances, answer.instances),
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
            **self._state(row, here[0].instances if here else 0, row.instances),
        }
        self._add_progress(shown, row.study_instance_uid)
        return shown

    def _add_progress(self, shown: dict[str, Any], study_instance_uid: str) -> None:
        progress = self._pulls.progress(study_instance_uid)
        if progress is not None and progress.manifest is not None:
            shown["Arrived"] = sum(progress.verified)
            shown["Instances"] = len(progress.verified)

    def _state(self, row: PullRow | None, here: int, there: int) -> dict[str, Any]:
        """Return State (here, arriving, waiting, refused, failed, remote), Arrived, Reason."""
        if row is not None and row.state is not State.COMPLETE:
            known = State.REFUSED if row.state is State.LEAVING else row.state
            state = "arriving" if known in UNFINISHED - {State.WAITING} else known.value
            reason = plain_reason(row.reason, row.source, self._name(row.source))
            return {"State": state, "Arrived": row.arrived, "Reason": reason}
        if here and here >= there:
            return {"State": "here", "Arrived": here, "Reason": ""}
        reason = f"{here} of {there} images are here" if here else ""
        return {"State": "remote", "Arrived": here, "Reason": reason}

    def _name(self, hospital_id: str) -> str:
        hospital = self._region().hospitals.get(hospital_id)
        return hospital.name if hospital else hospital_id

    def _empty(self, notice: Notice, message: str) -> dict[str, Any]:
        return {
            "hospital": self._name(self._hospital),
            "permission": False,
            "starting": False,
            "notice": notice.value,
            "message": message,
            "studies": [],
            "missing": {},
            "hub": "",
            "key_servers": "",
        }


_NOTHING = (
    "This hospital has no permission from this patient to see studies of other hospitals."
    " That does not tell whether there are any."
)


def plain_reason(reason: str, peer: str, name: str) -> str:
    """Return a reason as people read it: with the hospital's name for the id that errors and logs use."""
    return re.sub(rf"(?<![\w-]){re.escape(peer)}(?=:? )", lambda _: name, reason)
