"""Notices to people: queued with what they are about, sent by a thread, again and again until they are taken.

A notice goes into the database in the same transaction as its cause, so neither is there without the other, and a
gateway that is down delays no request. It is read on the way: what is medical or secret has no place in a notice. The
gateways are in `mail` and `sms`.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.errors import TransportError, UsmedError
from usmed.platform.storage import Database, StorageError

_log = logging.getLogger(__name__)

EMAIL, SMS = "email", "sms"
"""The ways that there are."""

NETWORK_TIMEOUT_S = 20.0
POLL_S = 5.0
LONGEST_WAIT_S = 600.0
GIVE_UP = timedelta(days=7)
BATCH = 50

FIRST_AGAIN, LONGEST_AGAIN = timedelta(seconds=30), timedelta(hours=8)
"""How soon a notice to one person is tried again: four times later each time."""

MOST_UNSURE = 3
"""Tries of a notice to one person after which one that may have gone out is not sent again."""

_COLUMNS = "id subject body queued attempts failure channel recipient due ends"
_notice = sa.table("notice", *map(sa.column, _COLUMNS.split()))
_day = sa.table("notice_day", *map(sa.column, ("channel", "day", "tried")))


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told to people: one line, and a few.

    Attributes:
        recipient: whom; empty for those whom the gateway's settings name.
        channel: by which way.
        kept: after how long it is given up.
    """

    subject: str
    body: str
    recipient: str = ""
    channel: str = EMAIL
    kept: timedelta = GIVE_UP


@dataclass(frozen=True, slots=True)
class Waiting:
    """A notice that waits: `id` is the same at every try; times are Unix times in seconds."""

    id: str
    subject: str
    body: str
    recipient: str
    queued: int
    attempts: int
    ends: int


class NotTaken(UsmedError):
    """A gateway refused one notice, and takes others. `final`: it will never take this one."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class OutOfReach(TransportError):
    """A gateway cannot be used now. `unsure`: the notice under way may have gone out all the same."""

    def __init__(self, reason: str, *, unsure: bool = False) -> None:
        super().__init__(reason)
        self.unsure = unsure


class Gateway(Protocol):
    """A way on which notices go out."""

    @property
    def host(self) -> str:
        """Return its host, for the log."""

    @property
    def channel(self) -> str:
        """Return which notices it takes."""

    @property
    def most_a_day(self) -> int | None:
        """Return how many tries there may be in one day (UTC); None for any number."""

    def open(self) -> AbstractContextManager[Callable[[Waiting], None]]:
        """Give what sends one notice, which raises `NotTaken` or `OutOfReach`."""


class Outbox:
    """Notices that wait. Without a gateway (`wanted` false) nothing is queued."""

    def __init__(self, database: Database, *, wanted: bool = True) -> None:
        self._database = database
        self.wanted = wanted

    def put_in(self, connection: Connection, notice: Notice, now: datetime) -> None:
        """Queue a notice in the caller's transaction."""
        if self.wanted:
            row = {
                "id": uuid4().hex,
                "subject": notice.subject,
                "body": notice.body,
                "queued": _seconds(now),
                "channel": notice.channel,
                "recipient": notice.recipient,
                "ends": _seconds(now + notice.kept),
            }
            connection.execute(sa.insert(_notice).values(row))

    def waiting(self) -> tuple[int, str]:
        """Return how many notices wait, and what the gateway last said to one that was tried."""
        with self._database.read() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(_notice))
            query = sa.select(_notice.c.failure).where(_notice.c.failure != "")
            failure = connection.scalar(query.order_by(_notice.c.attempts.desc()).limit(1))
        return int(count or 0), str(failure or "")

    def troubled(self, connection: Connection, channel: str, recipient: str) -> bool:
        """Tell whether a notice to somebody was tried, and waits for another try."""
        query = sa.select(_notice.c.id).where(*_to(channel, recipient), _notice.c.failure != "")
        return connection.execute(query.limit(1)).first() is not None

    def forget(self, connection: Connection, channel: str, recipient: str) -> None:
        """Take out what waits for somebody, in the caller's transaction."""
        connection.execute(sa.delete(_notice).where(*_to(channel, recipient)))


def _to(channel: str, recipient: str) -> tuple[sa.ColumnElement[bool], ...]:
    return _notice.c.channel == channel, _notice.c.recipient == recipient


def _nobody_asks(_connection: Connection, _recipient: str, _delivered: bool) -> None:
    return None


class Postman:
    """A thread that brings waiting notices to a gateway, in order, and waits longer after each failure.

    Args:
        settled: told how a notice to one person ended, in the transaction that ends it: `(connection, recipient,
            delivered)`.
    """

    def __init__(
        self,
        database: Database,
        gateway: Gateway,
        clock: Callable[[], datetime],
        *,
        poll_s: float = POLL_S,
        settled: Callable[[Connection, str, bool], None] = _nobody_asks,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._clock = clock
        self._poll_s = poll_s
        self._settled = settled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notices by {gateway.channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the notice that is under way; the rest waits in the database."""
        self._stop.set()
        self._thread.join(NETWORK_TIMEOUT_S)

    def _run(self) -> None:
        failures = 0
        while not self._stop.wait(wait_s(failures, self._poll_s)):
            try:
                failures = 0 if self._deliver() else failures + 1
            except StorageError as error:
                failures += 1
                _log.warning("notices are not sent: %s", error)

    def _deliver(self) -> bool:
        """Send what is due; return false if the gateway could not be used, or took none of it."""
        rows = self._due()
        if not rows:
            return True
        sent = tried = 0
        try:
            with self._gateway.open() as send:
                for row in rows:
                    if self._stop.is_set():
                        break
                    tried += 1
                    try:
                        send(row)
                    except NotTaken as error:
                        self._failed([row], str(error), final=error.final)
                        continue
                    self._sent(row)
                    sent += 1
        except OutOfReach as error:
            # Before the first one was tried, none of them got anywhere.
            self._failed(rows[tried - 1 : tried] if tried else rows, str(error), unsure=error.unsure)
            return False
        return sent > 0

    def _due(self) -> list[Waiting]:
        now, most = self._clock(), BATCH
        with self._database.read() as connection:
            if self._gateway.most_a_day is not None:
                query = sa.select(_day.c.tried).where(*self._today(now))
                most = min(BATCH, self._gateway.most_a_day - int(connection.scalar(query) or 0))
            if most <= 0:
                return []
            mine = (_notice.c.channel == self._gateway.channel, _notice.c.due <= _seconds(now))
            # A notice that is never taken must not stand before the others.
            ordered = sa.select(_notice).where(*mine).order_by(_notice.c.attempts, _notice.c.queued, _notice.c.id)
            return [
                Waiting(row.id, row.subject, row.body, row.recipient, row.queued, row.attempts, row.ends)
                for row in connection.execute(ordered.limit(most))
            ]

    def _today(self, now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
        return _day.c.channel == self._gateway.channel, _day.c.day == _day_of(now)

    def _count(self, connection: Connection) -> None:
        if self._gateway.most_a_day is None:
            return
        now = self._clock()
        connection.execute(sa.delete(_day).where(_day.c.channel == self._gateway.channel, _day.c.day < _day_of(now)))
        counted = sa.update(_day).where(*self._today(now)).values(tried=_day.c.tried + 1)
        if not connection.execute(counted).rowcount:
            row = {"channel": self._gateway.channel, "day": _day_of(now), "tried": 1}
            connection.execute(sa.insert(_day).values(row))
            return
        tried = connection.scalar(sa.select(_day.c.tried).where(*self._today(now)))
        if tried == self._gateway.most_a_day:
            _log.error("%s was given %d notices today, the most: the rest waits", self._gateway.host, tried)

    def _sent(self, row: Waiting) -> None:
        with self._database.write() as connection:
            self._count(connection)
            connection.execute(sa.delete(_notice).where(_notice.c.id == row.id))
            if row.recipient:
                self._settled(connection, row.recipient, True)

    def _failed(self, rows: Sequence[Waiting], reason: str, *, final: bool = False, unsure: bool = False) -> None:
        reason = reason[:200]
        _log.warning("%d notice(s) wait, %s: %s", len(rows), self._gateway.host, reason)
        now = self._clock()
        with self._database.write() as connection:
            for row in rows:
                self._count(connection)
                mine = _notice.c.id == row.id
                personal = row.recipient != ""
                again = now + (again_after(row.attempts) if personal else timedelta())
                over = row.ends < _seconds(again) if personal else row.ends < _seconds(now)
                if over or (personal and (final or (unsure and row.attempts + 1 >= MOST_UNSURE))):
                    # Of a notice to one person not even the subject: it says who has an account.
                    _log.error("a notice was not taken and is given up: %s", "to a person" if personal else row.subject)
                    connection.execute(sa.delete(_notice).where(mine))
                    if personal:
                        self._settled(connection, row.recipient, False)
                else:
                    values = {"attempts": row.attempts + 1, "failure": reason, "due": _seconds(again)}
                    connection.execute(sa.update(_notice).where(mine).values(values))


def wait_s(failures: int, poll_s: float) -> float:
    """Return how long to wait before the next look: twice as long after each failure, ten minutes at most."""
    return min(poll_s * float(1 << min(failures, 20)), max(LONGEST_WAIT_S, poll_s))


def again_after(attempts: int) -> timedelta:
    """Return how long a notice to one person waits after a try that failed; `attempts` were before it."""
    return min(FIRST_AGAIN * (1 << 2 * min(attempts, 10)), LONGEST_AGAIN)


def _day_of(now: datetime) -> int:
    return _seconds(now) // 86400


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
