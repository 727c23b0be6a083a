"""Who may use the console: one-time codes, passkeys and sessions, on disk only as what cannot be used.

A code is made on the machine (`usmed keyserver console-code`) and registers one passkey; a passkey opens a session and
signs decisions (WebAuthn Level 2). Codes and session tokens are stored as SHA-256: they are random and long.
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

_code = sa.table("console_code", *map(sa.column, ("digest", "expires")))
_passkey = sa.table("console_passkey", *map(sa.column, ("id", "name", "credential", "registered")))
_session = sa.table("console_session", *map(sa.column, ("digest", "passkey", "expires")))


@dataclass(frozen=True, slots=True)
class Passkey:
    """A registered passkey: its id in hexadecimal digits, whose it is, and the public key as WebAuthn writes it."""

    id: str
    name: str
    credential: AttestedCredentialData
    registered: datetime


class Access:
    """Codes, passkeys and sessions of one key server."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def make_code(self, by: str) -> str:
        """Return a new code that registers one passkey within CODE_LIFE; an earlier one is void."""
        now, code = self._clock(), short_digest(secrets.token_hex(32))
        expires = int((now + CODE_LIFE).timestamp())
        with self._database.write() as connection:
            connection.execute(sa.delete(_code))
            connection.execute(sa.insert(_code).values(digest=_digest(code), expires=expires))
            append_in(connection, [self._event(now, by, "console code made")])
        return code

    def check_code(self, code: str) -> None:
        """Make sure that a code is good; it stays so.

        Raises:
            RefusedError: `bad-code`.
        """
        with self._database.read() as connection:
            if connection.execute(sa.select(_code.c.digest).where(*self._good(code))).first() is None:
                raise _bad_code()

    def register(self, code: str, name: str, credential: AttestedCredentialData) -> Passkey:
        """Keep a passkey; the code is used up with it.

        Raises:
            RefusedError: `bad-code`.
        """
        now = self._clock()
        made = Passkey(credential.credential_id.hex(), name, credential, now)
        with self._database.write() as connection:
            used = sa.delete(_code).where(*self._good(code)).returning(_code.c.digest)
            if connection.execute(used).first() is None:
                raise _bad_code()
            connection.execute(
                sa.insert(_passkey).values(
                    id=made.id, name=name, credential=bytes(credential).hex(), registered=int(now.timestamp())
                )
            )
            append_in(connection, [self._event(now, name, "passkey registered", passkey=made.id)])
        return made

    def passkeys(self) -> list[Passkey]:
        """Return every passkey, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_passkey).order_by(_passkey.c.registered, _passkey.c.id)).all()
        return [_read(row) for row in rows]

    def remove(self, passkey_id: str, by: str) -> bool:
        """Remove a passkey and its sessions; return whether it was there."""
        now = self._clock()
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.passkey == passkey_id))
            gone = sa.delete(_passkey).where(_passkey.c.id == passkey_id).returning(_passkey.c.id)
            if connection.execute(gone).first() is None:
                return False
            append_in(connection, [self._event(now, by, "passkey removed", passkey=passkey_id)])
        return True

    def log_in(self, passkey: Passkey) -> str:
        """Begin a session; return its token."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        expires = int((now + SESSION_LIFE).timestamp())
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.expires <= int(now.timestamp())))
            connection.execute(sa.insert(_session).values(digest=_digest(token), passkey=passkey.id, expires=expires))
            append_in(connection, [self._event(now, passkey.name, "logged in", passkey=passkey.id)])
        return token

    def session(self, token: str) -> Passkey | None:
        """Return whose session a token is; None if nobody's, over, or of a passkey that was removed."""
        query = (
            sa.select(_passkey)
            .join(_session, _session.c.passkey == _passkey.c.id)
            .where(_session.c.digest == _digest(token), _session.c.expires > int(self._clock().timestamp()))
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return _read(row) if row else None

    def log_out(self, token: str) -> None:
        """End a session."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.digest == _digest(token)))

    def _good(self, code: str) -> tuple[sa.ColumnElement[bool], ...]:
        return _code.c.digest == _digest(code.strip().upper()), _code.c.expires > int(self._clock().timestamp())

    def _event(self, now: datetime, agent: str, what: str, **detail: str) -> AuditEvent:
        return AuditEvent(now, AuditEventType.ADMINISTRATION, agent, detail={"what": what, **detail})


def _bad_code() -> RefusedError:
    # A new one each time: one that is raised again keeps the frames of all times before.
    return RefusedError(
        BAD_CODE,
        "this code is wrong, was used, or is older than 15 minutes: make one with usmed keyserver console-code",
    )


def _read(row: Any) -> Passkey:
    credential = AttestedCredentialData(bytes.fromhex(row.credential))
    return Passkey(row.id, row.name, credential, datetime.fromtimestamp(row.registered, UTC))


def _digest(secret: str) -> str:
    return sha256_hex(secret.encode("utf-8"))
