"""Orthanc's REST callbacks as plain requests and answers, and as WSGI calls."""

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from wsgiref.types import WSGIApplication

import orthanc

from usmed.domain.errors import IdentityConflictError, PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.staff_role import Person
from usmed.hospital.orthanc_host import rest
from usmed.hospital.orthanc_host.safe_end import keep_and_register
from usmed.hospital.page_requests import PERMISSIONS, REACHES, REFUSED, SHOWN
from usmed.hospital.staff.gate import Gate
from usmed.hospital.staff.log_ins import NOBODY

log = logging.getLogger(__name__)

_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
            409: "Conflict", 500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as Orthanc hands it over; header names are in lower case."""

    method: str
    uri: str
    groups: tuple[str, ...]
    arguments: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    person: Person

    @property
    def agent(self) -> str:
        """Return who asks."""
        return self.person.name


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; the body of an error is JSON."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(document: Any, status: int = 200) -> Answer:
    """Return a JSON answer."""
    return Answer(status, json.dumps(document, ensure_ascii=False).encode("utf-8"))


class HttpServer:
    """Orthanc's HTTP server, behind the gate.

    Args:
        gate: knows who asks, and what they may.
        tls: whether Orthanc itself serves HTTPS.
    """

    def __init__(self, gate: Gate, *, tls: bool) -> None:
        self._gate = gate
        self._tls = tls
        # By thread of Orthanc's, which runs the filter and then the callback of one request.
        self._addresses: dict[int, str] = {}

    def comes_from(self, address: str) -> None:
        """Take note of the address that the request of this thread comes from: callbacks are not told."""
        self._addresses[threading.get_ident()] = address

    def register(
        self,
        pattern: str,
        handler: Callable[[HttpRequest], Answer],
        *,
        methods: str = "GET,POST,PUT,DELETE",
        gated: bool = False,
    ) -> None:
        """Take an address.

        Args:
            pattern: regular expression of the whole path.
            handler: our errors become 4xx and 5xx with a message; Orthanc's own become what its own route answers.
            methods: those that the address knows, separated by commas.
            gated: whether the handler asks the gate itself; else the filter has, and the request says who asks.
        """
        known = methods.split(",")

        def callback(output: Any, uri: str, **request: Any) -> None:
            if request["method"] not in known:
                output.SendMethodNotAllowed(methods)
                return
            headers = request.get("headers", {})
            try:
                answer = handler(
                    HttpRequest(
                        method=request["method"],
                        uri=uri,
                        groups=tuple(request.get("groups", ())),
                        arguments=request.get("get", {}),
                        headers=headers,
                        body=request.get("body", b"") or b"",
                        person=Person(NOBODY) if gated else self._gate.recognise(headers, self._address()),
                    )
                )
            except rest.OrthancError as error:
                answer = _as_orthanc(error.code, error.name, request["method"], uri)
            except orthanc.OrthancException as error:
                answer = _as_orthanc(int(error.args[0]), str(error.args[1]), request["method"], uri)
            except UsmedError as error:
                answer = json_answer({"error": type(error).__name__, "message": str(error)}, _status(error))
            _send(output, answer)

        keep_and_register(orthanc.RegisterRestCallback, pattern, callback)

    def mount(self, prefix: str, application: WSGIApplication) -> None:
        """Serve a WSGI application below a prefix.

        The gate is asked here, and not by the filter, which can only say no: the application's own address `/refused`
        answers what is turned away, in words.
        """

        def handle(request: HttpRequest) -> Answer:
            address = self._address()
            person, why = self._gate.decide(request.method, request.uri, request.headers, address)
            request = replace(request, person=person)
            https = self._tls or request.headers.get("x-forwarded-proto") == "https"
            environ = _environ(prefix, request) | {
                "REMOTE_ADDR": address,
                "wsgi.url_scheme": "https" if https else "http",
                REACHES: lambda path: self._gate.permission("GET", prefix + path) in person.permissions,
            }
            if why:
                environ |= {REFUSED: why, SHOWN: environ["PATH_INFO"], "PATH_INFO": "/refused"}
            return _call_wsgi(application, environ)

        self.register(f"{prefix}(/.*)?", handle, gated=True)

    def _address(self) -> str:
        return self._addresses.get(threading.get_ident(), "")


def _as_orthanc(code: int, name: str, method: str, uri: str) -> Answer:
    """Return what Orthanc's own route answers to an error; of an exception of ours it would make "500, plugin"."""
    status = _ORTHANC_STATUS.get(code, 500)
    document = {
        "HttpError": HTTPStatus(status).phrase,
        "HttpStatus": status,
        "Message": name,
        "Method": method,
        "OrthancError": name,
        "OrthancStatus": code,
        "Uri": uri,
    }
    return Answer(status, json.dumps(document, indent=1).encode("utf-8"))


_ORTHANC_STATUS = {
    int(getattr(orthanc.ErrorCode, name)): status
    for status, names in {
        400: (
            "BAD_FILE_FORMAT", "BAD_JSON", "BAD_PARAMETER_TYPE", "BAD_REQUEST", "PARAMETER_OUT_OF_RANGE", "URI_SYNTAX",
        ),
        401: ("UNAUTHORIZED",),
        403: ("FORBIDDEN_ACCESS",),
        404: ("UNKNOWN_RESOURCE", "INEXISTENT_FILE", "INEXISTENT_ITEM"),
        406: ("NOT_ACCEPTABLE",),
        409: ("REVISION", "DUPLICATE_RESOURCE"),
        503: ("DATABASE_UNAVAILABLE", "DATABASE_CANNOT_SERIALIZE"),
        507: ("FULL_STORAGE",),
    }.items()
    for name in names
}
"""Which HTTP status Orthanc gives each of its error codes; all others are 500."""


def _status(error: UsmedError) -> int:
    if isinstance(error, PeerDataError):
        return 400
    if isinstance(error, RefusedError):
        return 403
    if isinstance(error, IdentityConflictError):
        return 409
    return 503 if isinstance(error, TransportError) else 500


def _send(output: Any, answer: Answer) -> None:
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        # One of the statuses that Orthanc sends by methods of their own only, without a body.
        output.SendMethodNotAllowed(answer.headers.get("Allow", ""))
        return
    for name, value in answer.headers.items():
        output.SetHttpHeader(name, value)
    if answer.status == HTTPStatus.OK:
        output.AnswerBuffer(answer.body, answer.content_type)
    else:
        # Orthanc itself says "text/plain" of every error, whatever the body is.
        output.SendHttpStatus(answer.status, answer.body)


def _environ(prefix: str, request: HttpRequest) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": prefix,
        # WSGI carries the bytes of the path as Latin-1 (PEP 3333).
        "PATH_INFO": request.uri[len(prefix) :].encode("utf-8", "surrogateescape").decode("latin-1") or "/",
        "QUERY_STRING": urlencode(request.arguments),
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": request.headers.get("host", "localhost").partition(":")[0],
        "SERVER_PORT": request.headers.get("host", "").partition(":")[2] or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_USER": request.agent,
        # RFC 3875 §4.1.1: by what the server has authenticated the user.
        **({"AUTH_TYPE": request.person.proved} if request.person.proved else {}),
        PERMISSIONS: request.person.permissions,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()},
    }


def _call_wsgi(application: WSGIApplication, environ: dict[str, Any]) -> Answer:
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        head[:] = [int(status[:3]), dict(headers)]
        return lambda data: None

    body = b"".join(application(environ, start_response))
    status, headers = head
    kind = headers.pop("Content-Type", "application/octet-stream")
    headers.pop("Content-Length", None)
    return Answer(status, body, kind, headers)
