"""Queries on the studies that hospitals have announced."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import batched
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.consent import StudyFacts
from usmed.domain.study_record import NO_RECORDS, StudyRecord, bucket_of, changed_digest, record_digest
from usmed.hub.tables import SLICE, bucket, chart, study
from usmed.platform.storage import Statement

MODALITY_SEPARATOR = "\\"
"""As DICOM separates values (PS3.5 §6.2): no modality holds it."""

FACTS = (study.c.study_instance_uid, study.c.hospital, study.c.modalities, study.c.study_date)


@dataclass(frozen=True, slots=True)
class LocatedStudy:
    """What a decision needs to know of a study, and the chart it is under."""

    chart: int
    facts: StudyFacts


_SAVE = Statement(
    sa.text(
        "INSERT INTO study"
        " (hospital, study_instance_uid, chart, bucket, accession_number, study_date, modalities, digest) VALUES"
        " (:hospital, :study_instance_uid, :chart, :bucket, :accession_number, :study_date, :modalities, :digest)"
        " ON CONFLICT (study_instance_uid, hospital) DO UPDATE SET chart = excluded.chart,"
        " accession_number = excluded.accession_number, study_date = excluded.study_date,"
        " modalities = excluded.modalities, digest = excluded.digest"
    )
)
_SAVE_BUCKET = Statement(
    sa.text(
        "INSERT INTO bucket (hospital, bucket, studies, digest) VALUES (:hospital, :bucket, :studies, :digest)"
        " ON CONFLICT (hospital, bucket) DO UPDATE SET studies = excluded.studies, digest = excluded.digest"
    )
)


def save(connection: Connection, hospital: str, records: Mapping[StudyRecord, int]) -> set[int]:
    """Store records under their charts; return the charts that their earlier versions were under."""
    left: set[int] = set()
    buckets = _Buckets(hospital)
    for part in batched([record.study_instance_uid for record in records], SLICE, strict=False):
        earlier = sa.select(study.c.chart, study.c.bucket, study.c.digest).where(_of(hospital, part))
        for row in connection.execute(earlier):
            left.add(row.chart)
            buckets.leave(row.bucket, row.digest)
    if records:
        rows = [
            {
                "hospital": hospital,
                "study_instance_uid": record.study_instance_uid,
                "chart": key,
                "bucket": bucket_of(record.study_instance_uid),
                "accession_number": record.accession_number,
                "study_date": record.study_date,
                "modalities": MODALITY_SEPARATOR.join(record.modalities),
                "digest": buckets.join(bucket_of(record.study_instance_uid), record_digest(record)),
            }
            for record, key in records.items()
        ]
        _SAVE.run_each(connection, rows)
    buckets.save(connection)
    return left


def remove(connection: Connection, hospital: str, uids: Collection[str]) -> tuple[int, set[int]]:
    """Delete studies of one hospital; return how many there were, and the charts they were under."""
    left: set[int] = set()
    buckets = _Buckets(hospital)
    count = 0
    for part in batched(uids, SLICE, strict=False):
        returned = (study.c.chart, study.c.bucket, study.c.digest)
        gone = connection.execute(sa.delete(study).where(_of(hospital, part)).returning(*returned)).all()
        count += len(gone)
        left.update(row.chart for row in gone)
        for row in gone:
            buckets.leave(row.bucket, row.digest)
    buckets.save(connection)
    return count, left


def in_bucket(connection: Connection, hospital: str, name: str) -> dict[str, bytes]:
    """Return the digests of the records in one bucket by Study Instance UID."""
    query = sa.select(study.c.study_instance_uid, study.c.digest)
    rows = connection.execute(query.where(study.c.hospital == hospital, study.c.bucket == name))
    return {str(row[0]): bytes(row[1]) for row in rows}


def digests(connection: Connection, hospital: str) -> dict[str, str]:
    """Return the digest of each of a hospital's buckets that is not empty."""
    rows = connection.execute(sa.select(bucket.c.bucket, bucket.c.digest).where(bucket.c.hospital == hospital))
    return {str(row[0]): str(row[1]) for row in rows}


def of_charts(connection: Connection, charts: Iterable[int]) -> list[LocatedStudy]:
    """Return the studies under these charts."""
    found: list[LocatedStudy] = []
    for part in batched(charts, SLICE, strict=False):
        rows = connection.execute(sa.select(study.c.chart, *FACTS).where(study.c.chart.in_(part)))
        found += [LocatedStudy(row[0], facts(*row[1:])) for row in rows]
    return found


def persons_by_study() -> sa.Select[Any]:
    """Query the persons under whom hospitals hold a study of the UID `study_instance_uid`."""
    return _persons(study.c.study_instance_uid == sa.bindparam("study_instance_uid"))


def persons_by_accession_number() -> sa.Select[Any]:
    """Query the persons with a study of the number `accession_number`, at any hospital."""
    return _persons(study.c.accession_number == sa.bindparam("accession_number"))


def _persons(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(chart.c.person).join_from(study, chart, study.c.chart == chart.c.id).where(condition)


def facts(uid: str, hospital: str, modalities: str, day: str) -> StudyFacts:
    """Return what a decision needs to know of a study, from the columns `FACTS`."""
    # Checked when it came in.
    return StudyFacts(
        uid,
        hospital,
        frozenset(modalities.split(MODALITY_SEPARATOR)) if modalities else frozenset(),
        date(int(day[:4]), int(day[4:6]), int(day[6:])) if day else None,
    )


class _Buckets:
    """What changes in the buckets of a hospital's studies. The caller is the only one that changes anything."""

    def __init__(self, hospital: str) -> None:
        self._hospital = hospital
        self._counts: Counter[str] = Counter()
        self._digests: dict[str, list[bytes]] = {}

    def join(self, name: str, digest: bytes) -> bytes:
        """The record with this digest is stored in a bucket; return the digest."""
        self._counts[name] += 1
        self._digests.setdefault(name, []).append(digest)
        return digest

    def leave(self, name: str, digest: bytes) -> None:
        """The record with this digest goes, or another one takes its place."""
        self._counts[name] -= 1
        self._digests.setdefault(name, []).append(digest)

    def save(self, connection: Connection) -> None:
        """Store the buckets as they are now; one without studies has no row."""
        if not self._digests:
            return
        of_hospital = bucket.c.hospital == self._hospital
        query = sa.select(bucket.c.bucket, bucket.c.studies, bucket.c.digest)
        held = connection.execute(query.where(of_hospital, bucket.c.bucket.in_(self._digests)))
        before = {row.bucket: (row.studies, row.digest) for row in held}
        rows, empty = [], []
        for name, changes in self._digests.items():
            studies, digest = before.get(name, (0, NO_RECORDS))
            studies += self._counts[name]
            if studies:
                changed = changed_digest(digest, changes)
                rows.append({"hospital": self._hospital, "bucket": name, "studies": studies, "digest": changed})
            else:
                empty.append(name)
        if empty:
            connection.execute(sa.delete(bucket).where(of_hospital, bucket.c.bucket.in_(empty)))
        if rows:
            _SAVE_BUCKET.run_each(connection, rows)


def _of(hospital: str, uids: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.and_(study.c.hospital == hospital, study.c.study_instance_uid.in_(uids))
