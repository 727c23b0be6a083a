"""Who may use pages for staff: one-time codes, passkeys and sessions, on disk only as what cannot be used.

A code is made by a command on the machine and registers one passkey; a passkey opens a session and signs decisions
(WebAuthn Level 2). Codes and session tokens are stored as SHA-256: they are random and long.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from fido2.webauthn import AttestedCredentialData

from usmed.domain.approval import short_digest
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import RefusedError
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

CODE_LIFE = timedelta(minutes=15)
SESSION_LIFE = timedelta(minutes=20)
LONGEST_NAME = 64
BAD_CODE = "bad-code"


@dataclass(frozen=True, slots=True)
class Door:
    """Which pages somebody is let into.

    Attributes:
        tables: what the names of their tables begin with: `…_passkey`, `…_session` and `…_code`.
        command: which makes a code.
        cookie: of their sessions.
        home: the endpoint of the page that follows a log-in.
        named: a code is for one person, whose name it carries, and lies beside the codes of others.
    """

    tables: str
    command: str
    cookie: str
    home: str
    named: bool = False


@dataclass(frozen=True, slots=True)
class Passkey:
    """A registered passkey: its id in hexadecimal digits, whose it is, and the public key as WebAuthn writes it."""

    id: str
    name: str
    credential: AttestedCredentialData
    registered: datetime


class Access:
    """Codes, passkeys and sessions of one site."""

    def __init__(self, database: Database, clock: Callable[[], datetime], door: Door) -> None:
        self._database = database
        self._clock = clock
        self._door = door
        columns = ("digest", "expires", *(("name",) if door.named else ()))
        self._code = sa.table(f"{door.tables}_code", *map(sa.column, columns))
        self._passkey = sa.table(
            f"{door.tables}_passkey", *map(sa.column, ("id", "name", "credential", "registered"))
        )
        self._session = sa.table(f"{door.tables}_session", *map(sa.column, ("digest", "passkey", "expires")))

    def make_code(self, by: str, name: str = "") -> str:
        """Return a new code that registers one passkey within CODE_LIFE; an earlier one is void.

        Args:
            by: who makes it.
            name: for whom, where codes carry names: an earlier one of this person is void.
        """
        now, code = self._clock(), short_digest(secrets.token_hex(32))
        row = {"digest": _digest(code), "expires": int((now + CODE_LIFE).timestamp())}
        earlier = [self._code.c.name == name] if self._door.named else []
        with self._database.write() as connection:
            connection.execute(sa.delete(self._code).where(*earlier))
            connection.execute(sa.insert(self._code).values(row | ({"name": name} if self._door.named else {})))
            detail = {"for": name} if name else {}
            append_in(connection, [self._event(now, by, f"{self._door.tables} code made", **detail)])
        return code

    def check_code(self, code: str) -> str:
        """Make sure that a code is good; it stays so. Return the name that it carries, if any.

        Raises:
            RefusedError: `bad-code`.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(self._code).where(*self._good(code))).first()
        if row is None:
            raise self._bad_code()
        return str(row.name) if self._door.named else ""

    def register(self, code: str, name: str, credential: AttestedCredentialData) -> Passkey:
        """Keep a passkey; the code is used up with it.

        Args:
            name: whose it is, where the code carries no name.

        Raises:
            RefusedError: `bad-code`.
        """
        now = self._clock()
        with self._database.write() as connection:
            used = sa.delete(self._code).where(*self._good(code)).returning(*self._code.c)
            row = connection.execute(used).first()
            if row is None:
                raise self._bad_code()
            name = str(row.name) if self._door.named else name
            made = Passkey(credential.credential_id.hex(), name, credential, now)
            connection.execute(
                sa.insert(self._passkey).values(
                    id=made.id, name=name, credential=bytes(credential).hex(), registered=int(now.timestamp())
                )
            )
            append_in(connection, [self._event(now, name, "passkey registered", passkey=made.id)])
        return made

    def passkeys(self) -> list[Passkey]:
        """Return every passkey, the oldest first."""
        with self._database.read() as connection:
            oldest_first = sa.select(self._passkey).order_by(self._passkey.c.registered, self._passkey.c.id)
            rows = connection.execute(oldest_first).all()
        return [_read(row) for row in rows]

    def remove(self, passkey_id: str, by: str) -> bool:
        """Remove a passkey and its sessions; return whether it was there."""
        now = self._clock()
        with self._database.write() as connection:
            connection.execute(sa.delete(self._session).where(self._session.c.passkey == passkey_id))
            gone = sa.delete(self._passkey).where(self._passkey.c.id == passkey_id).returning(self._passkey.c.id)
            if connection.execute(gone).first() is None:
                return False
            append_in(connection, [self._event(now, by, "passkey removed", passkey=passkey_id)])
        return True

    def log_in(self, passkey: Passkey) -> str:
        """Begin a session; return its token."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        expires = int((now + SESSION_LIFE).timestamp())
        with self._database.write() as connection:
            connection.execute(sa.delete(self._session).where(self._session.c.expires <= int(now.timestamp())))
            row = {"digest": _digest(token), "passkey": passkey.id, "expires": expires}
            connection.execute(sa.insert(self._session).values(row))
            append_in(connection, [self._event(now, passkey.name, "logged in", passkey=passkey.id)])
        return token

    def session(self, token: str) -> Passkey | None:
        """Return whose session a token is; None if nobody's, over, or of a passkey that was removed."""
        query = (
            sa.select(self._passkey)
            .join(self._session, self._session.c.passkey == self._passkey.c.id)
            .where(self._session.c.digest == _digest(token), self._session.c.expires > int(self._clock().timestamp()))
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return _read(row) if row else None

    def log_out(self, token: str) -> None:
        """End a session."""
        with self._database.write() as connection:
            connection.execute(sa.delete(self._session).where(self._session.c.digest == _digest(token)))

    def _good(self, code: str) -> tuple[sa.ColumnElement[bool], ...]:
        now = int(self._clock().timestamp())
        return self._code.c.digest == _digest(code.strip().upper()), self._code.c.expires > now

    def _bad_code(self) -> RefusedError:
        # A new one each time: one that is raised again keeps the frames of all times before.
        return RefusedError(
            BAD_CODE,
            f"this code is wrong, was used, or is older than 15 minutes: make one with {self._door.command}",
        )

    def _event(self, now: datetime, agent: str, what: str, **detail: str) -> AuditEvent:
        return AuditEvent(now, AuditEventType.ADMINISTRATION, agent, detail={"what": what, **detail})


def _read(row: Any) -> Passkey:
    credential = AttestedCredentialData(bytes.fromhex(row.credential))
    return Passkey(row.id, row.name, credential, datetime.fromtimestamp(row.registered, UTC))


def _digest(secret: str) -> str:
    return sha256_hex(secret.encode("utf-8"))
