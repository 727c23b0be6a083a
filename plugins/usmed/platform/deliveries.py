"""Brings consents and enrolments to all who have to have them, and again until they have: key servers, hub, hospitals.

Whoever hands something in gets it delivered for good: it is on disk before anybody is told, and what could not be told
is told again, also by a later process. Who has it already says so, so that telling twice does no harm.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.withdrawal import Progress, progress
from usmed.platform.delivery_store import NOT_TAKEN, Delivery, DeliveryStore, Item
from usmed.platform.signed_http import Post

log = logging.getLogger(__name__)

KEY_SERVER_PATH = "/v1/records"
HUB_PATH = "/v1/consents/records"
HOSPITAL_PATH = "/federation/v1/records"
DEADLINE_S = 5.0
RETRY_S = 5.0
ANSWER_BYTES = 1 << 20
AT_ONCE = 16
BATCH = 50
MAXIMUM_ENROLMENTS = 100
"""What one request may carry of them: the others' limit."""

type Take = Callable[[list[Any], list[Any]], list[str]]
"""Takes in records and enrolments; returns why some were not taken."""


class Deliveries:
    """What is on its way to others. `start` takes up what an earlier process left.

    Args:
        own: the id of whoever sends: a hospital or the hub.
        region: the region as it is now.
        store: what is on its way, on disk.
        post: how the others are reached.
        clock: the time, aware UTC.
        here: takes in what goes to the sender itself; None where the sender has it already when it hands it in.
        retry_s: how long after a round the next one begins.
    """

    def __init__(
        self,
        *,
        own: str,
        region: Callable[[], RegionManifest],
        store: DeliveryStore,
        post: Post,
        clock: Callable[[], datetime],
        here: Take | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._own = own
        self._region = region
        self._store = store
        self._post = post
        self._clock = clock
        self._here = here
        self._retry_s = retry_s
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._seen_version = 0
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)

    def start(self) -> None:
        """Deliver what is open, now and then."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.0) -> None:
        """Stop; what is open stays so on disk. `timeout_s` is how long a round under way may take to end."""
        self._stop.set()
        if timeout_s and self._thread.is_alive():
            self._thread.join(timeout_s)

    def add(self, connection: Connection, item: Item) -> None:
        """Put an item on its way, in the caller's transaction. `deliver` tries at once, else the next round does.

        The same item again changes nothing; with another proof, that one goes to those who have not taken it yet.

        Raises:
            PeerDataError: more enrolments than a request may carry, or another document has this id and version.
        """
        if len(item.enrolments) > MAXIMUM_ENROLMENTS:
            raise PeerDataError(f"at most {MAXIMUM_ENROLMENTS} enrolments can prove one consent")
        self._store.add(connection, item, self._members(item), self._clock())

    def pass_on(
        self, connection: Connection, record: dict[str, Any], version: int, enrolments: tuple[dict[str, str], ...]
    ) -> None:
        """Put a proved consent on its way, in the caller's transaction, whatever else is under its id.

        Args:
            connection: where it is kept.
            record: `{"document", "proof"}`.
            version: that the sender knows the consent by; the next free one is taken where another document has it.
            enrolments: those that the proof needs.
        """
        document = record["document"]
        number = self._store.version_for(connection, document["id"], document, version)
        self.add(connection, Item(document["id"], number, record, enrolments))

    def deliver(self, item: Item) -> None:
        """Try at once to bring an item to everybody, with what else they lack; return when all answered or failed."""
        self._deliver_to(self._members(item))

    def latest(self, id: str) -> Delivery | None:
        """Return the newest version of what was handed in under an id, and who has it."""
        return self._store.latest(id)

    def progress(self, delivery: Delivery) -> Progress:
        """Tell how far an item has come, and whether anything can still be released against it."""
        region = self._region()
        servers = {one: at for one, at in delivery.delivered.items() if one in region.key_servers}
        told = {one: at for one, at in delivery.delivered.items() if one in region.hospitals}
        if not delivery.item.takes_away:
            # There is nothing that a hospital would have to know.
            told = dict.fromkeys(region.hospitals, delivery.created)
        return progress(region, servers, told, self._clock())

    def _members(self, item: Item) -> list[str]:
        region = self._region()
        everybody = [*region.key_servers, HUB, *(region.hospitals if item.takes_away else ())]
        return [one for one in everybody if one != self._own or self._here is not None]

    def _deliver_to(self, members: Iterable[str]) -> None:
        """Bring these members what is open to them, many at once."""
        wanted = list(members)
        if self._own in wanted:
            # First, and also while a round is at it: whoever handed a withdrawal in must not release against it.
            self._bring(self._own)
        with self._lock:
            waiting = deque(one for one in wanted if one not in self._busy and one != self._own)
            self._busy.update(waiting)
        # Not a pool: the interpreter would wait at its end for all that a pool still has to do.
        threads = [
            threading.Thread(target=self._work, args=(waiting,), name="delivery", daemon=True)
            for _ in range(min(AT_ONCE, len(waiting)))
        ]
        try:
            for one in threads:
                one.start()
            for one in threads:
                one.join()
        finally:
            # Nobody is left, unless a thread could not be started: then it is for the next round.
            with self._lock:
                self._busy.difference_update(waiting)
                waiting.clear()

    def _work(self, waiting: deque[str]) -> None:
        while (member := self._next(waiting)) is not None:
            try:
                self._bring(member)
            finally:
                with self._lock:
                    self._busy.discard(member)

    def _next(self, waiting: deque[str]) -> str | None:
        with self._lock:
            return waiting.popleft() if waiting else None

    def _bring(self, member: str) -> None:
        """Bring a member all that is open to it, as long as it takes it."""
        try:
            while batch := fitting(self._store.open(member, BATCH)):
                try:
                    problems = self._send(member, batch)
                except TransportError as error:
                    self._store.failed(member, batch, str(error))
                    return
                except (PeerDataError, RefusedError) as error:
                    # Perhaps of one of them, or of their size: that must not hold a withdrawal up for ever.
                    problems = [str(error)]
                if problems:
                    # One at a time, to know which.
                    self._one_by_one(member, batch)
                    return
                self._store.acknowledged(member, batch, self._clock())
                if self._stop.is_set():
                    return
        except UsmedError as error:
            log.error("deliveries to %s: %s", member, error)

    def _one_by_one(self, member: str, batch: Sequence[Item]) -> None:
        for one in batch:
            try:
                problems = self._send(member, [one])
            except TransportError as error:
                self._store.failed(member, [one], str(error))
                return
            except (PeerDataError, RefusedError) as error:
                problems = [str(error)]
            if problems:
                log.warning("%s does not take %s: %s", member, one.id, problems[0])
                self._store.failed(member, [one], NOT_TAKEN + problems[0])
            else:
                self._store.acknowledged(member, [one], self._clock())

    def _send(self, member: str, batch: Sequence[Item]) -> list[str]:
        records, enrolments = contents(batch)
        if member == self._own and self._here is not None:
            return self._here(records, enrolments)
        path = HUB_PATH if member == HUB else HOSPITAL_PATH
        if member in self._region().key_servers:
            path = KEY_SERVER_PATH
        document = {"records": records, "enrolments": enrolments}
        answer = self._post(member, path, document, deadline_s=DEADLINE_S, limit_bytes=ANSWER_BYTES)
        problems = answer.get("problems") if isinstance(answer, dict) else None
        if not isinstance(problems, list):
            raise PeerDataError(f"{member} gave a malformed answer")
        return [str(one) for one in problems]

    def _run(self) -> None:
        while True:
            try:
                region = self._region()
                if region.version != self._seen_version:
                    self._store.add_members(region.key_servers)
                    self._seen_version = region.version
                self._deliver_to([one for one in self._store.members_with_open() if region.member(one) is not None])
            except Exception as error:  # noqa: BLE001 - deliveries must not end
                log.error("deliveries: %s: %s", type(error).__name__, error)
            if self._stop.wait(self._retry_s):
                return


def contents(items: Iterable[Item]) -> tuple[list[Any], list[Any]]:
    """Return what goes into one request: the consents, and each enrolment once."""
    records: list[Any] = []
    enrolments: dict[tuple[str, str], Any] = {}
    for item in items:
        if item.is_consent:
            records.append(item.record)
        for one in (*item.enrolments, *(() if item.is_consent else (item.record,))):
            enrolments[one["hospital"], one["token"]] = one
    return records, list(enrolments.values())


def fitting(items: Sequence[Item]) -> Sequence[Item]:
    """Return as many of these, from the first on, as one request may carry with the enrolments that they need."""
    for count in range(1, len(items)):
        if len(contents(items[: count + 1])[1]) > MAXIMUM_ENROLMENTS:
            return items[:count]
    return items
