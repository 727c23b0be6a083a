"""The desk's tables: what waits for the second member of staff, what was attested, and who has got it."""

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


@dataclass(frozen=True, slots=True)
class Signed:
    """What this hospital has signed, in one version.

    Attributes:
        id, version: what identifies it here.
        record: as it goes out: a consent's `{"document", "proof"}`, or an enrolment's `{"hospital", "token"}`.
    """

    id: str
    version: int
    record: dict[str, Any]

    @property
    def resource(self) -> dict[str, Any] | None:
        """Return the FHIR Consent; None of an enrolment, which holds no consent."""
        resource: dict[str, Any] | None = self.record.get("document", {}).get("resource")
        return resource


@dataclass(frozen=True, slots=True)
class Attested:
    """What this hospital has signed, and who has it.

    Attributes:
        signed: the consent or the enrolment.
        created: aware UTC.
        delivered: members that have acknowledged it, and when.
        problems: what the others said, or why they could not be reached.
    """

    signed: Signed
    created: datetime
    delivered: dict[str, datetime]
    problems: dict[str, str]


class DeskStore:
    """Drafts, what was attested, and deliveries, on disk."""

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

    def attest(self, draft: Draft, signed: Signed, members: Iterable[str], now: datetime) -> bool:
        """Let a signed document take a draft's place and go to these members; False if the draft is another by now."""
        as_it_was = sa.and_(_draft.c.id == draft.id, _draft.c.digest == draft.digest, _draft.c.staff == draft.staff)
        with self._database.write() as connection:
            if connection.execute(sa.delete(_draft).where(as_it_was).returning(_draft.c.id)).first() is None:
                return False
            connection.execute(
                sa.insert(_attested).values(
                    id=signed.id,
                    version=signed.version,
                    record=json.dumps(signed.record),
                    created=int(now.timestamp()),
                )
            )
            rows = [{"id": signed.id, "version": signed.version, "member": one} for one in members]
            connection.execute(sa.insert(_delivery), rows)
        return True

    def latest(self, id: str) -> Attested | None:
        """Return the newest version of what was attested here under an id."""
        query = sa.select(_attested).where(_attested.c.id == id).order_by(_attested.c.version.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            same = sa.and_(_delivery.c.id == row.id, _delivery.c.version == row.version)
            deliveries = connection.execute(sa.select(_delivery).where(same)).all()
        return Attested(
            _signed_of(row),
            datetime.fromtimestamp(row.created, UTC),
            {one.member: datetime.fromtimestamp(one.delivered, UTC) for one in deliveries if one.delivered},
            {one.member: one.problem for one in deliveries if not one.delivered},
        )

    def open(self, member: str, limit: int) -> list[Signed]:
        """Return what a member has not acknowledged: what it has not refused yet first, oldest first."""
        joined = sa.join(
            _delivery,
            _attested,
            sa.and_(_delivery.c.id == _attested.c.id, _delivery.c.version == _attested.c.version),
        )
        query = (
            sa.select(_attested)
            .select_from(joined)
            .where(_delivery.c.member == member, _delivery.c.delivered == 0)
            .order_by(_delivery.c.problem != "", _attested.c.created, _attested.c.id, _attested.c.version)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_signed_of(row) for row in connection.execute(query)]

    def members_with_open(self) -> list[str]:
        """Return the members that have not acknowledged everything."""
        query = sa.select(_delivery.c.member).where(_delivery.c.delivered == 0).distinct()
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def acknowledged(self, member: str, signed: Iterable[Signed], now: datetime) -> None:
        """Note that a member has these."""
        self._note(member, signed, {"delivered": int(now.timestamp()), "problem": ""})

    def failed(self, member: str, signed: Iterable[Signed], problem: str) -> None:
        """Note why a member does not have these."""
        self._note(member, signed, {"problem": problem.replace("\0", "\ufffd")[:500]})

    def add_members(self, members: Iterable[str], since: datetime) -> None:
        """Let what was signed since then go to these members too, if they did not before (a key server that is new)."""
        recent = sa.select(_attested.c.id, _attested.c.version).where(_attested.c.created >= int(since.timestamp()))
        with self._database.write() as connection:
            for id, version in connection.execute(recent).all():
                for member in members:
                    row = {"id": id, "version": version, "member": member}
                    connection.execute(self._database.insert(_delivery).values(row).on_conflict_do_nothing())

    def _note(self, member: str, signed: Iterable[Signed], values: dict[str, Any]) -> None:
        with self._database.write() as connection:
            for one in signed:
                same = sa.and_(_delivery.c.id == one.id, _delivery.c.version == one.version)
                connection.execute(sa.update(_delivery).where(same, _delivery.c.member == member).values(values))


def _signed_of(row: Any) -> Signed:
    return Signed(row.id, row.version, json.loads(row.record))


def _draft_of(row: Any) -> Draft:
    created = datetime.fromtimestamp(row.created, UTC)
    return Draft(json.loads(row.document), row.digest, row.staff, created)
