"""The port for HL7 messages: MLLP over TCP or TLS, a thread for each of few connections.

Hospital information systems keep one connection open, or open one for each message; there are never many. A connection
has a time for a message once it has begun, and one to be silent; where too many are open, the one that is silent
longest makes room, so that nobody holds the port by doing nothing. One address may have half of them.

Not the server that comes with python-hl7: that one lives in an event loop, knows neither a time nor a number, and reads
every message in one character set.
"""

import logging
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from usmed.domain.errors import ConfigurationError
from usmed.domain.mllp import Blocks
from usmed.hospital.hl7_feed import Feed

log = logging.getLogger(__name__)

MESSAGE_S = 20.0
"""How long a message may take to arrive, and its acknowledgement to leave; TLS handshake likewise."""
CONNECTIONS = 32
_PIECE = 65536
_LOOK_S = 0.5


@dataclass(eq=False)
class _Line:
    """One connection."""

    socket: socket.socket
    address: str
    quiet_since: float = field(default_factory=time.monotonic)
    busy: bool = False


class MllpListener:
    """Serves a feed.

    Args:
        feed: what takes the messages.
        address, port: where.
        limit_bytes: the largest message.
        idle_s: how long a connection may be silent between two messages.
        context: TLS; None for plain TCP.
    """

    def __init__(
        self, feed: Feed, *, address: str, port: int, limit_bytes: int, idle_s: float, context: ssl.SSLContext | None
    ) -> None:
        self._feed, self._address, self._limit_bytes, self._idle_s = feed, (address, port), limit_bytes, idle_s
        self._context = context
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._lines: set[_Line] = set()
        self._threads: set[threading.Thread] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="hl7", daemon=True)

    def bind(self) -> None:
        """Take the port.

        Raises:
            ConfigurationError: it cannot be bound.
        """
        host, port = self._address
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        except OSError as error:
            raise ConfigurationError("Usmed.Hl7", [f"{host}:{port} cannot be used: {error}"]) from error
        self._socket.settimeout(_LOOK_S)

    def start(self) -> None:
        """Serve."""
        if self._socket is None:
            self.bind()
        self._thread.start()

    def stop(self) -> None:
        """Take no more; a message that is being kept is acknowledged, the others come again."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * _LOOK_S)
        if self._socket is not None:
            self._socket.close()
        with self._lock:
            lines, threads = list(self._lines), list(self._threads)
        for one in lines:
            if not one.busy:
                _shut(one.socket)
        for thread in threads:
            thread.join(timeout=5)

    # ---- threads ----

    def _accept(self) -> None:
        assert self._socket is not None
        while not self._ended.is_set():
            try:
                sock, address = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._ended.is_set():
                    # Too many open files, most likely.
                    log.warning("hl7: cannot take a connection: %s", error)
                    self._ended.wait(_LOOK_S)
                continue
            line = _Line(sock, str(address[0]).partition("%")[0])
            try:
                self._take_in(line)
            except RuntimeError as error:
                # No thread can be started now; the port must not go deaf for that.
                log.error("hl7: %s: %s", line.address, error)
                with self._lock:
                    self._lines.discard(line)
                sock.close()

    def _take_in(self, line: _Line) -> None:
        if not self._feed.accepts(line.address) or not self._has_room(line.address):
            line.socket.close()
            return
        thread = threading.Thread(target=self._serve, args=(line,), name="hl7-line", daemon=True)
        with self._lock:
            self._lines.add(line)
        thread.start()

    def _has_room(self, address: str) -> bool:
        with self._lock:
            mine = [one for one in self._lines if one.address == address]
            crowd = mine if len(mine) >= CONNECTIONS // 2 else list(self._lines)
            if len(crowd) < CONNECTIONS and crowd is not mine:
                return True
            silent = [one for one in crowd if not one.busy]
            if not silent:
                return False
            oldest = min(silent, key=lambda one: one.quiet_since)
            # It is not counted any more; its thread ends by itself.
            self._lines.discard(oldest)
        _shut(oldest.socket)
        return True

    def _serve(self, line: _Line) -> None:
        with self._lock:
            self._threads.add(threading.current_thread())
        try:
            line.socket.settimeout(MESSAGE_S)
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                # In two steps: whoever makes room has to reach the socket while it shakes hands, too.
                wrapped = self._context.wrap_socket(line.socket, server_side=True, do_handshake_on_connect=False)
                line.socket = wrapped
                wrapped.do_handshake()
            self._talk(line)
        except OSError as error:
            log.info("hl7: %s: %s", line.address, error)
        except Exception:
            # Its sender connects anew, and sends again what was not acknowledged.
            log.exception("hl7: a connection was dropped")
        finally:
            with self._lock:
                self._lines.discard(line)
                self._threads.discard(threading.current_thread())
            line.socket.close()

    def _talk(self, line: _Line) -> None:
        blocks, due = Blocks(self._limit_bytes), time.monotonic() + self._idle_s
        while not self._ended.is_set():
            if time.monotonic() >= due:
                if blocks.begun:
                    self._feed.broke_off(line.address, f"a message had not ended after {MESSAGE_S:g} s")
                return
            if not self._readable(line.socket, min(_LOOK_S, due - time.monotonic())):
                continue
            try:
                data = line.socket.recv(_PIECE)
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            if not data:
                break
            begun = blocks.begun
            came = blocks.feed(data)
            line.busy = True
            for one in came:
                if (answer := self._feed.receive(one, line.address)) is not None:
                    line.socket.sendall(answer)
            line.busy, line.quiet_since = False, time.monotonic()
            if came or not begun:
                due = time.monotonic() + (MESSAGE_S if blocks.begun else self._idle_s)
        if blocks.begun:
            self._feed.broke_off(line.address, "the connection ended in the middle of a message")

    def _readable(self, sock: socket.socket, wait_s: float) -> bool:
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(max(0.0, wait_s) * 1000))


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        # Not SSLSocket's own, which would let its thread read on without TLS.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
