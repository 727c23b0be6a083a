"""The listener for the other hospitals: four routes, every request signed, nothing of Orthanc behind them.

It is a server of its own, so that other hospitals never reach Orthanc's REST API and cannot use up its threads.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from io import DEFAULT_BUFFER_SIZE
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import ConfigurationError, PeerDataError, RefusedError, UsmedError
from usmed.domain.request_signature import SignedRequest, sign_document
from usmed.hospital.changes import Changes
from usmed.hospital.lookup import LOOKUP_PATH
from usmed.hospital.release import Release
from usmed.hospital.settings import FederationSettings
from usmed.hospital.transfer import INSTANCES_PATH, MANIFEST_PATH
from usmed.platform.deliveries import HOSPITAL_PATH as RECORDS_PATH
from usmed.platform.signed_http import REQUEST_KEY, STREAM_TYPE, Identity, error_body

log = logging.getLogger(__name__)

HEALTH_PATH = "/health"
REQUEST_S = 10.0
CROWDED_REQUEST_S = 2.0
"""How long a request may take to arrive, TLS handshake included; the second while others wait for a thread."""

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


class FederationListener:
    """Serves a WSGI application on the federation port, in threads of its own."""

    def __init__(self, application: WSGIApplication, settings: FederationSettings) -> None:
        self._server = Server(
            (settings.ListenAddress, settings.Port),
            application,
            # cheroot never starts more than these by itself.
            numthreads=settings.Threads,
            max=settings.Threads,
            server_name="usmed",
            timeout=20,
            request_queue_size=128,
        )
        self._server.ConnectionClass = _Connection
        self._server.max_request_header_size = 32 << 10
        self._server.max_request_body_size = settings.MaximumBodyBytes + 1
        setattr(self._server, "error_log", _log_error)  # noqa: B010 - cheroot's documented way
        if settings.TlsCertificateFile:
            self._server.ssl_adapter = _TlsAdapter(settings.TlsCertificateFile, settings.TlsPrivateKeyFile)
        self._thread = threading.Thread(target=self._server.serve, name="federation", daemon=True)

    def bind(self) -> None:
        """Take the port, so that callers wait for `start`.

        Raises:
            ConfigurationError: the port cannot be bound.
        """
        try:
            self._server.prepare()
        except OSError as error:
            address = f"{self._server.bind_addr[0]}:{self._server.bind_addr[1]}"
            raise ConfigurationError("Usmed.Federation", [f"{address} cannot be used: {error}"]) from error

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.stop()
        self._thread.join(timeout=10)


class _TlsAdapter(BuiltinSSLAdapter):
    """TLS whose handshake is done by the thread that serves the connection.

    cheroot does it in the one thread that accepts: one caller who says nothing would keep all others out.
    """

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class _Connection(HTTPConnection):
    """A connection on which a request has to arrive whole within a time.

    A socket's own timeout begins anew with every byte: callers who send one now and then would hold every thread.
    """

    def __init__(self, server: Server, sock: socket.socket, makefile: Any = None) -> None:
        super().__init__(server, sock, _make_file)
        self._greeted = not isinstance(sock, ssl.SSLSocket)

    def communicate(self) -> bool:
        """Serve one request; return whether the connection is kept."""
        crowded = self.server.requests.qsize > 0
        end = time.monotonic() + (CROWDED_REQUEST_S if crowded else REQUEST_S)
        if not self._greeted:
            try:
                self.socket.settimeout(end - time.monotonic())
                self.socket.do_handshake()
            except OSError as error:
                log.info("federation listener: no TLS with %s: %s", self.remote_addr, type(error).__name__)
                return False
            finally:
                self.socket.settimeout(self.server.timeout)
            self._greeted = True
        self.rfile.raw.end = end
        return bool(super().communicate())  # type: ignore[no-untyped-call]


class _DeadlineSocket(socket.SocketIO):
    """Reads until the moment `end` (monotonic)."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "r")
        self._connection = sock
        self.end = 0.0

    def readinto(self, buffer: Any) -> int | None:
        left_s = self.end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        usual = self._connection.gettimeout()
        self._connection.settimeout(left_s)
        try:
            return super().readinto(buffer)
        finally:
            self._connection.settimeout(usual)


class _Reader(StreamReader):
    """cheroot's reader on a `_DeadlineSocket`."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        # StreamReader's own __init__ would make a plain SocketIO.
        super(StreamReader, self).__init__(_DeadlineSocket(sock), size)
        self.bytes_read = 0


def _make_file(sock: socket.socket, mode: str = "r", size: int = DEFAULT_BUFFER_SIZE) -> Any:
    return _Reader(sock, size) if "r" in mode else StreamWriter(sock, mode, size)


def _log_error(message: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
    # cheroot's own messages can quote what a stranger sent; the first line is enough.
    log.log(level, "federation listener: %s", message.partition("\n")[0][:200])
