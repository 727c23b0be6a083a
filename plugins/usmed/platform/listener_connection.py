"""One connection of the listener: TLS, the bytes of requests as they come, answers as they go. Nothing here ever waits.

Whoever holds a connection is alone with it (`listener.py` sees to that), so there are no locks.
"""

import re
import select
import socket
import ssl
import time
from contextlib import suppress
from enum import Enum

HEAD_BYTES = 32 << 10
STALL_S = 20.0
SLOWEST_BYTES_PER_S = 16 << 10
"""A receiver may take nothing for the first in all, and gets a second more for so many bytes taken; so may a sender."""

STREAM_BYTES = 1 << 20
"""How much of a stream may wait for its receiver before the thread that makes it waits, too."""

_PIECE = 64 << 10
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:([^\r\n]*)", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)


class Came(Enum):
    """What a look at a connection found."""

    LITTLE = 1
    """Not yet a whole request."""
    REQUEST = 2
    END = 3
    """The other side has hung up, or spoke no TLS."""


class StalledError(OSError):
    """A receiver takes a stream too slowly."""


def request_size(received: bytes | bytearray, limit_bytes: int) -> tuple[int | None, bool]:
    """Say how long the first request in these bytes is, and whether another may follow it on its connection.

    None while its head is not all there. A request that says nothing plain about its length (RFC 9112 §6.3), or too
    much of it, is taken without a body: it is answered (or refused), and the connection is closed.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return (None, True) if len(received) <= HEAD_BYTES else (len(received), False)
    head = bytes(received[: end + 2])
    lengths = [one.strip(b" \t") for one in _LENGTH.findall(head)]
    if not lengths and not _CODING.search(head):
        return end + 4, True
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]) or _CODING.search(head):
        return end + 4, False
    length = int(lengths[0])
    return (end + 4 + length, True) if length <= limit_bytes else (end + 4, False)


class Connection:
    """A socket that does not block, what came and what is to go.

    Attributes:
        due: the moment (monotonic) at which patience with the other side ends.
        served: how many requests it has brought.
        last: no request is taken after this one.
        over: nothing more is taken at all; it ends when the answer is gone.
    """

    def __init__(self, sock: socket.socket, address: tuple[str, int], *, due: float, limit_bytes: int) -> None:
        self.socket = sock
        self.address = address
        self.due = due
        self.served = 0
        self.last = self.over = False
        self.to_send = bytearray()
        self.events = select.EPOLLIN
        self._limit_bytes = limit_bytes
        self._greeted = not isinstance(sock, ssl.SSLSocket)
        self._received = bytearray()
        self._size: int | None = None

    @property
    def waiting_bytes(self) -> int:
        """How much memory it takes."""
        return len(self._received) + len(self.to_send)

    @property
    def begun(self) -> bool:
        """Whether a request has begun to come, or an answer has not wholly gone."""
        return bool(self._received or self.to_send)

    def advance(self, patience_s: float) -> Came:
        """Take what is there; `patience_s` is how long a request may take to arrive once it has begun."""
        try:
            if not self._greet():
                return Came.LITTLE
            if self.over:
                # What is still coming is read and forgotten: closing before would take the answer from who sends.
                while self.socket.recv(_PIECE):
                    pass
                return Came.END
            while not self._whole():
                begun = bool(self._received)
                piece = self.socket.recv(_PIECE)
                if not piece:
                    return Came.END
                if not begun and self.served:
                    self.due = time.monotonic() + patience_s
                self._received += piece
            return Came.REQUEST
        except ssl.SSLWantWriteError:
            self.events = select.EPOLLOUT
        except _WOULD_BLOCK:
            self.events = select.EPOLLIN
        except OSError:
            return Came.END
        return Came.LITTLE

    def _greet(self) -> bool:
        if not self._greeted:
            assert isinstance(self.socket, ssl.SSLSocket)
            self.socket.do_handshake()
            self._greeted = True
        return True

    def _whole(self) -> bool:
        if self._size is None:
            self._size, more = request_size(self._received, self._limit_bytes)
            self.last = not more
            if self._size is not None:
                self.due += max(0, self._size - len(self._received)) / SLOWEST_BYTES_PER_S
        return self._size is not None and len(self._received) >= self._size

    def take(self) -> bytes:
        """Return the request that is there whole."""
        assert self._size is not None
        request = bytes(self._received[: self._size])
        del self._received[: self._size]
        self._size = None
        self.served += 1
        return request

    def has_request(self) -> bool:
        """Whether another came with the last one."""
        return bool(self._received) and self._whole()

    def flush(self) -> bool:
        """Send what goes now; return whether that was all.

        Raises:
            OSError: the connection has broken.
        """
        try:
            while self.to_send:
                with memoryview(self.to_send) as waiting, waiting[:_PIECE] as piece:
                    sent = self.socket.send(piece)
                del self.to_send[:sent]
        except ssl.SSLWantReadError:
            self.events = select.EPOLLIN
            return False
        except _WOULD_BLOCK:
            self.events = select.EPOLLOUT
            return False
        return True

    def hang_up(self) -> None:
        """Tell the other side that nothing more comes from here."""
        self.over = True
        self.events = select.EPOLLIN
        if isinstance(self.socket, ssl.SSLSocket):
            # Says so in TLS (RFC 8446 §6.1), and does not stay for the answer.
            with suppress(OSError, ValueError):
                self.socket.unwrap()
        self.socket.shutdown(socket.SHUT_WR)


class AnswerWriter:
    """Where an answer is written: to its connection, as fast as the other side takes it; the rest waits there.

    Only a stream, whose end nobody knows, makes the thread that writes it wait when more than a megabyte lies there.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = self._waited_s = 0.0
        self._head = True
        self.stream = False

    def write(self, data: bytes) -> int:
        """Send these bytes, or keep them.

        Raises:
            OSError: the connection has broken, or a stream's receiver is too slow.
        """
        connection = self._connection
        connection.to_send += data
        if self._head:
            # What follows at once goes with it.
            self._head = False
            return len(data)
        while not connection.flush() and self.stream and len(connection.to_send) > STREAM_BYTES:
            left_s = STALL_S + self._sent / SLOWEST_BYTES_PER_S - self._waited_s
            start, before = time.monotonic(), len(connection.to_send)
            poll = select.poll()
            poll.register(connection.socket.fileno(), connection.events)
            if left_s <= 0 or not poll.poll(min(left_s, STALL_S) * 1000):
                raise StalledError("the receiver takes too little")
            self._waited_s += time.monotonic() - start
            self._sent += before - len(connection.to_send)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `write` has sent what goes."""
