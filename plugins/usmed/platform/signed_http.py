"""Signed HTTP between actors: the client that signs and checks answers, and the WSGI guard that does the reverse.

Both sides bound size and time. What the claims mean is in `domain/request_signature.py`.
"""

import io
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import urllib3
from joserfc.jwk import OKPKey

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.region import Member, RegionManifest
from usmed.domain.request_signature import (
    ANSWER_HEADER,
    SignedRequest,
    sign_answer,
    sign_request,
    verify_answer,
    verify_request,
)
from usmed.platform.connections import BROKEN, Pool, diagnosis, extend, open_pool

log = logging.getLogger(__name__)

STREAM_TYPE = "application/x-usmed-instances"
"""An answer of this type is not signed as a whole: each instance in it is checked against the signed manifest."""

SLOWEST_BYTES_PER_S = 1024
"""A stream that brings less than this on average has fallen silent."""

REQUEST_KEY = "usmed.request"
"""Where the guard leaves the verified `SignedRequest` in the WSGI environment."""

Region = Callable[[], RegionManifest]
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is: its id in the region manifest, and its private key."""

    id: str
    key: OKPKey


class Nonces(Protocol):
    """Remembers the nonces of the last minutes."""

    def accept(self, sender: str, jti: str, issued: datetime, now: datetime) -> bool:
        """Return True the first time that a sender's nonce is seen, False ever after."""
        ...


class Post(Protocol):
    """Sends a signed document to a member of the region, returns its signed answer: what `SignedClient.post` does."""

    def __call__(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
        """Raise TransportError, PeerDataError or RefusedError as `SignedClient.post`."""
        ...


class SignedClient:
    """Sends signed requests to members of the region and accepts only answers that they signed.

    Connections are kept and reused; it may be called from many threads.
    """

    def __init__(self, identity: Identity, region: Region, clock: Clock, *, connections_per_member: int = 8) -> None:
        self._identity = identity
        self._region = region
        self._clock = clock
        self._connections = connections_per_member
        self._pools: dict[tuple[str, str], Pool] = {}
        self._closed = False

    def close(self) -> None:
        """Break off everything under way, and send no more: whoever waits for an answer gets a `TransportError`."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.break_off()

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 4 << 20) -> Any:
        """Send a JSON document, return the JSON answer.

        Args:
            member_id: the id of a hospital or a key server, or `hub`.
            path: begins with `/`.
            document: any JSON value.
            deadline_s: the longest that the whole exchange may take.
            limit_bytes: the largest answer that is read.

        Raises:
            TransportError: not reached, or not answered in time.
            PeerDataError: the answer is unsigned, altered, too large or not JSON.
            RefusedError: the member answered, signed, that it refuses.
        """
        # `total` counts from the first step: what connecting took is not there for the answer any more.
        timeout = urllib3.Timeout(total=deadline_s)
        with self._send(member_id, path, canonical_json(document), timeout) as (response, jti):
            data = _read_all(response, limit_bytes, member_id)
            self._verify(member_id, response, jti, data)
        if response.status != 200:
            raise RefusedError(_code(data), f"{member_id}: {_message(data)}")
        return parse_json(data, limit_bytes=limit_bytes)

    def _verify(self, member_id: str, response: urllib3.BaseHTTPResponse, jti: str, data: bytes) -> None:
        """Make sure that the member gave exactly this answer to this request.

        Raises:
            PeerDataError: it did not, or it is no JSON.
            RefusedError: it refuses without a signature, which it may when it could not tell who asked.
        """
        if response.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise PeerDataError(f"{member_id} answered {response.status} with something that is not JSON")
        if ANSWER_HEADER not in response.headers and response.status in (400, 401, 408, 413, 503):
            # Nothing is believed but the refusal.
            raise RefusedError(_code(data), f"{member_id} refused the request: {_message(data)}")
        verify_answer(
            response.headers.get(ANSWER_HEADER, ""),
            self._region().key_of,
            sender=member_id,
            receiver=self._identity.id,
            jti=jti,
            status=response.status,
            body=data,
        )

    @contextmanager
    def stream(self, member_id: str, path: str, document: Any, *, idle_s: float) -> Iterator[Callable[[int], bytes]]:
        """Send a JSON document, give a reader of the streamed answer: `read(n)` returns up to n bytes, b"" at its end.

        Args:
            idle_s: the longest silence that is waited out.

        Raises:
            TransportError: not reached, or the line fell silent or broke (also while reading).
            PeerDataError, RefusedError: as `post`.
        """
        timeout = urllib3.Timeout(connect=idle_s, read=idle_s)
        with self._send(member_id, path, canonical_json(document), timeout) as (response, jti):
            if response.status != 200 or response.headers.get("Content-Type") != STREAM_TYPE:
                data = _read_all(response, 65536, member_id)
                self._verify(member_id, response, jti, data)
                if response.status == 200:
                    raise PeerDataError(f"{member_id} answered with something that is no stream")
                raise RefusedError(_code(data), f"{member_id}: {_message(data)}")
            waited_s = received_bytes = 0.0

            def read(size: int) -> bytes:
                nonlocal waited_s, received_bytes
                start = time.monotonic()
                # A byte now and then is no sign of life.
                left_s = idle_s + received_bytes / SLOWEST_BYTES_PER_S - waited_s
                extend(response, start + min(idle_s, left_s))
                try:
                    data = response.read1(size, decode_content=False) or b""
                except BROKEN as error:
                    raise TransportError(f"{member_id}: {diagnosis(error)}") from error
                waited_s += time.monotonic() - start
                received_bytes += len(data)
                return data

            yield read

    @contextmanager
    def _send(
        self, member_id: str, path: str, body: bytes, timeout: urllib3.Timeout
    ) -> Iterator[tuple[urllib3.BaseHTTPResponse, str]]:
        if self._closed:
            raise TransportError("this node is stopping")
        member = self._member(member_id)
        pool = self._pool(member)
        jti = secrets.token_urlsafe(18)
        headers = {
            "Content-Type": "application/json",
            "Authorization": sign_request(
                self._identity.key,
                sender=self._identity.id,
                receiver=member_id,
                method="POST",
                target=path,
                body=body,
                now=self._clock(),
                jti=jti,
            ),
        }
        try:
            response = pool.urlopen(
                "POST",
                path,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=timeout,
                preload_content=False,
            )
        except BROKEN as error:
            raise TransportError(f"{member_id} was not reached: {diagnosis(error)}") from error
        complete = False
        try:
            yield response, jti
            complete = True
        finally:
            # Only a connection whose answer was read to its end may carry another.
            if not complete:
                response.close()
            response.release_conn()

    def _member(self, member_id: str) -> Member:
        member = self._region().member(member_id)
        if member is None:
            raise TransportError(f"{member_id} is not in the region manifest")
        return member

    def _pool(self, member: Member) -> Pool:
        key = (member.address, member.tls_certificate)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = open_pool(*key, connections=self._connections)
        return pool


def _read_all(response: urllib3.BaseHTTPResponse, limit_bytes: int, member_id: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        try:
            # Never unpacked: a few bytes of gzip can be gigabytes, and nobody in a region packs.
            chunk = response.read1(65536, decode_content=False)
        except BROKEN as error:
            raise TransportError(f"{member_id}: {diagnosis(error)}") from error
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            raise PeerDataError(f"{member_id} answered more than {limit_bytes} bytes")


def _code(data: bytes) -> str:
    return _member_of(data, "error") or "unreadable"


def _message(data: bytes) -> str:
    return _member_of(data, "message") or "no reason given"


def _member_of(data: bytes, name: str) -> str:
    try:
        document = parse_json(data, limit_bytes=65536)
    except PeerDataError:
        return ""
    value = document.get(name) if isinstance(document, dict) else None
    return value[:500] if isinstance(value, str) else ""


class SignedGuard:
    """WSGI middleware: lets verified requests through, refuses the rest, signs the answers.

    Args:
        app: the service behind; it finds the `SignedRequest` under `usmed.request`.
        identity, region, clock: who we are, who may ask, and when it is.
        nonces: remembers what was seen.
        limit_bytes: the largest body that is read.
        open_paths: GET paths that need no signature (health, API description).
        open_posts: POST paths that need none either, because what is sent carries its own proof.
        refused: told of every refusal (remote address, sender's claim or "", reason), to write the audit record.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        identity: Identity,
        region: Region,
        clock: Clock,
        nonces: Nonces,
        limit_bytes: int,
        open_paths: frozenset[str],
        refused: Callable[[str, str, str], None],
        open_posts: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._identity = identity
        self._region = region
        self._clock = clock
        self._nonces = nonces
        self._limit_bytes = limit_bytes
        self._open_paths = open_paths
        self._open_posts = open_posts
        self._refused = refused

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") == "GET" and path in self._open_paths:
            return self._app(environ, start_response)
        try:
            body = self._body(environ)
        except PeerDataError as error:
            return self._refuse(environ, start_response, "413 Content Too Large", "too-large", error)
        if environ.get("REQUEST_METHOD") == "POST" and path in self._open_posts:
            environ["wsgi.input"] = io.BytesIO(body)
            return self._app(environ, start_response)
        target = path + (f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else "")
        now = self._clock()
        try:
            request = verify_request(
                environ.get("HTTP_AUTHORIZATION", ""),
                self._region().key_of,
                receiver=self._identity.id,
                method=environ.get("REQUEST_METHOD", ""),
                target=target,
                body=body,
                now=now,
            )
        except PeerDataError as error:
            return self._refuse(environ, start_response, "401 Unauthorized", "unsigned", error)
        try:
            new = self._nonces.accept(request.sender, request.jti, request.issued, now)
        except UsmedError as error:
            # Without a memory for nonces nobody can say that this is not a replay.
            return self._refuse(
                environ, start_response, "503 Service Unavailable", "unavailable", error, request.sender
            )
        if not new:
            replay = PeerDataError("the request was seen before")
            return self._refuse(environ, start_response, "401 Unauthorized", "replayed", replay, request.sender)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ[REQUEST_KEY] = request
        return self._answer(environ, start_response, request)

    def _body(self, environ: WSGIEnvironment) -> bytes:
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            length = -1
        if length < 0 or length > self._limit_bytes or "HTTP_TRANSFER_ENCODING" in environ:
            raise PeerDataError(f"a body must state its length, at most {self._limit_bytes} bytes")
        return environ["wsgi.input"].read(length) if length else b""

    def _answer(
        self, environ: WSGIEnvironment, start_response: StartResponse, request: SignedRequest
    ) -> Iterable[bytes]:
        head: list[Any] = []

        def capture(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            head[:] = [status, headers]
            return lambda data: None

        parts = self._app(environ, capture)
        first: list[bytes] = []
        iterator = iter(parts)
        for part in iterator:
            # A generator's application has called start_response by the time it yields.
            first.append(part)
            break
        status, headers = head
        if dict(headers).get("Content-Type") == STREAM_TYPE:
            start_response(status, headers)
            return _Chain(first, iterator, parts)
        body = b"".join([*first, *iterator])
        if hasattr(parts, "close"):
            parts.close()
        signature = sign_answer(
            self._identity.key,
            sender=self._identity.id,
            receiver=request.sender,
            jti=request.jti,
            status=int(status[:3]),
            body=body,
        )
        start_response(status, [*headers, (ANSWER_HEADER, signature)])
        return [body]

    def _refuse(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        status: str,
        code: str,
        error: UsmedError,
        sender: str = "",
    ) -> Iterable[bytes]:
        remote = environ.get("REMOTE_ADDR", "")
        log.warning("refused a request from %s to %s: %s", remote, environ.get("PATH_INFO", "")[:200], error)
        self._refused(remote, sender, str(error))
        body = error_body(code, str(error))
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        start_response(status, headers)
        return [body]


class _Chain:
    """A started stream, closed with the application's own iterable."""

    def __init__(self, first: list[bytes], rest: Iterator[bytes], parts: Any) -> None:
        self._first = first
        self._rest = rest
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._rest

    def close(self) -> None:
        if hasattr(self._parts, "close"):
            self._parts.close()


def error_body(code: str, message: str, details: Iterable[str] = ()) -> bytes:
    """Return the JSON body of every error answer."""
    document: Mapping[str, Any] = {"error": code, "message": message, "details": list(details)}
    return canonical_json(document)
