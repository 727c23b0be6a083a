"""Sends syslog messages: over TLS (RFC 5425), or as datagrams (RFC 5426), which nobody acknowledges."""

import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from usmed.domain.errors import TransportError

TIMEOUT_S = 10.0
LONGEST_DATAGRAM = 65_000


class Sender(Protocol):
    """Sends messages somewhere."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send; return when they have arrived as far as can be known.

        Raises:
            TransportError: they have not, or some may not have.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: whom the server's certificate is signed by (empty: the system's), and our own if it wants one."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


class TlsSender:
    """A connection that is opened when it is needed."""

    def __init__(self, host: str, port: int, files: TlsFiles, timeout_s: float = TIMEOUT_S) -> None:
        self._host = host
        self._port = port
        self._files = files
        self._timeout_s = timeout_s
        self._connection: ssl.SSLSocket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """See `Sender`: arrived is what the other machine has acknowledged (TCP), without hanging up afterwards."""
        try:
            connection = self._connection or self._connect()
            self._connection = connection
            self._check_open(connection)
            # RFC 5425 §4.3: MSG-LEN SP SYSLOG-MSG; the length counts bytes.
            connection.sendall(b"".join(b"%d %b" % (len(one), one) for one in messages))
            self._wait_until_acknowledged(connection)
            self._check_open(connection)
        except (OSError, ValueError) as error:
            self.close()
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TransportError(f"syslog {self._host}:{self._port}: {said}") from error

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self._files.authority or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._files.certificate:
            context.load_cert_chain(self._files.certificate, self._files.key or None)
        plain = socket.create_connection((self._host, self._port), self._timeout_s)
        try:
            return context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    def _check_open(self, connection: ssl.SSLSocket) -> None:
        """Find out whether the server has hung up: a syslog server never says anything else."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        while connection.pending() or poll.poll(0):
            connection.settimeout(0.2)
            try:
                if connection.recv(4096) == b"":
                    raise ConnectionResetError("the server has hung up")
            except (ssl.SSLWantReadError, TimeoutError):
                # What came was TLS's own, such as session tickets.
                return
            finally:
                connection.settimeout(self._timeout_s)

    def _wait_until_acknowledged(self, connection: ssl.SSLSocket) -> None:
        end = time.monotonic() + self._timeout_s
        while _unacknowledged(connection):
            if time.monotonic() > end:
                raise TimeoutError("the server's machine does not acknowledge")
            time.sleep(0.01)


class DatagramSender:
    """UDP: what is lost on the way nobody knows."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def send(self, messages: Sequence[bytes]) -> None:
        """See `Sender`: only that they were sent is known."""
        try:
            family, *_, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as out:
                for one in messages:
                    # RFC 5426 §3.2: at most what one datagram holds; what is cut off is the message's end.
                    out.sendto(one[:LONGEST_DATAGRAM], address)
        except OSError as error:
            raise TransportError(f"syslog {self._address[0]}:{self._address[1]}: {error.strerror or error}") from error

    def close(self) -> None:
        """Do nothing."""


def _unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the other machine has not acknowledged (Linux, tcp(7), SIOCOUTQ)."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
