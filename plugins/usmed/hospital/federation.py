"""What other hospitals may ask of this one: four routes, every request signed, nothing of Orthanc behind them.

It has a listener of its own, so that other hospitals never reach Orthanc's REST API and cannot use up its threads.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.request_signature import SignedRequest, sign_document
from usmed.hospital.changes import Changes
from usmed.hospital.lookup import LOOKUP_PATH
from usmed.hospital.release import Release
from usmed.hospital.transfer import INSTANCES_PATH, MANIFEST_PATH
from usmed.platform.deliveries import HOSPITAL_PATH as RECORDS_PATH
from usmed.platform.signed_http import REQUEST_KEY, STREAM_TYPE, Identity, error_body

log = logging.getLogger(__name__)

HEALTH_PATH = "/health"
Refused = Callable[[str, str, str], None]
"""Told of every refusal: remote address, sender (empty if it is not known for certain), reason."""
_JSON = "application/json"


class FederationApplication:
    """The WSGI application behind the signature guard."""

    def __init__(
        self, release: Release, changes: Changes, identity: Identity, limit_bytes: int, refused: Refused
    ) -> None:
        self._refused = refused
        self._release = release
        self._changes = changes
        self._identity = identity
        self._limit_bytes = limit_bytes
        self._routes: dict[str, Callable[[str, Any], dict[str, Any]]] = {
            LOOKUP_PATH: release.lookup,
            MANIFEST_PATH: self._manifest,
            RECORDS_PATH: self._records,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == HEALTH_PATH and environ["REQUEST_METHOD"] == "GET":
            return _answer(start_response, "200 OK", b'{"status":"up"}')
        try:
            return self._serve(path, environ, start_response)
        except PeerDataError as error:
            self._record(environ, error)
            return _answer(start_response, "400 Bad Request", error_body("malformed", str(error)))
        except RefusedError as error:
            self._record(environ, error)
            return _answer(start_response, "404 Not Found", error_body(error.code, str(error)))
        except UsmedError as error:
            log.error("a request of another hospital failed: %s", error)
            body = error_body("unavailable", "this hospital cannot answer now; its own log says why")
            return _answer(start_response, "503 Service Unavailable", body)

    def _serve(self, path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        route = self._routes.get(path)
        if (route is None and path != INSTANCES_PATH) or environ["REQUEST_METHOD"] != "POST":
            raise RefusedError("no-route", "there is no such route")
        request: SignedRequest = environ[REQUEST_KEY]
        document = parse_json(environ["wsgi.input"].read(), limit_bytes=self._limit_bytes)
        if route is not None:
            return _answer(start_response, "200 OK", canonical_json(route(request.sender, document)))
        frames = self._release.stream(request.sender, document)
        start_response("200 OK", [("Content-Type", STREAM_TYPE)])
        return frames

    def _record(self, environ: WSGIEnvironment, error: UsmedError) -> None:
        request: SignedRequest = environ[REQUEST_KEY]
        self._refused(str(environ.get("REMOTE_ADDR", "")), request.sender, f"{environ['PATH_INFO']}: {error}")

    def _manifest(self, sender: str, document: Any) -> dict[str, Any]:
        manifest = self._release.manifest(sender, document)
        return {"manifest": sign_document(self._identity.key, sender=self._identity.id, document=manifest.to_json())}

    def _records(self, sender: str, document: Any) -> dict[str, Any]:
        if not isinstance(document, dict) or set(document) != {"records", "enrolments"}:
            raise PeerDataError("the body has exactly the members records and enrolments")
        return {"problems": self._changes.told(sender, document["records"], document["enrolments"])}


def _answer(start_response: StartResponse, status: str, body: bytes) -> Iterable[bytes]:
    start_response(status, [("Content-Type", _JSON), ("Content-Length", str(len(body)))])
    return [body]
