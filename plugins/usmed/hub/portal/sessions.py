"""Who is logged in, and what they are about to sign: on disk, a token only as its SHA-256.

A session is that of a passkey, not of a person: whose it is, is looked up anew each time, so that a lost phone that
was reported is out at once.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.consent_record import LIMIT_BYTES
from usmed.domain.enrolment import Credential
from usmed.platform.storage import Database, Statement

IDLE = timedelta(minutes=20)
LONGEST = timedelta(hours=8)
DRAFT_LIFE = timedelta(minutes=20)
MOST_DRAFTS = 20
"""Of one session; a new one then takes the place of the oldest."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_session = sa.table(
    "portal_session",
    *map(sa.column, ("digest", "credential", "public_key", "hospital", "invitation", "expires", "ends")),
)
_draft = sa.table("portal_draft", *map(sa.column, ("id", "session", "document", "request", "expires")))

_FIND = Statement(
    sa.select(*(_session.c[one] for one in ("credential", "public_key", "hospital", "invitation", "expires", "ends")))
    .where(_session.c.digest == sa.bindparam("digest"), _session.c.expires > sa.bindparam("now"))
)
_KEEP = Statement(sa.insert(_draft))
_OLDER = Statement(
    sa.select(_draft.c.id)
    .where(_draft.c.session == sa.bindparam("session"))
    # Each is as long good as the others: what ends first is the oldest.
    .order_by(_draft.c.expires.desc())
    .limit(sa.literal_column(str(MOST_DRAFTS)))
    .offset(sa.literal_column(str(MOST_DRAFTS - 1)))
)
_DRAFT = Statement(
    sa.select(_draft.c.document, _draft.c.request).where(
        _draft.c.id == sa.bindparam("id"),
        _draft.c.session == sa.bindparam("session"),
        _draft.c.expires > sa.bindparam("now"),
    )
)
_DROP = Statement(sa.delete(_draft).where(_draft.c.id == sa.bindparam("id")))


@dataclass(frozen=True, slots=True)
class Session:
    """A session.

    Attributes:
        digest: of its token; names it in the tables.
        credential: the passkey that logged in.
        hospital, invitation: whose invitation the passkey answers, as long as the hospital has not enrolled it; else
            empty.
    """

    digest: str
    credential: Credential
    hospital: str
    invitation: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that waits for a signature.

    Attributes:
        document: exactly what will be signed (`domain.consent_record.consent_document`).
        request: the id of a hospital's request that it answers, or empty.
    """

    id: str
    document: dict[str, Any]
    request: str


class Sessions:
    """Sessions and drafts."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def begin(self, credential: Credential, *, hospital: str = "", invitation: str = "") -> str:
        """Begin a session; return its token."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.expires <= _seconds(now)))
            connection.execute(sa.delete(_draft).where(_draft.c.expires <= _seconds(now)))
            connection.execute(
                sa.insert(_session).values(
                    digest=_digest(token), credential=credential.id.hex(), public_key=credential.public_key.hex(),
                    hospital=hospital, invitation=invitation, expires=_seconds(now + IDLE),
                    ends=_seconds(now + LONGEST),
                )
            )  # fmt: skip
        return token

    def find(self, token: str, *, used: bool = True) -> Session | None:
        """Return a token's session, None if there is none or it is over.

        Args:
            token: as the browser sent it.
            used: whether a person does something: then it lives on for another while.
        """
        now, digest = self._clock(), _digest(token)
        found = self._database.query(_FIND, {"digest": digest, "now": _seconds(now)})
        if not found:
            return None
        id, public_key, hospital, invitation, ending, ends = found[0]
        expires = min(_seconds(now + IDLE), ends)
        # Not with every picture of a page.
        if used and expires - ending >= 60:
            with self._database.write() as connection:
                connection.execute(sa.update(_session).where(_session.c.digest == digest).values(expires=expires))
        return Session(digest, Credential(bytes.fromhex(id), bytes.fromhex(public_key)), hospital, invitation)

    def settle(self, session: Session) -> None:
        """Note that the hospital has enrolled the passkey."""
        settled = sa.update(_session).where(_session.c.digest == session.digest)
        with self._database.write() as connection:
            connection.execute(settled.values(hospital="", invitation=""))

    def end(self, token: str) -> None:
        """End a session; its drafts go with it."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_session).where(_session.c.digest == _digest(token)))

    def keep(self, session: Session, document: dict[str, Any], request: str = "") -> str:
        """Keep a document until it is signed; return the draft's id."""
        now, id = self._clock(), str(uuid4())
        with self._database.write() as connection:
            _DROP.run_each(connection, [{"id": one} for (one,) in _OLDER.run(connection, {"session": session.digest})])
            _KEEP.run(
                connection,
                {
                    "id": id,
                    "session": session.digest,
                    "document": canonical_json(document).decode("utf-8"),
                    "request": request,
                    "expires": _seconds(now + DRAFT_LIFE),
                },
            )
        return id

    def draft(self, session: Session, id: str) -> Draft | None:
        """Return a draft of this session; None if it has none such, or it is over."""
        if not _ID.fullmatch(id):
            # Not every text can be put to a database.
            return None
        values = {"id": id, "session": session.digest, "now": _seconds(self._clock())}
        for document, request in self._database.query(_DRAFT, values):
            return Draft(id, parse_json(document.encode(), limit_bytes=2 * LIMIT_BYTES), request)
        return None

    def drop_in(self, connection: Connection, draft: Draft) -> None:
        """Forget a draft, in the transaction that keeps what was signed."""
        _DROP.run(connection, {"id": draft.id})


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _digest(token: str) -> str:
    return sha256_hex(token.encode("utf-8", "replace"))
