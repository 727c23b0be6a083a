"""Where studies are: what hospitals feed, how a lost message heals, and who is the same person afterwards."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError
from usmed.domain.region import Hospital, RegionManifest
from usmed.domain.study_record import StudyRecord, bucket_of, parse_study_record, record_digest
from usmed.hub import candidate_store, charts, studies
from usmed.hub.charts import NewChart
from usmed.hub.index import linking_identifiers
from usmed.hub.relink import relink
from usmed.hub.tables import changing
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database


@dataclass(frozen=True, slots=True)
class FeedResult:
    """How many records were accepted, and why the others were not (Study Instance UID as sent, reason)."""

    accepted: int
    problems: Sequence[tuple[str, str]]


class Locator:
    """The use cases of announcing studies."""

    def __init__(self, database: Database, region: Callable[[], RegionManifest], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._region = region
        self._clock = clock

    def feed(self, hospital: Hospital, upsert: Sequence[Any], delete: Sequence[str]) -> FeedResult:
        """Take over what a hospital announces of its own studies.

        Args:
            hospital: the hospital that announces.
            upsert: study records as JSON, new or changed; one that is wrong does not hold up the others.
            delete: Study Instance UIDs that are no longer there.
        """
        records, problems = self._read(hospital, upsert)
        with changing(self._database) as connection:
            removed, left = studies.remove(connection, hospital.id, delete)
            news = self._store(connection, hospital, records, left)
            detail: dict[str, int | str] = {"accepted": len(records), "problems": len(problems), "deleted": removed}
            append_in(connection, [self._event(hospital, detail, problems), *news])
        return FeedResult(len(records), problems)

    def replace(self, hospital: Hospital, bucket: str, documents: Sequence[Any]) -> FeedResult:
        """Make a bucket of a hospital's studies be exactly these records."""
        records, problems = self._read(hospital, documents)
        uids = {one.study_instance_uid for one in records}
        strangers = {uid for uid in uids if bucket_of(uid) != bucket}
        problems += [(uid, f"does not belong to bucket {bucket}") for uid in sorted(strangers)]
        records = [one for one in records if one.study_instance_uid not in strangers]
        with changing(self._database) as connection:
            held = studies.in_bucket(connection, hospital.id, bucket)
            removed, left = studies.remove(connection, hospital.id, sorted(held.keys() - (uids - strangers)))
            # One of thousands was lost: the others are not written again, while every other hospital waits.
            changed = [one for one in records if held.get(one.study_instance_uid) != record_digest(one)]
            news = self._store(connection, hospital, changed, left)
            detail: dict[str, int | str] = {"accepted": len(records), "problems": len(problems), "deleted": removed}
            append_in(connection, [self._event(hospital, {**detail, "bucket": bucket}, problems), *news])
        return FeedResult(len(records), problems)

    def differing_buckets(self, hospital: Hospital, digests: Mapping[str, str]) -> list[str]:
        """Return the buckets in which the hub has other records than the hospital; a missing digest means none."""
        with self._database.read() as connection:
            ours = studies.digests(connection, hospital.id)
        return sorted(bucket for bucket in ours.keys() | digests.keys() if ours.get(bucket) != digests.get(bucket))

    def _read(self, hospital: Hospital, documents: Iterable[Any]) -> tuple[list[StudyRecord], list[tuple[str, str]]]:
        national = self._region().national_number
        records: dict[str, StudyRecord] = {}
        problems = []
        for document in documents:
            try:
                record = parse_study_record(document)
                if not linking_identifiers(record.identifiers, hospital, national):
                    raise PeerDataError("none of the patient's numbers is of an issuer that this hospital may feed")
                if record.study_instance_uid in records:
                    raise PeerDataError("the study is there twice")
            except PeerDataError as error:
                uid = document.get("study_instance_uid") if isinstance(document, dict) else None
                problems.append((uid[:64] if isinstance(uid, str) else "", str(error)))
                continue
            records[record.study_instance_uid] = record
        return list(records.values()), problems

    def _store(
        self, connection: Connection, hospital: Hospital, records: Sequence[StudyRecord], left: set[int]
    ) -> list[AuditEvent]:
        """Save records and join their charts; return what there is to say about contradictions."""
        national = self._region().national_number
        described = {
            record: NewChart(
                hospital.id,
                linking_identifiers(record.identifiers, hospital, national),
                record.birth_date,
                record.sex,
            )
            for record in records
        }
        ids, made = charts.ensure(connection, described.values())
        # In the order in which they came: the last name that was told is kept.
        renamed = charts.tell_names(connection, {ids[described[one]]: one.name for one in records if one.name})
        left |= studies.save(connection, hospital.id, {record: ids[new] for record, new in described.items()})
        freed, parted = charts.remove_unused(connection, left)
        fresh = {number for new, key in ids.items() if key in made for number in new.identifiers}
        # Who may be the same person is found later (`finder`): hospitals do not wait for it.
        candidate_store.compare_later(connection, renamed)
        return relink(connection, national, self._clock(), fresh | freed, parted)

    def _event(self, hospital: Hospital, detail: Mapping[str, int | str], problems: Sequence[Any]) -> AuditEvent:
        return AuditEvent(
            self._clock(),
            AuditEventType.FEED,
            hospital.id,
            outcome=Outcome.PARTIAL if problems else Outcome.SUCCESS,
            detail=detail,
        )

