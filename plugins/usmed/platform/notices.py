"""Notices to people by e-mail: queued with what they are about, sent by a thread, again and again until they are taken.

A notice goes into the database in the same transaction as its cause, so neither is there without the other, and a mail
server that is down delays no request. E-mail is read on the way: what is medical or secret has no place in a notice.
"""

import logging
import smtplib
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from usmed.domain.errors import ConfigurationError
from usmed.platform.environment import setting
from usmed.platform.storage import Database, StorageError

_log = logging.getLogger(__name__)

HOST, PORT, SECURITY = "USMED_SMTP_HOST", "USMED_SMTP_PORT", "USMED_SMTP_SECURITY"
SENDER, RECIPIENTS = "USMED_SMTP_FROM", "USMED_SMTP_TO"
USER, PASSWORD, CA_FILE = "USMED_SMTP_USER", "USMED_SMTP_PASSWORD", "USMED_SMTP_CA_FILE"
SECURITIES = {"starttls": 587, "tls": 465}
"""How the line to the mail server is encrypted, with the usual port (RFC 8314). It always is."""

NETWORK_TIMEOUT_S = 20.0
POLL_S = 5.0
LONGEST_WAIT_S = 600.0
GIVE_UP = timedelta(days=7)
BATCH = 50

_notice = sa.table("notice", *map(sa.column, ("id", "subject", "body", "queued", "attempts", "failure")))


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told to people: one line, and a few."""

    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class MailServer:
    """Through which server notices go, and from whom to whom."""

    host: str
    port: int
    security: str
    sender: str
    recipients: tuple[str, ...]
    user: str = ""
    password: str = ""
    ca_file: str = ""


def mail_server(environ: Mapping[str, str]) -> MailServer | None:
    """Read the mail server's settings; None if no host is given.

    Raises:
        ConfigurationError: listing everything that is wrong.
    """
    host = environ.get(HOST, "")
    if not host:
        return None
    problems = []
    security = environ.get(SECURITY) or "starttls"
    if security not in SECURITIES:
        problems.append(f"{SECURITY} must be one of {', '.join(SECURITIES)}")
    port = environ.get(PORT) or str(SECURITIES.get(security, 587))
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        problems.append(f"{PORT} must be a whole number from 1 to 65535")
    sender = environ.get(SENDER, "")
    recipients = tuple(one.strip() for one in environ.get(RECIPIENTS, "").split(",") if one.strip())
    if not _is_address(sender):
        problems.append(f"{SENDER} must be an e-mail address")
    if not recipients or not all(map(_is_address, recipients)):
        problems.append(f"{RECIPIENTS} must be e-mail addresses, with commas between them")
    user, password, ca_file = environ.get(USER, ""), "", environ.get(CA_FILE, "")
    try:
        password = setting(environ, PASSWORD)
    except ConfigurationError as error:
        problems.extend(error.problems)
    if not (user + password).isascii():
        problems.append(f"{USER} and {PASSWORD}_FILE: smtplib logs in with ASCII only")
    if bool(user) != bool(password) and not problems:
        problems.append(f"{USER} and {PASSWORD}_FILE belong together")
    if ca_file and not Path(ca_file).is_file():
        problems.append(f"{CA_FILE}: {ca_file} cannot be read")
    if problems:
        raise ConfigurationError("settings of the mail server", problems)
    return MailServer(host, int(port), security, sender, recipients, user, password, ca_file)


def _is_address(text: str) -> bool:
    name, address = parseaddr(text)
    return not name and address == text and text.isascii() and text.isprintable() and 0 < text.find("@") < len(text) - 1


class Outbox:
    """Notices that wait. Without a mail server (`wanted` false) nothing is queued."""

    def __init__(self, database: Database, *, wanted: bool = True) -> None:
        self._database = database
        self.wanted = wanted

    def put_in(self, connection: sa.Connection, notice: Notice, now: datetime) -> None:
        """Queue a notice in the caller's transaction."""
        if self.wanted:
            row = {"id": uuid4().hex, "subject": notice.subject, "body": notice.body, "queued": int(now.timestamp())}
            connection.execute(sa.insert(_notice).values(row))

    def waiting(self) -> tuple[int, str]:
        """Return how many notices wait, and what the mail server last said to one that was tried."""
        with self._database.read() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(_notice))
            query = sa.select(_notice.c.failure).where(_notice.c.failure != "")
            failure = connection.scalar(query.order_by(_notice.c.attempts.desc()).limit(1))
        return int(count or 0), str(failure or "")


class Postman:
    """A thread that brings waiting notices to the mail server, in order, and waits longer after each failure."""

    def __init__(
        self, database: Database, server: MailServer, clock: Callable[[], datetime], *, poll_s: float = POLL_S
    ) -> None:
        self._database = database
        self._server = server
        self._clock = clock
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the notice that is under way; the rest waits in the database."""
        self._stop.set()
        self._thread.join(NETWORK_TIMEOUT_S)

    def _run(self) -> None:
        failures = 0
        while not self._stop.wait(wait_s(failures, self._poll_s)):
            try:
                failures = 0 if self._deliver() else failures + 1
            except StorageError as error:
                failures += 1
                _log.warning("notices are not sent: %s", error)

    def _deliver(self) -> bool:
        """Send what waits; return false if the mail server could not be used, or took none of it."""
        with self._database.read() as connection:
            # A notice that the server never takes must not stand before the others.
            ordered = sa.select(_notice).order_by(_notice.c.attempts, _notice.c.queued, _notice.c.id)
            rows = connection.execute(ordered.limit(BATCH)).all()
        if not rows:
            return True
        sent = 0
        try:
            with self._connected() as connection_to_server:
                for row in rows:
                    if self._stop.is_set():
                        break
                    try:
                        connection_to_server.send_message(self._message(row))
                    except smtplib.SMTPServerDisconnected:
                        raise
                    except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as error:
                        # This one was refused; the server still talks to us.
                        self._failed([row], error)
                        connection_to_server.rset()
                        continue
                    self._sent(row)
                    sent += 1
        except (smtplib.SMTPException, OSError, ValueError) as error:
            self._failed(rows[sent:], error)
            return False
        return sent > 0

    @contextmanager
    def _connected(self) -> Any:
        server = self._server
        context = ssl.create_default_context(cafile=server.ca_file or None)
        if server.security == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=NETWORK_TIMEOUT_S, context=context
            )
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=NETWORK_TIMEOUT_S)
        with connection:
            if server.security == "starttls":
                # Raises where the server offers none: nothing is ever sent in the clear (RFC 3207 §6).
                connection.starttls(context=context)
            if server.user:
                connection.login(server.user, server.password)
            yield connection

    def _message(self, row: Any) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = row.subject
        message["From"] = self._server.sender
        message["To"] = ", ".join(self._server.recipients)
        message["Date"] = format_datetime(datetime.fromtimestamp(row.queued, UTC))
        # The same whenever it is sent again, so that a reader sees one message (RFC 5322 §3.6.4).
        message["Message-ID"] = f"<{row.id}@{self._server.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(row.body)
        return message

    def _sent(self, row: Any) -> None:
        with self._database.write() as connection:
            connection.execute(sa.delete(_notice).where(_notice.c.id == row.id))

    def _failed(self, rows: Any, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"[:200]
        _log.warning("%d notice(s) wait, the mail server %s: %s", len(rows), self._server.host, reason)
        oldest = int((self._clock() - GIVE_UP).timestamp())
        with self._database.write() as connection:
            for row in rows:
                mine = _notice.c.id == row.id
                if row.queued < oldest:
                    _log.error("a notice was not taken for %d days and is given up: %s", GIVE_UP.days, row.subject)
                    connection.execute(sa.delete(_notice).where(mine))
                else:
                    values = {"attempts": row.attempts + 1, "failure": reason}
                    connection.execute(sa.update(_notice).where(mine).values(values))


def wait_s(failures: int, poll_s: float) -> float:
    """Return how long to wait before the next look: twice as long after each failure, ten minutes at most."""
    return min(poll_s * float(1 << min(failures, 20)), max(LONGEST_WAIT_S, poll_s))
