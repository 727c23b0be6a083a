"""Tells the hub what this hospital gave to others, and which emergencies it opened, for patients to read on the portal.

It is read from the audit log, which has it already: a release has its record on disk before the first byte leaves. The
log's sequence numbers make telling twice harmless. Nobody waits for it: a hub that is away is told when it is back.
Where the region has no portal nobody could read it, so nobody is told.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.region import HUB
from usmed.hospital.identities import Poster
from usmed.platform.audit_log import append_in
from usmed.platform.audit_search import follow, was_said
from usmed.platform.storage import Database

log = logging.getLogger(__name__)

PATH = "/v1/accesses"
DEADLINE_S = 20.0
POLL_S = 5.0
BATCH = 500
STRETCH = 5000
"""How many audit records are looked at in one step."""

MALFORMED = "bad-request"
"""The hub's code for a message that it does not take as a whole."""

RETRY = timedelta(minutes=10)
KEPT = timedelta(days=7)
"""How long one that the hub cannot take yet is tried."""

MOST_WAITING = 10_000
OPENED = "opened"
"""In the audit record of an emergency: from then on it is in effect."""

_cursor = sa.table("access_cursor", *map(sa.column, ("id", "sequence")))
_waiting = sa.table("access_waiting", *map(sa.column, ("sequence", "document", "since", "next")))


@dataclass(frozen=True, slots=True)
class Problem:
    """An access that the hub has not taken, why, and whether it may take it later."""

    access: dict[str, Any]
    reason: str
    again: bool


class AccessFeed:
    """The node's announcements of accesses.

    One that the hub does not take is tried again for a week where that may help, and set aside where not: neither holds
    up the others, and what is set aside is in the audit log.

    Args:
        hospital: this one.
        wanted: whether the region has a portal now.
    """

    def __init__(
        self,
        *,
        hospital: str,
        wanted: Callable[[], bool],
        database: Database,
        client: Poster,
        clock: Callable[[], datetime],
        poll_s: float = POLL_S,
    ) -> None:
        self._hospital = hospital
        self._wanted = wanted
        self._database = database
        self._client = client
        self._clock = clock
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="accesses", daemon=True)
        self._looked_at = 0

    def start(self) -> None:
        """Tell what is new, now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; the next process goes on from where the hub has acknowledged."""
        self._stop.set()

    def send(self) -> bool:
        """Tell the hub of the next accesses; return whether there may be more.

        Raises:
            UsmedError: the hub was not reached or does not take them now; the same are told again.
        """
        if not self._wanted():
            return False
        self._send_waiting()
        told = self._told()
        after = max(told, self._looked_at)
        kinds = [AuditEventType.RELEASE.value, AuditEventType.EMERGENCY.value]
        found = follow(self._database, after=after, events=kinds, stretch=STRETCH)
        accesses: list[dict[str, Any]] = []
        reached = found.reached
        for event in found.events:
            access = access_of(event, self._hospital)
            if access is None or (access["study_instance_uid"] and self._is_repeated(event)):
                continue
            if len(accesses) == BATCH:
                reached = accesses[-1]["sequence"]
                break
            accesses.append(access)
        problems = self._tell(accesses)
        if accesses or reached - told >= STRETCH:
            # Otherwise it is not worth a write: what held nothing is looked at once more after a restart.
            self._note(reached, problems)
        self._looked_at = reached
        return reached > after

    def _send_waiting(self) -> None:
        """Try those again that are due; what has waited for too long, or is too much, is set aside."""
        now = _seconds(self._clock())
        with self._database.read() as connection:
            due = sa.select(_waiting).where(_waiting.c.next <= now).order_by(_waiting.c.next, _waiting.c.sequence)
            rows = connection.execute(due.limit(BATCH)).all()
        if not rows:
            return
        problems = {one.access["sequence"]: one for one in self._tell([json.loads(row.document) for row in rows])}
        late = now - int(KEPT.total_seconds())
        over = [problems[row.sequence] for row in rows if row.sequence in problems and row.since <= late]
        over += [one for one in problems.values() if not one.again and one not in over]
        kept = problems.keys() - {one.access["sequence"] for one in over}
        with self._database.write() as connection:
            gone = [row.sequence for row in rows if row.sequence not in kept]
            connection.execute(sa.delete(_waiting).where(_waiting.c.sequence.in_(gone)))
            again = sa.update(_waiting).where(_waiting.c.sequence.in_(kept))
            connection.execute(again.values(next=now + int(RETRY.total_seconds())))
            append_in(connection, [self._set_aside(one) for one in over])

    def _tell(self, accesses: list[dict[str, Any]]) -> "list[Problem]":
        """Tell the hub; return those that it has not taken.

        Raises:
            UsmedError: it was not reached, or cannot take anything now.
        """
        if not accesses:
            return []
        try:
            return _problems(accesses, self._post(accesses))
        except RefusedError as error:
            if error.code != MALFORMED:
                raise
            if len(accesses) == 1:
                # Perhaps it is the hub, which is of another version: this one is tried again, and holds up none.
                return [Problem(accesses[0], str(error), again=True)]
        # One that the hub never takes must not hold up the others.
        return [problem for one in accesses for problem in self._tell([one])]

    def _post(self, accesses: list[dict[str, Any]]) -> Any:
        return self._client.post(HUB, PATH, {"accesses": accesses}, deadline_s=DEADLINE_S)

    def _is_repeated(self, event: dict[str, Any]) -> bool:
        """Tell whether it is one more connection of the same pull: the same study by the same ticket."""
        members = {
            "event": event["event"],
            "outcome": Outcome.SUCCESS.value,
            "study_instance_uid": event["study_instance_uid"],
            "ticket": event["detail"]["ticket"],
        }
        return was_said(self._database, before=event["sequence"], patient=event.get("patient", ""), members=members)

    def _told(self) -> int:
        with self._database.read() as connection:
            return int(connection.scalar(sa.select(_cursor.c.sequence)) or 0)

    def _note(self, sequence: int, problems: "Sequence[Problem]") -> None:
        """Write down how far the hub knows, and what it does not: all of it, or nothing."""
        now = _seconds(self._clock())
        cursor = self._database.insert(_cursor).values(id=1, sequence=sequence)
        with self._database.write() as connection:
            connection.execute(cursor.on_conflict_do_update(index_elements=["id"], set_={"sequence": sequence}))
            room = MOST_WAITING - int(connection.scalar(sa.select(sa.func.count()).select_from(_waiting)) or 0)
            kept = [one for one in problems if one.again][: max(0, room)]
            for one in kept:
                row = {
                    "sequence": one.access["sequence"], "document": json.dumps(one.access), "since": now,
                    "next": now + int(RETRY.total_seconds()),
                }  # fmt: skip
                connection.execute(self._database.insert(_waiting).values(row).on_conflict_do_nothing())
            append_in(connection, [self._set_aside(one) for one in problems if one not in kept])

    def _set_aside(self, problem: "Problem") -> AuditEvent:
        sequence = problem.access["sequence"]
        log.error("the hub will not be told of audit record %s: %s", sequence, problem.reason)
        return AuditEvent(
            self._clock(),
            AuditEventType.FEED,
            HUB,
            outcome=Outcome.FAILURE,
            reason=problem.reason,
            detail={"what": "access not told", "record": sequence},
        )

    def _run(self) -> None:
        quiet = False
        while True:
            try:
                while self.send() and not self._stop.is_set():
                    pass
                quiet = False
            except UsmedError as error:
                # Once, not every few seconds.
                log.log(logging.DEBUG if quiet else logging.WARNING, "the hub was not told of accesses: %s", error)
                quiet = True
            except Exception as error:  # noqa: BLE001 - it must not end
                log.error("accesses: %s: %s", type(error).__name__, error)
            if self._stop.wait(self._poll_s):
                return


def access_of(event: dict[str, Any], hospital: str) -> dict[str, Any] | None:
    """Return what the hub is told of an audit event: of a release, or of an emergency that was opened here; None if
    nothing was given away and nothing opened.

    Who it was inside the other hospital, and the reason of an emergency, stay in the hospitals' and key servers' logs.
    """
    detail = event.get("detail", {})
    patient = detail.get("granted_for")
    if event["outcome"] != Outcome.SUCCESS or patient is None:
        return None
    about = {
        "sequence": event["sequence"],
        "at": int(datetime.fromisoformat(event["at"]).timestamp()),
        "patient": {"issuer": patient["issuer"], "value": patient["value"]},
    }
    if event["event"] == AuditEventType.EMERGENCY:
        opened = {
            "recipient": hospital, "role": "", "purpose": Purpose.ETREAT.value, "study_instance_uid": "",
            "consents": [],
        }  # fmt: skip
        return {**about, **opened} if detail["what"] == OPENED else None
    return {
        **about,
        "recipient": event["peer"],
        "role": detail["role"],
        "purpose": detail["purpose"],
        "study_instance_uid": event["study_instance_uid"],
        "consents": [one for one in detail["consent"].split(",") if one],
    }


def _problems(accesses: Sequence[dict[str, Any]], answer: Any) -> list[Problem]:
    """Read which of these the hub has not taken.

    Raises:
        PeerDataError: its answer is malformed.
    """
    try:
        found = {int(one["place"]): one for one in answer["problems"]}
        return [Problem(accesses[place], str(one["reason"])[:200], one["again"] is True) for place, one in
                sorted(found.items())]  # fmt: skip
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise PeerDataError("the hub gave a malformed answer") from error


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
