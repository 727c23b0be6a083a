"""What key servers do among themselves: each asks each other for what came since, and watches over the other's log.

Nobody's word is believed: what comes is taken in like from a hospital, by its proofs. A server that was cut off, or is
new, so soon knows every withdrawal. With each question a server hands over its signature on the head of the other's
log that it saw last, and the other has to say which hash its log has there now: a rewritten past shows on both sides
(`domain.log_head`). A question never fails the others: what is wrong is told in the log and asked again later.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.log_head import LARGEST_SEQUENCE, LogHead, countersign, join, read_head, sign_head
from usmed.domain.region import RegionManifest
from usmed.keyserver.store import PeerPosition, RecordStore
from usmed.keyserver.tickets import MAXIMUM_RECORDS, KeyServer
from usmed.platform.audit_log import AuditLog
from usmed.platform.log_heads import HeadStore
from usmed.platform.signed_http import Post

_log = logging.getLogger(__name__)

PATH = "/v1/exchange"
PAGE_BYTES = 1 << 20
ANSWER_BYTES = 4 << 20
PAGES = 50
"""How many pages are read at once: the next question goes on where this one ended."""

DEADLINE_S = 10.0
LONGEST_WAIT_S = 60.0
READ_ANEW = timedelta(days=1)
"""How often a peer is read from its beginning: what could not be taken then (a clock, a key) can be now."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """How it went with one peer since this process started.

    Attributes:
        succeeded: when it last answered everything (aware UTC); None for never.
        failures: how often it did not, in a row.
        reason: why, the last time; empty if it did.
    """

    succeeded: datetime | None = None
    failures: int = 0
    reason: str = ""


class Exchange:
    """The exchange of one key server with the others, both as the one who asks and as the one who answers."""

    def __init__(
        self,
        *,
        id: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        server: KeyServer,
        store: RecordStore,
        heads: HeadStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        post: Post,
    ) -> None:
        self._id = id
        self._key = key
        self._region = region
        self._server = server
        self._store = store
        self._heads = heads
        self._audit = audit
        self._clock = clock
        self._post = post
        self._states: dict[str, PeerState] = {}

    # ---- Who is asked ----

    def answer(self, sender: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer another key server.

        Args:
            sender: its id, verified.
            body: `since`, the position up to which it has read; `seen`, the head of this server's log that it saw
                last, signed by both, or null.

        Returns:
            What came after the position, this server's head, and the hash that its log has where `seen` ends.

        Raises:
            PeerDataError: not such a question.
        """
        since, seen = body["since"], body["seen"]
        if type(since) is not int or not 0 <= since < LARGEST_SEQUENCE:
            raise PeerDataError("since: must be a position that was answered before, or 0")
        then = ""
        witnessed = self._witnessed(sender, seen) if seen is not None else None
        head, then = self._audit.head_and_hash(witnessed.sequence if witnessed else 0)
        if witnessed and then != witnessed.hash:
            # The database was rewritten, or is an older copy: whoever runs this server in good faith should know.
            self._alarm(self._id, f"{sender} {_differs(self._id, witnessed, then)}", seen)
        page = self._store.arrived_after(since, limit=MAXIMUM_RECORDS, limit_bytes=PAGE_BYTES)
        own = LogHead(self._id, head.count, head.hash, self._clock())
        return {
            "records": page.records,
            "enrolments": page.enrolments,
            "position": page.position,
            "more": page.more,
            "head": sign_head(self._key, own),
            "then": then,
        }

    def _witnessed(self, witness: str, seen: Any) -> LogHead:
        """Keep a head of this server's with the witness's signature."""
        keys = self._region().key_server_key
        head = read_head(seen, keys, self._id)
        own, others = _signatures(seen)
        signed = join(head, {"payload": seen["payload"], "signatures": own}, others, keys, witness)
        self._heads.note_countersigned(witness, head, signed, self._clock())
        return head

    # ---- Who asks ----

    def ask(self, peer: str) -> None:
        """Ask a peer for everything that came since.

        Raises:
            TransportError, PeerDataError, RefusedError: it did not answer, or not as it has to.
            StorageError: what it answered could not be kept.
        """
        region, now = self._region(), self._clock()
        reached = self._store.peer_position(peer)
        if reached is None or reached.region_version != region.version or not _recent(reached, now):
            reached = PeerPosition(0, region.version, int(now.timestamp()))
        problems: list[str] = []
        for _ in range(PAGES):
            seen = self._heads.last_seen(peer)
            body = {"since": reached.position, "seen": self._countersigned(*seen) if seen else None}
            page = _page(self._post(peer, PATH, body, deadline_s=DEADLINE_S, limit_bytes=ANSWER_BYTES))
            alarm = self._watch(peer, seen[0] if seen else None, page)
            problems += self._server.take(peer, *self._store.unknown(page.records, page.enrolments))
            # A peer with less than before, or with another log, is an older copy: what it took since has other places.
            anew = alarm or page.position < reached.position
            position = 0 if anew else page.position
            if anew or not page.more or position == reached.position:
                self._store.note_peer_position(peer, replace(reached, position=position))
                break
            reached = replace(reached, position=position)
            self._store.note_peer_position(peer, reached)
        if problems:
            _log.warning("%d of the records that %s holds were not taken: %s", len(problems), peer, problems[0])

    def _countersigned(self, head: LogHead, signed: Any) -> dict[str, Any]:
        element = countersign(self._key, witness=self._id, head=head)
        return {"payload": signed["payload"], "signatures": [*signed["signatures"], element]}

    def _watch(self, peer: str, seen: LogHead | None, page: "_Page") -> bool:
        """Keep the peer's head if its log goes on from what was seen; return whether that raised a new alarm."""
        head = read_head(page.head, self._region().key_server_key, peer)
        if seen is not None and page.then != seen.hash:
            return self._alarm(peer, f"{self._id} {_differs(peer, seen, page.then)}", page.head)
        if seen is not None and (head.sequence < seen.sequence or _same_place(head, seen)):
            text = f"the log of {peer} had {seen.sequence} record(s) and has {head.sequence} now, ending otherwise"
            return self._alarm(peer, text, page.head)
        if seen is None or head.sequence > seen.sequence:
            self._heads.note_seen(head, page.head, self._clock())
        return False

    def _alarm(self, server: str, reason: str, presented: Any) -> bool:
        digest = sha256_hex(canonical_json(presented["payload"]))
        new = self._heads.raise_alarm(server, reason, digest, self._id, self._clock())
        if new:
            _log.error("alarm: %s", reason)
        return new

    # ---- Now and then ----

    def states(self) -> dict[str, PeerState]:
        """Return how it went with each peer of the region."""
        return {peer: self._states.get(peer, PeerState()) for peer in self._peers()}

    def ask_one(self, peer: str) -> bool:
        """Ask a peer and remember how it went; return whether it answered."""
        before = self._states.get(peer, PeerState())
        try:
            self.ask(peer)
        except UsmedError as error:
            if str(error) != before.reason:
                _log.warning("exchange with %s failed: %s", peer, error)
            self._states[peer] = PeerState(before.succeeded, before.failures + 1, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - the thread's last line of defence
            _log.error("exchange with %s failed: %s", peer, type(error).__name__)
            self._states[peer] = PeerState(before.succeeded, before.failures + 1, type(error).__name__)
            return False
        if before.failures:
            _log.warning("exchange with %s goes on", peer)
        self._states[peer] = PeerState(self._clock())
        return True

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Ask every peer of the region at once, then each of them every `interval_s`, less often while it fails.

        Each peer has a thread of its own, so that one that drips holds up no other. Returns when `stop` is set.
        """
        followers: dict[str, threading.Thread] = {}
        while not stop.is_set():
            for peer in self._peers():
                if peer not in followers or not followers[peer].is_alive():
                    thread = threading.Thread(
                        target=self._follow, args=(peer, stop, interval_s), name=f"exchange-{peer}", daemon=True
                    )
                    followers[peer] = thread
                    thread.start()
            stop.wait(interval_s)
        for thread in followers.values():
            thread.join(DEADLINE_S)

    def _follow(self, peer: str, stop: threading.Event, interval_s: float) -> None:
        while peer in self._peers() and not stop.is_set():
            failures = 0 if self.ask_one(peer) else self._states[peer].failures
            stop.wait(min(interval_s * 2 ** min(failures, 10), max(interval_s, LONGEST_WAIT_S)))

    def _peers(self) -> list[str]:
        return sorted(set(self._region().key_servers) - {self._id})


@dataclass(frozen=True, slots=True)
class _Page:
    records: list[Any]
    enrolments: list[Any]
    position: int
    more: bool
    head: Any
    then: str


def _page(answer: Any) -> _Page:
    """Read an answer.

    Raises:
        PeerDataError: not such an answer.
    """
    kinds = {"records": list, "enrolments": list, "position": int, "more": bool, "head": dict, "then": str}
    if (
        not isinstance(answer, dict)
        or set(answer) != set(kinds)
        or any(type(answer[name]) is not kind for name, kind in kinds.items())
        or not 0 <= answer["position"] < LARGEST_SEQUENCE
    ):
        raise PeerDataError("the answer is not that of an exchange")
    return _Page(**answer)


def _signatures(seen: Any) -> tuple[list[Any], Any]:
    """Take apart what a witness sends: the server's own signature first, then the witness's."""
    signatures = seen["signatures"]
    if len(signatures) != 2:
        raise PeerDataError("seen: has the signature of this server and that of the sender")
    return signatures[:1], signatures[1]


def _recent(reached: PeerPosition, now: datetime) -> bool:
    return 0 <= int(now.timestamp()) - reached.begun < READ_ANEW.total_seconds()


def _same_place(head: LogHead, seen: LogHead) -> bool:
    return head.sequence == seen.sequence and head.hash != seen.hash


def _differs(server: str, seen: LogHead, then: str) -> str:
    now = "it has another hash there now" if then else "it has no such record any more"
    return (
        f"saw the log of {server} end with record {seen.sequence} on {seen.at:%Y-%m-%d %H:%M:%S} UTC, and {now}:"
        " it was rewritten or cut off since then"
    )
