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
from usmed.platform.storage import Database

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
        with self._database.read() as connection:
            query = sa.select(_session).where(_session.c.digest == digest, _session.c.expires > _seconds(now))
            row = connection.execute(query).first()
        if row is None:
            return None
        expires = min(_seconds(now + IDLE), row.ends)
        # Not with every picture of a page.
        if used and expires - row.expires >= 60:
            with self._database.write() as connection:
                connection.execute(sa.update(_session).where(_session.c.digest == digest).values(expires=expires))
        credential = Credential(bytes.fromhex(row.credential), bytes.fromhex(row.public_key))
        return Session(digest, credential, row.hospital, row.invitation)

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
            mine = sa.select(_draft.c.id).where(_draft.c.session == session.digest)
            # Each is as long good as the others: what ends first is the oldest.
            rest = connection.scalars(mine.order_by(_draft.c.expires.desc()).offset(MOST_DRAFTS - 1)).all()
            connection.execute(sa.delete(_draft).where(_draft.c.id.in_(rest)))
            connection.execute(
                sa.insert(_draft).values(
                    id=id, session=session.digest, document=canonical_json(document).decode("utf-8"), request=request,
                    expires=_seconds(now + DRAFT_LIFE),
                )
            )  # fmt: skip
        return id

    def draft(self, session: Session, id: str) -> Draft | None:
        """Return a draft of this session; None if it has none such, or it is over."""
        if not _ID.fullmatch(id):
            # Not every text can be put to a database.
            return None
        query = sa.select(_draft).where(
            _draft.c.id == id, _draft.c.session == session.digest, _draft.c.expires > _seconds(self._clock())
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return Draft(row.id, parse_json(row.document.encode(), limit_bytes=2 * LIMIT_BYTES), row.request)

    def drop_in(self, connection: Connection, draft: Draft) -> None:
        """Forget a draft, in the transaction that keeps what was signed."""
        connection.execute(sa.delete(_draft).where(_draft.c.id == draft.id))


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _digest(token: str) -> str:
    return sha256_hex(token.encode("utf-8", "replace"))
