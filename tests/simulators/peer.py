"""A hospital of the region that says whatever a test wants: its key, its signatures and its place in the manifest are
real, its behaviour is a function.

A behaviour gets each request and the line it came on, and writes what it likes. `honest` answers as a hospital does
that releases everything it holds; what the others do, their names say. What arrives is kept in `Peer.requests`.
"""

import contextlib
import gzip
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from joserfc.jwk import OKPKey

from support.region import Hub
from usmed.domain.canonical import base64url_decode, canonical_json, sha256_hex
from usmed.domain.manifest import frame_end, frame_header
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.request_signature import ANSWER_HEADER, sign_answer, sign_document
from usmed.platform.keys import generate_certificate, generate_key, public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import STREAM_TYPE, Identity, SignedClient

LOOKUP, MANIFEST, INSTANCES = (f"/federation/v1/{name}" for name in ("lookup", "manifest", "instances"))
PIECE = b"x" * (64 << 10)


@dataclass
class Request:
    """One request as it came: nothing of it is checked."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Return the JSON of the body."""
        return json.loads(self.body)

    @property
    def claims(self) -> dict[str, Any]:
        """Return what the request's signature says; who sent it and its nonce are in it."""
        token = self.headers["authorization"].partition(" ")[2]
        return dict(json.loads(base64url_decode(token.split(".")[1])))


class Line:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def read_request(self) -> Request | None:
        """Return the next request, or None when there will be none."""
        first = self._file.readline(65536).decode("latin-1").split()
        if len(first) != 3:
            return None
        headers: dict[str, str] = {}
        while line := self._file.readline(65536).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Request(first[0], first[1], headers, self._file.read(int(headers.get("content-length", 0))))

    def send(self, data: bytes) -> None:
        """Send; raises OSError when the other side is gone."""
        self._socket.sendall(data)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send an answer with its length."""
        self.head(status, {**headers, "Content-Length": str(len(body))})
        self.send(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the first part of an answer."""
        lines = [f"HTTP/1.1 {status} Simulated", *(f"{name}: {value}" for name, value in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """Send a part of a body of unknown length (RFC 9112 §7.1); b"" ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))


@dataclass
class HeldStudy:
    """A study that the peer holds.

    Attributes:
        identifier: whose it is: issuer and number.
        tags: what a lookup answers, besides the UID.
        files: its instances as DICOM files, by SOP Instance UID.
    """

    study_instance_uid: str
    series_instance_uid: str
    identifier: tuple[str, str]
    tags: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def patient(self) -> dict[str, str]:
        """Return the identifier as JSON."""
        return {"issuer": self.identifier[0], "value": self.identifier[1]}

    def record(self) -> dict[str, Any]:
        """Return what the hub is told of it."""
        patient = {"identifiers": [self.patient], "name": "", "birth_date": "", "sex": ""}
        return {
            "study_instance_uid": self.study_instance_uid,
            "patient": patient,
            "accession_number": "",
            "study_date": "20260301",
            "modalities": ["CT"],
        }

    def entries(self) -> list[list[Any]]:
        """Return the entries of its manifest, as they are."""
        return [
            [sop, self.series_instance_uid, len(file), sha256_hex(file)] for sop, file in sorted(self.files.items())
        ]


class Peer:
    """A simulated hospital.

    Args:
        hospital_id, issuer: as in the region manifest.
        folder: where its key and certificate go.
        address: where it listens, on a free port.
        tls: whether it speaks TLS.
        place: the hub whose place it takes: its id, key, certificate and port. It can start only when that one is down.

    Attributes:
        behaviour: what it does with a request.
        studies: what it holds, by Study Instance UID.
        make_manifest, make_frames: what the honest behaviour says of a study and sends of it; replace them to lie.
        requests: what it was asked.
        sent_bytes: how much the endless behaviours got rid of.
    """

    def __init__(
        self,
        hospital_id: str,
        issuer: str,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        tls: bool = True,
        place: Hub | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id, self.issuer, self.address, self.tls = hospital_id, issuer, address, tls
        self._certificate, self._tls_key = folder / "tls.pem", folder / "tls.key"
        self.port = 0
        if place is not None:
            self.address, self.port, self.key = place.address, place.port, place.key
            self._certificate, self._tls_key = place.certificate_file, place.tls_key_file
        else:
            self.key = generate_key(folder / "key.pem")
            generate_certificate(address, certificate=self._certificate, key=self._tls_key, now=datetime.now(UTC))
        self.behaviour: Behaviour = honest
        self.studies: dict[str, HeldStudy] = {}
        self.make_manifest: Callable[[HeldStudy, str], dict[str, Any]] = self.manifest
        self.make_frames: Callable[[HeldStudy, Sequence[Sequence[Any]]], Iterable[bytes]] = self.frames
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if place is None:
            self._bind()

    def member(self) -> dict[str, Any]:
        """Return its entry of the region manifest."""
        entry = {
            "id": self.id,
            "name": f"Spitalul {self.id}",
            "address": f"{'https' if self.tls else 'http'}://{self.address}:{self.port}",
            "public_key": public_key_text(self.key),
            "issuers": [self.issuer],
        }
        return entry | ({"tls_certificate": self._certificate.read_text()} if self.tls else {})

    def start(self) -> None:
        """Listen."""
        if self._listener is None:
            self._bind()
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody and close the port; `start` opens the same port again."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self.hang_up()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def hang_up(self) -> None:
        """Break every open connection."""
        with self._lock:
            victims = list(self._open)
        for one in victims:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    @property
    def lookups(self) -> int:
        """Return how often it was asked to look up."""
        return sum(one.target == LOOKUP for one in self.requests)

    def client(self, region_file: Path, *, offset_s: float = 0.0, key: OKPKey | None = None) -> SignedClient:
        """Return what sends its signed requests, by a clock that is `offset_s` off, perhaps with another key."""
        region: RegionManifest = load_region(region_file)

        def clock() -> datetime:
            return datetime.fromtimestamp(time.time() + offset_s, UTC)

        return SignedClient(Identity(self.id, key or self.key), lambda: region, clock)

    def feed(self, region_file: Path) -> None:
        """Tell the hub what it holds."""
        records = [one.record() for one in self.studies.values()]
        document = {"upsert": records, "delete": []}
        answer = self.client(region_file).post(HUB, "/v1/studies/feed", document, deadline_s=10)
        assert not answer["problems"], answer

    def hold(self, study: HeldStudy) -> HeldStudy:
        """Hold a study."""
        self.studies[study.study_instance_uid] = study
        return study

    # ---- what it says, honestly ----

    def manifest(self, study: HeldStudy, requester: str) -> dict[str, Any]:
        """Return the manifest of a study, before it is signed."""
        return {
            "source": self.id,
            "requester": requester,
            "study_instance_uid": study.study_instance_uid,
            "identifier": study.patient,
            "birth_date": "",
            "sex": "",
            "consent_id": "simulated",
            "entries": study.entries(),
        }

    def frames(self, study: HeldStudy, wanted: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Give the stream of the wanted instances, each [index, SOP Instance UID]."""
        for index, sop in wanted:
            yield frame(index, study.files[sop])
        yield frame_end()

    def sign(self, request: Request, status: int, body: bytes, **changes: Any) -> str:
        """Return the signature of an answer; `changes` are other arguments of `sign_answer`."""
        arguments: dict[str, Any] = {
            "sender": self.id,
            "receiver": request.claims["iss"],
            "jti": request.claims["jti"],
            "status": status,
            "body": body,
            **changes,
        }
        return sign_answer(arguments.pop("key", self.key), **arguments)

    def answer_json(self, request: Request, line: Line, document: Any, status: int = 200, **changes: Any) -> None:
        """Answer JSON, signed."""
        body = document if isinstance(document, bytes) else canonical_json(document)
        signature = self.sign(request, status, body, **changes)
        line.answer(status, {"Content-Type": "application/json", ANSWER_HEADER: signature}, body)

    def refuse(self, request: Request, line: Line) -> None:
        """Answer as a hospital that has nothing, or no permission."""
        self.answer_json(request, line, {"error": "unknown", "message": "no such study", "details": []}, 404)

    def found(self, document: Any) -> dict[str, Any]:
        """Return the answer to a lookup."""
        asked = [(one["issuer"], one["value"]) for one in document["identifiers"]]
        answers = [
            {
                "identifier": one.patient,
                "study_instance_uid": one.study_instance_uid,
                "instances": len(one.files) or 1,
                "tags": {
                    "StudyDate": "20260301",
                    "ModalitiesInStudy": "CT",
                    "PatientName": "Simulat",
                    **one.tags,
                    "StudyInstanceUID": one.study_instance_uid,
                },
            }
            for one in self.studies.values()
            if one.identifier in asked
            and document["study_instance_uid"] in ("", one.study_instance_uid)
            and document["keys"].get("StudyInstanceUID", one.study_instance_uid) == one.study_instance_uid
        ]
        return {"answers": answers}

    # ---- serving ----

    def _bind(self) -> None:
        self._listener = socket.create_server((self.address, self.port), backlog=64)
        self.port = int(self._listener.getsockname()[1])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name=self.id, daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._certificate, self._tls_key)
                connection = context.wrap_socket(connection, server_side=True)
        with self._lock:
            self._open.add(connection)
        try:
            with connection, contextlib.suppress(OSError):
                line = Line(connection)
                while (request := line.read_request()) is not None:
                    with self._lock:
                        self.requests.append(request)
                    self.behaviour(self, request, line)
        finally:
            with self._lock:
                self._open.discard(connection)


Behaviour = Callable[[Peer, Request, Line], None]
"""May raise OSError: the line is closed then, as it is when the behaviour closed it."""


class HangUp(OSError):
    """Close the line."""


def frame(index: int, dicom: bytes) -> bytes:
    """Return one instance as it is streamed."""
    return frame_header(index, len(dicom)) + dicom


def honest(peer: Peer, request: Request, line: Line) -> None:
    """Answer as a hospital does, releasing everything to everybody."""
    document = request.document
    if request.target == LOOKUP:
        peer.answer_json(request, line, peer.found(document))
        return
    study = peer.studies.get(document["study_instance_uid"])
    if study is None:
        peer.refuse(request, line)
    elif request.target == MANIFEST:
        manifest = peer.make_manifest(study, request.claims["iss"])
        token = sign_document(peer.key, sender=peer.id, document=manifest)
        peer.answer_json(request, line, {"manifest": token})
    else:
        line.head(200, {"Content-Type": STREAM_TYPE, "Transfer-Encoding": "chunked"})
        for part in peer.make_frames(study, document["instances"]):
            line.chunk(part)
        line.chunk(b"")


def silent(peer: Peer, request: Request, line: Line) -> None:
    """Accept and never answer."""
    line.read_request()
    raise HangUp


def not_http(peer: Peer, request: Request, line: Line) -> None:
    """Answer bytes that mean nothing."""
    line.send(secrets.token_bytes(4096))
    raise HangUp


def not_json(peer: Peer, request: Request, line: Line) -> None:
    """Answer a web page, as a wrongly set proxy does."""
    line.answer(200, {"Content-Type": "text/html"}, b"<html><body>It works!</body></html>")


def signed_nonsense(peer: Peer, request: Request, line: Line) -> None:
    """Answer JSON of no meaning, properly signed."""
    peer.answer_json(request, line, {"answers": [{"study_instance_uid": 7, "tags": None}, "?"]})


def signed_not_json(peer: Peer, request: Request, line: Line) -> None:
    """Answer no JSON, properly signed."""
    peer.answer_json(request, line, b'{"answers": [')


def deeply_nested(peer: Peer, request: Request, line: Line) -> None:
    """Answer JSON nested 100,000 deep, properly signed."""
    peer.answer_json(request, line, b"[" * 100_000 + b"]" * 100_000)


def endless(peer: Peer, request: Request, line: Line) -> None:
    """Answer a body without end that looks signed."""
    signature = peer.sign(request, 200, b"")
    headers = {"Content-Type": "application/json", ANSWER_HEADER: signature, "Transfer-Encoding": "chunked"}
    line.head(200, headers)
    line.chunk(b'{"answers":["')
    while True:
        line.chunk(PIECE)
        peer.sent_bytes += len(PIECE)


def announced_gigabytes(peer: Peer, request: Request, line: Line) -> None:
    """Announce ten gigabytes, and send them."""
    signature = peer.sign(request, 200, b"")
    line.head(200, {"Content-Type": "application/json", ANSWER_HEADER: signature, "Content-Length": str(10 << 30)})
    for _ in range((10 << 30) // len(PIECE)):
        line.send(PIECE)
        peer.sent_bytes += len(PIECE)


def endless_head(peer: Peer, request: Request, line: Line) -> None:
    """Answer header after header."""
    line.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        line.send(b"X-More: " + PIECE[:4096] + b"\r\n")
        peer.sent_bytes += 4096


def gzip_bomb(peer: Peer, request: Request, line: Line) -> None:
    """Answer a gigabyte of zeros as one megabyte of gzip."""
    body = _bomb()
    signature = peer.sign(request, 200, body)
    headers = {"Content-Type": "application/json", ANSWER_HEADER: signature, "Content-Encoding": "gzip"}
    line.answer(200, headers, body)


@cache
def _bomb() -> bytes:
    return gzip.compress(b"\0" * (64 << 20)) * 16


def endless_continue(peer: Peer, request: Request, line: Line) -> None:
    """Say again and again that the answer is about to come (RFC 9110 §15.2.1)."""
    while True:
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.sent_bytes += 25


def dripping(peer: Peer, request: Request, line: Line) -> None:
    """Give an honest answer, a byte a second."""
    body = canonical_json(peer.found(request.document))
    signature = peer.sign(request, 200, body)
    headers = {"Content-Type": "application/json", ANSWER_HEADER: signature, "Content-Length": str(len(body))}
    line.head(200, headers)
    _drip(peer, line, body)


def dripping_head(peer: Peer, request: Request, line: Line) -> None:
    """Give an answer whose very first line comes a few bytes a second, and never ends."""
    line.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    _drip(peer, line, b"x" * 3600)


def _drip(peer: Peer, line: Line, data: bytes) -> None:
    for byte in data:
        line.send(bytes([byte]))
        peer.sent_bytes += 1
        time.sleep(0.3 if peer.sent_bytes < 20 else 1.0)


def redirecting(target: str) -> Behaviour:
    """Send the caller elsewhere."""

    def behave(peer: Peer, request: Request, line: Line) -> None:
        line.answer(307, {"Location": target, "Content-Type": "application/json"}, b"{}")

    return behave


def unsigned(peer: Peer, request: Request, line: Line) -> None:
    """Answer honestly, without a signature."""
    body = canonical_json(peer.found(request.document))
    line.answer(200, {"Content-Type": "application/json"}, body)


def wrongly_signed(peer: Peer, request: Request, line: Line) -> None:
    """Sign with a key that is not its own."""
    key = OKPKey.generate_key("Ed25519", private=True)
    peer.answer_json(request, line, peer.found(request.document), key=key)


def signed_by(other: Peer) -> Behaviour:
    """Give an answer that another hospital of the region signed."""

    def behave(peer: Peer, request: Request, line: Line) -> None:
        peer.answer_json(request, line, peer.found(request.document), key=other.key, sender=other.id)

    return behave


def signed_other_body(peer: Peer, request: Request, line: Line) -> None:
    """Give one answer with the signature of another."""
    body = canonical_json(peer.found(request.document))
    signature = peer.sign(request, 200, b'{"answers":[]}')
    line.answer(200, {"Content-Type": "application/json", ANSWER_HEADER: signature}, body)


class Replaying:
    """Answers the first lookup honestly, and every later one with that same answer and its signature."""

    def __init__(self) -> None:
        self._first: tuple[str, bytes] | None = None

    def __call__(self, peer: Peer, request: Request, line: Line) -> None:
        """Answer."""
        if self._first is None:
            body = canonical_json(peer.found(request.document))
            self._first = peer.sign(request, 200, body), body
        signature, body = self._first
        line.answer(200, {"Content-Type": "application/json", ANSWER_HEADER: signature}, body)


@contextlib.contextmanager
def full_backlog(address: str = "127.0.0.1") -> Iterator[int]:
    """Give a port where connections are neither accepted nor refused, as behind a firewall that drops."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        waiting = []
        try:
            # The backlog holds one more than it says; after that the kernel drops what asks (listen(2)).
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex((address, port))
                waiting.append(one)
            yield port
        finally:
            for one in waiting:
                one.close()
