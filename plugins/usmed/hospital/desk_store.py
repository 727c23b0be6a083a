"""The desk's tables: what waits for the second member of staff, how it ended, and the scans of consents on paper."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from usmed.domain.paper import LIFE, Change, State, after, scan_digest
from usmed.platform.storage import Database

KEPT = timedelta(days=30)
"""How long it is known how something ended; what was attested stays known by its delivery."""

_COLUMNS = ("id", "document", "digest", "staff", "created", "state", "ended_by", "reason", "ended")
_draft = sa.table("consent_draft", *map(sa.column, _COLUMNS))
_scan = sa.table("consent_scan", *map(sa.column, ("sha256", "consent", "content", "added")))


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that one member of staff has written and another has to confirm.

    Attributes:
        document: what is to be attested: a consent (`consent_record.consent_document`), or numbers of one person.
        digest: SHA-256 of its canonical bytes: what the second confirms.
        staff: who wrote it.
        created: aware UTC.
        state: where it stands.
        ended_by, reason, ended: how it ended, if it did: by whom, why, and when.
    """

    document: dict[str, Any]
    digest: str
    staff: str
    created: datetime
    state: State = State.WAITING
    ended_by: str = ""
    reason: str = ""
    ended: datetime | None = None

    @property
    def id(self) -> str:
        """Return its id."""
        return str(self.document["id"])

    @property
    def scan(self) -> str:
        """Return the SHA-256 of its scan, empty if there is none."""
        return scan_digest(self.document.get("resource", {}))


class DeskStore:
    """Drafts and scans, on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_draft(self, draft: Draft, scan: bytes = b"") -> None:
        """Keep a draft, and the scan that it names; another of the same id takes its place."""
        values = {
            "document": json.dumps(draft.document),
            "digest": draft.digest,
            "staff": draft.staff,
            "created": _time(draft.created),
            "state": State.WAITING.value,
            "ended_by": "",
            "reason": "",
            "ended": 0,
        }
        insert = self._database.insert(_draft).values(id=draft.id, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))
            if scan:
                self._keep_scan(connection, draft, scan)

    def save_scan(self, before: Draft, draft: Draft, content: bytes) -> bool:
        """Keep a scan, and with it the draft that names it; False if the draft is another by now."""
        values = {"document": json.dumps(draft.document), "digest": draft.digest}
        with self._database.write() as connection:
            changed = sa.update(_draft).where(_as_it_was(before)).values(values)
            if not connection.execute(changed).rowcount:
                return False
            self._forget_scan(connection, before)
            self._keep_scan(connection, draft, content)
        return True

    def scan(self, consent: str, sha256: str) -> bytes | None:
        """Return a scan of a consent."""
        query = sa.select(_scan.c.content).where(_scan.c.consent == consent, _scan.c.sha256 == sha256)
        with self._database.read() as connection:
            content = connection.scalar(query)
        return bytes(content) if content is not None else None

    def draft(self, id: str) -> Draft | None:
        """Return what was written down last under an id, also if it does not wait any more."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_draft).where(_draft.c.id == id)).one_or_none()
        return _draft_of(row) if row else None

    def drafts(self) -> list[Draft]:
        """Return what waits for a second member of staff, oldest first."""
        waiting = sa.select(_draft).where(_draft.c.state == State.WAITING.value)
        with self._database.read() as connection:
            return [_draft_of(row) for row in connection.execute(waiting.order_by(_draft.c.created))]

    def end(
        self,
        draft: Draft,
        change: Change,
        by: str,
        reason: str,
        now: datetime,
        then: Callable[[sa.Connection], None] = lambda _: None,
    ) -> bool:
        """End a draft that waits and do `then`, both or neither; False if the draft is another by now.

        The scan of what is not attested goes with it.
        """
        state = after(draft.state, change)
        if state is None:
            return False
        values = {"state": state.value, "ended_by": by, "reason": reason, "ended": _time(now)}
        with self._database.write() as connection:
            if not connection.execute(sa.update(_draft).where(_as_it_was(draft)).values(values)).rowcount:
                return False
            if state is not State.ATTESTED:
                self._forget_scan(connection, draft)
            over = (_draft.c.ended > 0, _draft.c.ended < _time(now - KEPT))
            connection.execute(sa.delete(_draft).where(*over))
            then(connection)
        return True

    def expire(self, now: datetime) -> list[Draft]:
        """End what has waited too long; return it."""
        due = [one for one in self.drafts() if now - one.created > LIFE]
        return [one for one in due if self.end(one, Change.EXPIRE, "", "", now)]

    def _keep_scan(self, connection: sa.Connection, draft: Draft, content: bytes) -> None:
        row = {"sha256": draft.scan, "consent": draft.id, "content": content, "added": _time(draft.created)}
        connection.execute(self._database.insert(_scan).values(row).on_conflict_do_nothing())

    def _forget_scan(self, connection: sa.Connection, draft: Draft) -> None:
        # Not one of an attested version before: a withdrawal names the scan of what it takes back.
        if draft.scan and draft.document["version"] == 1:
            mine = (_scan.c.consent == draft.id, _scan.c.sha256 == draft.scan)
            connection.execute(sa.delete(_scan).where(*mine))


def _as_it_was(draft: Draft) -> sa.ColumnElement[bool]:
    return sa.and_(
        _draft.c.id == draft.id, _draft.c.digest == draft.digest, _draft.c.staff == draft.staff,
        _draft.c.state == State.WAITING.value,
    )  # fmt: skip


def _draft_of(row: Any) -> Draft:
    ended = datetime.fromtimestamp(row.ended, UTC) if row.ended else None
    created, state = datetime.fromtimestamp(row.created, UTC), State(row.state)
    return Draft(json.loads(row.document), row.digest, row.staff, created, state, row.ended_by, row.reason, ended)


def _time(moment: datetime) -> int:
    return int(moment.timestamp())
