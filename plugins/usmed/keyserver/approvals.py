"""Approvals on this server: what hospitals propose, what administrators decide, and what was approved and used.

What is approved here holds here only; the requester needs the same from k servers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from joserfc.jwk import OKPKey

from usmed.domain.approval import (
    CLOCK_TOLERANCE,
    Change,
    Kind,
    Operation,
    State,
    after,
    approved_document,
    is_over,
    parse_operation,
    short_digest,
)
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import RefusedError
from usmed.domain.quorum import sign
from usmed.keyserver.store import RecordStore
from usmed.platform.audit_log import append_in
from usmed.platform.notices import Notice, Outbox
from usmed.platform.storage import Database

LIMIT_BYTES = 16384
MOST_PENDING = 20
"""Operations of one requester that may wait at once: more would bury the one that matters."""

SHOWN = 200
DIGEST_CHARACTERS = 64
NONCE_TAKEN, EXPIRED, UNKNOWN = "nonce-taken", "expired", "unknown"
DECIDED, TOO_MANY, MALFORMED = "decided", "too-many", "malformed"

_COLUMNS = "requester nonce digest kind document state received expires decided decided_by proof"
_approval = sa.table("approval", *map(sa.column, _COLUMNS.split()))
_use = sa.table("approval_use", *map(sa.column, ("digest", "patient")))


@dataclass(frozen=True, slots=True)
class HeldOperation:
    """An operation as this server holds it; `used` counts what it was used for: patients of a rate, else once."""

    operation: Operation
    digest: str
    state: State
    received: datetime
    decided: datetime | None
    decided_by: str
    used: int

    @property
    def short(self) -> str:
        """Return what people compare."""
        return short_digest(self.digest)

    def to_json(self) -> dict[str, Any]:
        """Return what its requester is told."""
        return {"digest": self.digest, "short": self.short, "state": self.state.value}


class Approvals:
    """The use cases.

    Args:
        server: this server's id.
        store: whose lock serialises all changes.
        outbox: where notices to the administrator go.
        console: the console's address, for notices.
        key: this server's signing key; None where nobody is told how an operation stands.
    """

    def __init__(
        self,
        *,
        server: str,
        database: Database,
        store: RecordStore,
        outbox: Outbox,
        clock: Callable[[], datetime],
        console: str = "",
        key: OKPKey | None = None,
    ) -> None:
        self.server = server
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._console = console
        self._key = key

    def told(self, held: HeldOperation) -> dict[str, Any]:
        """Return what the requester is told: of an approved operation also this server's signature that it is."""
        told = held.to_json()
        if held.state is State.APPROVED and self._key is not None:
            document = approved_document(held.digest)
            told["signature"] = sign(self._key, signer=self.server, document=document).to_json()
        return told

    def propose(self, sender: str, document: Any) -> HeldOperation:
        """Take an operation in, or tell how the very same one stands.

        Raises:
            PeerDataError: no operation.
            RefusedError: another requester's or from the future (`malformed`), another document under a nonce that was
                used (`nonce-taken`), its time over (`expired`), too many that wait (`too-many`).
        """
        operation, now = parse_operation(document), self._clock()
        refusal: RefusedError | None = None
        with self._store.changing() as connection:
            events = self._expire(connection, now)
            held = self._find(connection, _approval.c.requester == sender, _approval.c.nonce == operation.nonce)
            if held is None or held.digest != operation.digest:
                refusal = self._fault(connection, operation, sender, held, now)
                if refusal is None:
                    held = self._keep(connection, operation, now)
                    self._outbox.put_in(connection, self._notice(held), now)
                    events.append(_event(held, now, sender, "proposed", particulars=operation.particulars))
                else:
                    events.append(_refused(operation, now, sender, refusal))
            append_in(connection, events)
        if refusal is not None:
            raise refusal
        assert held is not None
        return held

    def state(self, sender: str, nonce: Any) -> HeldOperation:
        """Return how an operation of the sender stands.

        Raises:
            RefusedError: `unknown`.
        """
        self.expire()
        with self._database.read() as connection:
            held = self._find(connection, _approval.c.requester == sender, _approval.c.nonce == str(nonce))
        if held is None:
            raise RefusedError(UNKNOWN, "this server has no operation of yours under this nonce: propose it first")
        return held

    def listed(self, *states: State) -> list[HeldOperation]:
        """Return operations in these states, or in all, the newest first."""
        self.expire()
        query = sa.select(_approval).order_by(_approval.c.received.desc(), _approval.c.digest).limit(SHOWN)
        if states:
            query = query.where(_approval.c.state.in_([one.value for one in states]))
        with self._database.read() as connection:
            return [self._read(connection, row) for row in connection.execute(query).all()]

    def find(self, name: str) -> HeldOperation:
        """Return the operation of a digest, whole or in its short form.

        Raises:
            RefusedError: `unknown`, also when a short form fits several.
        """
        self.expire()
        wanted = name.strip()
        with self._database.read() as connection:
            digests = [wanted.lower()]
            if len(wanted) != DIGEST_CHARACTERS:
                everything = connection.scalars(sa.select(_approval.c.digest)).all()
                digests = [one for one in everything if short_digest(one) == wanted.upper()]
            held = self._find(connection, _approval.c.digest == digests[0]) if len(digests) == 1 else None
            if held is None:
                raise RefusedError(UNKNOWN, f"there is no one operation {name[:80]!r} on this server")
            return held

    def decide(self, digest: str, change: Change, *, by: str, proof: str = "") -> HeldOperation:
        """Approve or refuse an operation; durable and audited when this returns.

        Args:
            digest: the whole digest.
            change: approve or refuse.
            by: who decides, for the audit log.
            proof: the signature of the administrator's passkey, kept with the decision.

        Raises:
            RefusedError: `unknown`; `decided` when it is not pending any more.
        """
        now = self._clock()
        refusal: RefusedError | None = None
        with self._store.changing() as connection:
            events = self._expire(connection, now)
            held = self._find(connection, _approval.c.digest == digest)
            if held is None:
                raise RefusedError(UNKNOWN, "there is no such operation on this server")
            state = after(held.state, change) if change is not Change.EXPIRE else None
            if state is None:
                refusal = RefusedError(DECIDED, f"the operation {held.short} is {held.state} already, which is final")
                events.append(_event(held, now, by, change.value, Outcome.DENIED, str(refusal)))
            else:
                values = {"state": state.value, "decided": int(now.timestamp()), "decided_by": by, "proof": proof}
                connection.execute(sa.update(_approval).where(_approval.c.digest == digest).values(values))
                held = self._find(connection, _approval.c.digest == digest)
                assert held is not None
                events.append(
                    _event(held, now, by, state.value, particulars=held.operation.particulars, proof=proof)
                )
            append_in(connection, events)
        if refusal is not None:
            raise refusal
        return held

    def use(
        self, connection: sa.Connection, requester: str, kind: Kind, patient: str, now: datetime
    ) -> tuple[str, bool]:
        """Let a requester that is over its rate have one more patient, if that was approved.

        Args:
            connection: of `RecordStore.changing`.
            patient: a name of the patient that is the same at each request; asked for again, it is not counted again.

        Returns:
            The digest of the operation that allows it, empty if none does; whether the patient was counted now.
        """
        approved = self._approved(connection, requester, kind, now)
        grants = [one for one in approved if now < one.operation.until]
        for one in grants:
            mine = (_use.c.digest == one.digest, _use.c.patient == patient)
            if connection.execute(sa.select(_use.c.digest).where(*mine)).first():
                return one.digest, False
        for one in grants:
            if one.used < one.operation.further:
                connection.execute(sa.insert(_use).values(digest=one.digest, patient=patient))
                return one.digest, True
        return "", False

    def granted(
        self,
        connection: sa.Connection,
        digest: str,
        *,
        requester: str,
        kind: Kind,
        particulars: Mapping[str, str | int],
        now: datetime,
    ) -> HeldOperation | None:
        """Return the operation of a digest if it is approved here, still lives, and is for just this.

        Args:
            requester: who wants it done.
            particulars: what is to be done, without the reason, which an operation may give as it likes.
        """
        for one in self._approved(connection, requester, kind, now):
            approved = {name: value for name, value in one.operation.particulars.items() if name != "reason"}
            if one.digest == digest and approved == particulars:
                return one
        return None

    def note_use(self, connection: sa.Connection, held: HeldOperation, now: datetime) -> list[AuditEvent]:
        """Note that an operation was carried out; return what has to be recorded of it: nothing from the second time.

        Until it ends it can be carried out again: an answer may be lost on its way.
        """
        insert = self._database.insert(_use).values(digest=held.digest, patient=held.operation.kind.value)
        if connection.execute(insert.on_conflict_do_nothing().returning(_use.c.digest)).first() is None:
            return []
        return [_event(held, now, held.operation.requester, "used")]

    def counts(self) -> dict[State, int]:
        """Return how many operations are in each state."""
        self.expire()
        query = sa.select(_approval.c.state, sa.func.count()).group_by(_approval.c.state)
        with self._database.read() as connection:
            found = {State(state): int(count) for state, count in connection.execute(query).all()}
        return {state: found.get(state, 0) for state in State}

    def expire(self) -> None:
        """Write down what has expired, so that a clock that goes back brings nothing back."""
        now = self._clock()
        with self._database.read() as connection:
            due = connection.execute(sa.select(_approval.c.digest).where(_is_due(now)).limit(1)).first()
        if due:
            with self._store.changing() as connection:
                append_in(connection, self._expire(connection, now))

    def _approved(self, connection: sa.Connection, requester: str, kind: Kind, now: datetime) -> list[HeldOperation]:
        query = (
            sa.select(_approval)
            .where(_approval.c.requester == requester, _approval.c.kind == kind.value)
            .where(_approval.c.state == State.APPROVED.value, _approval.c.expires > int(now.timestamp()))
            .order_by(_approval.c.expires, _approval.c.digest)
        )
        return [self._read(connection, row) for row in connection.execute(query).all()]

    def _expire(self, connection: sa.Connection, now: datetime) -> list[AuditEvent]:
        events = []
        for row in connection.execute(sa.select(_approval).where(_is_due(now))).all():
            held = self._read(connection, row)
            state = after(held.state, Change.EXPIRE)
            assert state is not None
            connection.execute(sa.update(_approval).where(_approval.c.digest == held.digest).values(state=state.value))
            events.append(_event(held, now, self.server, state.value))
        return events

    def _fault(
        self, connection: sa.Connection, operation: Operation, sender: str, held: HeldOperation | None, now: datetime
    ) -> RefusedError | None:
        if operation.requester != sender:
            return RefusedError(MALFORMED, "an operation is proposed by the hospital that it is for")
        if held is not None:
            # Bait and switch: administrators may have seen the other one.
            return RefusedError(
                NONCE_TAKEN, f"another operation, {held.short}, was proposed under this nonce: each has its own"
            )
        if is_over(operation, now):
            return RefusedError(EXPIRED, "the operation's time is over: propose a new one")
        if operation.issued > now + CLOCK_TOLERANCE:
            return RefusedError(MALFORMED, "the operation is dated in the future: check the clocks")
        query = sa.select(sa.func.count()).select_from(_approval)
        pending = query.where(_approval.c.requester == sender, _approval.c.state == State.PENDING.value)
        if int(connection.scalar(pending) or 0) >= MOST_PENDING:
            return RefusedError(TOO_MANY, f"{MOST_PENDING} operations of {sender} wait already: wait for a decision")
        return None

    def _keep(self, connection: sa.Connection, operation: Operation, now: datetime) -> HeldOperation:
        connection.execute(
            sa.insert(_approval).values(
                requester=operation.requester,
                nonce=operation.nonce,
                digest=operation.digest,
                kind=operation.kind.value,
                document=canonical_json(operation.to_json()).decode("utf-8"),
                state=State.PENDING.value,
                received=int(now.timestamp()),
                expires=int(operation.expires.timestamp()),
            )
        )
        return HeldOperation(operation, operation.digest, State.PENDING, now, None, "", 0)

    def _find(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> HeldOperation | None:
        row = connection.execute(sa.select(_approval).where(*where)).one_or_none()
        return self._read(connection, row) if row else None

    def _read(self, connection: sa.Connection, row: Any) -> HeldOperation:
        operation = parse_operation(parse_json(row.document.encode("utf-8"), limit_bytes=LIMIT_BYTES))
        count = sa.select(sa.func.count()).select_from(_use).where(_use.c.digest == row.digest)
        return HeldOperation(
            operation,
            row.digest,
            State(row.state),
            datetime.fromtimestamp(row.received, UTC),
            datetime.fromtimestamp(row.decided, UTC) if row.decided is not None else None,
            row.decided_by,
            int(connection.scalar(count) or 0),
        )

    def _notice(self, held: HeldOperation) -> Notice:
        operation = held.operation
        return Notice(
            f"[USMED {self.server}] {operation.requester} asks for {operation.kind}",
            f"{operation.requester} asks the administrators of the key servers for: {operation.kind}\n\n"
            f"Compare before you approve: {held.short}\n"
            f"Expires: {operation.expires:%Y-%m-%d %H:%M} UTC\n"
            + (f"Decide at: {self._console}\n" if self._console else ""),
        )


def _is_due(now: datetime) -> sa.ColumnElement[bool]:
    ending = [State.PENDING.value, State.APPROVED.value]
    return sa.and_(_approval.c.state.in_(ending), _approval.c.expires <= int(now.timestamp()))


def _event(
    held: HeldOperation,
    now: datetime,
    agent: str,
    what: str,
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
    particulars: Mapping[str, str | int] | None = None,
    proof: str = "",
) -> AuditEvent:
    detail: dict[str, Any] = {
        "what": what,
        "kind": held.operation.kind.value,
        "nonce": held.operation.nonce,
        "sha256": held.digest,
        "short": held.short,
    }
    if particulars:
        detail["particulars"] = particulars
    if proof:
        detail["proof_sha256"] = sha256_hex(proof.encode("utf-8"))
    requester = held.operation.requester if agent != held.operation.requester else ""
    return AuditEvent(
        now, AuditEventType.APPROVAL, agent, peer=requester, outcome=outcome, reason=reason, detail=detail
    )


def _refused(operation: Operation, now: datetime, sender: str, error: RefusedError) -> AuditEvent:
    detail = {"what": "proposed", "kind": operation.kind.value, "nonce": operation.nonce, "sha256": operation.digest}
    reason = f"{error.code}: {error}"
    return AuditEvent(now, AuditEventType.APPROVAL, sender, outcome=Outcome.DENIED, reason=reason, detail=detail)
