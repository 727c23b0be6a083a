"""The table of enrolments for the portal that were begun at this hospital. Its states are those of an invitation."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from usmed.domain.enrolment import Basis, Credential, Guardian
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import OPEN, Change, State, after
from usmed.platform.storage import Database

KEPT = timedelta(days=60)
"""How long an enrolment is remembered that came to nothing. It is over long before."""

_COLUMNS = (
    "id patient_id issuer numbers birth_date guardian lost_phone state staff created expires address credential typed"
    " record_sha256"
)
_enrolment = sa.table("portal_enrolment", *map(sa.column, _COLUMNS.split()))


@dataclass(frozen=True, slots=True)
class Enrolling:
    """An enrolment under way, or what became of it.

    Attributes:
        id: names it here and at the hub.
        patient_id, issuer: as the clerk opened the patient.
        numbers: those that are enrolled.
        birth_date: DICOM DA (YYYYMMDD).
        guardian: who acts for the patient; None for the patient.
        lost_phone: whether the patient's earlier passkeys stop counting.
        state: see `domain.invitation`; ENROLLED once this hospital has signed.
        staff: who began it.
        created, expires: aware UTC.
        address: where the patient's phone goes, without the code.
        credential: the passkey of the patient's answer; it never changes.
        typed: the national number, where the clerk typed it from the identity document; the archive does not have it.
        record_sha256: of what the archive said of the patient when the clerk saw it (`PatientRecord.digest`).
    """

    id: str
    patient_id: str
    issuer: str
    numbers: frozenset[PatientIdentifier]
    birth_date: str
    guardian: Guardian | None
    lost_phone: bool
    state: State
    staff: str
    created: datetime
    expires: datetime
    address: str
    credential: Credential | None = None
    typed: str = ""
    record_sha256: str = ""

    @property
    def only_blocks(self) -> bool:
        """Tell whether it enrols no phone: it only lets earlier ones stop counting."""
        return self.state is State.ENROLLED and self.credential is None


class EnrolmentStore:
    """Enrolments, on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, one: Enrolling) -> None:
        """Keep a new one in a transaction of its own; what came to nothing long ago is forgotten."""
        with self._database.write() as connection:
            self.add_in(connection, one)

    def add_in(self, connection: sa.Connection, one: Enrolling) -> None:
        """As `add`, in the caller's transaction."""
        numbers = [[each.issuer, each.value] for each in sorted(one.numbers)]
        guardian = one.guardian
        over = sa.and_(_enrolment.c.state != State.ENROLLED.value, _enrolment.c.created < _time(one.created - KEPT))
        connection.execute(sa.delete(_enrolment).where(over))
        connection.execute(
            sa.insert(_enrolment).values(
                id=one.id,
                patient_id=one.patient_id,
                issuer=one.issuer,
                numbers=json.dumps(numbers, ensure_ascii=False),
                birth_date=one.birth_date,
                guardian=json.dumps([guardian.basis, _time(guardian.until)]) if guardian else "",
                lost_phone=int(one.lost_phone),
                state=one.state.value,
                staff=one.staff,
                created=_time(one.created),
                expires=_time(one.expires),
                address=one.address,
                credential="",
                typed=one.typed,
                record_sha256=one.record_sha256,
            )
        )

    def get(self, id: str) -> Enrolling | None:
        """Return one."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_enrolment).where(_enrolment.c.id == id)).one_or_none()
        return _read(row) if row else None

    def recent(self, since: datetime, limit: int) -> list[Enrolling]:
        """Return those that something can still happen to, and those begun since then; the newest first."""
        wanted = sa.or_(_enrolment.c.state.in_(_names(OPEN)), _enrolment.c.created >= _time(since))
        query = sa.select(_enrolment).where(wanted).order_by(_enrolment.c.created.desc(), _enrolment.c.id).limit(limit)
        with self._database.read() as connection:
            return [_read(row) for row in connection.execute(query)]

    def change(self, id: str, change: Change, *, expires: datetime | None = None, credential: Credential | None = None
               ) -> bool:  # fmt: skip
        """Make a change in a transaction of its own; return whether it can happen."""
        with self._database.write() as connection:
            return self.change_in(connection, id, change, expires=expires, credential=credential)

    def change_in(
        self,
        connection: sa.Connection,
        id: str,
        change: Change,
        *,
        expires: datetime | None = None,
        credential: Credential | None = None,
    ) -> bool:
        """As `change`, in the caller's transaction."""
        found = connection.execute(sa.select(_enrolment.c.state).where(_enrolment.c.id == id).with_for_update())
        state = found.scalar()
        new = after(State(state), change) if state is not None else None
        if new is None:
            return False
        values: dict[str, Any] = {"state": new.value}
        if expires is not None:
            values["expires"] = _time(expires)
        if credential is not None:
            values["credential"] = json.dumps([credential.id.hex(), credential.public_key.hex()])
        connection.execute(sa.update(_enrolment).where(_enrolment.c.id == id).values(values))
        return True

    def enrolled(self, numbers: Collection[PatientIdentifier]) -> list[Enrolling]:
        """Return the enrolments that were signed here for a patient with one of these numbers."""
        wanted = [
            _enrolment.c.numbers.contains(json.dumps([one.issuer, one.value], ensure_ascii=False), autoescape=True)
            for one in sorted(numbers)
        ]
        query = sa.select(_enrolment).where(_enrolment.c.state == State.ENROLLED.value, sa.or_(*wanted))
        with self._database.read() as connection:
            return [one for one in map(_read, connection.execute(query)) if one.numbers & set(numbers)]


def _names(states: Collection[State]) -> list[str]:
    return sorted(one.value for one in states)


def _time(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def _read(row: Any) -> Enrolling:
    values: Mapping[str, Any] = row._mapping
    guardian = json.loads(values["guardian"]) if values["guardian"] else None
    credential = json.loads(values["credential"]) if values["credential"] else None
    return Enrolling(
        id=row.id,
        patient_id=row.patient_id,
        issuer=row.issuer,
        numbers=frozenset(PatientIdentifier(*one) for one in json.loads(row.numbers)),
        birth_date=row.birth_date,
        guardian=Guardian(Basis(guardian[0]), _moment(guardian[1])) if guardian else None,
        lost_phone=bool(row.lost_phone),
        state=State(row.state),
        staff=row.staff,
        created=_moment(row.created),
        expires=_moment(row.expires),
        address=row.address,
        credential=Credential(*map(bytes.fromhex, credential)) if credential else None,
        typed=row.typed,
        record_sha256=row.record_sha256,
    )
