"""Accounts of the node's own, their sessions, and tokens of programs, on disk only as what cannot be used."""

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

LONGEST_NAME = 64
MOST_ACCOUNTS = 5000
MOST_SESSIONS = 20
"""Of one person; the one that was not used for the longest time makes room."""

SESSION_LIFE = timedelta(hours=12)
TOKEN_PREFIX = "usmed_"  # noqa: S105 - the beginning of every one of them
"""By which a scanner of files knows a token that was left lying about."""

_account = sa.table("staff_account", *map(sa.column, ("name", "role", "password", "disabled", "changed")))
_session = sa.table("staff_session", *map(sa.column, ("digest", "name", "began", "used")))
_token = sa.table("staff_token", *map(sa.column, ("digest", "name", "permissions", "made", "expires")))


@dataclass(frozen=True, slots=True)
class Account:
    """A log-in of the node's own: the argon2id hash of the password, empty if none can be used."""

    name: str
    role: str
    password: str
    disabled: bool
    changed: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A session: whose, and when it began and was last used (aware UTC)."""

    name: str
    began: datetime
    used: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What a program shows instead of a password: its name, what it may, and until when."""

    name: str
    permissions: frozenset[str]
    made: datetime
    expires: datetime


class StaffStore:
    """Accounts, sessions and tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- accounts ----

    def accounts(self) -> dict[str, Account]:
        """Return every account by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_account).order_by(_account.c.name)).all()
        return {
            row.name: Account(row.name, row.role, row.password, bool(row.disabled), _moment(row.changed))
            for row in rows
        }

    def add(self, name: str, role: str, password: str, now: datetime, by: str) -> None:
        """Add an account.

        Raises:
            PeerDataError: the name is none, or there are too many.
            RefusedError: there is one of this name.
        """
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or ":" in name or name != name.strip():
            raise PeerDataError(f"a name has 1 to {LONGEST_NAME} printable characters, and no colon (RFC 7617 §2)")
        values = {"name": name, "role": role, "password": password, "disabled": 0, "changed": _seconds(now)}
        with self._database.write() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(_account)).scalar_one() >= MOST_ACCOUNTS:
                raise PeerDataError(f"there are {MOST_ACCOUNTS} accounts already")
            added = self._database.insert(_account).values(**values).on_conflict_do_nothing().returning(_account.c.name)
            if connection.execute(added).first() is None:
                raise RefusedError("known", f"there is an account {name!r} already")
            append_in(connection, [_event(now, by, "account added", name, role=role)])

    def change(self, name: str, now: datetime, by: str, what: str, **values: Any) -> None:
        """Change an account's role, password or whether it is disabled, and end its sessions.

        Raises:
            RefusedError: there is none.
        """
        with self._database.write() as connection:
            changed = sa.update(_account).where(_account.c.name == name).values(**values, changed=_seconds(now))
            if connection.execute(changed.returning(_account.c.name)).first() is None:
                raise RefusedError("unknown", f"there is no account {name!r}")
            connection.execute(sa.delete(_session).where(_session.c.name == name))
            said = {"role": values["role"]} if "role" in values else {}
            append_in(connection, [_event(now, by, what, name, **said)])

    # ---- sessions ----

    def begin(self, name: str, now: datetime, idle: timedelta) -> str:
        """Begin a session; return its token. What is over is forgotten."""
        token = secrets.token_urlsafe(32)
        over = sa.or_(_session.c.used < _seconds(now - idle), _session.c.began < _seconds(now - SESSION_LIFE))
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(over))
            mine = sa.select(_session.c.digest).where(_session.c.name == name).order_by(_session.c.used.desc())
            surplus = [row.digest for row in connection.execute(mine).all()][MOST_SESSIONS - 1 :]
            connection.execute(sa.delete(_session).where(_session.c.digest.in_(surplus)))
            row = {"digest": digest(token), "name": name, "began": _seconds(now), "used": _seconds(now)}
            connection.execute(sa.insert(_session).values(row))
            append_in(connection, [_event(now, name, "logged in", name)])
        return token

    def session(self, token_digest: str) -> Session | None:
        """Return a session by the digest of its token."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_session).where(_session.c.digest == token_digest)).first()
        return Session(row.name, _moment(row.began), _moment(row.used)) if row else None

    def used(self, token_digest: str, now: datetime) -> None:
        """Note that a session is in use."""
        with self._database.write() as connection:
            connection.execute(sa.update(_session).where(_session.c.digest == token_digest).values(used=_seconds(now)))

    def end(self, token_digest: str) -> None:
        """End a session."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.digest == token_digest))

    # ---- tokens of programs ----

    def tokens(self) -> dict[str, Token]:
        """Return every token by its digest, also those that have expired."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_token).order_by(_token.c.name)).all()
        return {
            row.digest: Token(
                row.name, frozenset(json.loads(row.permissions)), _moment(row.made), _moment(row.expires)
            )
            for row in rows
        }

    def add_token(self, name: str, permissions: Collection[str], now: datetime, expires: datetime, by: str) -> str:
        """Make a token; return it. It is never seen again.

        Raises:
            PeerDataError: the name is none.
            RefusedError: there is one of this name.
        """
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
            raise PeerDataError(f"a name has 1 to {LONGEST_NAME} printable characters")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        values = {
            "digest": digest(token), "name": name, "permissions": json.dumps(sorted(permissions)),
            "made": _seconds(now), "expires": _seconds(expires),
        }  # fmt: skip
        with self._database.write() as connection:
            added = self._database.insert(_token).values(**values).on_conflict_do_nothing().returning(_token.c.name)
            if connection.execute(added).first() is None:
                raise RefusedError("known", f"there is a token {name!r} already: revoke it first")
            append_in(connection, [_event(now, by, "token made", name, permissions=" ".join(sorted(permissions)))])
        return token

    def revoke(self, name: str, now: datetime, by: str) -> None:
        """Remove a token.

        Raises:
            RefusedError: there is none.
        """
        with self._database.write() as connection:
            gone = sa.delete(_token).where(_token.c.name == name).returning(_token.c.name)
            if connection.execute(gone).first() is None:
                raise RefusedError("unknown", f"there is no token {name!r}")
            append_in(connection, [_event(now, by, "token revoked", name)])


def digest(secret: str) -> str:
    """Return what is kept of a random, long secret."""
    return sha256_hex(secret.encode("utf-8"))


def _event(now: datetime, by: str, what: str, whom: str, **detail: str) -> AuditEvent:
    return AuditEvent(now, AuditEventType.ADMINISTRATION, by, detail={"what": what, "for": whom, **detail})


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
