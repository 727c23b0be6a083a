"""Connections to other members: every answer has an end, and all can be broken off at once.

urllib3's connections, with two things that it lacks: a time by which an answer has to be there, and a way for another
thread to end what is under way.
"""

import http.client
import io
import socket
import ssl
import time
import weakref
from contextlib import suppress
from typing import Any

import urllib3

BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""What is raised where a connection fails; `diagnosis` says what happened."""


class _DeadlineReader(io.RawIOBase):
    """Reads from a connection until one moment, which `end` says (monotonic).

    A socket's own timeout begins anew with every byte: an answer that drips would never end.
    """

    def __init__(self, connection: socket.socket, raw: Any) -> None:
        self._connection = connection
        self._raw = raw
        self.end = time.monotonic() + (connection.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self.end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left_s)
        got: int | None = self._raw.readinto(buffer)
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedAnswer(http.client.HTTPResponse):
    """An answer whose status line, headers and body have to come within the connection's timeout, all together."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        file: Any = self.fp
        self.reader = _DeadlineReader(sock, file.detach())
        self.fp = io.BufferedReader(self.reader)


class _Breakable:
    """A connection that says in `opened` which socket it uses; an answer that is being read may have taken it over."""

    opened: "weakref.WeakSet[socket.socket]"
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.opened.add(self.sock)


class _PlainConnection(_Breakable, urllib3.connection.HTTPConnection):
    response_class = _BoundedAnswer


class _TlsConnection(_Breakable, urllib3.connection.HTTPSConnection):
    response_class = _BoundedAnswer


class _BreakablePool:
    """A pool of connections that can be broken off from another thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opened: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.opened = self._opened
        return connection

    def break_off(self) -> None:
        """End every connection: who waits for an answer on one gets an error."""
        for one in list(self._opened):
            with suppress(OSError):
                # Not SSLSocket's own, which would let a thread that reads go on without TLS.
                socket.socket.shutdown(one, socket.SHUT_RDWR)


class _PlainPool(_BreakablePool, urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(_BreakablePool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


type Pool = _PlainPool | _TlsPool


def open_pool(address: str, tls_certificate: str, *, connections: int) -> Pool:
    """Return a pool of connections to an address.

    Args:
        address: `http(s)://host[:port]`.
        tls_certificate: PEM that a TLS connection must chain to; empty means the system's authorities.
        connections: how many are kept.
    """
    url = urllib3.util.parse_url(address)
    options: dict[str, Any] = {"maxsize": connections, "block": False}
    if url.scheme != "https":
        return _PlainPool(url.host or "", url.port or 80, **options)
    context = ssl.create_default_context(cadata=tls_certificate or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return _TlsPool(url.host or "", url.port or 443, ssl_context=context, **options)


def extend(response: urllib3.BaseHTTPResponse, end: float) -> None:
    """Give an answer until `end` (monotonic) to go on."""
    answer = getattr(response, "_original_response", None)
    if isinstance(answer, _BoundedAnswer):
        answer.reader.end = end


_CUT = {"RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"}
"""What OpenSSL 3.2 and newer call a line that was cut in the middle of a record."""


def diagnosis(error: Exception) -> str:
    """Say in plain words why a connection failed."""
    tls = error.args[0] if isinstance(error, urllib3.exceptions.SSLError) and error.args else error
    if isinstance(tls, ssl.SSLCertVerificationError):
        return "its TLS certificate is not the one in the region manifest"
    if isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError) or getattr(tls, "reason", None) in _CUT:
        return "the connection broke off"
    if isinstance(tls, ssl.SSLError | urllib3.exceptions.SSLError):
        return "it does not speak TLS as this node does (is it the right port?)"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "no connection (is it running, and its address right?)"
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "it did not answer in time"
    cause = error.args[-1] if error.args else None
    broken_off = ConnectionError | http.client.IncompleteRead
    if isinstance(cause, http.client.HTTPException) and not isinstance(cause, broken_off):
        return "what it answers is not HTTP"
    if isinstance(error, urllib3.exceptions.ProtocolError | OSError):
        return "the connection broke off"
    return type(error).__name__
