"""A mail server: SMTP (RFC 5321) with STARTTLS and AUTH PLAIN over real sockets. It keeps what it is given.

It takes nothing in the clear, and nothing without the password, as the real ones do.
"""

import base64
import contextlib
import email
import email.policy
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import BinaryIO


class MailServer:
    """Accepts connections in threads of its own.

    Attributes:
        messages: what was delivered.
        recipients: to whom, in the envelopes.
        refuse: text of a subject whose messages are refused.
        offers_tls: whether it says that it knows STARTTLS.
    """

    def __init__(self, certificate: Path, *, user: str = "", password: str = "", tls: bool = False, port: int = 0):
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.refuse = ""
        self.offers_tls = True
        self._credentials = base64.b64encode(f"\0{user}\0{password}".encode()).decode() if user else ""
        self._tls = tls
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, f"{certificate}.key")
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="mail-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.enter_context(line).settimeout(10)
            if self._tls:
                line = stack.enter_context(self._context.wrap_socket(line, server_side=True))
            self._say(line, "220 mail.example ESMTP")
            self._talk(line, stack, secure=self._tls)

    def _talk(self, line: socket.socket, stack: contextlib.ExitStack, *, secure: bool) -> None:
        recipients: list[str] = []
        known, stream = not self._credentials, stack.enter_context(line.makefile("rb"))
        while request := stream.readline():
            verb, _, rest = request.decode("ascii").strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    more = ["AUTH PLAIN"] if secure else ["STARTTLS"] if self.offers_tls else []
                    lines = ["mail.example", *more]
                    self._say(line, *[f"250{'-' if one != lines[-1] else ' '}{one}" for one in lines])
                case "STARTTLS" if self.offers_tls:
                    self._say(line, "220 go ahead")
                    line, secure = stack.enter_context(self._context.wrap_socket(line, server_side=True)), True
                    stream = stack.enter_context(line.makefile("rb"))
                case "AUTH" if secure and rest == f"PLAIN {self._credentials}":
                    known = True
                    self._say(line, "235 welcome")
                case "AUTH":
                    self._say(line, "535 wrong password")
                case "MAIL" | "RCPT" | "DATA" if not secure or not known:
                    self._say(line, "530 encrypt and log in first")
                case "MAIL":
                    recipients = []
                    self._say(line, "250 ok")
                case "RCPT":
                    recipients.append(rest.partition("<")[2].partition(">")[0])
                    self._say(line, "250 ok")
                case "DATA":
                    self._say(line, "354 go on")
                    self._take(line, stream, recipients)
                case "QUIT":
                    self._say(line, "221 bye")
                    return
                case _:
                    self._say(line, "250 ok" if verb.upper() in ("RSET", "NOOP") else "502 no")

    def _take(self, line: socket.socket, stream: BinaryIO, recipients: list[str]) -> None:
        data = b""
        while (one := stream.readline()) not in (b".\r\n", b""):
            data += one.removeprefix(b".") if one.startswith(b"..") else one
        message = email.message_from_bytes(data, policy=email.policy.default)
        if self.refuse and self.refuse in message["Subject"]:
            self._say(line, "554 refused")
            return
        self.messages.append(message)
        self.recipients += recipients
        self._say(line, "250 taken")

    def _say(self, line: socket.socket, *lines: str) -> None:
        line.sendall("".join(f"{one}\r\n" for one in lines).encode("ascii"))


@contextlib.contextmanager
def mail_server(certificate: Path, **options: object) -> Iterator[MailServer]:
    """Run a mail server with the certificate in this file, and its key in `FILE.key`."""
    server = MailServer(certificate, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
