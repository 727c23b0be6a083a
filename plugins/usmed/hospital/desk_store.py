"""The desk's table: what waits for the second member of staff."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from usmed.platform.storage import Database

_draft = sa.table("consent_draft", *map(sa.column, ("id", "document", "digest", "staff", "created")))


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that one member of staff has written and another has to confirm.

    Attributes:
        document: what is to be attested: a consent (`consent_record.consent_document`), or numbers of one person.
        digest: SHA-256 of its canonical bytes: what the second confirms.
        staff: who wrote it.
        created: aware UTC.
    """

    document: dict[str, Any]
    digest: str
    staff: str
    created: datetime

    @property
    def id(self) -> str:
        """Return its id."""
        return str(self.document["id"])


class DeskStore:
    """Drafts, on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_draft(self, draft: Draft) -> None:
        """Keep a draft; another of the same id takes its place."""
        values = {
            "document": json.dumps(draft.document),
            "digest": draft.digest,
            "staff": draft.staff,
            "created": int(draft.created.timestamp()),
        }
        insert = self._database.insert(_draft).values(id=draft.id, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))

    def draft(self, id: str) -> Draft | None:
        """Return the draft of a consent, or of an enrolment."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_draft).where(_draft.c.id == id)).one_or_none()
        return _draft_of(row) if row else None

    def drafts(self) -> list[Draft]:
        """Return what waits for a second member of staff, oldest first."""
        with self._database.read() as connection:
            return [_draft_of(row) for row in connection.execute(sa.select(_draft).order_by(_draft.c.created))]

    def confirm(self, draft: Draft, then: Callable[[sa.Connection], None]) -> bool:
        """Take a draft out and do `then`, both or neither; False if the draft is another by now."""
        as_it_was = sa.and_(_draft.c.id == draft.id, _draft.c.digest == draft.digest, _draft.c.staff == draft.staff)
        with self._database.write() as connection:
            if connection.execute(sa.delete(_draft).where(as_it_was).returning(_draft.c.id)).first() is None:
                return False
            then(connection)
        return True


def _draft_of(row: Any) -> Draft:
    created = datetime.fromtimestamp(row.created, UTC)
    return Draft(json.loads(row.document), row.digest, row.staff, created)
