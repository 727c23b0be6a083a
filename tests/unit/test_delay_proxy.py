"""The delayed line delays, keeps every byte and the end of the stream, and does not limit throughput."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from simulators.delay_proxy import delayed

ONE_WAY_S = 0.05


@contextlib.contextmanager
def service(handle: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Serve one connection with `handle`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    handle(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            # Wakes a service that nobody has called.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextlib.contextmanager
def connected(handle: Callable[[socket.socket], None], one_way_s: float) -> Iterator[socket.socket]:
    """Connect to such a service over a delayed line."""
    with (
        service(handle) as target,
        delayed(target, one_way_s) as proxy,
        socket.create_connection((proxy.address, proxy.port)) as connection,
    ):
        connection.settimeout(30)
        yield connection


def echo(connection: socket.socket) -> None:
    """Send back what comes, then the end."""
    while data := connection.recv(1 << 20):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection: socket.socket) -> bytes:
    """Return everything up to the end of the stream."""
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def test_a_question_takes_a_round_trip_and_the_first_one_two() -> None:
    """The first waits for the handshake too."""
    trips = []
    with connected(echo, ONE_WAY_S) as connection:
        for _ in range(3):
            started = time.monotonic()
            connection.sendall(b"?")
            assert connection.recv(10) == b"?"
            trips.append(time.monotonic() - started)
    # Above: whatever else the machine does meanwhile.
    assert 4 * ONE_WAY_S - 0.001 <= trips[0] < 4 * ONE_WAY_S + 0.5
    assert 2 * ONE_WAY_S <= min(trips[1:]) < 4 * ONE_WAY_S


def test_many_bytes_come_through_whole_and_are_not_slowed_down() -> None:
    """64 MB in chunks of 64 KB take far less than a round trip for each."""
    data = os.urandom(1 << 20) * 64
    with connected(lambda server: server.sendall(data), ONE_WAY_S) as connection:
        started = time.monotonic()
        got = read_all(connection)
        took = time.monotonic() - started
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    # Stop and wait would take 1024 × 0.1 s.
    assert took < 10


def test_one_direction_may_end_before_the_other() -> None:
    """A half-closed connection still brings the answer (RFC 9293 §3.6)."""
    with connected(lambda server: server.sendall(read_all(server)[::-1]), 0.01) as connection:
        connection.sendall(b"abc" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"cba" * 100_000


def test_nobody_behind_it_is_a_closed_connection() -> None:
    """Not one that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = probe.getsockname()
    with delayed(nobody, 0.01) as proxy, socket.create_connection((proxy.address, proxy.port)) as connection:
        connection.settimeout(5)
        assert connection.recv(1) == b""


def test_a_broken_side_breaks_the_other() -> None:
    """What the client sends after the server is gone is not swallowed for ever."""
    with (
        connected(lambda server: server.close(), 0.01) as connection,
        pytest.raises(OSError, match=r"(?i)broken pipe|reset"),
    ):
        for _ in range(200):
            connection.sendall(bytes(1 << 16))
            time.sleep(0.01)
