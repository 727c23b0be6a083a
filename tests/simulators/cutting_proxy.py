"""A bad line: a TCP proxy that slows down, falls silent, breaks, or changes bytes on the way.

What it does can change at any moment, also for connections that are open. Delay without loss of speed is
`delay_proxy.py`'s.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

CHUNK_BYTES = 16 << 10

Alter = Callable[[bytes], bytes]
"""Gets every chunk of the answers in turn and returns what is passed on in its place."""


class CuttingProxy:
    """Forwards connections to `target`. Runs in threads of its own.

    Args:
        target: host and port behind the line.
        address: where it listens, on a free port.

    Attributes:
        bytes_per_second: how fast answers pass, over all connections together; None for no limit.
        alter: makes, for each new connection, what changes its answers; None leaves them as they are.
        forwarded_bytes: how much of answers has passed.
    """

    def __init__(self, target: tuple[str, int], *, address: str = "127.0.0.1") -> None:
        self.target = target
        self.bytes_per_second: float | None = None
        self.alter: Callable[[], Alter] | None = None
        self.forwarded_bytes = 0
        self._listener = socket.create_server((address, 0), backlog=128)
        self.address, self.port = address, int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._free_at = 0.0
        self._thread = threading.Thread(target=self._accept, name="cutting-proxy", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection and end."""
        # Closing alone would leave a blocked accept() waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.flow()
        self.cut()
        if self._thread.is_alive():
            self._thread.join()

    def cut(self) -> int:
        """Break every open connection, as a pulled cable with a reset does; return how many there were."""
        with self._lock:
            victims = list(self._open)
        for one in victims:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(victims) // 2

    def stall(self) -> None:
        """Let nothing pass, and say nothing about it."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let bytes pass again."""
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="cutting-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                return
            with server:
                server.settimeout(None)
                with self._lock:
                    self._open |= {client, server}
                asking = threading.Thread(target=self._pump, args=(client, server, None), daemon=True)
                asking.start()
                self._pump(server, client, self.alter() if self.alter is not None else _unchanged)
                asking.join()
                with self._lock:
                    self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, alter: Alter | None) -> None:
        """Forward one direction; `alter` is None for requests."""
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                if alter is not None:
                    self._pace(len(data))
                    self.forwarded_bytes += len(data)
                    data = alter(data)
                sink.sendall(data)
        # One end is gone: the other must learn of it.
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _pace(self, size: int) -> None:
        speed = self.bytes_per_second
        if speed is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / speed
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


def _unchanged(data: bytes) -> bytes:
    return data


def replacing(old: bytes, new: bytes) -> Callable[[], Alter]:
    """Return a value for `CuttingProxy.alter` that puts `new` wherever `old`, of the same length, passes."""
    assert len(old) == len(new)

    def connection() -> Alter:
        tail = b""

        def alter(data: bytes) -> bytes:
            # What could be the beginning of `old` has passed already, so only its rest can still be changed.
            nonlocal tail
            seen = tail + data
            changed = seen.replace(old, new)
            tail = seen[len(seen) - min(len(seen), len(old) - 1) :]
            return changed[len(seen) - len(data) :]

        return alter

    return connection


@contextlib.contextmanager
def bad_line(target: tuple[str, int], address: str = "127.0.0.1") -> Iterator[CuttingProxy]:
    """Run a proxy for a while."""
    proxy = CuttingProxy(target, address=address)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
