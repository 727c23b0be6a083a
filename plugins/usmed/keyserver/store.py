"""The key server's own tables: what was proved to it, and how much each hospital has asked for.

A record is kept as it came, with its proof, so that it can be handed to a server that lacks it and be checked anew.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.consent_record import LIMIT_BYTES, ConsentRecord, ProofKind, follows, held_record
from usmed.domain.enrolment import Enrolment, held_enrolment
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database, Statement

CHAIN = "usmed.keyserver.migrations"
HOUR_S = 3600
DAY_H = 24


def _table(name: str, *columns: str | sa.ColumnClause[bool]) -> sa.TableClause:
    return sa.table(name, *(sa.column(one) if isinstance(one, str) else one for one in columns))


_current = sa.column("current", sa.Boolean)
_record = _table("consent_record", "id", "digest", "version", _current, "kind", "proved_by", "record", "received")
_record_patient = _table("consent_patient", "id", "issuer", "value")
_enrolment = _table("enrolment", "digest", "hospital", "token", "received")
_enrolment_patient = _table("enrolment_patient", "digest", "issuer", "value")
_state = _table("keyserver_state", "id")
_ASKED = {
    False: _table("patient_asked_for", "requester", "patient", "hour"),
    True: _table("emergency_asked_for", "requester", "patient", "hour"),
}
"""Whom hospitals asked for; in emergencies: True."""

_arrival = _table("arrival", "position", "record_id", "digest")
"""`record_id` is empty for an enrolment."""

_peer = _table("peer_position", "peer", "position", "region_version", "begun")


def _of_number(patients: sa.TableClause) -> sa.ColumnElement[bool]:
    return sa.and_(patients.c.issuer == sa.bindparam("issuer"), patients.c.value == sa.bindparam("value"))


def _counts(asked: sa.TableClause) -> Statement:
    this_hour = sa.case((asked.c.hour == sa.bindparam("hour"), asked.c.patient))
    counted = sa.select(sa.func.count(sa.distinct(this_hour)), sa.func.count(sa.distinct(asked.c.patient)))
    return Statement(
        counted.where(
            asked.c.requester == sa.bindparam("requester"),
            asked.c.patient != sa.bindparam("patient"),
            asked.c.hour > sa.bindparam("since"),
        )
    )


_LOCK = Statement(sa.select(_state.c.id).with_for_update())
_ENROLMENTS = Statement(
    sa.select(_enrolment.c.digest, _enrolment.c.hospital, _enrolment.c.token)
    .join_from(_enrolment, _enrolment_patient, _enrolment.c.digest == _enrolment_patient.c.digest)
    .where(_of_number(_enrolment_patient))
)
_RECORDS = Statement(
    sa.select(_record.c.id, _record.c.record, _record.c.kind, _record.c.proved_by)
    .join_from(_record, _record_patient, _record.c.id == _record_patient.c.id)
    .where(_current, _of_number(_record_patient))
)
_COUNTS = {emergency: _counts(table) for emergency, table in _ASKED.items()}
_NOTE = {
    emergency: Statement(
        sa.text(
            f"INSERT INTO {table.name} (requester, patient, hour) VALUES (:requester, :patient, :hour)"  # noqa: S608
            " ON CONFLICT DO NOTHING RETURNING hour"
        )
    )
    for emergency, table in _ASKED.items()
}


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A consent as it is held: read, and as it came."""

    record: ConsentRecord
    document: Any


@dataclass(frozen=True, slots=True)
class HeldEnrolment:
    """An enrolment as it is held: read, and as it came (`hospital`, `token`)."""

    enrolment: Enrolment
    document: dict[str, str]


@dataclass(frozen=True, slots=True)
class Person:
    """What is held about a person: all numbers, the newest version of each consent (withdrawn ones too), enrolments."""

    identifiers: frozenset[PatientIdentifier]
    records: list[HeldRecord]
    enrolments: list[HeldEnrolment]


@dataclass(frozen=True, slots=True)
class Page:
    """What came after a position: documents as they came, and how far they reach."""

    records: list[Any]
    enrolments: list[dict[str, str]]
    position: int
    more: bool


@dataclass(frozen=True, slots=True)
class PeerPosition:
    """How far another server was read: in which version of the region, and since when from its beginning (unix)."""

    position: int
    region_version: int
    begun: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many consents are held in their newest version, active and withdrawn, and how many enrolments."""

    consents: int
    withdrawn: int
    enrolments: int


class RecordStore:
    """Consents, enrolments and requests on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pruned_in: dict[bool, int] = {}

    def together[T](self, change: Callable[[sa.Connection], T]) -> T:
        """Change the tables as in `changing`, in one transaction with what others want at the same moment."""

        def locked(connection: sa.Connection) -> T:
            if self._database.is_postgresql:
                _LOCK.run(connection)
            return change(connection)

        return self._database.together(locked)

    @contextmanager
    def changing(self) -> Iterator[sa.Connection]:
        """Give a connection that may change the tables: one at a time, so that versions follow each other."""
        with self._database.write() as connection:
            if self._database.is_postgresql:
                # SQLite has one writer at a time as it is.
                _LOCK.run(connection)
            yield connection

    def take(
        self, connection: sa.Connection, record: ConsentRecord, document: Any, now: datetime, event: AuditEvent
    ) -> bool:
        """Take a proved record in; return whether it is new here. Its audit record becomes durable with it.

        Raises:
            PeerDataError: it may not take the place of what is held (`consent_record.follows`).
        """
        consent = record.consent
        held = self._held(connection, [consent.id])
        if not follows(record, held[0].record if held else None):
            return False
        where = _record.c.id == consent.id
        connection.execute(sa.update(_record).where(where).values(current=False))
        connection.execute(
            sa.insert(_record).values(
                id=consent.id,
                digest=record.digest,
                version=consent.version,
                current=True,
                kind=record.kind.value,
                proved_by=record.by,
                record=canonical_json(document).decode("utf-8"),
                received=int(now.timestamp()),
            )
        )
        for one in consent.patient:
            row = {"id": consent.id, "issuer": one.issuer, "value": one.value}
            connection.execute(self._database.insert(_record_patient).values(row).on_conflict_do_nothing())
        _arrived(connection, consent.id, record.digest)
        append_in(connection, [event])
        return True

    def enrol(self, connection: sa.Connection, enrolment: Enrolment, token: str, now: datetime) -> bool:
        """Keep a checked enrolment; return whether it is new here."""
        digest = _enrolment_digest(enrolment.hospital, token)
        row = {
            "digest": digest,
            "hospital": enrolment.hospital,
            "token": token,
            "received": int(now.timestamp()),
        }
        new = self._database.insert(_enrolment).values(row).on_conflict_do_nothing().returning(_enrolment.c.digest)
        if connection.execute(new).first() is None:
            return False
        patients = [{"digest": digest, "issuer": one.issuer, "value": one.value} for one in enrolment.patient]
        connection.execute(sa.insert(_enrolment_patient), patients)
        _arrived(connection, "", digest)
        return True

    def person(self, patient: Collection[PatientIdentifier]) -> Person:
        """Return what is held about whoever these identifiers name, directly or through enrolments."""
        with self._database.read() as connection:
            return person_in(connection, patient)

    def counts(self) -> Counts:
        """Return how much is held."""
        documents = sa.select(sa.func.count()).select_from(_record).where(_current)
        # Canonical JSON: this stands in a document for its status and for nothing else.
        withdrawn = documents.where(_record.c.record.contains('"status":"inactive"'))
        with self._database.read() as connection:
            records, gone = (int(connection.scalar(one) or 0) for one in (documents, withdrawn))
            enrolments = connection.scalar(sa.select(sa.func.count()).select_from(_enrolment))
        return Counts(records - gone, gone, int(enrolments or 0))

    def note_patient(
        self,
        connection: sa.Connection,
        requester: str,
        patient: Iterable[PatientIdentifier],
        now: datetime,
        *,
        emergency: bool = False,
    ) -> bool:
        """Note that a hospital asked for a patient; return whether for the first time in this hour.

        Emergencies are counted apart.
        """
        hour = int(now.timestamp()) // HOUR_S
        row = {"requester": requester, "patient": patient_key(patient), "hour": hour}
        first = bool(_NOTE[emergency].run(connection, row))
        if hour != self._pruned_in.get(emergency):
            asked = _ASKED[emergency]
            connection.execute(sa.delete(asked).where(asked.c.hour < hour - 48))
            self._pruned_in[emergency] = hour
        return first

    def patients_asked_for(
        self,
        connection: sa.Connection,
        requester: str,
        without: Iterable[PatientIdentifier],
        now: datetime,
        *,
        emergency: bool = False,
    ) -> tuple[int, int]:
        """Return how many patients a hospital asked for in this hour and in the last 24, not counting one."""
        hour = int(now.timestamp()) // HOUR_S
        counted = {"requester": requester, "patient": patient_key(without), "hour": hour, "since": hour - DAY_H}
        [(this_hour, day)] = _COUNTS[emergency].run(connection, counted)
        return int(this_hour), int(day)

    def arrived_after(self, since: int, *, limit: int, limit_bytes: int) -> Page:
        """Return what came after a position, in that order: consents (their newest version) and enrolments.

        Args:
            since: 0 for everything; the `position` of the page before for the next.
            limit: how many at most.
            limit_bytes: where a page ends, unless it would be empty.
        """
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(_arrival.c.position, _record.c.record, _enrolment.c.hospital, _enrolment.c.token)
                .select_from(_arrival)
                .outerjoin(
                    _record,
                    sa.and_(_record.c.id == _arrival.c.record_id, _record.c.digest == _arrival.c.digest, _current),
                )
                .outerjoin(_enrolment, sa.and_(_arrival.c.record_id == "", _enrolment.c.digest == _arrival.c.digest))
                .where(_arrival.c.position > since)
                .order_by(_arrival.c.position)
                .limit(limit)
            ).all()
            last = int(connection.scalar(sa.select(sa.func.max(_arrival.c.position))) or 0)
        page, size_bytes, position = Page([], [], 0, False), 0, min(since, last)
        for row in rows:
            size_bytes += len((row.record or row.token or "").encode("utf-8"))
            if size_bytes > limit_bytes and (page.records or page.enrolments):
                break
            position = row.position
            if row.record:
                page.records.append(parse_json(row.record.encode("utf-8"), limit_bytes=4 * LIMIT_BYTES))
            elif row.token:
                page.enrolments.append({"hospital": row.hospital, "token": row.token})
        return replace(page, position=position, more=position < last)

    def unknown(self, records: Sequence[Any], enrolments: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return those of these documents that are not held already; what cannot be read is not held."""
        named = {_record_key(one): one for one in records}
        tokens = {_token_digest(one): one for one in enrolments}
        with self._database.read() as connection:
            keys = [key for key in named if isinstance(key, tuple)]
            rows = connection.execute(
                sa.select(_record.c.id, _record.c.digest).where(sa.tuple_(_record.c.id, _record.c.digest).in_(keys))
            )
            held = {(row.id, row.digest) for row in rows}
            known = set(
                connection.scalars(sa.select(_enrolment.c.digest).where(_enrolment.c.digest.in_(map(str, tokens))))
            )
        return (
            [one for key, one in named.items() if key not in held],
            [one for digest, one in tokens.items() if digest not in known],
        )

    def peer_position(self, peer: str) -> PeerPosition | None:
        """Return how far a peer was read; None if it never was."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_peer).where(_peer.c.peer == peer)).first()
        return PeerPosition(row.position, row.region_version, row.begun) if row else None

    def note_peer_position(self, peer: str, reached: PeerPosition) -> None:
        """Remember how far a peer was read."""
        values = {"position": reached.position, "region_version": reached.region_version, "begun": reached.begun}
        with self._database.write() as connection:
            insert = self._database.insert(_peer).values({"peer": peer, **values})
            connection.execute(insert.on_conflict_do_update(index_elements=["peer"], set_=values))

    def _held(self, connection: sa.Connection, ids: Sequence[str]) -> list[HeldRecord]:
        rows = connection.execute(
            sa.select(_record).where(_record.c.id.in_(list(ids)), _current).order_by(_record.c.id)
        ).all()
        return [_read(row.record, row.kind, row.proved_by) for row in rows]


def person_in(connection: sa.Connection, patient: Collection[PatientIdentifier]) -> Person:
    """Return what `RecordStore.person` does, as the caller's transaction sees it.

    It goes on until more numbers are known than one person can have; the caller has to look.
    """
    known, enrolments = set(patient), dict[str, HeldEnrolment]()
    records: dict[str, HeldRecord] = {}
    asked: set[PatientIdentifier] = set()
    while (new := known - asked) and len(known) <= MAXIMUM_IDENTIFIERS:
        asked |= new
        for number in sorted(new):
            named = {"issuer": number.issuer, "value": number.value}
            for digest, *enrolment in _ENROLMENTS.run(connection, named):
                enrolments[digest] = _read_enrolment(*enrolment)
            for id, *record in _RECORDS.run(connection, named):
                records[id] = _read(*record)
        known |= {number for one in enrolments.values() for number in one.enrolment.patient}
    return Person(
        frozenset(known), [records[one] for one in sorted(records)], [enrolments[one] for one in sorted(enrolments)]
    )


def _arrived(connection: sa.Connection, record_id: str, digest: str) -> None:
    """Give what was taken in its place. Under the lock of `changing`: no later place becomes visible before."""
    last = connection.scalar(sa.select(sa.func.max(_arrival.c.position))) or 0
    connection.execute(sa.insert(_arrival).values(position=last + 1, record_id=record_id, digest=digest))


def _record_key(record: Any) -> tuple[str, str] | int:
    """Return the key of a record's document; something that equals no key for what is none."""
    document = record.get("document") if isinstance(record, dict) else None
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        return id(record)
    try:
        return document["id"], sha256_hex(canonical_json(document))
    except PeerDataError:
        return id(record)


def _token_digest(enrolment: Any) -> str | int:
    if not isinstance(enrolment, dict) or not all(isinstance(enrolment.get(one), str) for one in ("hospital", "token")):
        return id(enrolment)
    return _enrolment_digest(enrolment["hospital"], enrolment["token"])


def _enrolment_digest(hospital: str, token: str) -> str:
    return sha256_hex(f"{hospital} {token}".encode())


@lru_cache(maxsize=4096)
def _read(text: str, kind: str, by: str) -> HeldRecord:
    # Remembered by its whole content: checking the profile takes as long as all else that a decision does.
    document = parse_json(text.encode("utf-8"), limit_bytes=4 * LIMIT_BYTES)
    return HeldRecord(held_record(document["document"], ProofKind(kind), by), document)


@lru_cache(maxsize=4096)
def _read_enrolment(hospital: str, token: str) -> HeldEnrolment:
    return HeldEnrolment(held_enrolment(token, hospital), {"hospital": hospital, "token": token})


def patient_key(patient: Iterable[PatientIdentifier]) -> str:
    """Return one name for a set of identifiers, under which requests are counted."""
    return sha256_hex("\n".join(map(str, sorted(patient))).encode("utf-8"))
