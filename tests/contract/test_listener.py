"""The listener of every actor: who is slow or silent holds up nobody, and nobody's request is lost."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from support.process import eventually, free_port
from usmed.domain.errors import ConfigurationError
from usmed.platform import listener as listener_module
from usmed.platform import listener_connection
from usmed.platform.keys import generate_certificate
from usmed.platform.listener import Listener

THREADS = 2
MANY = 20
LARGE = bytes(range(256)) * (64 << 10)
AT_ONCE_S = 2.0
"""Far less than any patience that the listener has, and far more than an answer takes."""


class Application:
    """Answers in every way that matters here."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.may_end = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.served.append(path)
        if path == "/broken":
            raise RuntimeError("as applications do")
        if path == "/stream":
            start_response("200 OK", [("Content-Type", "application/octet-stream")])
            return self._stream()
        body = LARGE if path == "/large" else environ["wsgi.input"].read()
        if path == "/slow":
            assert self.may_end.wait(10)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def _stream(self) -> Iterator[bytes]:
        for _ in range(64):
            yield LARGE[: 1 << 20]


class Running:
    """A listener that serves, and its callers."""

    def __init__(self, folder: Path) -> None:
        self.application = Application()
        self.port = free_port()
        certificate, key = folder / "tls.pem", folder / "tls.key"
        generate_certificate("127.0.0.1", certificate=certificate, key=key, now=datetime.now(UTC))
        self.context = ssl.create_default_context(cafile=str(certificate))
        self.listener = Listener(
            self.application, address="127.0.0.1", port=self.port, threads=THREADS, limit_bytes=1 << 20,
            certificate_file=str(certificate), key_file=str(key), settings="test",
        )  # fmt: skip
        self.listener.bind()
        self.listener.start()

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def line(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.plain(), server_hostname="127.0.0.1")

    @contextmanager
    def connection(self) -> Iterator[HTTPSConnection]:
        connection = HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def answers_at_once(self) -> None:
        start = time.monotonic()
        with self.connection() as connection:
            connection.request("POST", "/echo", b"who is there?")
            assert connection.getresponse().read() == b"who is there?"
        assert time.monotonic() - start < AT_ONCE_S


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.application.may_end.set()
    running.listener.stop()


def request(path: str, body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def ended(line: socket.socket, within_s: float) -> bool:
    """Tell whether the other side ends the connection within that time; what it still says is read."""
    line.settimeout(within_s)
    with suppress(ConnectionError, ssl.SSLError):
        try:
            while line.recv(65536):
                pass
        except TimeoutError:
            return False
    return True


BEGINNINGS: dict[str, Callable[[Running], socket.socket]] = {}


def beginning(make: Callable[[Running], socket.socket]) -> Callable[[Running], socket.socket]:
    BEGINNINGS[make.__name__] = make
    return make


@beginning
def nothing(running: Running) -> socket.socket:
    return running.plain()


@beginning
def half_a_greeting(running: Running) -> socket.socket:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        running.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    line = running.plain()
    line.sendall(outgoing.read()[:40])
    return line


@beginning
def only_tls(running: Running) -> socket.socket:
    return running.line()


@beginning
def half_a_head(running: Running) -> socket.socket:
    line = running.line()
    line.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    return line


@beginning
def half_a_body(running: Running) -> socket.socket:
    line = running.line()
    line.sendall(request("/echo", b"x" * 1000)[:-500])
    return line


@beginning
def a_large_answer_that_nobody_reads(running: Running) -> socket.socket:
    line = running.line()
    line.sendall(request("/large"))
    return line


@beginning
def silence_after_an_answer(running: Running) -> socket.socket:
    line = running.line()
    line.sendall(request("/echo", b"yes"))
    assert line.recv(65536)
    return line


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_more_slow_callers_than_threads_hold_up_nobody(running: Running, kind: str) -> None:
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(BEGINNINGS[kind](running))
        for _ in range(3):
            running.answers_at_once()


def test_a_large_answer_is_whole_however_late_it_is_read(running: Running) -> None:
    with running.line() as line:
        line.sendall(request("/large"))
        time.sleep(0.5)
        answer = HTTPResponse(line)
        answer.begin()
        for start in range(0, len(LARGE), 1 << 20):
            assert answer.read(1 << 20) == LARGE[start : start + (1 << 20)]


def test_a_stream_is_whole(running: Running) -> None:
    with running.connection() as connection:
        connection.request("POST", "/stream")
        assert connection.getresponse().read() == LARGE[: 1 << 20] * 64


@pytest.mark.parametrize("kind", ["nothing", "half_a_greeting", "only_tls", "half_a_head", "half_a_body"])
def test_what_does_not_arrive_in_its_time_is_ended(
    running: Running, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "REQUEST_S", 1.0)
    with BEGINNINGS[kind](running) as line:
        assert ended(line, 8)


def test_a_byte_now_and_then_is_no_sign_of_life(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "REQUEST_S", 1.0)
    with half_a_head(running) as line, pytest.raises(OSError):
        for _ in range(80):
            line.sendall(b"x")
            time.sleep(0.1)


def test_a_stream_that_nobody_reads_gives_its_thread_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_connection, "STALL_S", 0.5)
    with ExitStack() as stack:
        for _ in range(THREADS):
            line = stack.enter_context(running.line())
            line.sendall(request("/stream"))
        eventually(lambda: running.application.served.count("/stream") == THREADS)
        eventually(lambda: not running.listener._open, 20)
        running.answers_at_once()


def test_an_answer_that_nobody_reads_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "STALL_S", 0.5)
    monkeypatch.setattr(listener_module, "SLOWEST_BYTES_PER_S", 1 << 30)
    with a_large_answer_that_nobody_reads(running):
        eventually(lambda: running.application.served == ["/large"])
        eventually(lambda: not running.listener._open, 10)


def test_a_connection_carries_one_request_after_the_other(running: Running) -> None:
    with running.connection() as connection:
        for number in range(5):
            connection.request("POST", "/echo", str(number).encode())
            assert connection.getresponse().read() == str(number).encode()
        assert len(running.listener._open) == 1


def test_requests_that_come_together_are_answered_in_their_order(running: Running) -> None:
    with running.line() as line:
        line.sendall(request("/echo", b"first") + request("/echo", b"second") + request("/echo", b"third")[:-2])
        with line.makefile("rb") as read:
            text = b""
            while not text.endswith(b"second"):
                text += read.read(1)
            assert text.index(b"first") < text.index(b"second")
            line.sendall(b"rd")
            while not text.endswith(b"third"):
                text += read.read(1)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nContent-Length: 0\r\n",
        b"Content-Length: +4\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 1048577\r\n",
    ],
)
def test_no_second_request_hides_behind_one_of_doubtful_length(running: Running, head: bytes) -> None:
    with running.line() as line:
        line.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + request("/hidden"))
        assert ended(line, 8)
    running.answers_at_once()
    assert "/hidden" not in running.application.served


def test_who_still_sends_reads_the_answer_nevertheless(running: Running) -> None:
    with running.line() as line:
        line.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
        for _ in range(64):
            line.sendall(b"x" * (64 << 10))
        assert line.recv(65536).startswith(b"HTTP/1.1 ")
        assert ended(line, 8)


def test_an_application_that_fails_is_a_500_and_nothing_more(running: Running) -> None:
    with running.connection() as connection:
        connection.request("POST", "/broken")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (500, b"")
    running.answers_at_once()


@pytest.mark.parametrize("junk", [b"\x00" * 1000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_speaks_no_tls_is_hung_up_on(running: Running, junk: bytes) -> None:
    with running.plain() as line:
        line.sendall(junk)
        assert ended(line, 8)
    running.answers_at_once()


def test_when_there_is_no_room_the_oldest_stranger_goes(running: Running) -> None:
    running.listener._most = 10
    with ExitStack() as stack:
        known = stack.enter_context(running.connection())
        known.request("POST", "/echo", b"before")
        assert known.getresponse().read() == b"before"
        silent = [stack.enter_context(only_tls(running)) for _ in range(30)]
        running.answers_at_once()
        assert ended(silent[0], 8)
        known.request("POST", "/echo", b"after")
        assert known.getresponse().read() == b"after"
        assert len(running.listener._open) <= 10


def test_what_waits_takes_no_more_than_so_much_memory(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "WAITING_BYTES", 2 << 20)
    with ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(6)]
        for one in lines:
            with suppress(OSError):
                one.sendall(request("/echo", b"x" * 1_000_000)[:-1])
        eventually(lambda: sum(one.waiting_bytes for one in list(running.listener._open)) <= 2 << 20, 10)
        running.answers_at_once()


def test_a_stop_lets_requests_end_and_takes_no_more(running: Running) -> None:
    with running.connection() as idle, running.connection() as slow:
        idle.request("POST", "/echo", b"x")
        assert idle.getresponse().read() == b"x"
        slow.request("POST", "/slow", b"under way")
        eventually(lambda: "/slow" in running.application.served)
        stopping = threading.Thread(target=running.listener.stop)
        stopping.start()
        assert idle.sock is not None
        assert ended(idle.sock, 5)
        with pytest.raises(OSError):
            running.plain()
        running.application.may_end.set()
        answer = slow.getresponse()
        assert (answer.read(), answer.headers["Connection"]) == (b"under way", "close")
        start = time.monotonic()
        stopping.join()
        assert time.monotonic() - start < AT_ONCE_S


def test_a_stop_does_not_wait_for_ever(running: Running) -> None:
    with running.connection() as slow:
        slow.request("POST", "/slow")
        eventually(lambda: "/slow" in running.application.served)
        start = time.monotonic()
        running.listener.stop(1.0)
        assert time.monotonic() - start < 5


def test_a_port_that_is_taken_is_told(running: Running) -> None:
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{running.port} cannot be used"):
        Listener(
            running.application, address="127.0.0.1", port=running.port, threads=1, limit_bytes=1,
            certificate_file="", key_file="", settings="test",
        ).bind()  # fmt: skip

