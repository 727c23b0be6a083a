"""Hospitals ask patients for their consent; the patients see it on the portal, and answer there or not.

A hospital is told the same whether anybody has that number or not. A request carries no consent: it is marked as
answered when the patient has decided, and the ticket shows what was decided.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import batched
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.contact import Topic
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.domain.shown_text import is_readable
from usmed.hub.causes import Tell, tell_nobody
from usmed.hub.invitations import PORTAL
from usmed.hub.tables import SLICE, changing, names
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database, Statement

LIFE = timedelta(days=14)
KEPT = timedelta(days=60)
"""How long a request is known: 14 days at most open, then as answered or expired."""

MOST_OPEN = 200
MOST_AN_HOUR = 60
MOST_A_DAY_TO_ONE = 5
"""Requests of one hospital about one number: who is asked all the time agrees to be left alone."""

MOST_SHOWN = 100
LONGEST_DEPARTMENT, LONGEST_ROLE = 64, 32
PURPOSES = frozenset({Purpose.TREAT})
ID_TAKEN, TOO_MANY, UNKNOWN = "id-taken", "too-many", "unknown-request"

_ID = re.compile(r"[0-9a-f-]{36}", re.ASCII)

class _Row(NamedTuple):
    """A row of the table."""

    id: str
    hospital: str
    issuer: str
    value: str
    purpose: str
    department: str
    role: str
    state: str
    asked: int
    expires: int


_request = sa.table("patient_request", *map(sa.column, _Row._fields))

_FIND = Statement(
    sa.select(_request).where(
        _request.c.id == sa.bindparam("wanted"),
        _request.c.state == sa.bindparam("open"),
        _request.c.expires > sa.bindparam("now"),
    )
)
_OPEN = Statement(
    sa.select(_request).where(
        _request.c.issuer == sa.bindparam("of_issuer"),
        _request.c.value == sa.bindparam("of_value"),
        _request.c.state == sa.bindparam("open"),
        _request.c.expires > sa.bindparam("now"),
    )
)
_ANSWERED = Statement(
    sa.update(_request).where(_request.c.id == sa.bindparam("wanted")).values(state=sa.bindparam("now_is"))
)


class State(StrEnum):
    """Where a request stands; UNKNOWN is what others' hospitals are told too."""

    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the patient sees it; `asked` and `expires` are aware UTC."""

    id: str
    hospital: str
    department: str
    role: str
    purpose: Purpose
    patient: PatientIdentifier
    asked: datetime
    expires: datetime


class Requests:
    """The use cases."""

    def __init__(
        self,
        database: Database,
        region: Callable[[], RegionManifest],
        clock: Callable[[], datetime],
        tell: Tell = tell_nobody,
    ) -> None:
        self._database = database
        self._region = region
        self._clock = clock
        self._tell = tell

    def ask(
        self, hospital: Hospital, *, id: str, patient: PatientIdentifier, purpose: Purpose, department: str, role: str
    ) -> None:
        """Keep a request. A newer one of the same department about the same number takes an open one's place.

        Whether the number is anybody's is not looked at: nobody can tell by the answer, nor by how long it takes.

        Args:
            id: a UUID. The same request may be sent again.
            department, role: who asks, in the hospital's words.

        Raises:
            PeerDataError: another purpose, or words that are not to be shown.
            RefusedError: `id-taken`: another request has this id; `too-many`.
        """
        if purpose not in PURPOSES:
            raise PeerDataError("patients are asked for consent to treatment (TREAT) only")
        department, role = _words(department, LONGEST_DEPARTMENT), _words(role, LONGEST_ROLE)
        now = self._clock()
        asked = now.replace(microsecond=0)
        wanted = Request(id, hospital.id, department, role, purpose, patient, asked, asked + LIFE)
        with changing(self._database) as connection:
            row = connection.execute(sa.select(_request).where(_request.c.id == id)).one_or_none()
            if row is not None:
                if _what(_read(row)) != _what(wanted):
                    raise RefusedError(ID_TAKEN, "another request has this id: make a new one")
                return
            self._bound(connection, hospital, patient, now)
            connection.execute(
                sa.update(_request)
                .where(_request.c.hospital == hospital.id, names(_request, [patient]), *_is_open(now))
                .where(_request.c.department == department)
                .values(state=State.EXPIRED.value)
            )
            connection.execute(
                sa.insert(_request).values(
                    id=id,
                    hospital=hospital.id,
                    issuer=patient.issuer,
                    value=patient.value,
                    purpose=purpose.value,
                    department=department,
                    role=role,
                    state=State.OPEN.value,
                    asked=_time(now),
                    expires=_time(now + LIFE),
                )
            )
            self._tell(connection, Topic.ASKED, [patient])
            append_in(connection, [_event(wanted, now, hospital.id, "asked")])

    def states(self, hospital: Hospital, ids: Collection[str]) -> dict[str, State]:
        """Tell how requests of this hospital stand; another's are unknown."""
        now = _time(self._clock())
        found: dict[str, State] = dict.fromkeys(ids, State.UNKNOWN)
        with self._database.read() as connection:
            for part in batched(found, SLICE, strict=False):
                mine = (_request.c.hospital == hospital.id, _request.c.id.in_(part))
                query = sa.select(_request.c.id, _request.c.state, _request.c.expires).where(*mine)
                for row in connection.execute(query):
                    over = row.state == State.OPEN and row.expires <= now
                    found[row.id] = State.EXPIRED if over else State(row.state)
        return found

    def open_for(self, numbers: Iterable[PatientIdentifier]) -> list[Request]:
        """Return the open requests to a patient with these numbers, the newest first; of members of the region only."""
        members, is_open = self._region().hospitals, {"open": State.OPEN.value, "now": _time(self._clock())}
        with self._database.read() as connection:
            rows = [
                _Row(*row)
                for one in set(numbers)
                for row in _OPEN.run(connection, {"of_issuer": one.issuer, "of_value": one.value, **is_open})
            ]
        found = [_read(row) for row in rows if row.hospital in members]
        return sorted(found, key=lambda one: (-one.asked.timestamp(), one.id))[:MOST_SHOWN]

    def answer(self, id: str, numbers: Collection[PatientIdentifier]) -> Request:
        """Mark an open request as answered, once: the patient has decided, whatever it was.

        Args:
            numbers: the patient's, as far as the passkey that signed speaks for them.

        Raises:
            RefusedError: `unknown-request`: none that is open, or not this patient's.
        """
        with changing(self._database) as connection:
            answered = self.answer_in(connection, id, numbers)
        if answered is None:
            raise RefusedError(UNKNOWN, "this request was answered already, or its time is over")
        return answered

    def answer_in(self, connection: Connection, id: str, numbers: Collection[PatientIdentifier]) -> Request | None:
        """Do the same with what else is changed (`hub.tables.changing`); None if there is none such."""
        now = self._clock()
        answered: Request | None = None
        # Not every text can be put to a database.
        row = self._find(connection, id) if _ID.fullmatch(id) else None
        if row is not None and PatientIdentifier(row.issuer, row.value) in numbers:
            answered = _read(row)
            _ANSWERED.run(connection, {"wanted": id, "now_is": State.ANSWERED.value})
        event = _event(answered, now, PORTAL, "answered") if answered else _refused(id, now, numbers)
        append_in(connection, [event])
        return answered

    def _find(self, connection: Connection, id: str) -> "_Row | None":
        rows = _FIND.run(connection, {"wanted": id, "open": State.OPEN.value, "now": _time(self._clock())})
        found = [_Row(*row) for row in rows]
        return next((one for one in found if one.hospital in self._region().hospitals), None)

    def _bound(self, connection: Connection, hospital: Hospital, patient: PatientIdentifier, now: datetime) -> None:
        """Forget what is long over; make sure that one more of this hospital has room.

        What is counted is only what this hospital asked: it learns nothing of anybody by it.

        Raises:
            RefusedError: `too-many`.
        """
        # This hospital's own, which an index finds; the others' go when they ask.
        of_hospital = _request.c.hospital == hospital.id
        connection.execute(sa.delete(_request).where(of_hospital, _request.c.asked < _time(now - KEPT)))
        count = sa.select(sa.func.count()).select_from(_request).where(_request.c.hospital == hospital.id)
        if int(connection.scalar(count.where(*_is_open(now))) or 0) >= MOST_OPEN:
            raise RefusedError(TOO_MANY, f"{MOST_OPEN} requests of {hospital.id} are open: wait for answers")
        hour, day = _time(now - timedelta(hours=1)), _time(now - timedelta(days=1))
        if int(connection.scalar(count.where(_request.c.asked > hour)) or 0) >= MOST_AN_HOUR:
            raise RefusedError(TOO_MANY, f"{hospital.id} has asked {MOST_AN_HOUR} times within an hour: wait")
        about = count.where(names(_request, [patient]), _request.c.asked > day)
        if int(connection.scalar(about) or 0) >= MOST_A_DAY_TO_ONE:
            raise RefusedError(TOO_MANY, f"this patient was asked {MOST_A_DAY_TO_ONE} times within a day: wait")


def _is_open(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return _request.c.state == State.OPEN.value, _request.c.expires > _time(now)


def _words(text: str, longest: int) -> str:
    """Return words that are shown to a patient, without padding.

    Raises:
        PeerDataError: empty, too long, or with characters that cannot be seen or that turn the line around.
    """
    words = text.strip()
    if not 1 <= len(words) <= longest or not is_readable(words):
        raise PeerDataError(f"department and role are 1 to {longest} printable characters")
    return words


def _what(one: Request) -> tuple[object, ...]:
    return one.id, one.hospital, one.patient, one.purpose, one.department, one.role


def _read(row: Any) -> Request:
    return Request(
        id=row.id,
        hospital=row.hospital,
        department=row.department,
        role=row.role,
        purpose=Purpose(row.purpose),
        patient=PatientIdentifier(row.issuer, row.value),
        asked=datetime.fromtimestamp(row.asked, UTC),
        expires=datetime.fromtimestamp(row.expires, UTC),
    )


def _time(moment: datetime) -> int:
    return int(moment.timestamp())


def _event(one: Request, now: datetime, agent: str, what: str) -> AuditEvent:
    return AuditEvent(
        now,
        AuditEventType.CONSENT,
        agent,
        peer=one.hospital if agent != one.hospital else "",
        patient=str(one.patient),
        detail={"what": what, "request": one.id, "purpose": one.purpose.value},
    )


def _refused(id: str, now: datetime, numbers: Iterable[PatientIdentifier]) -> AuditEvent:
    return AuditEvent(
        now,
        AuditEventType.REFUSED,
        PORTAL,
        patient=str(min(numbers, default="")),
        outcome=Outcome.DENIED,
        reason=UNKNOWN,
        detail={"what": "request", **({"request": id} if _ID.fullmatch(id) else {})},
    )
