"""How often somebody may fail, and how often a passkey has signed: on disk, and bounded."""

import ipaddress
import threading
from collections import OrderedDict
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.canonical import sha256_hex
from usmed.hub.tables import insert
from usmed.platform.storage import Database, Statement

WINDOW = timedelta(minutes=10)
MOST_FAILURES = 20
MOST_ADDRESSES = 10_000

_failure = sa.table("portal_failure", *map(sa.column, ("who", "failures", "ends")))
_counter = sa.table("portal_counter", *map(sa.column, ("passkey", "signatures")))

_FAILURES = Statement(
    sa.select(_failure.c.failures).where(
        _failure.c.who == sa.bindparam("who"), _failure.c.ends > sa.bindparam("now")
    )
)
_COUNTED = Statement(sa.select(_counter.c.signatures).where(_counter.c.passkey == sa.bindparam("passkey")))
_COUNT = Statement(
    sa.text(
        "INSERT INTO portal_counter (passkey, signatures) VALUES (:passkey, :signatures) ON CONFLICT (passkey)"
        " DO UPDATE SET signatures = excluded.signatures WHERE portal_counter.signatures < excluded.signatures"
        " RETURNING passkey"
    )
)


class Failures:
    """Failures of the last minutes. Only they count: many patients may enrol behind one address of a hospital.

    On disk, so that a restart gives nobody new tries; who it was, only as SHA-256.
    """

    def __init__(
        self, database: Database, window: timedelta = WINDOW, most: int = MOST_FAILURES, kept: int = MOST_ADDRESSES
    ) -> None:
        self._database, self._window, self._most, self._kept = database, window, most, kept

    def too_many(self, key: str, now: datetime) -> bool:
        """Tell whether somebody has to wait: until a window after the first of these failures."""
        rows = self._database.query(_FAILURES, {"who": _digest(key), "now": _seconds(now)})
        return bool(rows) and int(rows[0][0]) >= self._most

    def add(self, key: str, now: datetime) -> None:
        """Count one more."""
        row = {"who": _digest(key), "failures": 1, "ends": _seconds(now + self._window)}
        more = {"failures": _failure.c.failures + 1}
        oldest = sa.select(_failure.c.who).order_by(_failure.c.ends.desc(), _failure.c.who).offset(self._kept)
        with self._database.write() as connection:
            connection.execute(sa.delete(_failure).where(_failure.c.ends <= _seconds(now)))
            connection.execute(
                insert(connection, _failure).values(row).on_conflict_do_update(index_elements=["who"], set_=more)
            )
            rest = connection.scalars(oldest.limit(self._kept)).all()
            if rest:
                connection.execute(sa.delete(_failure).where(_failure.c.who.in_(rest)))


class Counters:
    """How often each passkey says that it has signed: one that counts backwards may be a copy (WebAuthn §7.2, 21).

    Passkeys that phones keep in step with each other say 0 for ever, which is taken.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, credential_id: bytes, signatures: int) -> bool:
        """Do the same as `accept_in`, in a transaction of its own."""
        with self._database.write() as connection:
            return self.accept_in(connection, credential_id, signatures)

    def accept_in(self, connection: Connection, credential_id: bytes, signatures: int) -> bool:
        """Note what a passkey says that signed; return whether that is more than it said before.

        In the transaction of what was signed: what was not kept may be sent again.

        Args:
            credential_id: of a passkey that a hospital has enrolled, and whose signature was checked.
            signatures: the counter that it signed.
        """
        passkey = credential_id.hex()
        if signatures == 0:
            return not _COUNTED.run(connection, {"passkey": passkey})
        return bool(_COUNT.run(connection, {"passkey": passkey, "signatures": signatures}))


class Once:
    """What was said within the last minutes need not be said again; in memory, and bounded."""

    def __init__(self, window: timedelta = WINDOW, most: int = MOST_ADDRESSES) -> None:
        self._window, self._most = window, most
        self._lock = threading.Lock()
        self._said: OrderedDict[str, datetime] = OrderedDict()

    def first(self, key: str, now: datetime) -> bool:
        """Tell whether it was not said within the window; from now on it was."""
        with self._lock:
            said = self._said.get(key)
            if said is not None and now - said < self._window:
                return False
            self._said[key] = now
            self._said.move_to_end(key)
            while len(self._said) > self._most:
                self._said.popitem(last=False)
            return True


def network_of(address: str) -> str:
    """Return what stands for whoever is behind an address: of IPv6, one subscriber has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def _digest(key: str) -> str:
    return sha256_hex(key.encode("utf-8", "replace"))


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
