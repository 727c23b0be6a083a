"""Tells the hub which studies this hospital holds, and makes sure that it still knows.

A study is announced when it becomes stable and when it goes. A message that is lost does no lasting harm: now and
then both sides compare digests of 256 buckets, and what differs is sent anew.
"""

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Collection

from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.region import HUB
from usmed.domain.study_record import (
    StudyRecord,
    bucket_of,
    digests,
    is_date,
    is_person_name,
    parse_identifier,
    study_record,
)
from usmed.hospital.archive import Archive, Study
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.identities import Poster

log = logging.getLogger(__name__)

DEADLINE_S = 20.0
AFTER_DELETION_S = 10.0
"""How long deletions are collected before all studies are compared with the hub's."""
PAGE = 500
BATCH = 200


class Feed:
    """The node's announcements to the hub."""

    def __init__(
        self,
        *,
        naming: Naming,
        issuers: Collection[str],
        archive: Archive,
        client: Poster,
        is_guest: Callable[[str], bool],
        consents_changed: Callable[[Collection[PatientIdentifier]], None],
        guests: GuestStore,
        reconcile_s: float,
        poll_s: float,
    ) -> None:
        self._naming = naming
        self._issuers = frozenset(issuers)
        self._archive = archive
        self._client = client
        self._is_guest = is_guest
        self._consents_changed = consents_changed
        self._guests = guests
        self._reconcile_s = reconcile_s
        self._poll_s = poll_s
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._deleted = threading.Event()
        self._threads = [
            threading.Thread(target=self._announce, name="feed", daemon=True),
            threading.Thread(target=self._watch, name="feed-watch", daemon=True),
        ]
        self.last_error = "not asked yet"

    def start(self) -> None:
        """Compare with the hub now and then, announce changes as they come."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; what was not announced is found by the next comparison."""
        self._stop.set()
        self._queue.put(None)

    def stable(self, study_orthanc_id: str) -> None:
        """A study of this archive is stable (Orthanc's STABLE_STUDY)."""
        self._queue.put(study_orthanc_id)

    def deleted(self) -> None:
        """A study was deleted. Orthanc does not say which UID it had, so the buckets are compared, soon."""
        self._deleted.set()

    def reconcile(self) -> int:
        """Compare all buckets with the hub and mend what differs; return how many differed.

        Raises:
            UsmedError: the hub or the archive failed.
        """
        records = self._all()
        answer = self._client.post(HUB, "/v1/studies/digest", {"buckets": digests(records)}, deadline_s=DEADLINE_S)
        buckets: dict[str, list[StudyRecord]] = defaultdict(list)
        for record in records:
            buckets[bucket_of(record.study_instance_uid)].append(record)
        differing = [str(one) for one in answer["differ"]]
        for bucket in differing:
            chosen = sorted(buckets.get(bucket, ()), key=lambda one: one.study_instance_uid)
            self._client.post(
                HUB,
                "/v1/studies/replace",
                {"bucket": bucket, "records": [one.to_json() for one in chosen]},
                deadline_s=DEADLINE_S,
            )
        return len(differing)

    def record(self, study: Study) -> StudyRecord | None:
        """Return what the hub is told of a study; None for guest copies and for studies without a usable patient."""
        if study.is_guest or self._is_guest(study.study_instance_uid):
            return None
        try:
            identifiers = study.identifiers(self._naming)
            if not any(one.issuer in self._issuers for one in identifiers):
                # Only another hospital's numbers, as on an imported disc: the hub takes no one's word for these.
                return None
            return study_record(
                study.study_instance_uid,
                identifiers,
                name=study.patient_name if is_person_name(study.patient_name) else "",
                birth_date=study.birth_date if is_date(study.birth_date) else "",
                sex=study.sex if study.sex in ("M", "F", "O") else "",
                accession_number=study.accession_number,
                study_date=study.study_date if is_date(study.study_date) else "",
                modalities=[one for one in study.modalities if one],
            )
        except PeerDataError as error:
            log.warning("study %s is not announced to the region: %s", study.study_instance_uid, error)
            return None

    def _all(self) -> list[StudyRecord]:
        records: dict[str, StudyRecord] = {}
        since = 0
        while studies := self._archive.studies(since, PAGE):
            since += len(studies)
            for study in studies:
                record = self.record(study)
                if record is not None:
                    records[record.study_instance_uid] = record
        return list(records.values())

    def _announce(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < BATCH:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    return
                batch.append(item)
            try:
                self._send(batch)
            except UsmedError as error:
                # Not kept: the next comparison finds it.
                self.last_error = str(error)
                log.warning("the hub was not told of %d change(s): %s", len(batch), error)

    def _send(self, batch: list[str]) -> None:
        records = []
        for orthanc_id in batch:
            study = self._archive.study_by_orthanc_id(orthanc_id)
            record = self.record(study) if study is not None else None
            if record is not None:
                records.append(record.to_json())
        if records:
            answer = self._client.post(
                HUB, "/v1/studies/feed", {"upsert": records, "delete": []}, deadline_s=DEADLINE_S
            )
            for problem in answer["problems"]:
                log.warning("the hub did not take study %s: %s", problem["study_instance_uid"], problem["reason"])
        self.last_error = ""

    def _watch(self) -> None:
        waited = self._reconcile_s
        while True:
            try:
                # On disk, so that what changed while this node was down is not missed.
                cursor = self._guests.cursor()
                if waited >= self._reconcile_s or (self._deleted.is_set() and waited >= AFTER_DELETION_S):
                    self._deleted.clear()
                    self.reconcile()
                    waited = 0.0
                answer = self._client.post(HUB, "/v1/consents/changes", {"since": cursor}, deadline_s=DEADLINE_S)
                # A cursor that went back tells of a hub restored from a backup: what is remembered may be newer.
                if (answer["changes"] and cursor) or int(answer["cursor"]) < cursor:
                    self._consents_changed(
                        {parse_identifier(one) for each in answer["changes"] for one in each["identifiers"]}
                    )
                if int(answer["cursor"]) != cursor:
                    self._guests.read_to(int(answer["cursor"]))
                self.last_error = ""
            except (UsmedError, KeyError, TypeError, ValueError) as error:
                self.last_error = str(error)
                log.warning("the hub could not be asked for news: %s", error)
            if self._stop.wait(self._poll_s):
                return
            waited += self._poll_s
