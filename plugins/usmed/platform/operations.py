"""What the hub and key servers answer members of the region: JSON that is posted to a path, checked, answered, audited.

The signature guard stands in front of it. There is no framework, because one takes as long as a signature does.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.region import Member
from usmed.platform.audit_log import AuditLog
from usmed.platform.metrics import ROUTE_KEY
from usmed.platform.openapi import Description, InvalidRequestError
from usmed.platform.signed_http import REQUEST_KEY, error_body
from usmed.platform.storage import StorageError

_log = logging.getLogger(__name__)

JSON = "application/json"


class NotServedError(Exception):
    """An answer that is no success: `status`, `code`, a message for people, and details."""

    def __init__(self, status: int, code: str, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status, self.code, self.details = status, code, details


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


type _View = Callable[[WSGIEnvironment], _Answer]


class Operations:
    """The WSGI application.

    Args:
        description: the actor's own; what is posted is checked against it.
        audit, clock: every refusal is written down.
        limit_bytes: the largest body.
    """

    def __init__(
        self, description: Description, audit: AuditLog, clock: Callable[[], datetime], limit_bytes: int
    ) -> None:
        self._description, self._audit, self._clock, self._limit_bytes = description, audit, clock, limit_bytes
        self._views: dict[str, dict[str, _View]] = {}
        self._mounted: list[tuple[str, WSGIApplication]] = []

    @property
    def routes(self) -> set[tuple[str, str]]:
        """Return every path with its method."""
        return {(path, method) for path, views in self._views.items() for method in views}

    def serve[M: Member](
        self,
        path: str,
        handler: Callable[[M, dict[str, Any]], Any],
        callers: Callable[[], Mapping[str, M]],
        kind: str,
        *,
        recorded: bool = False,
    ) -> None:
        """Answer what members of the region post.

        Args:
            path: what the description describes.
            handler: returns the answer to a caller and a body that fits.
            callers: who is served, by id.
            kind: what they are called.
            recorded: the handler writes its own records of what it refuses (`RefusedError`).
        """
        schema = self._description.body_of(path)

        def view(environ: WSGIEnvironment) -> _Answer:
            caller = callers().get(environ[REQUEST_KEY].sender)
            if caller is None:
                raise NotServedError(403, "forbidden", f"only {kind} of the region are served here")
            body = self._body(environ, schema, self._limit_bytes)
            try:
                return _json(handler(caller, body))
            except RefusedError as error:
                if not recorded:
                    raise
                return _error(403, error.code, str(error))

        self._add("POST", path, view)

    def serve_anybody(self, path: str, handler: Callable[[dict[str, Any]], Any], limit_bytes: int) -> None:
        """Answer what anybody posts, because it carries its own proof."""
        schema = self._description.body_of(path)
        self._add("POST", path, lambda environ: _json(handler(self._body(environ, schema, limit_bytes))))

    def show(self, path: str, page: Callable[[], tuple[str, bytes]]) -> None:
        """Answer GET: `page` returns a content type and a body."""
        self._add("GET", path, lambda _environ: _Answer(200, *page()))

    def mount(self, prefix: str, application: WSGIApplication) -> None:
        """Leave all paths that begin so to another application."""
        self._mounted.append((prefix, application))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        for prefix, application in self._mounted:
            if path.startswith(prefix):
                return self._watched(application, environ, start_response)
        answer, code = self._answer(path, environ)
        if 400 <= answer.status < 500 and code is not None:
            self._record(environ, answer.status, code)
        head = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body))), *answer.headers]
        start_response(_status(answer.status), head)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]

    def _add(self, method: str, path: str, view: _View) -> None:
        self._views.setdefault(path, {})[method] = view

    def _answer(self, path: str, environ: WSGIEnvironment) -> tuple[_Answer, str | None]:
        """Return the answer; and for the record of a refusal its code, or None if there is a record already."""
        views = self._views.get(path)
        if views is None:
            return _error(404, "not-found", "there is no such operation; GET /v1/openapi.yaml lists them"), ""
        environ[ROUTE_KEY] = path
        method = environ.get("REQUEST_METHOD", "")
        view = views.get("GET" if method == "HEAD" else method)
        if view is None:
            message = "this operation takes another method; GET /v1/openapi.yaml says which"
            return _error(405, "method-not-allowed", message, headers=(("Allow", ", ".join(views)),)), ""
        try:
            return view(environ), None
        except NotServedError as error:
            return _error(error.status, error.code, str(error), error.details), ""
        except RefusedError as error:
            return _error(403, error.code, str(error)), error.code
        except InvalidRequestError as error:
            return _error(400, "bad-request", str(error), error.faults), ""
        except PeerDataError as error:
            return _error(400, "bad-request", str(error)), ""
        except StorageError as error:
            _log.error("not served: %s", error)
            return _error(503, "unavailable", "the database does not answer; try again later"), ""
        except Exception:  # noqa: BLE001 - the last line of defence
            _log.exception("a request failed")
            return _error(500, "internal", "this request failed here, by a fault of this server; it is in its log"), ""

    def _body(self, environ: WSGIEnvironment, schema: str, limit_bytes: int) -> dict[str, Any]:
        """Return the body if it is what the schema says.

        Raises:
            NotServedError, InvalidRequestError, PeerDataError: it is not.
        """
        if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != JSON:
            raise NotServedError(415, "not-json", "the body must be application/json")
        # The guard has read it, and knows how long it is.
        body: dict[str, Any] = parse_json(environ["wsgi.input"].read(), limit_bytes=limit_bytes)
        self._description.check(schema, body)
        return body

    def _watched(
        self, application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        def watch(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            if status.startswith("4"):
                self._record(environ, int(status[:3]), "")
            return start_response(status, headers, *rest)

        return application(environ, watch)

    def _record(self, environ: WSGIEnvironment, status: int, code: str) -> None:
        verified = environ.get(REQUEST_KEY)
        self._audit.append(
            AuditEvent(
                self._clock(),
                AuditEventType.REFUSED,
                verified.sender if verified else environ.get("REMOTE_ADDR", ""),
                outcome=Outcome.DENIED,
                reason=f"{status} {environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')} {code}".rstrip(),
            )
        ).wait()


def _json(document: Any) -> _Answer:
    return _Answer(200, JSON, canonical_json(document))


def _error(
    status: int, code: str, message: str, details: Sequence[str] = (), headers: tuple[tuple[str, str], ...] = ()
) -> _Answer:
    return _Answer(status, JSON, error_body(code, message, details), headers)


def _status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
