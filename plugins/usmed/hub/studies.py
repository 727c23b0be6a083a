"""Queries on the studies that hospitals have announced."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import batched, groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.canonical import canonical_json
from usmed.domain.consent import StudyFacts
from usmed.domain.study_record import StudyRecord, bucket_digest, bucket_of
from usmed.hub.tables import SLICE, chart, insert, study


@dataclass(frozen=True, slots=True)
class LocatedStudy:
    """What a decision needs to know of a study, and the chart it is under."""

    chart: int
    facts: StudyFacts


def save(connection: Connection, hospital: str, records: Mapping[StudyRecord, int]) -> set[int]:
    """Store records under their charts; return the charts that their earlier versions were under."""
    uids = [record.study_instance_uid for record in records]
    left: set[int] = set()
    for part in batched(uids, SLICE, strict=False):
        left.update(connection.scalars(sa.select(study.c.chart).where(_of(hospital, part))))
    if records:
        upsert = insert(connection, study)
        columns = ("chart", "accession_number", "record")
        upsert = upsert.on_conflict_do_update(
            index_elements=["hospital", "study_instance_uid"],
            set_={column: getattr(upsert.excluded, column) for column in columns},
        )
        rows = [
            {
                "hospital": hospital,
                "study_instance_uid": record.study_instance_uid,
                "chart": key,
                "bucket": bucket_of(record.study_instance_uid),
                "accession_number": record.accession_number,
                "record": canonical_json(record.to_json()).decode("utf-8"),
            }
            for record, key in records.items()
        ]
        connection.execute(upsert, rows)
    return left


def remove(connection: Connection, hospital: str, uids: Collection[str]) -> tuple[int, set[int]]:
    """Delete studies of one hospital; return how many there were, and the charts they were under."""
    left: set[int] = set()
    count = 0
    for part in batched(uids, SLICE, strict=False):
        gone = connection.scalars(sa.delete(study).where(_of(hospital, part)).returning(study.c.chart)).all()
        count += len(gone)
        left.update(gone)
    return count, left


def in_bucket(connection: Connection, hospital: str, bucket: str) -> set[str]:
    """Return the Study Instance UIDs of one bucket."""
    query = sa.select(study.c.study_instance_uid).where(study.c.hospital == hospital, study.c.bucket == bucket)
    return set(connection.scalars(query))


def digests(connection: Connection, hospital: str) -> dict[str, str]:
    """Return the digest of each of a hospital's buckets that is not empty."""
    query = (
        sa.select(study.c.bucket, study.c.study_instance_uid, study.c.record)
        .where(study.c.hospital == hospital)
        .order_by(study.c.bucket)
    )
    rows = connection.execution_options(yield_per=2000).execute(query)
    # Sorted here, by code point: a database's collation could put "1.10" and "1.9" elsewhere than the node does.
    return {
        bucket: bucket_digest(record.encode() for _, record in sorted((row[1], row[2]) for row in group))
        for bucket, group in groupby(rows, key=lambda row: str(row.bucket))
    }


def of_charts(connection: Connection, charts: Iterable[int]) -> list[LocatedStudy]:
    """Return the studies under these charts."""
    found: list[LocatedStudy] = []
    for part in batched(charts, SLICE, strict=False):
        query = sa.select(study.c.hospital, study.c.chart, study.c.record).where(study.c.chart.in_(part))
        found += [LocatedStudy(row.chart, _facts(row.hospital, row.record)) for row in connection.execute(query)]
    return found


def persons_by_study(study_instance_uid: str) -> sa.Select[Any]:
    """Query the persons under whom hospitals hold a study of this UID."""
    return _persons(study.c.study_instance_uid == study_instance_uid)


def persons_by_accession_number(accession_number: str) -> sa.Select[Any]:
    """Query the persons with a study of this accession number, at any hospital."""
    return _persons(study.c.accession_number == accession_number)


def _persons(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(chart.c.person).join_from(study, chart, study.c.chart == chart.c.id).where(condition)


def _facts(hospital: str, record: str) -> StudyFacts:
    # Checked when it came in.
    document = json.loads(record)
    day = document["study_date"]
    return StudyFacts(
        document["study_instance_uid"],
        hospital,
        frozenset(document["modalities"]),
        date(int(day[:4]), int(day[4:6]), int(day[6:])) if day else None,
    )


def _of(hospital: str, uids: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.and_(study.c.hospital == hospital, study.c.study_instance_uid.in_(uids))
