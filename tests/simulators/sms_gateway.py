"""An SMS gateway: one HTTP request for one message, over real sockets. It keeps what it is given, and may misbehave."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


@dataclass
class Message:
    """What was asked for."""

    to: str
    text: str
    headers: dict[str, str]
    method: str


class SmsGateway:
    """Accepts connections in threads of its own.

    Attributes:
        messages: what it was asked to send, also where it then said that it was not.
        status: what it answers with.
        says: the body of its answers.
        slow_s: how long it waits before it answers.
        cuts: whether it ends the connection in place of an answer.
        refuses: numbers that it says 400 to, and does not keep.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.messages: list[Message] = []
        self.status, self.says, self.slow_s, self.cuts = 200, '{"status": "queued"}', 0.0, False
        self.refuses: set[str] = set()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                gateway.answer(self)

            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/sms?account=7"
        self._thread = threading.Thread(target=self._server.serve_forever, name="sms-gateway", daemon=True)
        self._thread.start()

    def texts_to(self, number: str) -> list[str]:
        """Return what was sent to a number."""
        return [one.text for one in self.messages if one.to == number]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Take one request."""
        body = request.rfile.read(int(request.headers["Content-Length"])).decode("utf-8")
        if request.headers["Content-Type"] == "application/json":
            given = json.loads(body)
            to, text = given["to"], given["message"]["text"]
        else:
            form = parse_qs(body, strict_parsing=True)
            (to,), (text,) = form["to"], form["text"]
        status = 400 if to in self.refuses else self.status
        if status != 400:
            self.messages.append(Message(to, text, dict(request.headers.items()), request.command))
        time.sleep(self.slow_s)
        if self.cuts:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Length", str(len(self.says.encode())))
            request.end_headers()
            request.wfile.write(self.says.encode())

    def stop(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextlib.contextmanager
def sms_gateway(**options: int) -> Iterator[SmsGateway]:
    """Run a gateway."""
    gateway = SmsGateway(**options)
    try:
        yield gateway
    finally:
        gateway.stop()
