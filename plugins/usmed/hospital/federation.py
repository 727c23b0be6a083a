"""The listener for the other hospitals: three routes, every request signed, nothing of Orthanc behind them.

It is a server of its own, so that other hospitals never reach Orthanc's REST API and cannot use up its threads.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import ConfigurationError, PeerDataError, RefusedError, UsmedError
from usmed.domain.request_signature import SignedRequest, sign_document
from usmed.hospital.lookup import LOOKUP_PATH
from usmed.hospital.release import Release
from usmed.hospital.settings import FederationSettings
from usmed.hospital.transfer import INSTANCES_PATH, MANIFEST_PATH
from usmed.platform.signed_http import REQUEST_KEY, STREAM_TYPE, Identity, error_body

log = logging.getLogger(__name__)

HEALTH_PATH = "/health"
_JSON = "application/json"


class FederationApplication:
    """The WSGI application behind the signature guard."""

    def __init__(self, release: Release, identity: Identity, limit_bytes: int) -> None:
        self._release = release
        self._identity = identity
        self._limit_bytes = limit_bytes
        self._routes: dict[str, Callable[[str, Any], dict[str, Any]]] = {
            LOOKUP_PATH: release.lookup,
            MANIFEST_PATH: self._manifest,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == HEALTH_PATH and environ["REQUEST_METHOD"] == "GET":
            return _answer(start_response, "200 OK", b'{"status":"up"}')
        try:
            return self._serve(path, environ, start_response)
        except PeerDataError as error:
            return _answer(start_response, "400 Bad Request", error_body("malformed", str(error)))
        except RefusedError as error:
            return _answer(start_response, "404 Not Found", error_body(error.code, str(error)))
        except UsmedError as error:
            log.error("a request of another hospital failed: %s", error)
            body = error_body("unavailable", "this hospital cannot answer now; its own log says why")
            return _answer(start_response, "503 Service Unavailable", body)

    def _serve(self, path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        route = self._routes.get(path)
        if (route is None and path != INSTANCES_PATH) or environ["REQUEST_METHOD"] != "POST":
            return _answer(start_response, "404 Not Found", error_body("no-route", "there is no such route"))
        request: SignedRequest = environ[REQUEST_KEY]
        document = parse_json(environ["wsgi.input"].read(), limit_bytes=self._limit_bytes)
        if route is not None:
            return _answer(start_response, "200 OK", canonical_json(route(request.sender, document)))
        frames = self._release.stream(request.sender, document)
        start_response("200 OK", [("Content-Type", STREAM_TYPE)])
        return frames

    def _manifest(self, sender: str, document: Any) -> dict[str, Any]:
        manifest = self._release.manifest(sender, document)
        return {"manifest": sign_document(self._identity.key, sender=self._identity.id, document=manifest.to_json())}


def _answer(start_response: StartResponse, status: str, body: bytes) -> Iterable[bytes]:
    start_response(status, [("Content-Type", _JSON), ("Content-Length", str(len(body)))])
    return [body]


class FederationListener:
    """Serves a WSGI application on the federation port, in threads of its own."""

    def __init__(self, application: WSGIApplication, settings: FederationSettings) -> None:
        self._server = Server(
            (settings.ListenAddress, settings.Port),
            application,
            numthreads=min(8, settings.Threads),
            max=settings.Threads,
            server_name="usmed",
            timeout=20,
            request_queue_size=128,
        )
        self._server.max_request_header_size = 32 << 10
        self._server.max_request_body_size = settings.MaximumBodyBytes + 1
        setattr(self._server, "error_log", _log_error)  # noqa: B010 - cheroot's documented way
        if settings.TlsCertificateFile:
            self._server.ssl_adapter = BuiltinSSLAdapter(settings.TlsCertificateFile, settings.TlsPrivateKeyFile)
        self._thread = threading.Thread(target=self._server.serve, name="federation", daemon=True)

    def start(self) -> None:
        """Bind the port and serve.

        Raises:
            ConfigurationError: the port cannot be bound.
        """
        try:
            self._server.prepare()
        except OSError as error:
            address = f"{self._server.bind_addr[0]}:{self._server.bind_addr[1]}"
            raise ConfigurationError("Usmed.Federation", [f"{address} cannot be used: {error}"]) from error
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.stop()
        self._thread.join(timeout=10)


def _log_error(message: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
    # cheroot's own messages can quote what a stranger sent; the first line is enough.
    log.log(level, "federation listener: %s", message.partition("\n")[0][:200])
