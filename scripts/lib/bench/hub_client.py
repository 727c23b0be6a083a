"""Who asks the hub, each in a process of its own: lookups at a fixed rate, and nodes that announce studies.

The processors are shared with what is measured, so a request is bytes on a kept TLS connection and no more.
"""

import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from joserfc.jwk import OKPKey

from bench.nodes import BenchError
from usmed.domain.request_signature import sign_request

BATCH = 200
"""The most that a node announces at once (`hospital/feed.py`)."""


@dataclass(frozen=True)
class Where:
    """The hub: host, port, certificate (a file)."""

    host: str
    port: int
    certificate: str


@dataclass(frozen=True)
class Wish:
    """One request: who sends it with which key (as JWK), and the body."""

    sender: str
    key: dict[str, str]
    body: bytes


class Line:
    """A kept connection."""

    def __init__(self, where: Where) -> None:
        plain = socket.create_connection((where.host, where.port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.create_default_context(cafile=where.certificate)
        self._socket = context.wrap_socket(plain, server_hostname=where.host)
        # Until its first request is answered a connection takes one of the hub's threads.
        self.ask(f"GET /health HTTP/1.1\r\nHost: {where.host}:{where.port}\r\n\r\n".encode("ascii"))

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer."""
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._read()
        head = data[:end].lower()
        start = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[start:].split(b"\r\n", 1)[0])
        body = data[end + 4 :]
        while len(body) < length:
            body += self._read()
        return int(head[9:12]), body

    def _read(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise BenchError("the hub closed a connection")
        return data

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def request(where: Where, key: OKPKey, sender: str, path: str, body: bytes, at: float) -> bytes:
    """Return the bytes of a request that is signed for a moment (Unix time)."""
    authorization = sign_request(
        key, sender=sender, receiver="hub", method="POST", target=path, body=body,
        now=datetime.fromtimestamp(at, UTC), jti=secrets.token_urlsafe(18),
    )  # fmt: skip
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {where.host}:{where.port}\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def look_up(where: Where, wishes: Sequence[Wish], rate: float, lines: int) -> list[float]:
    """Send lookups at a fixed rate, whether or not earlier ones are answered; every answer has to name a holder.

    Returns:
        How long each took, in ms, from the moment at which it was due.
    """
    opened = [Line(where) for _ in range(lines)]
    lead_s = len(wishes) / 1500 + 1
    keys = {one.sender: OKPKey.import_key(one.key) for one in wishes}
    start = time.time() + lead_s
    requests = [
        request(where, keys[one.sender], one.sender, "/v1/resolve", one.body, start + number / rate)
        for number, one in enumerate(wishes)
    ]
    begin = time.perf_counter() + max(start - time.time(), 0.1)
    took, bad = [0.0] * len(requests), list[bytes]()
    numbers = iter(range(len(requests)))
    turn = threading.Lock()

    def work(line: Line) -> None:
        while True:
            with turn:
                number = next(numbers, -1)
            if number < 0:
                return
            due = begin + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                time.sleep(wait_s)
            status, body = line.ask(requests[number])
            took[number] = 1000 * (time.perf_counter() - due)
            if status != 200 or b'"holders":[]' in body:
                bad.append(body)

    _all(work, opened)
    if bad:
        raise BenchError(f"{len(bad)} lookups were not answered as they should be: {bad[0][:300]!r}")
    return took


def announce(where: Where, studies: Sequence[tuple[float, Wish]], seconds: float) -> tuple[int, list[float]]:
    """Let every hospital's node announce its studies: one request at a time, with all that has come meanwhile.

    Args:
        studies: when each comes (seconds from the beginning), and its record as the body.

    Returns:
        How many studies were taken within `seconds`, and how long each waited, in ms.
    """
    mine: dict[str, list[tuple[float, Wish]]] = {}
    for one in studies:
        mine.setdefault(one[1].sender, []).append(one)
    nodes = {sender: (Line(where), OKPKey.import_key(own[0][1].key), own) for sender, own in mine.items()}
    begin = time.perf_counter() + 0.5
    waited: list[list[float]] = []
    counts, bad = list[int](), list[bytes]()

    def work(sender: str) -> None:
        line, key, own = nodes[sender]
        delays, taken, at = list[float](), 0, 0
        while at < len(own):
            now = time.perf_counter() - begin
            if own[at][0] > now:
                time.sleep(own[at][0] - now)
                continue
            end = at
            while end < len(own) and end < at + BATCH and own[end][0] <= now:
                end += 1
            body = b'{"delete":[],"upsert":[' + b",".join(one.body for _, one in own[at:end]) + b"]}"
            status, answer = line.ask(request(where, key, sender, "/v1/studies/feed", body, time.time()))
            done = time.perf_counter() - begin
            if status != 200 or b'"problems":[]' not in answer:
                bad.append(answer)
            taken += end - at if done <= seconds else 0
            delays += [1000 * (done - due) for due, _ in own[at:end]]
            at = end
        waited.append(delays)
        counts.append(taken)

    _all(work, list(nodes))
    if bad:
        raise BenchError(f"{len(bad)} announcements were not taken: {bad[0][:300]!r}")
    return sum(counts), [one for each in waited for one in each]


def _all[T](work: Callable[[T], None], over: Sequence[T]) -> None:
    failures: list[BaseException] = []

    def guarded(one: T) -> None:
        try:
            work(one)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in over]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchError(str(failures[0])) from failures[0]
