"""Tells the hub what this hospital gave to others, so that patients can read it on the region's portal.

It is read from the audit log, which has it already: a release has its record on disk before the first byte leaves. The
log's sequence numbers make telling twice harmless. Nobody waits for it: a hub that is away is told when it is back.
Where the region has no portal nobody could read it, so nobody is told.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEventType, Outcome
from usmed.domain.errors import RefusedError, UsmedError
from usmed.domain.region import HUB
from usmed.hospital.identities import Poster
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
"""The hub's code for what it will never take."""

_cursor = sa.table("access_cursor", *map(sa.column, ("id", "sequence")))


class AccessFeed:
    """The node's announcements of accesses.

    Args:
        wanted: whether the region has a portal now.
    """

    def __init__(
        self, *, wanted: Callable[[], bool], database: Database, client: Poster, poll_s: float = POLL_S
    ) -> None:
        self._wanted = wanted
        self._database = database
        self._client = client
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
        told = self._told()
        after = max(told, self._looked_at)
        found = follow(self._database, after=after, events=[AuditEventType.RELEASE.value], stretch=STRETCH)
        accesses: list[dict[str, Any]] = []
        reached = found.reached
        for event in found.events:
            access = access_of(event)
            if access is None or self._is_repeated(event):
                continue
            if len(accesses) == BATCH:
                reached = accesses[-1]["sequence"]
                break
            accesses.append(access)
        self._tell(accesses)
        if accesses or reached - told >= STRETCH:
            # Otherwise it is not worth a write: what held nothing is looked at once more after a restart.
            self._note(reached)
        self._looked_at = reached
        return reached > after

    def _tell(self, accesses: list[dict[str, Any]]) -> None:
        try:
            if accesses:
                self._post(accesses)
        except RefusedError as error:
            if error.code != MALFORMED:
                raise
            self._tell_one_by_one(accesses, error)

    def _tell_one_by_one(self, accesses: list[dict[str, Any]], error: RefusedError) -> None:
        """One that the hub never takes must not hold up the others. If it takes none, the fault is not theirs."""
        refused = []
        for one in accesses:
            try:
                self._post([one])
            except RefusedError as refusal:
                refused.append(f"audit record {one['sequence']}: {refusal}")
        if len(refused) == len(accesses):
            raise error
        for line in refused:
            log.error("the hub will not be told of %s", line)

    def _post(self, accesses: list[dict[str, Any]]) -> None:
        self._client.post(HUB, PATH, {"accesses": accesses}, deadline_s=DEADLINE_S)

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

    def _note(self, sequence: int) -> None:
        insert = self._database.insert(_cursor).values(id=1, sequence=sequence)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"sequence": sequence}))

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


def access_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the hub is told of the audit event of a release; None if nothing was given away.

    Who it was inside the other hospital, and the reason of an emergency, stay in the hospitals' and key servers' logs.
    """
    detail = event.get("detail", {})
    patient = detail.get("granted_for")
    if event["outcome"] != Outcome.SUCCESS or patient is None:
        return None
    return {
        "sequence": event["sequence"],
        "at": int(datetime.fromisoformat(event["at"]).timestamp()),
        "patient": {"issuer": patient["issuer"], "value": patient["value"]},
        "recipient": event["peer"],
        "role": detail["role"],
        "purpose": detail["purpose"],
        "study_instance_uid": event["study_instance_uid"],
        "consents": [one for one in detail["consent"].split(",") if one],
    }
