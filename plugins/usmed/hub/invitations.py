"""Invitations to enrol: what a hospital's clerk begins, and the patient's phone answers on the portal.

A code is on disk only as its hash. To whoever brings a code, one that is unknown, used, void or over gives the same
answer. All changes are made under the hub's one lock (`tables.changing`), so that a birth date is counted, and a
passkey taken, exactly once whoever else tries at that moment; what was counted is on disk before anybody is answered.
"""

import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.enrolment import (
    LONGEST_ID,
    LONGEST_KEY,
    Basis,
    Credential,
    Enrolment,
    Guardian,
    one_person_fault,
)
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import LIFE, OPEN, TRIES, Change, State, after, code_digest
from usmed.domain.region import HUB, Hospital, RegionManifest
from usmed.domain.study_record import is_date
from usmed.hub import enrolments
from usmed.hub.tables import changing, names
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

ENROL_PATH = "/portal/enrol/"
PORTAL = "portal"
"""Who acts in audit records where a patient, or somebody who says so, does on the portal."""

MOST_OPEN = 1000
MOST_AN_HOUR = 200
KEPT = timedelta(days=30)
"""How long an invitation is known; it is over long before."""

NO_PORTAL, BAD_CODE, WRONG_BIRTH_DATE = "no-portal", "bad-code", "wrong-birth-date"
ID_TAKEN, TOO_MANY, UNKNOWN = "id-taken", "too-many", "unknown-invitation"
PASSKEY_TAKEN, ENROLLED = "passkey-taken", "enrolled"

_COLUMNS = "id hospital code birth_date basis basis_until state wrong invited expires credential public_key"
_invitation = sa.table("invitation", *map(sa.column, _COLUMNS.split()))
_number = sa.table("invitation_number", *map(sa.column, ("invitation", "issuer", "value")))
_OPEN = [one.value for one in sorted(OPEN)]


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation.

    Attributes:
        id: names it between the hospital and the hub.
        hospital: who invited.
        patient: the numbers that the clerk saw a document for. Not for whoever has not told the birth date.
        guardian: whose passkey it will be, if not the patient's own.
        state: see `domain.invitation`.
        invited, expires: aware UTC.
        tries: how many birth dates may still be tried.
        credential: the passkey of the answer; None where none counts.
    """

    id: str
    hospital: str
    patient: frozenset[PatientIdentifier]
    guardian: Guardian | None
    state: State
    invited: datetime
    expires: datetime
    tries: int
    credential: Credential | None


class Invitations:
    """The use cases."""

    def __init__(self, database: Database, region: Callable[[], RegionManifest], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._region = region
        self._clock = clock

    # ---- what the hospital does ----

    def invite(
        self,
        hospital: Hospital,
        *,
        id: str,
        code_sha256: str,
        patient: Collection[PatientIdentifier],
        birth_date: str,
        guardian: Guardian | None,
    ) -> tuple[str, datetime]:
        """Keep an invitation; an open one of this hospital for the same patient is void with it.

        Args:
            id: a UUID. The same invitation may be sent again: an answer can get lost.
            code_sha256: `domain.invitation.code_digest` of the code.
            patient: numbers of issuers that the hospital speaks for.
            birth_date: YYYYMMDD.

        Returns:
            The address to which the code is added for the patient, and when the invitation expires.

        Raises:
            PeerDataError: numbers that the hospital cannot speak for or that contradict each other, no birth date.
            RefusedError: `no-portal`; `id-taken`: another one has this id, or this code; `too-many`.
        """
        now, portal, numbers = self._clock(), self._region().portal, frozenset(patient)
        self._check(hospital, numbers, birth_date, guardian, now)
        if not portal:
            raise RefusedError(NO_PORTAL, "the region has no portal: its manifest has to name one first")
        address = portal + ENROL_PATH
        with changing(self._database) as connection:
            events = self._expire(connection, now)
            same = (_invitation.c.id == id) | (_invitation.c.code == code_sha256)
            found = connection.execute(sa.select(_invitation).where(same)).all()
            if found:
                held = _read(connection, found[0])
                mine = (held.id, found[0].code, held.hospital) == (id, code_sha256, hospital.id)
                told = (held.patient, held.guardian, found[0].birth_date or birth_date)
                if len(found) > 1 or not mine or told != (numbers, guardian, birth_date):
                    raise RefusedError(ID_TAKEN, "another invitation has this id or code: make new ones")
                return address, held.invited + LIFE
            self._bound(connection, hospital, now)
            replaced = (
                sa.select(_invitation)
                .where(_invitation.c.hospital == hospital.id, _invitation.c.state.in_(_OPEN))
                .where(_invitation.c.id.in_(sa.select(_number.c.invitation).where(names(_number, numbers))))
            )
            for row in connection.execute(replaced).all():
                events.append(self._revoke(connection, _read(connection, row), hospital.id, "replaced by a newer one"))
            self._keep(connection, hospital, id, code_sha256, numbers, birth_date, guardian, now)
            events.append(_event(now, hospital.id, "invited", id, patient=min(numbers)))
            append_in(connection, events)
        return address, now.replace(microsecond=0) + LIFE

    def state(self, hospital: Hospital, id: str) -> Invitation:
        """Return an invitation of this hospital.

        Raises:
            RefusedError: `unknown-invitation`, also if it is another hospital's.
        """
        self.expire()
        with self._database.read() as connection:
            held = self._find(connection, _invitation.c.id == id, _invitation.c.hospital == hospital.id)
        if held is None:
            raise _unknown()
        return held

    def cancel(self, hospital: Hospital, id: str) -> None:
        """Void an invitation of this hospital; one that is over stays as it is.

        Raises:
            RefusedError: `unknown-invitation`; `enrolled`: it is too late.
        """
        now = self._clock()
        with changing(self._database) as connection:
            events = self._expire(connection, now)
            held = self._find(connection, _invitation.c.id == id, _invitation.c.hospital == hospital.id)
            if held is None:
                raise _unknown()
            if held.state is State.ENROLLED:
                raise RefusedError(ENROLLED, "this passkey is enrolled already: revoke it as that of a lost phone")
            if held.state in OPEN:
                events.append(self._revoke(connection, held, hospital.id, "cancelled"))
            append_in(connection, events)

    def enrolled(self, connection: Connection, enrolment: Enrolment) -> None:
        """Note that a hospital has enrolled the passkeys that answered its invitations.

        Args:
            connection: of `tables.changing`, in which the enrolment is kept.
            enrolment: verified.
        """
        now = self._clock()
        events = self._expire(connection, now)
        for one in enrolment.credentials:
            answered = (
                _invitation.c.hospital == enrolment.hospital,
                _invitation.c.credential == one.id.hex(),
                _invitation.c.public_key == one.public_key.hex(),
            )
            for row in connection.execute(sa.select(_invitation).where(*answered)).all():
                held = _read(connection, row)
                if _save(connection, held, Change.ENROL):
                    events.append(_event(now, enrolment.hospital, "enrolled", held.id, patient=min(held.patient)))
        append_in(connection, events)

    # ---- what the patient does ----

    def open(self, code: str) -> Invitation:
        """Return the invitation of a code that waits for its answer.

        Raises:
            RefusedError: `bad-code`: unknown, used, void or expired; nobody is told which.
        """
        self.expire()
        now = self._clock()
        with self._database.read() as connection:
            held = self._find(connection, *self._of_code(code))
        if self._is_waiting(held):
            assert held is not None
            return held
        with self._database.write() as connection:
            append_in(connection, [_refused(now, held, BAD_CODE)])
        raise _bad_code()

    def check_birth_date(self, code: str, birth_date: str) -> Invitation:
        """Return the invitation if this is the patient's birth date (YYYYMMDD); a wrong one is counted.

        Raises:
            PeerDataError: no date; it is not counted, since nothing is learned by it.
            RefusedError: `bad-code`; `wrong-birth-date`: counted, and the fifth voids the invitation.
        """
        return self._admit(code, birth_date, None)

    def answer(self, code: str, birth_date: str, credential: Credential) -> Invitation:
        """Answer an invitation with a passkey, once. The hospital's clerk then compares and confirms.

        Raises:
            PeerDataError, RefusedError: as `check_birth_date`; a passkey that is too long.
            RefusedError: `passkey-taken`: a passkey with this id is there already (WebAuthn Level 2 §7.1 step 22); two
                people must not have one.
        """
        if not 1 <= len(credential.id) <= LONGEST_ID or not 1 <= len(credential.public_key) <= LONGEST_KEY:
            raise PeerDataError("the passkey's id or public key is longer than any passkey's")
        return self._admit(code, birth_date, credential)

    def answered_with(self, credential: bytes) -> Invitation | None:
        """Return the invitation that a passkey (its id) has answered and no hospital has confirmed yet."""
        self.expire()
        answer = _invitation.c.credential == credential.hex()
        with self._database.read() as connection:
            return self._find(connection, answer, _invitation.c.state == State.ANSWERED.value)

    def expire(self) -> None:
        """Write down what has expired, so that a clock that goes back brings nothing back."""
        now = self._clock()
        with self._database.read() as connection:
            due = connection.execute(sa.select(_invitation.c.id).where(*_due(now)).limit(1)).first()
        if due:
            with changing(self._database) as connection:
                append_in(connection, self._expire(connection, now))

    def _admit(self, code: str, birth_date: str, credential: Credential | None) -> Invitation:
        if not is_date(birth_date):
            raise PeerDataError("a birth date is written YYYYMMDD")
        now = self._clock()
        refusal: RefusedError | None = None
        with changing(self._database) as connection:
            events = self._expire(connection, now)
            row = connection.execute(sa.select(_invitation).where(*self._of_code(code))).one_or_none()
            held = _read(connection, row) if row else None
            if row is None or held is None or not self._is_waiting(held):
                refusal = _bad_code()
                events.append(_refused(now, held, BAD_CODE))
            elif not secrets.compare_digest(row.birth_date, birth_date):
                refusal = self._count(connection, held)
                events.append(_refused(now, held, WRONG_BIRTH_DATE))
                if held.tries == 1:
                    events.append(self._revoke(connection, held, PORTAL, f"{TRIES} wrong birth dates"))
            elif credential is not None and self._is_known(connection, credential):
                refusal = RefusedError(PASSKEY_TAKEN, "this passkey is enrolled already: make a new one")
                events.append(_refused(now, held, PASSKEY_TAKEN))
            elif credential is not None:
                made = {"credential": credential.id.hex(), "public_key": credential.public_key.hex()}
                _save(connection, held, Change.ANSWER, **made, expires=_time(now + LIFE))
                held = self._find(connection, _invitation.c.id == held.id)
                assert held is not None
                patient = min(held.patient)
                events.append(_event(now, PORTAL, "answered", held.id, patient=patient, peer=held.hospital))
            append_in(connection, events)
        if refusal is not None:
            raise refusal
        assert held is not None
        return held

    # ---- in a transaction ----

    def _check(
        self,
        hospital: Hospital,
        numbers: frozenset[PatientIdentifier],
        birth_date: str,
        guardian: Guardian | None,
        now: datetime,
    ) -> None:
        region = self._region()
        if not numbers:
            raise PeerDataError("an invitation names the patient's numbers")
        foreign = {one.issuer for one in numbers} - region.spoken_for(hospital.id)
        if foreign:
            raise PeerDataError(f"{hospital.id} does not assign numbers of {', '.join(sorted(foreign))}")
        if not is_date(birth_date):
            raise PeerDataError("birth_date is not YYYYMMDD")
        national = region.national_number
        if fault := one_person_fault(numbers, national):
            raise PeerDataError(fault)
        for one in numbers:
            if national is not None and one.issuer == national.issuer and not national.accepts(one.value, birth_date):
                raise PeerDataError("the national number is not valid, or does not fit the birth date")
        if guardian is not None and guardian.until <= now:
            raise PeerDataError("the guardian's time is over")

    def _bound(self, connection: Connection, hospital: Hospital, now: datetime) -> None:
        """Forget what is long over; make sure that one more of this hospital has room.

        Raises:
            RefusedError: `too-many`.
        """
        # This hospital's own, which an index finds; the others' go when they invite.
        of_hospital = _invitation.c.hospital == hospital.id
        connection.execute(sa.delete(_invitation).where(of_hospital, _invitation.c.invited < _time(now - KEPT)))
        count = sa.select(sa.func.count()).select_from(_invitation).where(_invitation.c.hospital == hospital.id)
        if int(connection.scalar(count.where(_invitation.c.state.in_(_OPEN))) or 0) >= MOST_OPEN:
            raise RefusedError(TOO_MANY, f"{MOST_OPEN} invitations of {hospital.id} are open: cancel some")
        recent = count.where(_invitation.c.invited > _time(now - timedelta(hours=1)))
        if int(connection.scalar(recent) or 0) >= MOST_AN_HOUR:
            raise RefusedError(TOO_MANY, f"{hospital.id} has invited {MOST_AN_HOUR} patients within an hour: wait")

    def _keep(
        self,
        connection: Connection,
        hospital: Hospital,
        id: str,
        code_sha256: str,
        numbers: frozenset[PatientIdentifier],
        birth_date: str,
        guardian: Guardian | None,
        now: datetime,
    ) -> None:
        connection.execute(
            sa.insert(_invitation).values(
                id=id,
                hospital=hospital.id,
                code=code_sha256,
                birth_date=birth_date,
                basis=guardian.basis.value if guardian else "",
                basis_until=_time(guardian.until) if guardian else None,
                state=State.WAITING.value,
                wrong=0,
                invited=_time(now),
                expires=_time(now + LIFE),
                credential="",
                public_key="",
            )
        )
        rows = [{"invitation": id, "issuer": one.issuer, "value": one.value} for one in numbers]
        connection.execute(sa.insert(_number), rows)

    def _expire(self, connection: Connection, now: datetime) -> list[AuditEvent]:
        events = []
        for row in connection.execute(sa.select(_invitation).where(*_due(now))).all():
            held = _read(connection, row)
            _save(connection, held, Change.EXPIRE)
            events.append(_event(now, HUB, "expired", held.id, patient=min(held.patient), peer=held.hospital))
        return events

    def _revoke(self, connection: Connection, held: Invitation, by: str, why: str) -> AuditEvent:
        _save(connection, held, Change.REVOKE)
        peer = held.hospital if by != held.hospital else ""
        return _event(self._clock(), by, "void", held.id, patient=min(held.patient), peer=peer, reason=why)

    def _count(self, connection: Connection, held: Invitation) -> RefusedError:
        wrong = sa.update(_invitation).where(_invitation.c.id == held.id).values(wrong=_invitation.c.wrong + 1)
        connection.execute(wrong)
        left = held.tries - 1
        then = f"{left} more may be tried" if left else "the invitation is void: ask the hospital for a new one"
        return RefusedError(WRONG_BIRTH_DATE, f"this is not the birth date that the hospital has; {then}")

    def _is_waiting(self, held: Invitation | None) -> bool:
        """Tell whether an invitation can be answered: also that who invited still belongs to the region."""
        return held is not None and held.state is State.WAITING and held.hospital in self._region().hospitals

    def _is_known(self, connection: Connection, credential: Credential) -> bool:
        mine = sa.select(_invitation.c.id).where(_invitation.c.credential == credential.id.hex()).limit(1)
        if connection.execute(mine).first() is not None:
            return True
        return bool(enrolments.of_credential(connection, credential.id))

    def _of_code(self, code: str) -> tuple[sa.ColumnElement[bool]]:
        try:
            return (_invitation.c.code == code_digest(code),)
        except PeerDataError:
            return (sa.false(),)

    def _find(self, connection: Connection, *where: sa.ColumnElement[bool]) -> Invitation | None:
        row = connection.execute(sa.select(_invitation).where(*where)).one_or_none()
        return _read(connection, row) if row else None


# Made anew each time: an exception that is raised again and again keeps the frames of all the times before.
def _bad_code() -> RefusedError:
    return RefusedError(BAD_CODE, "this code is wrong, was used, or is over: ask the hospital for a new one")


def _unknown() -> RefusedError:
    return RefusedError(UNKNOWN, "the hub has no invitation of yours under this id: invite the patient anew")


def _due(now: datetime) -> Iterable[sa.ColumnElement[bool]]:
    return _invitation.c.state.in_(_OPEN), _invitation.c.expires <= _time(now)


def _save(connection: Connection, held: Invitation, change: Change, **values: Any) -> bool:
    """Make a change; return whether it can happen. Where it does, the birth date is not needed any more."""
    state = after(held.state, change)
    if state is None:
        return False
    changed = sa.update(_invitation).where(_invitation.c.id == held.id)
    connection.execute(changed.values(state=state.value, birth_date="", **values))
    return True


def _read(connection: Connection, row: Any) -> Invitation:
    numbers = connection.execute(sa.select(_number.c.issuer, _number.c.value).where(_number.c.invitation == row.id))
    state = State(row.state)
    counts = state in (State.ANSWERED, State.ENROLLED)
    return Invitation(
        id=row.id,
        hospital=row.hospital,
        patient=frozenset(PatientIdentifier(*one) for one in numbers),
        guardian=Guardian(Basis(row.basis), datetime.fromtimestamp(row.basis_until, UTC)) if row.basis else None,
        state=state,
        invited=datetime.fromtimestamp(row.invited, UTC),
        expires=datetime.fromtimestamp(row.expires, UTC),
        tries=TRIES - row.wrong,
        credential=Credential(bytes.fromhex(row.credential), bytes.fromhex(row.public_key)) if counts else None,
    )


def _time(moment: datetime) -> int:
    return int(moment.timestamp())


def _event(
    now: datetime, agent: str, what: str, id: str, *, patient: PatientIdentifier, peer: str = "", reason: str = ""
) -> AuditEvent:
    detail = {"what": what, "invitation": id}
    return AuditEvent(
        now, AuditEventType.IDENTITY, agent, peer=peer, patient=str(patient), reason=reason, detail=detail
    )


def _refused(now: datetime, held: Invitation | None, code: str) -> AuditEvent:
    """Return what is recorded of a refusal: of a code that nobody made, there is nothing to name."""
    detail = {"what": "invitation", **({"invitation": held.id, "state": held.state.value} if held else {})}
    return AuditEvent(
        now,
        AuditEventType.REFUSED,
        PORTAL,
        peer=held.hospital if held else "",
        patient=str(min(held.patient)) if held else "",
        outcome=Outcome.DENIED,
        reason=code,
        detail=detail,
    )
