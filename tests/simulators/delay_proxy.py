"""A line with a round trip: a TCP proxy that delays what passes and does not slow it down.

Every chunk gets the time at which it may leave, so that what is on its way is limited by memory, never by
bandwidth times delay. A new connection waits one round trip for its first byte, as a TCP handshake would.
It does not lose, reorder or limit anything: that is for other simulators.
"""

import argparse
import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

CHUNK_BYTES = 256 << 10
IN_FLIGHT_BYTES = 64 << 20
"""The most that one direction of one connection holds: 40 ms of 1.6 GB/s."""


@dataclass
class _Line:
    """One direction of one connection. `b""` in it is the end of the stream."""

    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    held_bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)


class DelayProxy:
    """Forwards connections to `target`, each byte at least `one_way_s` later. Runs in a thread of its own.

    Args:
        target: host and port behind the line.
        one_way_s: the delay in each direction; the round trip is twice that.
        address, port: where it listens; port 0 takes a free one.
    """

    def __init__(self, target: tuple[str, int], one_way_s: float, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.target, self.one_way_s = target, one_way_s
        self._listener = socket.create_server((address, port), backlog=128)
        self._listener.setblocking(False)
        self.address, self.port = address, int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="delay-proxy", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection and end."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._listener.close()

    def serve(self) -> None:
        """Run in this thread until the process ends."""
        self._run()

    def _run(self) -> None:
        accepting = self._loop.create_task(self._accept())
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(accepting, *tasks, return_exceptions=True))
            self._loop.close()

    async def _accept(self) -> None:
        serving: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(client))
            serving.add(task)
            task.add_done_callback(serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        with client, socket.socket() as server:
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened = self._loop.time()
            with contextlib.suppress(OSError):
                await self._loop.sock_connect(server, self.target)
                there, back = _Line(), _Line()
                # Both ends are forwarded; a broken one breaks the other.
                async with asyncio.TaskGroup() as group:
                    for source, line, sink in ((client, there, server), (server, back, client)):
                        group.create_task(self._read(source, line, opened + 2 * self.one_way_s))
                        group.create_task(self._write(line, sink))

    async def _read(self, source: socket.socket, line: _Line, established: float) -> None:
        while True:
            while line.held_bytes >= IN_FLIGHT_BYTES:
                line.room.clear()
                await line.room.wait()
            data = await self._loop.sock_recv(source, CHUNK_BYTES)
            line.chunks.append((max(self._loop.time(), established) + self.one_way_s, data))
            line.held_bytes += len(data)
            line.changed.set()
            if not data:
                return

    async def _write(self, line: _Line, sink: socket.socket) -> None:
        while True:
            while not line.chunks:
                line.changed.clear()
                await line.changed.wait()
            due, data = line.chunks.popleft()
            wait = due - self._loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)
            line.held_bytes -= len(data)
            line.room.set()


@contextlib.contextmanager
def delayed(target: tuple[str, int], one_way_s: float) -> Iterator[DelayProxy]:
    """Run a proxy for a while."""
    proxy = DelayProxy(target, one_way_s)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def main() -> None:
    """Run a proxy as a process: it prints its port, and runs until it is ended."""
    parser = argparse.ArgumentParser(description="TCP proxy that delays each direction without limiting throughput")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--one-way-ms", type=float, default=20.0)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    proxy = DelayProxy((host, int(port)), options.one_way_ms / 1000, address=options.address, port=options.port)
    print(proxy.port, flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
