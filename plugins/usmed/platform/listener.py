"""The HTTPS server of every actor: threads that answer, and never wait for who is slow or silent.

A connection that waits, for TLS, for the rest of a request, for the next one, for its receiver, costs no thread: all of
them wait in one epoll. Any thread takes what is ready there, does what can be done at once, and gives the connection
back. A thread is held only while the application answers a request that is there whole, and by a stream. Each phase
has its time, whatever drips in meanwhile, so that connections end (docs/adr/0025).

HTTP itself is cheroot's: its parser and its WSGI gateway see one whole request at a time.
"""

import io
import logging
import os
import resource
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, cast
from wsgiref.types import WSGIApplication

from cheroot.server import HTTPRequest
from cheroot.wsgi import Server

from usmed.domain.errors import ConfigurationError
from usmed.platform.listener_connection import (
    HEAD_BYTES,
    SLOWEST_BYTES_PER_S,
    STALL_S,
    AnswerWriter,
    Came,
    Connection,
    StalledError,
)

log = logging.getLogger(__name__)

REQUEST_S = 20.0
"""How long a request may take to arrive, TLS handshake included; longer the larger its body is."""
IDLE_S = 75
"""How long a connection without a request is kept: a lookup should not pay for a TLS handshake."""
LINGER_S = 2.0
"""How long the other side has to take notice that its connection ends."""
CONNECTIONS = 4000
WAITING_BYTES = 256 << 20
"""How much all connections may hold of requests that are not whole, and of answers that nobody takes."""
_SWEEP_S = 1.0
_BACKLOG = 512
_ACCEPTED_AT_ONCE = 128
"""Where more is asked than can be answered, who is new waits no longer than who is there."""


class Listener:
    """Serves a WSGI application in threads of its own.

    Args:
        application: what answers.
        address, port: where.
        threads: how many requests are answered side by side.
        limit_bytes: the largest body; the application sees a request with a larger one without it.
        certificate_file, key_file: PEM; plain HTTP without them.
        settings: what the address is called where a fault is told.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        address: str,
        port: int,
        threads: int,
        limit_bytes: int,
        certificate_file: str,
        key_file: str,
        settings: str,
    ) -> None:
        self._settings, self._address, self._limit_bytes = settings, (address, port), limit_bytes
        self._http = _Http((address, port), application, server_name="usmed")
        self._context: ssl.SSLContext | None = None
        if certificate_file:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate_file, key_file)
            self._http.environment = {"wsgi.url_scheme": "https", "HTTPS": "on"}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._socket: socket.socket | None = None
        # Those that wait, by file descriptor. Whoever takes one out of here has it alone.
        self._waiting: dict[int, Connection] = {}
        self._open: set[Connection] = set()
        self._most = CONNECTIONS
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"listener-{n}", daemon=True) for n in range(threads)]
        self._threads.append(threading.Thread(target=self._sweep, name="listener-sweep", daemon=True))

    def bind(self) -> None:
        """Take the port, so that callers wait for `start`.

        Raises:
            ConfigurationError: the port cannot be bound.
        """
        host, port = self._address
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigurationError(self._settings, [f"{host}:{port} cannot be used: {error}"]) from error
        self._socket.setblocking(False)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(CONNECTIONS, soft // 2) if soft != resource.RLIM_INFINITY else CONNECTIONS

    def start(self) -> None:
        """Serve."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._socket.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        for one in self._threads:
            one.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no more connections, let requests that have come end for so long, and close the rest."""
        if self._ended.is_set():
            return
        self._http.stopping = True
        if self._socket is not None:
            with suppress(OSError):
                self._epoll.unregister(self._socket.fileno())
            self._socket.close()
        end = time.monotonic() + grace_s
        while self._open and time.monotonic() < end:
            for fd, one in list(self._waiting.items()):
                if not one.begun and self._waiting.pop(fd, None) is not None:
                    self._close(one)
            time.sleep(0.01)
        self._ended.set()
        os.eventfd_write(self._wake, 1)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.5, end - time.monotonic()))
        for one in list(self._open):
            self._close(one)

    # ---- threads ----

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                # One at a time: what is ready waits for whichever thread is free.
                for fd, _ in self._epoll.poll(maxevents=1):
                    self._ready(fd)
            except Exception:
                # A thread fewer for good would be worse than whatever this was.
                log.exception("listener: a connection was dropped")

    def _ready(self, fd: int) -> None:
        if fd == self._wake:
            return
        if self._socket is not None and fd == self._socket.fileno():
            self._accept(self._socket)
        elif (connection := self._waiting.pop(fd, None)) is not None:
            kept = False
            try:
                kept = self._go_on(connection)
            finally:
                if not kept:
                    self._close(connection)

    def _accept(self, listening: socket.socket) -> None:
        try:
            for _ in range(_ACCEPTED_AT_ONCE):
                sock, address = listening.accept()
                self._make_room()
                self._take_in(sock, address)
        except BlockingIOError:
            pass
        except OSError as error:
            # Too many open files, most likely.
            log.warning("listener: cannot take a connection: %s", error)
            self._drop_oldest()
            time.sleep(0.05)
        with suppress(OSError, ValueError):
            self._epoll.modify(listening.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def _take_in(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            due = time.monotonic() + REQUEST_S
            connection = Connection(sock, address[:2], due=due, limit_bytes=self._limit_bytes)
            self._open.add(connection)
            self._waiting[sock.fileno()] = connection
            self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        except OSError:
            # It has gone already.
            sock.close()

    def _go_on(self, connection: Connection) -> bool:
        """Do what can be done now; return whether the connection stays."""
        try:
            if connection.to_send and not self._sent(connection):
                return True
            came = connection.advance(REQUEST_S)
            while came is Came.REQUEST:
                self._serve(connection)
                if not self._sent(connection):
                    return True
                came = Came.REQUEST if not connection.over and connection.has_request() else Came.LITTLE
                connection.events = select.EPOLLIN
            if came is Came.LITTLE:
                self._wait(connection)
            return came is Came.LITTLE
        except StalledError as error:
            log.info("listener: %s: %s", connection.address[0], error)
        except OSError:
            pass
        return False

    def _serve(self, connection: Connection) -> None:
        keep = self._http.answer(connection)
        connection.last = connection.last or not keep or self._http.stopping
        left = len(connection.to_send)
        connection.due = time.monotonic() + (STALL_S + left / SLOWEST_BYTES_PER_S if left else IDLE_S)

    def _sent(self, connection: Connection) -> bool:
        """Send the rest of an answer; what does not go now waits, and False is returned."""
        if not connection.flush():
            self._wait(connection)
            return False
        if connection.last and not connection.over:
            connection.due = time.monotonic() + LINGER_S
            connection.hang_up()
        elif connection.due < (idle := time.monotonic() + IDLE_S) and not connection.begun and not connection.over:
            connection.due = idle
        return True

    def _wait(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        self._waiting[fd] = connection
        self._epoll.modify(fd, connection.events | select.EPOLLONESHOT)

    def _close(self, connection: Connection) -> None:
        self._open.discard(connection)
        # Closing takes it out of the epoll as well.
        with suppress(OSError):
            connection.socket.close()

    # ---- those that take too long, or too much ----

    def _sweep(self) -> None:
        while not self._ended.wait(_SWEEP_S):
            now = time.monotonic()
            waiting = 0
            for fd, one in list(self._waiting.items()):
                waiting += one.waiting_bytes
                if one.due < now and self._waiting.pop(fd, None) is one:
                    self._close(one)
            while waiting > WAITING_BYTES and (dropped := self._drop_oldest()):
                waiting -= dropped

    def _make_room(self) -> None:
        if len(self._open) >= self._most:
            self._drop_oldest()

    def _drop_oldest(self) -> int:
        """Close the one that waits longest: of strangers who have asked nothing yet, else of all. Return its bytes."""
        for fd, one in sorted(self._waiting.items(), key=lambda item: (item[1].served > 0, item[1].due)):
            if self._waiting.pop(fd, None) is one:
                self._close(one)
                return max(1, one.waiting_bytes)
        return 0


class _Http(Server):
    """cheroot's HTTP without its sockets and threads: what its requests and gateways ask their server for."""

    software = "usmed"
    max_request_header_size = HEAD_BYTES
    environment: dict[str, str] = {}  # noqa: RUF012 - of the one instance
    stopping = False

    @property
    def can_add_keepalive_connection(self) -> bool:
        return not self.stopping

    def answer(self, connection: Connection) -> bool:
        """Answer the request that is there; return whether the connection is kept.

        Raises:
            OSError: the connection has broken.
        """
        exchange = _Exchange(connection, self.environment)
        request = _Request(self, exchange)
        try:
            request.parse_request()
            if not request.ready:
                return False
            request.close_connection = request.close_connection or connection.last
            request.respond()
        except OSError:
            raise
        except Exception:
            log.exception("listener: a request failed")
            if not request.sent_headers:
                request.simple_response("500 Internal Server Error")
            return False
        return not request.close_connection


class _Exchange:
    """What cheroot sees of a connection: one whole request, and where its answer goes."""

    def __init__(self, connection: Connection, environment: dict[str, str]) -> None:
        self.rfile = io.BytesIO(connection.take())
        self.wfile = AnswerWriter(connection)
        self.remote_addr, self.remote_port = connection.address
        self.ssl_env = environment


class _Request(HTTPRequest):
    def send_headers(self) -> None:
        writer = cast(AnswerWriter, self.conn.wfile)
        writer.stream = all(name.lower() != b"content-length" for name, _ in self.outheaders)
        super().send_headers()
