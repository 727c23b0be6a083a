"""Where people want to be told: addresses that they entered on the portal and confirmed by a code that was sent there.

The addresses are nowhere else, in no log, and gone when their owner takes them out. Changes are made under the hub's
one lock (`tables.changing`), so that codes and tries are counted exactly once.
"""

import hmac
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import sha256_hex
from usmed.domain.contact import (
    CHOSEN,
    CODE_LIFE,
    CODE_TRIES,
    CODES_A_DAY,
    CODES_AN_HOUR,
    UNCONFIRMED_LIFE,
    Channel,
    Topic,
    code_digest,
    hidden,
    may_tell,
    read_address,
    read_code,
)
from usmed.domain.errors import RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.invitations import PORTAL
from usmed.hub.notice_words import code_notice
from usmed.hub.tables import SLICE, changing, names
from usmed.platform.audit_log import append_in
from usmed.platform.notices import Outbox
from usmed.platform.storage import Database

NO_CHANNEL, TOO_MANY_CODES, ADDRESS_BUSY = "no-channel", "too-many-codes", "address-busy"
WRONG_CODE, CODE_OVER, UNKNOWN = "wrong-code", "code-over", "unknown-address"

_COLUMNS = (
    "id channel address holder language topics made confirmed code code_ends wrong failed looked emergency day told"
)
_contact = sa.table("contact", *map(sa.column, _COLUMNS.split()))
_number = sa.table("contact_number", *map(sa.column, ("contact", "issuer", "value")))
_sent = sa.table("contact_code", *map(sa.column, ("person", "address", "sent")))


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose addresses: a patient's, or those of who acts for the patient.

    Attributes:
        numbers: under which the patient is enrolled.
        holder: the passkey of who acts for the patient, hexadecimal; empty for the patient.
    """

    numbers: frozenset[PatientIdentifier]
    holder: str = ""

    @property
    def digest(self) -> str:
        """Return what codes are counted by."""
        return sha256_hex(f"{min(self.numbers)} {self.holder}".encode())


@dataclass(frozen=True, slots=True)
class Contact:
    """An address.

    Attributes:
        shown: as much of it as is shown.
        confirmed: whether its owner typed a code that was sent there.
        awaits_code: whether a code can be typed.
        troubled: the last notice could not be delivered, or is not yet.
    """

    id: str
    channel: Channel
    shown: str
    topics: frozenset[Topic]
    confirmed: bool
    awaits_code: bool
    troubled: bool


class Contacts:
    """The use cases.

    Args:
        channels: the ways for which there are gateways.
    """

    def __init__(
        self, database: Database, outbox: Outbox, clock: Callable[[], datetime], channels: Collection[Channel]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self.channels = tuple(one for one in Channel if one in channels)

    # ---- what the person does ----

    def of(self, owner: Owner) -> list[Contact]:
        """Return somebody's addresses, those that are confirmed first."""
        now = _time(self._clock())
        with self._database.read() as connection:
            rows = connection.execute(self._mine(owner).order_by(_contact.c.confirmed.desc(), _contact.c.made)).all()
            return [
                Contact(
                    row.id, Channel(row.channel), hidden(Channel(row.channel), row.address), _topics(row.topics),
                    row.confirmed > 0, row.code != "" and row.code_ends > now and row.wrong < CODE_TRIES,
                    row.failed > 0 or self._outbox.troubled(connection, row.channel, row.address),
                )
                for row in rows
                if row.confirmed or row.made > _time(self._clock() - UNCONFIRMED_LIFE)
            ]  # fmt: skip

    def enter(self, owner: Owner, channel: Channel, text: str, language: str) -> None:
        """Keep an address until its owner types the code that goes there now; another unconfirmed one is gone.

        One that is confirmed stays until this one is.

        Raises:
            PeerDataError: it is no address.
            RefusedError: `no-channel`; `too-many-codes`; `address-busy`: it got too many codes within a day.
        """
        if channel not in self.channels:
            raise RefusedError(NO_CHANNEL, f"this hub has no gateway for {channel}")
        address, now = read_address(channel, text), self._clock()
        with changing(self._database) as connection:
            self._tidy(connection, now)
            held = [one for one in connection.execute(self._mine(owner)).all() if one.channel == channel]
            same = next((one for one in held if one.address == address), None)
            if same is None:
                for one in held:
                    if not one.confirmed:
                        self._drop(connection, one)
                topics = next((one.topics for one in held if one.confirmed), _text(CHOSEN))
                id = self._keep(connection, owner, channel, address, topics, language, now)
            elif same.confirmed:
                return
            else:
                id = same.id
            self._send_code(connection, owner, id, channel, address, language, now)
            append_in(connection, [_event(owner, now, f"{channel} entered")])

    def send_again(self, owner: Owner, id: str, language: str) -> None:
        """Send a new code; the one before counts no more.

        Raises:
            RefusedError: as `enter`; `unknown-address`.
        """
        now = self._clock()
        with changing(self._database) as connection:
            row = self._one(connection, owner, id)
            if row.confirmed:
                return
            self._send_code(connection, owner, id, Channel(row.channel), row.address, language, now)

    def confirm(self, owner: Owner, id: str, text: str) -> None:
        """Take the code that was sent to an address: it is told of things from now on, in place of the one before.

        Raises:
            PeerDataError: it is no code.
            RefusedError: `wrong-code`, counted; `code-over`: too late, or too often wrong; `unknown-address`.
        """
        now, code = self._clock(), read_code(text)
        refusal: RefusedError | None = None
        with changing(self._database) as connection:
            row = self._one(connection, owner, id)
            this = sa.update(_contact).where(_contact.c.id == id)
            if not row.code or row.code_ends <= _time(now) or row.wrong >= CODE_TRIES:
                refusal = RefusedError(CODE_OVER, "this code is over: ask for a new one")
            elif not hmac.compare_digest(row.code, code_digest(id, code)):
                connection.execute(this.values(wrong=row.wrong + 1))
                refusal = RefusedError(WRONG_CODE, "this is not the code that was sent")
            else:
                for one in connection.execute(self._mine(owner)).all():
                    if one.channel == row.channel and one.id != id:
                        self._drop(connection, one)
                connection.execute(this.values(confirmed=_time(now), code="", code_ends=0, wrong=0, failed=0))
                append_in(connection, [_event(owner, now, f"{row.channel} confirmed")])
            if refusal:
                event = AuditEvent(
                    now, AuditEventType.REFUSED, PORTAL, patient=str(min(owner.numbers)), outcome=Outcome.DENIED,
                    reason=refusal.code, detail={"what": "notices: code"},
                )  # fmt: skip
                append_in(connection, [event])
        if refusal:
            # After the transaction: what was counted is counted.
            raise refusal

    def choose(self, owner: Owner, topics: Iterable[Topic], language: str) -> None:
        """Keep what somebody wants to be told of, and in which language."""
        now, chosen = self._clock(), _text(one for one in CHOSEN if one in set(topics))
        with changing(self._database) as connection:
            mine = [one.id for one in connection.execute(self._mine(owner)).all()]
            kept = sa.update(_contact).where(_contact.c.id.in_(mine)).values(topics=chosen, language=language)
            connection.execute(kept)
            append_in(connection, [_event(owner, now, f"topics: {chosen or 'emergency only'}")])

    def remove(self, owner: Owner, id: str) -> None:
        """Forget an address, with what waits to be sent there.

        Raises:
            RefusedError: `unknown-address`.
        """
        with changing(self._database) as connection:
            row = self._one(connection, owner, id)
            self._drop(connection, row)
            append_in(connection, [_event(owner, self._clock(), f"{row.channel} removed")])

    # ---- what others do ----

    def candidates(self, connection: Connection, numbers: Collection[PatientIdentifier]) -> list[tuple[str, Owner]]:
        """Return the confirmed addresses that one of these numbers may concern: their ids, and whose they are."""
        found: set[str] = set()
        for start in range(0, len(numbers), SLICE):
            part = sorted(numbers)[start : start + SLICE]
            query = sa.select(_number.c.contact).join_from(_number, _contact, _number.c.contact == _contact.c.id)
            found.update(connection.scalars(query.where(names(_number, part), _contact.c.confirmed > 0)))
        rows = [connection.execute(sa.select(_contact).where(_contact.c.id == id)).one() for id in sorted(found)]
        return [(row.id, Owner(self._numbers(connection, row.id), row.holder)) for row in rows]

    def tell(self, connection: Connection, id: str, topic: Topic, now: datetime) -> tuple[Channel, str, str] | None:
        """Count a notice to an address; return the way, the address and its language, None if it gets none.

        Args:
            connection: of `tables.changing`.
        """
        row = connection.execute(sa.select(_contact).where(_contact.c.id == id)).one_or_none()
        if row is None or not row.confirmed:
            return None
        today = _time(now) // 86400
        told = row.told if row.day == today else 0
        last = {Topic.LOOKED: row.looked, Topic.EMERGENCY: row.emergency}.get(topic, 0)
        if not may_tell(topic, _topics(row.topics), last, told, _time(now)):
            return None
        values = {"day": today, "told": told if topic is Topic.EMERGENCY else told + 1}
        if topic in (Topic.LOOKED, Topic.EMERGENCY):
            values[topic.value] = _time(now)
        connection.execute(sa.update(_contact).where(_contact.c.id == id).values(values))
        return Channel(row.channel), row.address, row.language

    def lapse(self, connection: Connection, id: str) -> None:
        """Forget an address whose owner acts for the patient no more."""
        for row in connection.execute(sa.select(_contact).where(_contact.c.id == id)).all():
            self._drop(connection, row)

    def settled(self, channel: Channel) -> Callable[[Connection, str, bool], None]:
        """Return what notes how a notice by one way ended (`platform.notices.Postman`)."""

        def note(connection: Connection, address: str, delivered: bool) -> None:
            mine = (_contact.c.channel == channel.value, _contact.c.address == address)
            failed = 0 if delivered else _time(self._clock())
            changed = sa.update(_contact).where(*mine, _contact.c.failed != failed).values(failed=failed)
            connection.execute(changed)

        return note

    # ---- the tables ----

    def _mine(self, owner: Owner) -> sa.Select[Any]:
        named = sa.select(_number.c.contact).where(names(_number, owner.numbers))
        return sa.select(_contact).where(_contact.c.id.in_(named), _contact.c.holder == owner.holder)

    def _one(self, connection: Connection, owner: Owner, id: str) -> Any:
        row = connection.execute(self._mine(owner).where(_contact.c.id == id)).one_or_none()
        if row is None:
            raise RefusedError(UNKNOWN, "there is no such address any more")
        return row

    def _numbers(self, connection: Connection, id: str) -> frozenset[PatientIdentifier]:
        rows = connection.execute(sa.select(_number.c.issuer, _number.c.value).where(_number.c.contact == id))
        return frozenset(PatientIdentifier(*row) for row in rows)

    def _keep(
        self, connection: Connection, owner: Owner, channel: Channel, address: str, topics: str, language: str,
        now: datetime,
    ) -> str:  # fmt: skip
        id, zeros = uuid4().hex, dict.fromkeys(("confirmed", "code_ends", "wrong", "failed"), 0)
        row = {
            "id": id, "channel": channel.value, "address": address, "holder": owner.holder, "language": language,
            "topics": topics, "made": _time(now), "code": "", "looked": 0, "emergency": 0, "day": 0, "told": 0, **zeros,
        }  # fmt: skip
        connection.execute(sa.insert(_contact).values(row))
        numbers = [{"contact": id, "issuer": one.issuer, "value": one.value} for one in sorted(owner.numbers)]
        connection.execute(sa.insert(_number), numbers)
        return id

    def _drop(self, connection: Connection, row: Any) -> None:
        connection.execute(sa.delete(_contact).where(_contact.c.id == row.id))
        left = sa.select(_contact.c.id).where(_contact.c.channel == row.channel, _contact.c.address == row.address)
        if connection.execute(left.limit(1)).first() is None:
            self._outbox.forget(connection, row.channel, row.address)

    def _send_code(
        self, connection: Connection, owner: Owner, id: str, channel: Channel, address: str, language: str,
        now: datetime,
    ) -> None:  # fmt: skip
        """Make a code and queue it.

        Raises:
            RefusedError: `too-many-codes`; `address-busy`.
        """
        connection.execute(sa.delete(_sent).where(_sent.c.sent <= _time(now - timedelta(days=1))))
        count, place = sa.select(sa.func.count()).select_from(_sent), sha256_hex(f"{channel} {address}".encode())
        hour = count.where(_sent.c.person == owner.digest, _sent.c.sent > _time(now - timedelta(hours=1)))
        if int(connection.scalar(hour) or 0) >= CODES_AN_HOUR:
            raise RefusedError(TOO_MANY_CODES, f"{CODES_AN_HOUR} codes were sent within an hour: wait")
        if int(connection.scalar(count.where(_sent.c.address == place)) or 0) >= CODES_A_DAY:
            raise RefusedError(ADDRESS_BUSY, f"{CODES_A_DAY} codes were sent to this address within a day: wait")
        connection.execute(sa.insert(_sent).values(person=owner.digest, address=place, sent=_time(now)))
        code = f"{secrets.randbelow(1_000_000):06}"
        values = {"code": code_digest(id, code), "code_ends": _time(now + CODE_LIFE), "wrong": 0, "failed": 0}
        connection.execute(sa.update(_contact).where(_contact.c.id == id).values(**values, language=language))
        self._outbox.put_in(connection, code_notice(channel, address, language, code), now)

    def _tidy(self, connection: Connection, now: datetime) -> None:
        over = (_contact.c.confirmed == 0, _contact.c.made <= _time(now - UNCONFIRMED_LIFE))
        for row in connection.execute(sa.select(_contact).where(*over)).all():
            self._drop(connection, row)

    def tidy(self) -> None:
        """Forget addresses that nobody confirmed."""
        with changing(self._database) as connection:
            self._tidy(connection, self._clock())


def _topics(text: str) -> frozenset[Topic]:
    return frozenset(Topic(one) for one in text.split())


def _text(topics: Iterable[Topic]) -> str:
    return " ".join(one.value for one in topics)


def _time(moment: datetime) -> int:
    return int(moment.timestamp())


def _event(owner: Owner, now: datetime, what: str) -> AuditEvent:
    return AuditEvent(
        now, AuditEventType.IDENTITY, PORTAL, patient=str(min(owner.numbers)), detail={"what": f"notices: {what}"}
    )
