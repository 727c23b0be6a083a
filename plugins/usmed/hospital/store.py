"""The node's own tables: the durable queue of pulls, and what it remembers of the hub's answers."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import batched
from typing import Any

import sqlalchemy as sa

from usmed.domain.consent_record import ConsentRecord, ProofKind, held_record
from usmed.domain.guest_copy import Change
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import UNFINISHED, Event, ForbiddenTransitionError, State, follow
from usmed.hospital.guest_store import forget_copy, note_change
from usmed.platform.storage import Database

CHAIN = "usmed.hospital.migrations"

_PULL_COLUMNS = (
    "study_instance_uid", "state", "source", "patient_id", "identifiers", "manifest", "verified", "instances",
    "size_bytes", "attempts", "due", "reason", "requested_by", "created", "finished", "last_used",
)  # fmt: skip
_pull = sa.table("pull", *map(sa.column, _PULL_COLUMNS))
_resolution = sa.table("resolution_cache", *map(sa.column, ("selector", "content", "as_of")))
_told = sa.table("told_record", *map(sa.column, ("id", "document", "kind", "proved_by", "received")))


@dataclass(frozen=True, slots=True)
class PullRow:
    """A pull as it stands on disk.

    Attributes:
        study_instance_uid: the study; there is one pull for each.
        state: where it stands.
        source: the hospital that sends.
        patient_id: the PatientID under which the study is filed here.
        identifiers: what the person is known by, as the hub told.
        manifest: the source's signed manifest (compact JWS), empty before it came.
        verified: one byte for each entry of the manifest: 1 once it is verified and stored.
        instances, size_bytes: what the manifest announces.
        attempts: tries since the last success or request.
        due: when to try again (Unix seconds).
        reason: why it stands where it stands, for a person.
        requested_by: who or what asked first.
        created, finished, last_used: Unix seconds; 0 for never.
    """

    study_instance_uid: str
    state: State
    source: str
    patient_id: str
    identifiers: frozenset[PatientIdentifier]
    manifest: str
    verified: bytes
    instances: int
    size_bytes: int
    attempts: int
    due: int
    reason: str
    requested_by: str
    created: int
    finished: int
    last_used: int

    @property
    def arrived(self) -> int:
        """Return how many instances are verified and stored."""
        return self.verified.count(1)


class PullStore:
    """The durable queue. Every change of state goes through the table in `domain/pull.py`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, study_instance_uid: str) -> PullRow | None:
        """Return the pull of a study, if there was ever one."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(_pull).where(_pull.c.study_instance_uid == study_instance_uid)
            ).one_or_none()
        return _row(row._asdict()) if row else None

    def many(self, study_instance_uids: Collection[str]) -> dict[str, PullRow]:
        """Return the pulls of these studies, those that exist."""
        if not study_instance_uids:
            return {}
        query = sa.select(_pull).where(_pull.c.study_instance_uid.in_(list(study_instance_uids)))
        with self._database.read() as connection:
            return {row.study_instance_uid: _row(row._asdict()) for row in connection.execute(query)}

    def is_guest(self, study_instance_uid: str) -> bool:
        """Tell whether a study came, or is coming, from another hospital, whatever its labels say now."""
        query = sa.select(_pull.c.state).where(_pull.c.study_instance_uid == study_instance_uid)
        with self._database.read() as connection:
            return connection.execute(query).scalar() is not None

    def source_of(self, study_instance_uid: str) -> str:
        """Return from which hospital a study was brought here; empty if it was not."""
        row = self.get(study_instance_uid)
        return row.source if row else ""

    def all(self, *states: State) -> list[PullRow]:
        """Return the pulls in these states, oldest first; of all states if none is named."""
        query = sa.select(_pull).order_by(_pull.c.created, _pull.c.study_instance_uid)
        if states:
            query = query.where(_pull.c.state.in_([str(state) for state in states]))
        with self._database.read() as connection:
            return [_row(row._asdict()) for row in connection.execute(query)]

    def standing(self, study_instance_uids: Collection[str]) -> dict[str, tuple[State, str]]:
        """Return state and reason of the pulls of these studies, those that exist: without their manifests."""
        found: dict[str, tuple[State, str]] = {}
        with self._database.read() as connection:
            for some in batched(study_instance_uids, 500, strict=False):
                columns = sa.select(_pull.c.study_instance_uid, _pull.c.state, _pull.c.reason)
                for row in connection.execute(columns.where(_pull.c.study_instance_uid.in_(some))):
                    found[row.study_instance_uid] = (State(row.state), row.reason)
        return found

    def count(self, *states: State) -> int:
        """Return how many pulls are in these states."""
        query = sa.select(sa.func.count()).select_from(_pull).where(_pull.c.state.in_([str(one) for one in states]))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def recent(self, limit: int) -> list[PullRow]:
        """Return the newest pulls, newest first."""
        query = sa.select(_pull).order_by(_pull.c.created.desc(), _pull.c.study_instance_uid).limit(limit)
        with self._database.read() as connection:
            return [_row(row._asdict()) for row in connection.execute(query)]

    def ask(
        self,
        study_instance_uid: str,
        *,
        source: str,
        patient_id: str,
        identifiers: frozenset[PatientIdentifier],
        requested_by: str,
        now: datetime,
    ) -> PullRow:
        """Put a pull on the queue, or ask again for one that is there.

        An unfinished one keeps what it has; one that is to go goes first.
        """
        second = int(now.timestamp())
        with self._database.write() as connection:
            asked = {
                "source": source,
                "patient_id": patient_id,
                "identifiers": _identifiers_text(identifiers),
                "due": second,
            }
            new = self._database.insert(_pull).values(
                study_instance_uid=study_instance_uid,
                state=str(State.QUEUED),
                requested_by=requested_by,
                created=second,
                manifest="",
                verified=b"",
                **asked,
            )
            # Two that ask at once must end as one pull: the second waits here for the first, then finds its row.
            inserted = connection.execute(new.on_conflict_do_nothing().returning(_pull.c.study_instance_uid)).first()
            row = self._locked(connection, study_instance_uid) if inserted is None else None
            if row is not None and row.state is not State.LEAVING:
                changes: dict[str, Any] = {"state": str(follow(row.state, Event.ASKED_AGAIN))}
                if row.state is not State.RUNNING:
                    changes |= {"attempts": 0, "due": second}
                if row.state not in UNFINISHED:
                    # One under way goes on with the source and patient it has.
                    changes |= asked | {"requested_by": requested_by, "reason": ""}
                    if row.state is State.COMPLETE or (row.source, row.patient_id) != (source, patient_id):
                        # Only then from the beginning. What an earlier try has brought is a part, and known as one.
                        changes |= {"manifest": "", "verified": b""}
                self._update(connection, study_instance_uid, changes)
            after = self._locked(connection, study_instance_uid)
        assert after is not None
        return after

    def move(self, study_instance_uid: str, event: Event, **changes: Any) -> PullRow:
        """Follow the table of states; `changes` are columns to set at the same time.

        Raises:
            ForbiddenTransitionError: the table has no such transition, or there is no such pull.
        """
        with self._database.write() as connection:
            row = self._locked(connection, study_instance_uid)
            if row is None:
                raise ForbiddenTransitionError(f"there is no pull of {study_instance_uid} that could meet {event!r}")
            self._update(connection, study_instance_uid, {"state": str(follow(row.state, event)), **changes})
            after = self._locked(connection, study_instance_uid)
        assert after is not None
        return after

    def set(self, study_instance_uid: str, **changes: Any) -> None:
        """Set columns that are not the state (progress, manifest, time of last use)."""
        assert "state" not in changes
        with self._database.write() as connection:
            self._update(connection, study_instance_uid, changes)

    def forget_complete(self, study_instance_uid: str) -> None:
        """Delete the row of a guest copy that is gone; one that was asked for again meanwhile stays."""
        self._forget(study_instance_uid, State.COMPLETE)

    def forget_left(self, study_instance_uid: str) -> None:
        """Delete the row of a guest copy that had to go, once it is gone."""
        self._forget(study_instance_uid, State.LEAVING)

    def _forget(self, study_instance_uid: str, state: State) -> None:
        this = sa.and_(_pull.c.study_instance_uid == study_instance_uid, _pull.c.state == str(state))
        with self._database.write() as connection:
            if connection.execute(sa.delete(_pull).where(this)).rowcount:
                forget_copy(connection, study_instance_uid)

    def _locked(self, connection: sa.Connection, study_instance_uid: str) -> PullRow | None:
        query = sa.select(_pull).where(_pull.c.study_instance_uid == study_instance_uid).with_for_update()
        row = connection.execute(query).one_or_none()
        return _row(row._asdict()) if row else None

    def _update(self, connection: sa.Connection, study_instance_uid: str, changes: Mapping[str, Any]) -> None:
        if "reason" in changes:
            # It can quote another hospital, and PostgreSQL's text cannot hold a NUL.
            changes = {**changes, "reason": changes["reason"].replace("\0", "\ufffd")}
        connection.execute(sa.update(_pull).where(_pull.c.study_instance_uid == study_instance_uid).values(**changes))


class AnswerCache:
    """The hub's last answers on disk, so that care goes on when the hub does not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_resolution(self, selector: str) -> tuple[Any, datetime] | None:
        """Return the last resolution of a selector and its age."""
        query = sa.select(_resolution).where(_resolution.c.selector == selector)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return (json.loads(row.content), datetime.fromtimestamp(row.as_of, UTC)) if row else None

    def save_resolution(self, selector: str, content: Any, now: datetime) -> None:
        """Remember a resolution."""
        values = {"content": json.dumps(content), "as_of": int(now.timestamp())}
        insert = self._database.insert(_resolution).values(selector=selector, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["selector"], set_=values))


class ToldStore:
    """What others told of changed and withdrawn consents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ConsentRecord]:
        """Return what was told, in any order."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_told)).all()
        return [held_record(json.loads(one.document), ProofKind(one.kind), one.proved_by) for one in rows]

    def save(
        self, record: ConsentRecord, document: Any, numbers: frozenset[PatientIdentifier], now: datetime
    ) -> None:
        """Keep a record in the place of an earlier version, and note that guest copies have to be checked against it.

        Args:
            numbers: the patient's, as far as they are known here.
        """
        values = {
            "document": json.dumps(document),
            "kind": record.kind.value,
            "proved_by": record.by,
            "received": int(now.timestamp()),
        }
        insert = self._database.insert(_told).values(id=record.consent.id, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))
            note_change(self._database, connection, Change(record.consent.id, numbers), now)


def _row(mapping: Mapping[str, Any]) -> PullRow:
    values = dict(mapping)
    values["state"] = State(values["state"])
    values["identifiers"] = frozenset(PatientIdentifier(*one) for one in json.loads(values["identifiers"]))
    # SQLite gives the column's default, an empty BLOB, as text.
    values["verified"] = bytes(values["verified"] or b"")
    return PullRow(**values)


def _identifiers_text(identifiers: frozenset[PatientIdentifier]) -> str:
    return json.dumps([[one.issuer, one.value] for one in sorted(identifiers)])
