"""The mail server as a way for notices: its settings, and one message over an encrypted line (RFC 5321, 3207, 8314)."""

import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path

from usmed.domain.errors import ConfigurationError
from usmed.platform.environment import setting
from usmed.platform.notices import EMAIL, NETWORK_TIMEOUT_S, NotTaken, OutOfReach, Waiting

HOST, PORT, SECURITY = "USMED_SMTP_HOST", "USMED_SMTP_PORT", "USMED_SMTP_SECURITY"
SENDER, RECIPIENTS = "USMED_SMTP_FROM", "USMED_SMTP_TO"
USER, PASSWORD, CA_FILE = "USMED_SMTP_USER", "USMED_SMTP_PASSWORD", "USMED_SMTP_CA_FILE"
SECURITIES = {"starttls": 587, "tls": 465}
"""How the line to the mail server is encrypted, with the usual port (RFC 8314). It always is."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """Through which server notices go, and from whom; to whom those that name nobody."""

    host: str
    port: int
    security: str
    sender: str
    recipients: tuple[str, ...]
    user: str = ""
    password: str = ""
    ca_file: str = ""

    @property
    def channel(self) -> str:
        """Return which notices it takes."""
        return EMAIL

    @property
    def most_a_day(self) -> int | None:
        """Return how many it may be given a day: e-mail costs nothing."""
        return None

    @contextmanager
    def open(self) -> Iterator[Callable[[Waiting], None]]:
        """Connect and log in; give what sends one notice.

        Raises:
            OutOfReach: the server cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.security == "tls":
                connection: smtplib.SMTP = smtplib.SMTP_SSL(
                    self.host, self.port, timeout=NETWORK_TIMEOUT_S, context=context
                )
            else:
                connection = smtplib.SMTP(self.host, self.port, timeout=NETWORK_TIMEOUT_S)
            with connection:
                if self.security == "starttls":
                    # Raises where the server offers none: nothing is ever sent in the clear (RFC 3207 §6).
                    connection.starttls(context=context)
                if self.user:
                    connection.login(self.user, self.password)
                yield lambda one: self._send(connection, one)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise OutOfReach(f"{type(error).__name__}: {error}") from error

    def _send(self, connection: smtplib.SMTP, one: Waiting) -> None:
        try:
            connection.send_message(self._message(one))
        except smtplib.SMTPServerDisconnected:
            raise
        except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as error:
            # This one was refused; the server still talks to us.
            connection.rset()
            codes = _codes(error)
            # A sender that it does not take is a fault of ours, which can be mended; a reader is not to suffer for it.
            final = not isinstance(error, smtplib.SMTPSenderRefused) and all(500 <= code < 600 for code in codes)
            # A server's words may repeat the address.
            reason = ", ".join(map(str, codes)) if one.recipient else str(error)
            raise NotTaken(f"{type(error).__name__}: {reason}", final=final) from error

    def _message(self, one: Waiting) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = one.subject
        message["From"] = self.sender
        message["To"] = one.recipient or ", ".join(self.recipients)
        message["Date"] = format_datetime(datetime.fromtimestamp(one.queued, UTC))
        # The same whenever it is sent again, so that a reader sees one message (RFC 5322 §3.6.4).
        message["Message-ID"] = f"<{one.id}@{self.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(one.body)
        return message


def _codes(error: smtplib.SMTPResponseException | smtplib.SMTPRecipientsRefused) -> list[int]:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return sorted({int(code) for code, _ in error.recipients.values()})
    return [error.smtp_code]


def mail_server(environ: Mapping[str, str], *, for_administrators: bool = True) -> MailServer | None:
    """Read the mail server's settings; None if no host is given.

    Args:
        environ: of the process.
        for_administrators: whether there are notices that name nobody; else no recipients are wanted.

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
    if for_administrators and (not recipients or not all(map(_is_address, recipients))):
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
    kept = recipients if for_administrators else ()
    return MailServer(host, int(port), security, sender, kept, user, password, ca_file)


def _is_address(text: str) -> bool:
    name, address = parseaddr(text)
    return not name and address == text and text.isascii() and text.isprintable() and 0 < text.find("@") < len(text) - 1
