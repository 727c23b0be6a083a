"""The audit log on disk: chained across threads and processes, verified as a whole.

Whoever waits for a record writes it, with all that others have appended meanwhile; a thread writes what nobody waits
for.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import (
    GENESIS,
    SEARCHED,
    AuditEvent,
    AuditRecord,
    ChainHead,
    ChainReport,
    chain_canonical,
    columns_of,
    verify_chain,
)
from usmed.domain.canonical import canonical_json
from usmed.platform.storage import Database, Statement, StorageError

_log = logging.getLogger(__name__)

BATCH = 500
PAGE = 1000
AUDIT_THREAD = "audit"
LINGER_S = 0.1
"""How long an event that nobody waits for may wait for others: a transaction costs more than fifty records in it."""

_COLUMNS = ("sequence", "hash", "content", *SEARCHED)
_record = sa.table("audit_record", *map(sa.column, _COLUMNS))
_head = sa.table("audit_head", *map(sa.column, ("id", "count", "hash")))

_read_of_head = sa.select(_head.c.count, _head.c.hash)
_HEAD, _LOCKED_HEAD = Statement(_read_of_head), Statement(_read_of_head.with_for_update())
_INSERT = Statement(sa.insert(_record))
# On PostgreSQL a whole batch in one round trip, if the head is where it was last seen; else nothing.
_ARRAYS = ", ".join(f"CAST(:{name} AS {'bigint' if name == 'sequence' else 'text'}[])" for name in _COLUMNS)
_CHAIN_ON = Statement(
    sa.text(
        f"""
        WITH moved AS (
            UPDATE audit_head SET count = :new_count, hash = :new_hash
            WHERE count = :old_count AND hash = :old_hash RETURNING id
        )
        INSERT INTO audit_record ({", ".join(_COLUMNS)})
        SELECT one.* FROM moved, unnest({_ARRAYS}) AS one RETURNING sequence
        """  # noqa: S608 - names of columns
    )
)
_ADVANCE = Statement(sa.update(_head).values(count=sa.bindparam("new_count"), hash=sa.bindparam("new_hash")))


type CanonicalEvent = tuple[bytes, dict[str, str]]
"""An event as canonical JSON, and what it is found by."""


class Receipt:
    """The promise that one event will be on disk."""

    def __init__(self, event: CanonicalEvent, log: "AuditLog") -> None:
        self._event = event
        self._log = log
        self._sequence = 0
        self._failure: StorageError | None = None

    def wait(self, timeout_s: float = 15.0) -> int:
        """Return the record's sequence number once it is durable.

        Raises:
            StorageError: it could not be written; what was to be recorded must then not happen.
        """
        if not self._settled:
            self._log._flush(timeout_s, self)
        if not self._settled:
            raise StorageError(f"the audit record was not written within {timeout_s} s")
        if self._failure is not None:
            raise self._failure
        return self._sequence

    @property
    def _settled(self) -> bool:
        return self._sequence > 0 or self._failure is not None


class AuditLog:
    """The audit log of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[Receipt] = deque()
        self._turn = threading.Lock()
        self._head: ChainHead | None = None
        self._open = True
        self._closing = threading.Lock()
        self._appended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=AUDIT_THREAD, daemon=True)
        self._thread.start()

    def append(self, event: AuditEvent) -> Receipt:
        """Hand over an event; `append(...).wait()` returns when it is durable.

        Raises:
            PeerDataError: a detail of the event is not JSON.
            StorageError: the log is closed.
        """
        # Found out here, an event that cannot be written concerns its caller alone, not its whole batch.
        receipt = Receipt(_canonical(event), self)
        with self._closing:
            if not self._open:
                raise StorageError("the audit log is closed")
            self._waiting.append(receipt)
        if not self._appended.is_set():
            self._appended.set()
        return receipt

    def close(self) -> None:
        """Write what was appended, and stop. May be called twice."""
        with self._closing:
            self._open = False
        self._appended.set()
        self._thread.join()
        with self._turn:
            # Whoever waits for a record may be writing others' with it.
            pass

    def head(self) -> ChainHead:
        """Return how many records there are, and the hash of the last."""
        with self._database.read() as connection:
            return _read_head(connection)

    def head_and_hash(self, sequence: int) -> tuple[ChainHead, str]:
        """Return the head and, of the same moment, the hash of record `sequence` (`GENESIS` for 0, empty for none)."""
        with self._database.read() as connection:
            return _read_head(connection), _hash_at(connection, sequence)

    def hash_at(self, sequence: int) -> str:
        """Return the hash of a record (`GENESIS` for 0, empty if there is none)."""
        with self._database.read() as connection:
            return _hash_at(connection, sequence)

    def verify(self) -> ChainReport:
        """Check every record of the log, in one snapshot."""
        with self._database.read() as connection:
            return verify_chain(_read_records(connection), _read_head(connection))

    def tail(self, limit: int = 50, patient: str = "") -> list[dict[str, Any]]:
        """Return the last events, oldest first, each with its `sequence`; only of `patient` if given."""
        query = sa.select(_record.c.sequence, _record.c.content).order_by(_record.c.sequence.desc())
        if patient:
            query = query.where(_record.c.patient == patient)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [{"sequence": row.sequence, **json.loads(row.content)["event"]} for row in reversed(rows)]

    def _run(self) -> None:
        while self._open or self._waiting:
            self._appended.wait()
            # Whoever waits for theirs does not wait for this.
            if self._open:
                time.sleep(LINGER_S)
            self._appended.clear()
            if self._waiting:
                self._flush(-1, None)

    def _flush(self, timeout_s: float, own: Receipt | None) -> None:
        """Write what waits until `own` is settled, or the time is over while others write."""
        if not self._turn.acquire(timeout=timeout_s):
            return
        try:
            while self._waiting and not (own and own._settled):
                self._settle([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
        finally:
            self._turn.release()

    def _settle(self, batch: Sequence[Receipt]) -> None:
        try:
            first = self._write([receipt._event for receipt in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            _log.error("%d audit record(s) could not be written: %s", len(batch), type(error).__name__)
            failure = error if isinstance(error, StorageError) else StorageError("audit record not written")
            for receipt in batch:
                receipt._failure = failure
            return
        for offset, receipt in enumerate(batch):
            receipt._sequence = first + offset

    def _write(self, events: Sequence[CanonicalEvent]) -> int:
        head, self._head = self._head, None
        if self._database.is_postgresql and head is not None:
            rows, new = _chained(events, head)
            if self._database.change(_CHAIN_ON, _chaining(rows, head, new)):
                self._head = new
                return head.count + 1
        with self._database.write() as connection:
            head = _append(connection, events)
        self._head = head
        return head.count - len(events) + 1


def append_in(connection: sa.Connection, events: Sequence[AuditEvent]) -> None:
    """Append events in the caller's transaction: what happened and its record become durable together, or not.

    The last thing to do in a transaction, because other processes' records wait until it ends.

    Raises:
        PeerDataError: a detail of an event is not JSON.
    """
    if events:
        _append(connection, [_canonical(event) for event in events])


def _canonical(event: AuditEvent) -> CanonicalEvent:
    document = event.to_json()
    return canonical_json(document), columns_of(document)


def _append(connection: sa.Connection, events: Sequence[CanonicalEvent]) -> ChainHead:
    """Chain and store events; return the head that they leave."""
    # The row lock (on SQLite the write lock) keeps other processes from chaining to the same head.
    rows, head = _chained(events, _read_head(connection, lock=True))
    _INSERT.run_each(connection, rows)
    _ADVANCE.run(connection, {"new_count": head.count, "new_hash": head.hash})
    return head


def _chained(events: Sequence[CanonicalEvent], head: ChainHead) -> tuple[list[dict[str, Any]], ChainHead]:
    """Return the rows of events that follow a head, and the head that they leave."""
    rows = []
    for event in events:
        record = chain_canonical(*event, head)
        head = ChainHead(record.sequence, record.hash)
        rows.append(
            {
                "sequence": record.sequence,
                "hash": record.hash,
                "content": record.content.decode("utf-8"),
                **record.columns,
            }
        )
    return rows, head


def _chaining(rows: Sequence[dict[str, Any]], old: ChainHead, new: ChainHead) -> dict[str, Any]:
    """Return the values of `_CHAIN_ON`."""
    heads = {"old_count": old.count, "old_hash": old.hash, "new_count": new.count, "new_hash": new.hash}
    return {name: [row[name] for row in rows] for name in _COLUMNS} | heads


def _read_head(connection: sa.Connection, *, lock: bool = False) -> ChainHead:
    rows = (_LOCKED_HEAD if lock else _HEAD).run(connection)
    if not rows:
        # The migration made it: somebody has removed it.
        raise StorageError("the audit log's head is missing")
    return ChainHead(*rows[0])


def _hash_at(connection: sa.Connection, sequence: int) -> str:
    if sequence == 0:
        return GENESIS
    found = connection.scalar(sa.select(_record.c.hash).where(_record.c.sequence == sequence))
    return str(found) if found is not None else ""


def _read_records(connection: sa.Connection) -> Iterator[AuditRecord]:
    last = -1
    while rows := connection.execute(
        sa.select(_record).where(_record.c.sequence > last).order_by(_record.c.sequence).limit(PAGE)
    ).all():
        last = rows[-1].sequence
        for row in rows:
            yield _record_of(row)


def _record_of(row: Any) -> AuditRecord:
    columns = {name: getattr(row, name) for name in SEARCHED}
    return AuditRecord(row.sequence, row.hash, columns, row.content.encode("utf-8"))
