"""An SMS gateway as a way for notices: any that takes one HTTP request for one message, as its settings describe it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import urllib3

from usmed.domain.errors import ConfigurationError
from usmed.platform.connections import BROKEN, Pool, open_pool
from usmed.platform.environment import setting
from usmed.platform.notices import SMS, NotTaken, OutOfReach, Waiting

URL, METHOD, HEADERS = "USMED_SMS_URL", "USMED_SMS_METHOD", "USMED_SMS_HEADERS"
FORMAT, BODY, CA_FILE = "USMED_SMS_FORMAT", "USMED_SMS_BODY", "USMED_SMS_CA_FILE"
STATUSES, SAYS, MOST_A_DAY = "USMED_SMS_SUCCESS", "USMED_SMS_SUCCESS_TEXT", "USMED_SMS_MOST_A_DAY"
METHODS = ("POST", "PUT")
CONTENT_TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
DEFAULT_MOST_A_DAY = 1000
TIMEOUT_S = 10.0
LIMIT_BYTES = 65536
TO, TEXT = "{to}", "{text}"
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}): ?([\x20-\x7e]{1,4096})", re.ASCII)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class SmsGateway:
    """What one message is asked for with, and what counts as taken.

    Attributes:
        url: https, or http on this machine.
        headers: with what the gateway knows us by; secret.
        format: `json` or `form`.
        body: of that format, with `{to}` (E.164) and `{text}` in its values.
        statuses: of HTTP; empty for any 2xx.
        says: text that an answer has to have in it; empty for any.
        most_a_day: tries in one day (UTC): every one may cost.
    """

    url: str
    method: str
    headers: tuple[tuple[str, str], ...]
    format: str
    body: str
    statuses: frozenset[int] = frozenset()
    says: str = ""
    ca_file: str = ""
    most_a_day: int = DEFAULT_MOST_A_DAY

    @property
    def host(self) -> str:
        """Return its host, for the log."""
        return urlsplit(self.url).hostname or ""

    @property
    def channel(self) -> str:
        """Return which notices it takes."""
        return SMS

    @contextmanager
    def open(self) -> Iterator[Callable[[Waiting], None]]:
        """Give what sends one notice, its body as the text.

        Raises:
            OutOfReach: the gateway cannot be used.
        """
        parts = urlsplit(self.url)
        try:
            certificate = Path(self.ca_file).read_text("ascii") if self.ca_file else ""
            pool = open_pool(f"{parts.scheme}://{parts.netloc}", certificate, connections=1)
        except (OSError, ValueError) as error:
            raise OutOfReach(f"{CA_FILE}: {type(error).__name__}") from error
        with pool:
            yield lambda one: self._send(pool, one)

    def _send(self, pool: Pool, one: Waiting) -> None:
        parts = urlsplit(self.url)
        headers = {"Content-Type": CONTENT_TYPES[self.format], "Accept": "*/*", **dict(self.headers)}
        try:
            answer = pool.urlopen(
                self.method, parts.path + (f"?{parts.query}" if parts.query else "") or "/",
                body=self.filled(one.recipient, one.body), headers=headers,
                timeout=urllib3.Timeout(total=TIMEOUT_S), retries=False, redirect=False, preload_content=False,
            )  # fmt: skip
            try:
                said = answer.read(LIMIT_BYTES)
            finally:
                answer.close()
        except BROKEN as error:
            # What was never sent can be sent again without anybody getting it twice.
            never = urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
            unsure = not isinstance(error, never | urllib3.exceptions.SSLError)
            raise OutOfReach(type(error).__name__, unsure=unsure) from error
        self._judge(answer.status, said)

    def _judge(self, status: int, said: bytes) -> None:
        taken = status in self.statuses if self.statuses else 200 <= status < 300
        if taken and self.says.encode() in said:
            return
        if status >= 500:
            raise OutOfReach(f"HTTP {status}", unsure=True)
        if status in (401, 402, 403, 404, 405, 407, 408, 415, 429) or 300 <= status < 400:
            # A matter between us and the gateway, not of this number.
            raise OutOfReach(f"HTTP {status}")
        raise NotTaken(f"HTTP {status}{', without the text of a success' if taken else ''}", final=True)

    def filled(self, to: str, text: str) -> bytes:
        """Return the body of one request; what is filled in cannot become anything but the value that it stands in."""
        if self.format == "json":
            return json.dumps(_filled(json.loads(self.body), to, text)).encode("utf-8")
        return urlencode([(name, _filled(value, to, text)) for name, value in _pairs(self.body)]).encode("ascii")


def _filled(value: Any, to: str, text: str) -> Any:
    match value:
        case str():
            return "".join({TO: to, TEXT: text}.get(part, part) for part in re.split(r"(\{to\}|\{text\})", value))
        case list():
            return [_filled(one, to, text) for one in value]
        case dict():
            return {name: _filled(one, to, text) for name, one in value.items()}
    return value


def _pairs(body: str) -> list[tuple[str, str]]:
    return parse_qsl(body, keep_blank_values=True, strict_parsing=True)


def sms_gateway(environ: Mapping[str, str]) -> SmsGateway | None:
    """Read the gateway's settings; None if no URL is given.

    Raises:
        ConfigurationError: listing everything that is wrong.
    """
    problems: list[str] = []

    def secret(name: str) -> str:
        try:
            return setting(environ, name)
        except ConfigurationError as error:
            problems.extend(error.problems)
            return ""

    url = secret(URL)
    if not url and not problems:
        return None
    if not _is_url(url):
        problems.append(f"{URL} must be https://…, or http:// on this machine, without a password in it")
    method, format = environ.get(METHOD) or "POST", environ.get(FORMAT) or "json"
    if method not in METHODS:
        problems.append(f"{METHOD} must be one of {', '.join(METHODS)}")
    if environ.get(HEADERS):
        problems.append(f"{HEADERS} belongs in a file: name it in {HEADERS}_FILE")
    headers = _headers(secret(HEADERS), problems)
    body = secret(BODY)
    if format not in CONTENT_TYPES:
        problems.append(f"{FORMAT} must be one of {', '.join(CONTENT_TYPES)}")
    elif not _is_template(format, body):
        problems.append(f"{BODY} or {BODY}_FILE must be {format}, with {TO} and {TEXT} in its values")
    statuses = environ.get(STATUSES, "").replace(",", " ").split()
    if not all(re.fullmatch(r"2\d\d", one, re.ASCII) for one in statuses):
        problems.append(f"{STATUSES} must be status codes from 200 to 299, with commas between them")
    ca_file = environ.get(CA_FILE, "")
    if ca_file and not Path(ca_file).is_file():
        problems.append(f"{CA_FILE}: {ca_file} cannot be read")
    most = environ.get(MOST_A_DAY) or str(DEFAULT_MOST_A_DAY)
    if not re.fullmatch(r"[1-9]\d{0,6}", most, re.ASCII):
        problems.append(f"{MOST_A_DAY} must be a whole number from 1 to 9999999")
    if problems:
        raise ConfigurationError("settings of the SMS gateway", problems)
    says = environ.get(SAYS, "")
    return SmsGateway(url, method, headers, format, body, frozenset(map(int, statuses)), says, ca_file, int(most))


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or not (url.isascii() and url.isprintable()):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


def _headers(text: str, problems: list[str]) -> tuple[tuple[str, str], ...]:
    found = [_HEADER.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    if not all(found) or len(found) > 20:
        # Never the line itself: it may be the password.
        problems.append(f"{HEADERS}_FILE: lines must be NAME: VALUE, 20 at most")
    return tuple((one[1], one[2]) for one in found if one)


def _is_template(format: str, body: str) -> bool:
    try:
        values = json.loads(body) if format == "json" else [value for _, value in _pairs(body)]
    except (ValueError, RecursionError):
        return False
    filled = json.dumps(_filled(values, "\0to", "\0text")) if isinstance(values, dict | list) else ""
    return all(json.dumps(one)[1:-1] in filled for one in ("\0to", "\0text"))
