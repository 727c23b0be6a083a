"""Heads of audit logs on disk: what others' logs were seen to be, what others saw of one's own, and alarms."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError
from usmed.domain.log_head import LIMIT_BYTES, Countersigned, LogHead
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

HOUR_S = 3600


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


_seen = _table("log_head_seen", "server", "after_alarm", "hour", "sequence", "hash", "at", "signed")
_countersigned = _table("log_head_countersigned", "witness", "hour", "sequence", "signed")
_alarm = _table(
    "log_alarm",
    *("id", "server", "noticed", "reason", "presented", "acknowledged", "acknowledged_by", "acknowledged_why"),
)


@dataclass(frozen=True, slots=True)
class LogAlarm:
    """A log that does not continue what was seen of it.

    Attributes:
        id: by which it is acknowledged.
        server: whose log.
        noticed: aware UTC.
        reason: what does not fit, in plain words.
        acknowledged_by: who has looked after it; empty while nobody has.
        acknowledged_why: what that person found.
    """

    id: int
    server: str
    noticed: datetime
    reason: str
    acknowledged_by: str
    acknowledged_why: str


class HeadStore:
    """What one server knows about logs. Of each hour the last head is kept, for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_seen(self, server: str) -> tuple[LogHead, Any] | None:
        """Return the last head that was seen of a server since its last alarm, and its signed form."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(_seen)
                .where(_seen.c.server == server, _seen.c.after_alarm == _last_acknowledged(connection, server))
                .order_by(_seen.c.sequence.desc(), _seen.c.hour.desc())
                .limit(1)
            ).first()
        if row is None:
            return None
        head = LogHead(row.server, row.sequence, row.hash, datetime.fromtimestamp(row.at, UTC))
        return head, json.loads(row.signed)

    def note_seen(self, head: LogHead, signed: Any, now: datetime) -> None:
        """Keep a head that continues what was seen before."""
        values = {
            "sequence": head.sequence,
            "hash": head.hash,
            "at": int(head.at.timestamp()),
            "signed": canonical_json(signed).decode("utf-8"),
        }
        with self._database.write() as connection:
            row = {
                "server": head.server,
                "after_alarm": _last_acknowledged(connection, head.server),
                "hour": int(now.timestamp()) // HOUR_S,
                **values,
            }
            insert = self._database.insert(_seen).values(row)
            connection.execute(
                insert.on_conflict_do_update(index_elements=["server", "after_alarm", "hour"], set_=values)
            )

    def note_countersigned(self, witness: str, head: LogHead, signed: Any, now: datetime) -> None:
        """Keep a head of one's own that a witness has countersigned."""
        values = {"sequence": head.sequence, "signed": canonical_json(signed).decode("utf-8")}
        row = {"witness": witness, "hour": int(now.timestamp()) // HOUR_S, **values}
        with self._database.write() as connection:
            insert = self._database.insert(_countersigned).values(row)
            connection.execute(insert.on_conflict_do_update(index_elements=["witness", "hour"], set_=values))

    def countersigned(self) -> list[Countersigned]:
        """Return every head of one's own that others have countersigned, as it is stored."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_countersigned).order_by(_countersigned.c.sequence)).all()
        return [Countersigned(row.witness, _stored(row.signed)) for row in rows]

    def raise_alarm(self, server: str, reason: str, presented: str, agent: str, now: datetime) -> bool:
        """Raise an alarm about a server's log, with its audit record; return whether it is new.

        Args:
            server: whose log.
            reason: what does not fit, in plain words.
            presented: what does not fit, as it came: the same never raises two alarms.
            agent: who noticed.
            now: aware UTC.
        """
        with self._database.write() as connection:
            same = sa.select(_alarm.c.id).where(_alarm.c.server == server, _alarm.c.presented == presented)
            if connection.execute(same.limit(1)).first() is not None:
                return False
            row = {"server": server, "noticed": int(now.timestamp()), "reason": reason, "presented": presented}
            new = self._database.insert(_alarm).values(row).on_conflict_do_nothing().returning(_alarm.c.id)
            if connection.execute(new).first() is None:
                return False
            append_in(
                connection,
                [
                    AuditEvent(
                        now,
                        AuditEventType.ALARM,
                        agent,
                        peer=server,
                        outcome=Outcome.FAILURE,
                        reason=reason,
                        detail={"what": "log does not continue"},
                    )
                ],
            )
        return True

    def alarms(self, *, all: bool = False) -> list[LogAlarm]:
        """Return the alarms that nobody has acknowledged; with `all` the others too."""
        query = sa.select(_alarm).order_by(_alarm.c.id)
        if not all:
            query = query.where(_alarm.c.acknowledged.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            LogAlarm(
                row.id,
                row.server,
                datetime.fromtimestamp(row.noticed, UTC),
                row.reason,
                row.acknowledged_by or "",
                row.acknowledged_why or "",
            )
            for row in rows
        ]

    def acknowledge(self, id: int, *, by: str, why: str, now: datetime) -> LogAlarm:
        """Acknowledge an alarm: the server's log is believed anew, from its next head on.

        Args:
            id: the alarm's.
            by: who acknowledges.
            why: what was found.
            now: aware UTC.

        Raises:
            PeerDataError: there is no such alarm, or it was acknowledged before.
        """
        found = next((one for one in self.alarms(all=True) if one.id == id), None)
        if found is None:
            raise PeerDataError(f"there is no alarm {id}")
        done = {"acknowledged": int(now.timestamp()), "acknowledged_by": by, "acknowledged_why": why}
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(_alarm).where(_alarm.c.id == id, _alarm.c.acknowledged.is_(None)).values(done)
            )
            if changed.rowcount != 1:
                raise PeerDataError(f"alarm {id} was acknowledged before, by {found.acknowledged_by}")
            append_in(
                connection,
                [
                    AuditEvent(
                        now,
                        AuditEventType.ALARM,
                        by,
                        peer=found.server,
                        reason=why,
                        detail={"what": "acknowledged", "alarm": id},
                    )
                ],
            )
        return found


def describe(alarms: Sequence[LogAlarm]) -> list[str]:
    """Say in plain words what is wrong, one line for each alarm."""
    return [f"alarm {one.id} of {one.noticed:%Y-%m-%d %H:%M} UTC: {one.reason}" for one in alarms]


def _last_acknowledged(connection: sa.Connection, server: str) -> int:
    query = sa.select(sa.func.max(_alarm.c.id)).where(_alarm.c.server == server, _alarm.c.acknowledged.is_not(None))
    return int(connection.scalar(query) or 0)


def _stored(text: str) -> Any:
    """Read what is stored: what somebody made of it is for the check of signatures to say."""
    try:
        return parse_json(text.encode("utf-8"), limit_bytes=4 * LIMIT_BYTES)
    except PeerDataError:
        return None
