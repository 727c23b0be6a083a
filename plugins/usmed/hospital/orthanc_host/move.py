"""The C-MOVE service class provider (PS3.4 C.4.2): what is not here yet is pulled and sent in the same request.

Instances are sent by Orthanc's own store job, in batches: all at once for a study that is here, as they arrive for
one that is on its way. Each sub-operation is answered when it is done, so the counts are the true ones.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orthanc

from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import Naming, orthanc_id
from usmed.domain.lookup import Level, Query, Selector
from usmed.domain.pull import GIVEN_UP, State
from usmed.hospital.archive import Archive
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.orthanc_host import rest
from usmed.hospital.outbound import Destination, Kind, Outbound
from usmed.hospital.pulls import Pulls
from usmed.hospital.retention import Retention

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.004, 0.05
"""Between two looks at a store job. A look costs Orthanc as much as sending a small image; but the answers to what went
meanwhile wait for it, and had better be given while the rest goes."""

JOB_PRIORITY = 10
"""Above Orthanc's default of 0: somebody waits for a C-MOVE."""

BATCH = 40
"""Instances in one store job. After each of them Orthanc writes down the whole list, so a long one is slow; a short one
opens an association for little. How far it is the job says in per cent: exactly, of up to a hundred."""

_KEYS = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UNIQUE = {
    Level.IMAGE: ("SOPInstanceUID",),
    Level.SERIES: ("SeriesInstanceUID",),
    Level.STUDY: ("StudyInstanceUID", "AccessionNumber"),
    Level.PATIENT: ("PatientID",),
}
"""What a request has to name at each level (PS3.4 C.4.2.2.1); Orthanc takes the accession number too."""


@dataclass
class _Move:
    """One C-MOVE under way.

    Attributes:
        ready: gives the Orthanc identifiers of what is here, in order, from a position on.
        asked: sub-operations that Orthanc has asked for.
        submitted: instances handed to a store job so far, or given up.
        delivered: instances that are known to have arrived at the destination.
        job, job_size, job_began: the store job that runs, if one does, and when it was made (monotonic).
        earlier: instances that earlier jobs delivered.
    """

    target: str
    originator: str
    message_id: int
    size: int
    ready: Callable[[int], list[str]]
    asked: int = 0
    submitted: int = 0
    delivered: int = 0
    job: str = ""
    job_size: int = 0
    job_began: float = 0.0
    earlier: int = 0


class DicomMove:
    """Orthanc calls `create`, `size`, then `apply` once for each sub-operation, then `free`."""

    def __init__(
        self,
        *,
        naming: Naming,
        archive: Archive,
        lookup: FederatedLookup,
        fetch: Fetch,
        pulls: Pulls,
        outbound: Outbound,
        retention: Retention,
        is_own: Callable[[str], bool],
        wait_s: float,
    ) -> None:
        self._naming = naming
        self._archive = archive
        self._lookup = lookup
        self._fetch = fetch
        self._pulls = pulls
        self._outbound = outbound
        self._retention = retention
        self._is_own = is_own
        self._wait_s = wait_s

    def create(self, connection: Any, **request: Any) -> _Move:
        """Find out what is to be sent, and whether it may go there.

        Raises:
            OrthancException: unknown destination, nothing to send, or not permitted: Orthanc answers a failure status.
        """
        originator, target_aet = connection.GetConnectionRemoteAet(), request["TargetAET"]
        target = _modality_of(target_aet)
        if target is None:
            raise orthanc.OrthancException(17, f"C-MOVE to the unknown destination {target_aet}")
        keys = {name: str(request.get(name) or "") for name in _KEYS}
        level = _level(str(request["Level"]), keys)
        destination = self._outbound.destination(Kind.MODALITY, target)
        if self._is_own(originator):
            studies = self._here_or_arriving(level, keys, originator)
            ids = [self._ids(level, keys, study) for study in studies]
            if not destination.own:
                self._check_release(destination, studies, originator)
        else:
            ids = self._for_stranger(destination, level, keys, originator)
        size = sum(count for _, count in ids)
        if not size:
            # Orthanc would call it a success, with one sub-operation.
            raise orthanc.OrthancException(17, "C-MOVE of nothing that is here")

        def ready(start: int) -> list[str]:
            everything = [one for source, _ in ids for one in source(0)]
            return everything[start:]

        return _Move(target, originator, int(request["OriginatorID"]), size, ready)

    def size(self, move: _Move) -> int:
        """Return the number of sub-operations."""
        return move.size

    def apply(self, move: _Move) -> int:
        """Do one sub-operation.

        An error here ends the whole C-MOVE (the Python plugin 7.1 ignores what is returned). So what went is counted
        first, and what did not is told at the end, when everything that can be sent has been.

        Raises:
            OrthancException: fewer instances went than were asked for; Orthanc answers a warning status.
        """
        index = move.asked
        move.asked += 1
        try:
            while move.delivered <= index:
                if move.job:
                    self._follow_job(move)
                elif move.submitted < move.size:
                    self._submit(move)
                else:
                    raise RefusedError(
                        "not-taken", f"the destination did not take {move.size - move.delivered} instance(s)"
                    )
        except UsmedError as error:
            raise _failed(move, index, str(error)) from error
        return _ok()

    def free(self, move: _Move) -> None:
        """The request is over, perhaps cut short by the other side."""
        if move.job:
            try:
                rest.post(f"/jobs/{move.job}/cancel", "{}")
            except rest.OrthancError as error:
                log.info("job %s could not be cancelled: %s", move.job, error)

    def _check_release(self, destination: Destination, studies: list[str], originator: str) -> None:
        """What leaves the hospital is decided on the whole of it, so it has to be here first."""
        for study in studies:
            if self._pulls.arriving(study) is not None:
                self._pulls.wait(study, self._wait_s)
            if self._pulls.arriving(study) is not None:
                # What comes later could be of another modality than what is here, and decided on.
                raise orthanc.OrthancException(17, f"study {study} is not here as a whole, so nothing of it may leave")
        try:
            self._outbound.check_studies(
                destination, [study for uid in studies for study in self._archive.study(uid)], originator
            )
        except UsmedError as error:
            log.warning("C-MOVE to %s refused: %s", destination.name, error)
            raise orthanc.OrthancException(-1, str(error)) from error

    def _for_stranger(
        self, destination: Destination, level: Level, keys: dict[str, str], originator: str
    ) -> list[tuple[Callable[[int], list[str]], int]]:
        """Return what a system outside the hospital may have sent: to a foreign destination, with consent.

        Everything else is as if there were no such study. The region is not asked for a stranger.
        """
        studies = [] if destination.own else self._here(level, keys)
        whole = [uid for uid in studies if self._pulls.arriving(uid) is None]
        try:
            self._outbound.check_studies(
                destination, [study for uid in whole for study in self._archive.study(uid)], originator
            )
        except UsmedError as error:
            log.warning("C-MOVE to %s by %s is answered empty: %s", destination.name, originator, error)
            return []
        return [self._ids(level, keys, uid) for uid in whole]

    def _submit(self, move: _Move) -> None:
        """Hand what is here to Orthanc's store job; wait for it to arrive if nothing more is."""
        end = time.monotonic() + self._wait_s
        while not (batch := move.ready(move.submitted)[:BATCH]):
            if time.monotonic() > end:
                raise RefusedError("late", f"the study did not arrive within {self._wait_s:g} s")
            time.sleep(0.02)
        answer = rest.post_json(
            f"/modalities/{quote(move.target, safe='')}/store",
            {
                "Resources": batch,
                "Asynchronous": True,
                # A permissive job of Orthanc 1.13 counts as sent what the destination refused, even one that is off.
                "Permissive": False,
                "Priority": JOB_PRIORITY,
                "MoveOriginatorAet": move.originator,
                "MoveOriginatorID": move.message_id,
            },
        )
        move.job, move.job_size, move.job_began = answer["ID"], len(batch), time.monotonic()
        move.submitted += len(batch)

    def _follow_job(self, move: _Move) -> None:
        """Take note of how far the job is; after a failure go on behind the instance that was not taken."""
        job = rest.get_json(f"/jobs/{move.job}")
        position = move.job_size if job["State"] == "Success" else round(job["Progress"] * move.job_size / 100)
        if job["State"] not in ("Success", "Failure"):
            if move.earlier + position <= move.delivered:
                time.sleep(_pause_s(time.monotonic() - move.job_began, position, move.job_size))
            move.delivered = max(move.delivered, move.earlier + position)
            return
        move.earlier += position
        move.delivered, move.job = move.earlier, ""
        if job["State"] == "Failure":
            log.warning("C-MOVE: %s did not take an instance: %s", move.target, job.get("ErrorDetails", ""))
            # Where nobody answers, each further instance would be another wait for nothing.
            gone = "connecting to" in str(job.get("ErrorDetails", ""))
            move.submitted = move.size if gone else move.submitted - (move.job_size - position - 1)

    def _here_or_arriving(self, level: Level, keys: dict[str, str], agent: str) -> list[str]:
        """Return the Study Instance UIDs that the request is about, after having asked for those that are elsewhere."""
        studies = self._here(level, keys)
        if not keys["StudyInstanceUID"]:
            studies += [uid for uid in self._elsewhere(level, keys, agent) if uid not in studies]
        for uid in studies:
            self._retention.used(uid)
            if self._pulls.arriving(uid) is not None or not self._archive.study(uid):
                self._begin(uid, agent)
        return studies

    def _here(self, level: Level, keys: dict[str, str]) -> list[str]:
        """Return the Study Instance UIDs that the request names, or that it names by other keys and that are here."""
        if keys["StudyInstanceUID"]:
            return [uid for uid in keys["StudyInstanceUID"].split("\\") if uid]
        query = {name: value for name, value in keys.items() if value}
        # A patient has several studies, and Orthanc would name one of them.
        below = Level.STUDY if level is Level.PATIENT else level
        found = self._archive.find(Query(below, query, ("StudyInstanceUID", "PatientID", "AccessionNumber")))
        # A C-MOVE has no wild cards (PS3.4 C.4.2.1.4): a number with * or ? in it is that one number.
        return list(
            dict.fromkeys(
                str(one.tags.get("StudyInstanceUID", ""))
                for one in found
                if all(_is_one_of(one.tags.get(name), keys[name]) for name in ("PatientID", "AccessionNumber"))
            )
        )

    def _begin(self, uid: str, agent: str) -> None:
        try:
            self._fetch.begin(uid, agent)
        except UsmedError as error:
            # What is here is sent all the same.
            log.error("study %s could not be fetched: %s", uid, error)

    def _elsewhere(self, level: Level, keys: dict[str, str], agent: str) -> list[str]:
        """Return the patient's studies at other hospitals, for a request that names no study."""
        if level not in (Level.PATIENT, Level.STUDY):
            return []
        query = Query(Level.STUDY, {name: value for name, value in keys.items() if value})
        selector = self._selector(keys)
        if selector is None:
            return []
        return [one.study_instance_uid for one in self._lookup.find(query, selector, agent).answers]

    def _selector(self, keys: dict[str, str]) -> Selector | None:
        try:
            if keys["PatientID"]:
                return Selector(identifier=self._naming.identify(keys["PatientID"]))
        except PeerDataError:
            return None
        return Selector(accession_number=keys["AccessionNumber"].strip(" ")) if keys["AccessionNumber"] else None

    def _ids(self, level: Level, keys: dict[str, str], uid: str) -> tuple[Callable[[int], list[str]], int]:
        """Return what gives the Orthanc identifiers to send, in order, as far as they are here; and how many in all."""
        if not self._is_of_patient(uid, keys["PatientID"]):
            return _fixed([])
        if self._pulls.arriving(uid) is None:
            return _fixed(self._local_ids(level, keys, uid))
        return self._arriving_ids(level, keys, uid)

    def _local_ids(self, level: Level, keys: dict[str, str], uid: str) -> list[str]:
        query = {name: value for name, value in keys.items() if value and name not in ("AccessionNumber", "PatientID")}
        if level is Level.STUDY and keys["AccessionNumber"]:
            query["AccessionNumber"] = keys["AccessionNumber"]
        query["StudyInstanceUID"] = uid
        patient_id = keys["PatientID"]
        found = self._archive.find(Query(Level.IMAGE, query, ("PatientID",) if patient_id else ()))
        # By mistake two patients can share a UID; a guest copy may be filed under another of the person's numbers.
        exact = [one for one in found if _is_one_of(one.tags.get("PatientID"), patient_id)]
        return [one.orthanc_id for one in exact or found]

    def _is_of_patient(self, uid: str, patient_id: str) -> bool:
        """Tell whether a study here is of the patient that the request names, by any of the person's numbers."""
        if not patient_id or any(_is_one_of(one.patient_id, patient_id) for one in self._archive.study(uid)):
            return True
        row = self._pulls.row(uid)
        try:
            return row is not None and self._naming.identify(patient_id) in row.identifiers
        except PeerDataError:
            return False

    def _arriving_ids(self, level: Level, keys: dict[str, str], uid: str) -> tuple[Callable[[int], list[str]], int]:
        end = time.monotonic() + self._wait_s
        while (progress := self._pulls.progress(uid)) is None or progress.manifest is None:
            row = self._pulls.row(uid)
            if row is not None and row.state is State.COMPLETE:
                return _fixed(self._local_ids(level, keys, uid))
            if row is None or row.state in GIVEN_UP or time.monotonic() > end:
                return _fixed([])
            time.sleep(0.005)
        entries, patient = progress.manifest.entries, progress.row.patient_id
        wanted_series = set(filter(None, keys["SeriesInstanceUID"].split("\\")))
        wanted_sops = set(filter(None, keys["SOPInstanceUID"].split("\\")))
        chosen = [
            index
            for index, entry in enumerate(entries)
            if (not wanted_series or entry.series_instance_uid in wanted_series)
            and (not wanted_sops or entry.sop_instance_uid in wanted_sops)
        ]
        order: list[str] = []
        given: set[int] = set()

        def ready(start: int) -> list[str]:
            if progress.done:
                row = self._pulls.row(uid)
                if row is None or row.state in GIVEN_UP:
                    raise RefusedError("not-here", row.reason if row is not None else progress.broken_off)
            for index in chosen:
                if index not in given and progress.verified[index]:
                    given.add(index)
                    entry = entries[index]
                    order.append(orthanc_id(patient, uid, entry.series_instance_uid, entry.sop_instance_uid))
            return order[start:]

        return ready, len(chosen)


def _is_one_of(value: Any, wanted: str) -> bool:
    """Tell whether a value is the wanted one, or in the wanted list; padding does not count (PS3.5 §6.2)."""
    return not wanted or str(value or "").strip(" ") in (one.strip(" ") for one in wanted.split("\\"))


def _level(text: str, keys: dict[str, str]) -> Level:
    """Return the Query/Retrieve Level; of a request without one, the lowest that it names something of.

    Raises:
        OrthancException: nothing is named at the level: the whole archive is no answer.
    """
    if text in ("PATIENT", "STUDY", "SERIES", "IMAGE", "INSTANCE"):
        level = Level.IMAGE if text == "INSTANCE" else Level(text)
        if any(keys[name].strip(" ") for name in _UNIQUE[level]):
            return level
    else:
        for level, names in _UNIQUE.items():
            if any(keys[name].strip(" ") for name in names):
                return level
    raise orthanc.OrthancException(8, "C-MOVE that names nothing at its level")


def _pause_s(elapsed_s: float, done: int, size: int) -> float:
    """Return how long to leave a job alone: half of what it should still take, so that its end is noticed soon."""
    left_s = elapsed_s * (size - done) / done if done else elapsed_s
    return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, left_s / 2))


def _modality_of(aet: str) -> str | None:
    for name, modality in rest.get_json("/modalities?expand").items():
        if modality["AET"] == aet:
            return str(name)
    return None


def _fixed(ids: list[str]) -> tuple[Callable[[int], list[str]], int]:
    return (lambda start: ids[start:]), len(ids)


def _ok() -> int:
    return int(orthanc.ErrorCode.SUCCESS)


def _failed(move: _Move, index: int, reason: str) -> Exception:
    log.warning("C-MOVE to %s: instance %d of %d was not sent: %s", move.target, index + 1, move.size, reason)
    failure: Exception = orthanc.OrthancException(int(orthanc.ErrorCode.NETWORK_PROTOCOL), reason)
    return failure
