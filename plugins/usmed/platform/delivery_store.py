"""The tables of deliveries: what goes out, and who has it. Whoever uses them has them in a chain of migrations."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from usmed.domain.errors import PeerDataError
from usmed.domain.withdrawal import takes_away
from usmed.platform.storage import Database, Statement

SLICE = 500
NOT_TAKEN = "not taken: "
"""Begins what is noted of a refusal, as distinct from somebody who was not reached."""

_item = sa.table("attested_record", *map(sa.column, ("id", "version", "record", "created")))
_delivery = sa.table("delivery", *map(sa.column, ("id", "version", "member", "delivered", "problem")))

_OF_ID = _item.c.id == sa.bindparam("wanted")
_ADD = Statement(
    sa.text(
        "INSERT INTO attested_record (id, version, record, created) VALUES (:id, :version, :record, :created)"
        " ON CONFLICT DO NOTHING RETURNING id"
    )
)
_GOES_TO = Statement(sa.text("INSERT INTO delivery (id, version, member) VALUES (:id, :version, :member)"))
_VERSIONS = Statement(sa.select(_item).where(_OF_ID, _item.c.version >= sa.bindparam("least")))
_ALL_VERSIONS = Statement(sa.select(_item).where(_OF_ID).order_by(_item.c.version))
_DELIVERIES = Statement(sa.select(_delivery).where(_delivery.c.id == sa.bindparam("wanted")))
_LACKING = Statement(
    sa.text(
        "SELECT i.id, i.version, i.record, i.created FROM delivery d"
        " JOIN attested_record i ON i.id = d.id AND i.version = d.version"
        " WHERE d.member = :to_member AND d.delivered = 0"
        " ORDER BY d.problem <> '', i.created, i.id, i.version LIMIT :most"
    )
)
_TO_MEMBER = sa.update(_delivery).where(
    _delivery.c.id == sa.bindparam("item"),
    _delivery.c.version == sa.bindparam("in_version"),
    _delivery.c.member == sa.bindparam("to_member"),
)
_ACKNOWLEDGED = Statement(_TO_MEMBER.values(delivered=sa.bindparam("at"), problem=sa.bindparam("said")))
_FAILED = Statement(_TO_MEMBER.values(problem=sa.bindparam("said")))


class _Item(NamedTuple):
    """A row of the items."""

    id: str
    version: int
    record: str
    created: int


class _Delivery(NamedTuple):
    """A row of the deliveries."""

    id: str
    version: int
    member: str
    delivered: int
    problem: str


@dataclass(frozen=True, slots=True)
class Item:
    """One consent or one enrolment, in one version.

    Attributes:
        id, version: what identifies it at its sender; of a consent, its own.
        record: as it goes out: a consent's `{"document", "proof"}`, or an enrolment's `{"hospital", "token"}`.
        enrolments: those that a consent's proof needs, `{"hospital", "token"}` each; they go out with it.
    """

    id: str
    version: int
    record: dict[str, Any]
    enrolments: tuple[dict[str, str], ...] = ()

    @property
    def resource(self) -> dict[str, Any] | None:
        """Return the FHIR Consent; None of an enrolment, which holds no consent."""
        resource: dict[str, Any] | None = self.record.get("document", {}).get("resource")
        return resource

    @property
    def is_consent(self) -> bool:
        """Tell a consent from an enrolment."""
        return self.resource is not None

    @property
    def withdraws(self) -> bool:
        """Tell whether it takes a consent back."""
        return self.resource is not None and self.resource.get("status") == "inactive"

    @property
    def takes_away(self) -> bool:
        """Tell whether hospitals have to know."""
        return self.resource is not None and takes_away(self.version, self.resource)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An item, and who has it.

    Attributes:
        item: the consent or the enrolment.
        created: when it was handed in, aware UTC.
        delivered: members that have acknowledged it, and when.
        problems: what the others said, or why they could not be reached.
    """

    item: Item
    created: datetime
    delivered: dict[str, datetime]
    problems: dict[str, str]

    @property
    def refusing(self) -> set[str]:
        """Return who was reached and did not take it."""
        return {member for member, problem in self.problems.items() if problem.startswith(NOT_TAKEN)}


class DeliveryStore:
    """Items and deliveries, on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection: sa.Connection, item: Item, members: Iterable[str], now: datetime) -> None:
        """Let an item go to these members, in the caller's transaction.

        Of one that is there already, a newer proof goes to those who have not taken it yet: perhaps they refuse the
        first one for ever.

        Raises:
            PeerDataError: another one has this id and version.
        """
        row = {"id": item.id, "version": item.version, "record": _text(item), "created": int(now.timestamp())}
        if not _ADD.run(connection, row):
            same = sa.and_(_item.c.id == item.id, _item.c.version == item.version)
            there = _item_of(connection.execute(sa.select(_item).where(same)).one())
            if _said(there) != _said(item):
                raise PeerDataError("another document of this id and version is on its way already: read it again")
            this = sa.and_(_delivery.c.id == item.id, _delivery.c.version == item.version)
            anew = sa.update(_delivery).where(this, _delivery.c.delivered == 0).values(problem="")
            if _text(there) != _text(item) and connection.execute(anew).rowcount:
                connection.execute(sa.update(_item).where(same).values(record=_text(item)))
            return
        rows = [{"id": item.id, "version": item.version, "member": one} for one in members]
        _GOES_TO.run_each(connection, rows)

    def version_for(self, connection: sa.Connection, id: str, document: Any, version: int) -> int:
        """Return under which version a document is there; else the first one from `version` on that is free."""
        there = [_item_of(_Item(*row)) for row in _VERSIONS.run(connection, {"wanted": id, "least": version})]
        same = [one.version for one in there if _said(one) == document]
        return max(same, default=max([version, *(one.version + 1 for one in there)]))

    def latest(self, id: str) -> Delivery | None:
        """Return the newest version of what is there under an id. Who has an earlier withdrawal has a withdrawal."""
        with self._database.read() as connection:
            rows = [_Item(*row) for row in _ALL_VERSIONS.run(connection, {"wanted": id})]
            if not rows:
                return None
            newest = _item_of(rows[-1])
            counting = {one.version for one in map(_item_of, rows) if newest.withdraws and one.withdraws}
            counting.add(newest.version)
            found = [_Delivery(*row) for row in _DELIVERIES.run(connection, {"wanted": id})]
            deliveries = [one for one in found if one.version in counting]
        delivered: dict[str, datetime] = {}
        for one in sorted((each for each in deliveries if each.delivered), key=lambda each: each.delivered):
            delivered.setdefault(one.member, datetime.fromtimestamp(one.delivered, UTC))
        lacking = [one for one in deliveries if one.version == newest.version and one.member not in delivered]
        created = datetime.fromtimestamp(rows[-1].created, UTC)
        return Delivery(newest, created, delivered, {one.member: one.problem for one in lacking})

    def open(self, member: str, limit: int) -> list[Item]:
        """Return what a member has not acknowledged: what it has not refused yet first, oldest first."""
        rows = self._database.query(_LACKING, {"to_member": member, "most": limit})
        return [_item_of(_Item(*row)) for row in rows]

    def members_with_open(self) -> list[str]:
        """Return the members that have not acknowledged everything."""
        query = sa.select(_delivery.c.member).where(_delivery.c.delivered == 0).distinct()
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def acknowledged(self, member: str, items: Iterable[Item], now: datetime) -> None:
        """Note that a member has these."""
        self._note(_ACKNOWLEDGED, member, items, {"at": int(now.timestamp()), "said": ""})

    def failed(self, member: str, items: Iterable[Item], problem: str) -> None:
        """Note why a member does not have these."""
        self._note(_FAILED, member, items, {"said": problem.replace("\0", "\ufffd")[:500]})

    def add_members(self, members: Iterable[str], slice_size: int = SLICE) -> None:
        """Let the newest version of every item go to these members too, if it does not yet (a key server that is new).

        However old it is: what is not held by the key servers of now does not count as done.

        Args:
            slice_size: how many are added in one transaction, so that nobody waits long for a big table.
        """
        newer = _item.alias()
        is_newest = ~sa.exists().where(newer.c.id == _item.c.id, newer.c.version > _item.c.version)
        for member in members:
            known = sa.exists().where(
                _delivery.c.id == _item.c.id, _delivery.c.version == _item.c.version, _delivery.c.member == member
            )
            lacking = sa.select(_item.c.id, _item.c.version).where(is_newest, ~known).order_by(_item.c.id)
            after = ""
            while True:
                with self._database.read() as connection:
                    found = connection.execute(lacking.where(_item.c.id > after).limit(slice_size)).all()
                if not found:
                    break
                rows = [{"id": one.id, "version": one.version, "member": member} for one in found]
                with self._database.write() as connection:
                    connection.execute(self._database.insert(_delivery).on_conflict_do_nothing(), rows)
                after = found[-1].id

    def _note(self, statement: Statement, member: str, items: Iterable[Item], values: dict[str, Any]) -> None:
        rows = [{"item": one.id, "in_version": one.version, "to_member": member, **values} for one in items]
        with self._database.write() as connection:
            statement.run_each(connection, rows)


def _said(item: Item) -> Any:
    """Return what an item says: the same document may be proved twice."""
    return item.record.get("document", item.record)


def _text(item: Item) -> str:
    return json.dumps({**item.record, "enrolments": item.enrolments} if item.enrolments else item.record)


def _item_of(row: Any) -> Item:
    record = json.loads(row.record)
    enrolments = tuple(record.pop("enrolments", ()))
    return Item(row.id, row.version, record, enrolments)
