"""The desk's tables: consents that wait for the second member of staff, attested ones, and who has got them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from usmed.platform.storage import Database

_draft = sa.table("consent_draft", *map(sa.column, ("id", "document", "digest", "staff", "created")))
_attested = sa.table("attested_record", *map(sa.column, ("id", "version", "record", "created")))
_delivery = sa.table("delivery", *map(sa.column, ("id", "version", "member", "delivered", "problem")))


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that one member of staff has written and another has to confirm.

    Attributes:
        document: what is to be attested (`consent_record.consent_document`).
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
        """Return the consent's id."""
        return str(self.document["id"])


@dataclass(frozen=True, slots=True)
class Attested:
    """A consent record of this hospital, in one version, and who has it.

    Attributes:
        record: `{"document", "proof"}`.
        created: aware UTC.
        delivered: members that have acknowledged it, and when.
        problems: what the others said, or why they could not be reached.
    """

    record: dict[str, Any]
    created: datetime
    delivered: dict[str, datetime]
    problems: dict[str, str]


class DeskStore:
    """Drafts, attested records and their deliveries on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_draft(self, draft: Draft) -> None:
        """Keep a draft; another for the same consent takes its place."""
        values = {
            "document": json.dumps(draft.document),
            "digest": draft.digest,
            "staff": draft.staff,
            "created": int(draft.created.timestamp()),
        }
        insert = self._database.insert(_draft).values(id=draft.id, **values)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))

    def draft(self, consent_id: str) -> Draft | None:
        """Return the draft of a consent."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_draft).where(_draft.c.id == consent_id)).one_or_none()
        return _draft_of(row) if row else None

    def drafts(self) -> list[Draft]:
        """Return what waits for a second member of staff, oldest first."""
        with self._database.read() as connection:
            return [_draft_of(row) for row in connection.execute(sa.select(_draft).order_by(_draft.c.created))]

    def attest(self, draft: Draft, record: dict[str, Any], members: Iterable[str], now: datetime) -> bool:
        """Turn a draft into an attested record that goes to these members; False if it was not as it is any more."""
        version = draft.document["version"]
        as_it_was = sa.and_(_draft.c.id == draft.id, _draft.c.digest == draft.digest, _draft.c.staff == draft.staff)
        with self._database.write() as connection:
            if connection.execute(sa.delete(_draft).where(as_it_was).returning(_draft.c.id)).first() is None:
                return False
            connection.execute(
                sa.insert(_attested).values(
                    id=draft.id, version=version, record=json.dumps(record), created=int(now.timestamp())
                )
            )
            rows = [{"id": draft.id, "version": version, "member": one} for one in members]
            connection.execute(sa.insert(_delivery), rows)
        return True

    def latest(self, consent_id: str) -> Attested | None:
        """Return the newest version of a consent that was attested here."""
        query = sa.select(_attested).where(_attested.c.id == consent_id).order_by(_attested.c.version.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            same = sa.and_(_delivery.c.id == row.id, _delivery.c.version == row.version)
            deliveries = connection.execute(sa.select(_delivery).where(same)).all()
        return Attested(
            json.loads(row.record),
            datetime.fromtimestamp(row.created, UTC),
            {one.member: datetime.fromtimestamp(one.delivered, UTC) for one in deliveries if one.delivered},
            {one.member: one.problem for one in deliveries if not one.delivered},
        )

    def open(self, member: str, limit: int) -> list[dict[str, Any]]:
        """Return records that a member has not acknowledged: those that it has not refused yet first, oldest first."""
        joined = sa.join(
            _delivery,
            _attested,
            sa.and_(_delivery.c.id == _attested.c.id, _delivery.c.version == _attested.c.version),
        )
        query = (
            sa.select(_attested.c.record)
            .select_from(joined)
            .where(_delivery.c.member == member, _delivery.c.delivered == 0)
            .order_by(_delivery.c.problem != "", _attested.c.created, _attested.c.id, _attested.c.version)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [json.loads(one) for one in connection.scalars(query)]

    def members_with_open(self) -> list[str]:
        """Return the members that have not acknowledged everything."""
        query = sa.select(_delivery.c.member).where(_delivery.c.delivered == 0).distinct()
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def acknowledged(self, member: str, records: Iterable[dict[str, Any]], now: datetime) -> None:
        """Note that a member has these records."""
        self._note(member, records, {"delivered": int(now.timestamp()), "problem": ""})

    def failed(self, member: str, records: Iterable[dict[str, Any]], problem: str) -> None:
        """Note why a member does not have these records."""
        self._note(member, records, {"problem": problem.replace("\0", "\ufffd")[:500]})

    def add_members(self, members: Iterable[str], since: datetime) -> None:
        """Let the records since then go to these members too, if they did not before (a key server that is new)."""
        recent = sa.select(_attested.c.id, _attested.c.version).where(_attested.c.created >= int(since.timestamp()))
        with self._database.write() as connection:
            for id, version in connection.execute(recent).all():
                for member in members:
                    row = {"id": id, "version": version, "member": member}
                    connection.execute(self._database.insert(_delivery).values(row).on_conflict_do_nothing())

    def _note(self, member: str, records: Iterable[dict[str, Any]], values: dict[str, Any]) -> None:
        with self._database.write() as connection:
            for one in records:
                document = one["document"]
                same = sa.and_(_delivery.c.id == document["id"], _delivery.c.version == document["version"])
                connection.execute(sa.update(_delivery).where(same, _delivery.c.member == member).values(values))


def _draft_of(row: Any) -> Draft:
    created = datetime.fromtimestamp(row.created, UTC)
    return Draft(json.loads(row.document), row.digest, row.staff, created)
