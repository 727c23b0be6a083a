"""Sends this node's audit log to a syslog server, record after record, from where the last process came to.

A record is noted as sent when the server's machine has acknowledged it. That the server has written it down it does not
say (RFC 5425 §4.3 has no answer), so after a broken connection the last `REPEATED` are sent again: their `sequenceId`
tells which they are.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from usmed.domain.audit_message import syslog_message
from usmed.domain.errors import TransportError, UsmedError
from usmed.platform.audit_query import after, last_sequence
from usmed.platform.storage import Database
from usmed.platform.syslog import Sender

log = logging.getLogger(__name__)

BATCH = 100
REPEATED = 100
POLL_S = 1.0
LONGEST_PAUSE_S = 60.0

_cursor = sa.table("syslog_cursor", *map(sa.column, ("id", "sequence")))


@dataclass(frozen=True, slots=True)
class SyslogState:
    """How far the server knows: the last record sent, how many wait, and why it does not go on; empty if it does."""

    sent: int
    waiting: int
    problem: str


class SyslogFeed:
    """The log's way to the server.

    Args:
        hospital: this one's id.
        pause: waits so many seconds and tells whether to stop; a test's own.
    """

    def __init__(
        self,
        *,
        hospital: str,
        database: Database,
        sender: Sender,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._hospital = hospital
        self._database = database
        self._sender = sender
        self._stop = threading.Event()
        self._pause = pause or self._stop.wait
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._problem = ""
        self._broken = False

    def start(self) -> None:
        """Send what is there, and what comes."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; the next process goes on."""
        self._stop.set()

    def state(self) -> SyslogState:
        """Return how far it has come."""
        sent = self._sent()
        return SyslogState(sent, max(0, last_sequence(self._database) - sent), self._problem)

    def send(self) -> bool:
        """Send the next records; return whether there may be more.

        Raises:
            TransportError: the server is away; the same are sent again.
            StorageError: the database fails.
        """
        sent = self._sent()
        begin = max(0, sent - REPEATED) if self._broken else sent
        events = after(self._database, begin, BATCH + sent - begin)
        if not events:
            return False
        host, process = socket.gethostname(), os.getpid()
        messages = [syslog_message(one, site=self._hospital, host=host, process=process) for one in events]
        try:
            self._sender.send(messages)
        except TransportError:
            self._broken = True
            raise
        self._broken = False
        self._note(events[-1]["sequence"])
        return len(events) >= BATCH

    def _sent(self) -> int:
        with self._database.read() as connection:
            return int(connection.scalar(sa.select(_cursor.c.sequence)) or 0)

    def _note(self, sequence: int) -> None:
        cursor = self._database.insert(_cursor).values(id=1, sequence=sequence)
        with self._database.write() as connection:
            connection.execute(cursor.on_conflict_do_update(index_elements=["id"], set_={"sequence": sequence}))

    def _run(self) -> None:
        pause_s = POLL_S
        while True:
            try:
                while self.send() and not self._stop.is_set():
                    pass
                pause_s, self._problem = POLL_S, ""
            except UsmedError as error:
                # Once, not at every try.
                log.log(logging.DEBUG if self._problem else logging.WARNING, "audit records wait: %s", error)
                self._problem = str(error)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - it must not end
                log.error("syslog: %s: %s", type(error).__name__, error)
                self._problem, pause_s = type(error).__name__, LONGEST_PAUSE_S
            if self._pause(pause_s):
                self._sender.close()
                return
