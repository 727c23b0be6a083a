"""Bad input: a clear message, an audit record where it came from outside, no change of state, and the process goes on.

A real hospital and a real hub get what no honest caller would send; the caller is a simulated hospital with a real key.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from joserfc.jwk import OKPKey
from urllib3.exceptions import InsecureRequestWarning

from e2e import dcmtk
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from simulators.peer import INSTANCES, LOOKUP, MANIFEST, Peer
from support.region import ROOT, Hospital, Hub, Process, Region, access_ticket, eventually, permit
from usmed.domain.canonical import base64url, canonical_json
from usmed.domain.region import HUB
from usmed.domain.request_signature import ANSWER_HEADER, sign_request, verify_answer
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity
from usmed.platform.storage import open_database

PATIENT = Patient(national_number(300))
STUDY = Study("asked for", PATIENT, instances=3)
FEDERATION = (LOOKUP, MANIFEST, INSTANCES)
HUB_PATHS = (
    "/v1/studies/feed",
    "/v1/studies/digest",
    "/v1/studies/replace",
    "/v1/resolve",
    "/v1/consents/changes",
    "/v1/consents/records",
)
LIMIT_BYTES = 1 << 20
"""`Federation.MaximumBodyBytes`, as orthanc.json sets it."""


TICKET_S = 300
"""How long one ticket is used here; it lives longer."""


@cache
def _ticket(friend: Peer, region_file: Path, _turn: int) -> Any:
    return access_ticket(Identity(friend.id, friend.key), region_file, (NATIONAL_ISSUER, PATIENT.number))


@dataclass(frozen=True)
class World:
    """`a` is asked, `friend` asks it and the hub; A's patient has agreed to that. `stranger` belongs to nobody."""

    region: Region
    a: Hospital
    friend: Peer
    other: Peer

    @property
    def hub(self) -> Hub:
        """Return the hub."""
        return self.region.hub

    def base(self, receiver: str) -> tuple[str, str]:
        """Return the address and certificate file of A or the hub."""
        if receiver == HUB:
            return f"https://{self.hub.address}:{self.hub.port}", str(self.hub.certificate_file)
        return f"https://{self.a.address}:{self.a.federation_port}", str(self.a.certificate_file)

    def authorization(self, to: str, path: str, body: bytes, **changes: Any) -> str:
        """Sign for `to` as `friend`; `changes` are other arguments of `sign_request`."""
        arguments: dict[str, Any] = {
            "sender": self.friend.id,
            "receiver": to,
            "method": "POST",
            "target": path,
            "body": body,
            "now": datetime.now(UTC),
            "jti": secrets.token_urlsafe(18),
            **changes,
        }
        return sign_request(arguments.pop("key", self.friend.key), **arguments)

    def raw(
        self, receiver: str, path: str, body: Any, authorization: str | None, method: str = "POST"
    ) -> requests.Response:
        """Send these bytes with this signature."""
        base, certificate = self.base(receiver)
        headers = {"Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        return requests.request(method, base + path, data=body, headers=headers, verify=certificate, timeout=30)

    def send(self, receiver: str, path: str, body: bytes) -> requests.Response:
        """Send these bytes, properly signed, and check that the answer is."""
        jti = secrets.token_urlsafe(18)
        answer = self.raw(receiver, path, body, self.authorization(receiver, path, body, jti=jti))
        if ANSWER_HEADER in answer.headers:
            verify_answer(
                answer.headers[ANSWER_HEADER],
                load_region(self.region.file).key_of,
                sender=receiver,
                receiver=self.friend.id,
                jti=jti,
                status=answer.status_code,
                body=answer.content,
            )
        return answer

    def ask(self, path: str, **changes: Any) -> dict[str, Any]:
        """Return a request for STUDY that A would answer, with changes."""
        document: dict[str, Any] = {
            "identifiers": [{"issuer": NATIONAL_ISSUER, "value": PATIENT.number}],
            "study_instance_uid": STUDY.uid,
            "purpose": "TREAT",
            "ticket": _ticket(self.friend, self.region.file, int(time.monotonic() / TICKET_S)),
        }
        if path == LOOKUP:
            document |= {"level": "STUDY", "keys": {}, "tags": ["StudyInstanceUID"], "case_sensitive": True}
        if path == INSTANCES:
            document["instances"] = [[0, STUDY.sop_uid(1, 1)]]
        return document | changes

    def refusals(self, receiver: str) -> list[dict[str, Any]]:
        """Return the audit records of refused requests."""
        if receiver != HUB:
            return [one for one in self.a.audit() if one["event"] == "refused"]
        database = open_database(self.hub.database_url, ["usmed.hub.migrations"])
        log = AuditLog(database)
        try:
            return [one for one in log.tail(2000) if one["event"] == "refused"]
        finally:
            log.close()
            database.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bad-input")
    workstation = {"ws": {"AET": dcmtk.WORKSTATION, "Host": "127.0.0.1", "Port": 11112}}
    section = {"Own": {"Modalities": ["ws"]}, "Pull": {"Automatic": "click"}, "Hub": {"ConsentSeconds": 1}}
    a = Hospital("asked", "Cine răspunde", "ASKED", folder / "a", section=section, modalities=workstation)
    friend, other = (Peer(name, name.upper(), folder / name) for name in ("friend", "other"))
    region = Region(folder, [a], Hub(folder / "hub"))
    with contextlib.ExitStack() as stack:
        for one in (friend, other):
            one.start()
            stack.callback(one.stop)
        stack.callback(region.stop)
        region.start([friend.member(), other.member()])
        for file in STUDY.files():
            a.store(file)
        region.consent(permit(NATIONAL_ISSUER, PATIENT.number, recipients=[friend.id]))
        made = World(region, a, friend, other)
        eventually(lambda: _answers(made), 20, "A answers its friend")
        eventually(lambda: _rows(made, "SELECT * FROM study"), 20, "the hub knows the study")
        yield made


def _answers(world: World) -> int:
    """Return how many studies A shows its friend: 1, unless something is wrong."""
    answer = world.send(world.a.id, LOOKUP, canonical_json(world.ask(LOOKUP)))
    assert answer.status_code == 200, answer.text
    return len(answer.json()["answers"])


@pytest.fixture
def unharmed(world: World) -> Iterator[World]:
    """Check that what a test did changed nothing, and that the same processes go on."""
    assert world.a.process is not None
    assert world.hub.process is not None
    pids = world.a.process.pid, world.hub.process.pid
    before = _state(world)
    yield world
    assert world.a.process.running
    assert world.hub.process.running
    assert (world.a.process.pid, world.hub.process.pid) == pids
    assert _state(world) == before
    assert _answers(world) == 1


def _state(world: World) -> Any:
    """Return what A and the hub hold."""
    statistics = world.a.get("/statistics").json()
    counts = [statistics[f"Count{level}"] for level in ("Patients", "Studies", "Series", "Instances")]
    tables = {table: _rows(world, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("study", "chart", "consent")}
    return counts, tables


def _rows(world: World, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{world.hub.folder / 'usmed-hub.db'}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _refused(
    world: World,
    receiver: str,
    status: int,
    act: Callable[[], requests.Response],
    reason: str = "",
    *,
    records: int = 1,
) -> Any:
    """Do something that must be refused: a clear message, and so many more audit records."""
    count = len(world.refusals(receiver))
    answer = act()
    assert answer.status_code == status, (answer.status_code, answer.text)
    document = answer.json()
    assert set(document) == {"error", "message", "details"}
    assert len(document["message"]) > 5
    assert "Traceback" not in answer.text
    assert reason in document["message"]
    eventually(lambda: len(world.refusals(receiver)) >= count + records, 5, "the refusal is on record")
    found = world.refusals(receiver)[count:]
    assert len(found) == records
    assert {one["outcome"] for one in found} == {"denied"}
    assert found[0]["agent"] in (world.friend.id, "127.0.0.1")
    assert found[0]["reason"]
    return document


# ---- Signatures ----

RECEIVERS = [pytest.param("asked", LOOKUP, id="hospital"), pytest.param(HUB, "/v1/consents/changes", id="hub")]


def _good(world: World, receiver: str, path: str) -> bytes:
    return canonical_json(world.ask(LOOKUP) if receiver != HUB else {"since": 0})


@pytest.mark.parametrize(("receiver", "path"), RECEIVERS)
def test_who_signs_badly_is_refused(unharmed: World, receiver: str, path: str) -> None:
    world, body = unharmed, _good(unharmed, receiver, path)
    other_body = body.replace(b"}", b" }", 1)

    def signed(**changes: Any) -> Callable[[], requests.Response]:
        return lambda: world.raw(receiver, path, body, world.authorization(receiver, path, body, **changes))

    now = datetime.now(UTC)
    cases: list[tuple[Callable[[], requests.Response], str]] = [
        (lambda: world.raw(receiver, path, body, None), "not signed"),
        (lambda: world.raw(receiver, path, body, "Bearer abc"), "not signed"),
        (lambda: world.raw(receiver, path, body, "USMED x.y.z"), "signature"),
        (signed(key=OKPKey.generate_key("Ed25519", private=True)), "does not verify"),
        (signed(key=world.other.key), "does not verify"),
        (signed(sender="nobody"), "not in the region"),
        (signed(sender=world.other.id), "does not verify"),
        (signed(receiver=world.other.id), "another receiver"),
        (signed(target=path + "?more=1"), "another path"),
        (signed(target=FEDERATION[1]), "another path"),
        (signed(method="GET"), "another method"),
        (signed(now=now + timedelta(minutes=10)), "check both clocks"),
        (signed(now=now - timedelta(minutes=10)), "check both clocks"),
        (signed(jti="short"), "nonce"),
        (signed(jti="x" * 65), "nonce"),
        (lambda: world.raw(receiver, path, other_body, world.authorization(receiver, path, body)), "another body"),
        (lambda: world.raw(receiver, path + "?a=1", body, world.authorization(receiver, path, body)), "another path"),
        (lambda: world.raw(receiver, path, body, world.authorization(receiver, path, body), "PUT"), "another method"),
    ]
    for act, reason in cases:
        assert _refused(world, receiver, 401, act, reason)["error"] == "unsigned"


@pytest.mark.parametrize(("receiver", "path"), RECEIVERS)
def test_a_replayed_request_is_refused(unharmed: World, receiver: str, path: str) -> None:
    body = _good(unharmed, receiver, path)
    authorization = unharmed.authorization(receiver, path, body)
    assert unharmed.raw(receiver, path, body, authorization).status_code == 200
    for _ in range(3):
        document = _refused(
            unharmed, receiver, 401, lambda: unharmed.raw(receiver, path, body, authorization), "seen before"
        )
        assert document["error"] == "replayed"


def test_a_replay_is_refused_after_a_restart(world: World) -> None:
    body = canonical_json(world.ask(LOOKUP))
    authorization = world.authorization(world.a.id, LOOKUP, body)
    assert world.raw(world.a.id, LOOKUP, body, authorization).status_code == 200
    world.a.stop()
    world.a.start()
    eventually(lambda: world.raw(world.a.id, "/health", b"", None, "GET").ok, 10)
    _refused(world, world.a.id, 401, lambda: world.raw(world.a.id, LOOKUP, body, authorization), "seen before")


@pytest.mark.parametrize(("receiver", "path"), RECEIVERS)
def test_other_algorithms_are_refused(unharmed: World, receiver: str, path: str) -> None:
    """RFC 8725 §2.1: none, and the public key used as the secret of an HMAC."""
    world, body = unharmed, _good(unharmed, receiver, path)
    public = world.friend.key.as_pem(private=False)

    def token(header: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
        claims = {
            "iss": world.friend.id,
            "aud": receiver,
            "htm": "POST",
            "htu": path,
            "ath": base64url(hashlib.sha256(body).digest()),
            "iat": int(time.time()),
            "jti": secrets.token_urlsafe(18),
        }
        text = f"{base64url(canonical_json(dict(header)))}.{base64url(canonical_json(claims))}"
        return f"USMED {text}.{base64url(sign(text.encode()))}"

    def by_hmac(secret: bytes) -> Callable[[bytes], bytes]:
        return lambda text: hmac.digest(secret, text, "sha256")

    raw_key = public_key_text(world.friend.key).encode()
    cases = [
        token({"alg": "none", "kid": world.friend.id}, lambda text: b""),
        token({"alg": "HS256", "kid": world.friend.id}, by_hmac(public)),
        token({"alg": "HS256", "kid": world.friend.id}, by_hmac(raw_key)),
        token({"alg": "Ed25519", "kid": world.friend.id}, by_hmac(public)),
        token({"alg": "Ed25519", "kid": world.friend.id, "jwk": world.friend.key.as_dict(private=False)}, by_hmac(b"")),
        token({"alg": "Ed25519"}, by_hmac(public)),
    ]
    for authorization in cases:
        _refused(
            world, receiver, 401, lambda authorization=authorization: world.raw(receiver, path, body, authorization)
        )


# ---- Bodies ----

NOT_JSON = {
    "empty": b"",
    "not JSON": b'{"identifiers": [',
    "not UTF-8": b'{"purpose": "\xff\xfe"}',
    "a member twice": b'{"purpose": "TREAT", "purpose": "ETREAT"}',
    "NaN": b'{"purpose": NaN}',
    "infinite": b'{"purpose": 1e999}',
    "10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "40 deep": b'{"purpose": ' + b"[" * 40 + b"]" * 40 + b"}",
    "half a character": b'{"purpose": "\\ud800"}',
    "a list": b"[]",
    "null": b"null",
    "a number of 5000 digits": b'{"purpose": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("path", FEDERATION)
def test_malformed_bodies_to_a_hospital(unharmed: World, path: str) -> None:
    for what, body in NOT_JSON.items():
        document = _refused(unharmed, unharmed.a.id, 400, lambda body=body: unharmed.send(unharmed.a.id, path, body))
        assert document["error"] == "malformed", what


@pytest.mark.parametrize("path", HUB_PATHS)
def test_malformed_bodies_to_the_hub(unharmed: World, path: str) -> None:
    for what, body in NOT_JSON.items():
        document = _refused(unharmed, HUB, 400, lambda body=body: unharmed.send(HUB, path, body))
        assert document["error"] == "bad-request", what


WRONG: list[tuple[str, dict[str, Any]]] = [
    *((path, {"identifiers": "x"}) for path in FEDERATION),
    *((path, {"identifiers": [{"issuer": "A"}]}) for path in FEDERATION),
    *((path, {"identifiers": [{"issuer": "A", "value": "a\\b"}]}) for path in FEDERATION),
    *((path, {"identifiers": [{"issuer": "A", "value": "1"}] * 51}) for path in FEDERATION),
    *((path, {"study_instance_uid": "1.2.*"}) for path in FEDERATION),
    *((path, {"study_instance_uid": 12}) for path in FEDERATION),
    *((path, {"purpose": "CURIOSITY"}) for path in FEDERATION),
    *((path, {"purpose": None}) for path in FEDERATION),
    (LOOKUP, {"level": "PATIENT"}),
    (LOOKUP, {"level": ["STUDY"]}),
    (LOOKUP, {"more": 1}),
    (LOOKUP, {"keys": []}),
    (LOOKUP, {"keys": {"StudyDate": 1}}),
    (LOOKUP, {"keys": {"StudyDate": "x" * 10_001}}),
    (LOOKUP, {"keys": {"NoSuchKeyword": "x"}}),
    (LOOKUP, {"tags": ["NoSuchKeyword"]}),
    (LOOKUP, {"tags": ["0010,00zz"]}),
    (LOOKUP, {"tags": [1]}),
    (LOOKUP, {"tags": ["StudyDate"] * 201}),
    (LOOKUP, {"identifiers": [], "study_instance_uid": ""}),
    (INSTANCES, {"instances": []}),
    (INSTANCES, {"instances": {}}),
    (INSTANCES, {"instances": [[0]]}),
    (INSTANCES, {"instances": [[-1, STUDY.sop_uid(1, 1)]]}),
    (INSTANCES, {"instances": [[1 << 33, STUDY.sop_uid(1, 1)]]}),
    (INSTANCES, {"instances": [["0", STUDY.sop_uid(1, 1)]]}),
    (INSTANCES, {"instances": [[True, STUDY.sop_uid(1, 1)]]}),
    (INSTANCES, {"instances": [[0.5, STUDY.sop_uid(1, 1)]]}),
    (INSTANCES, {"instances": [[0, [STUDY.sop_uid(1, 1)]]]}),
]


@pytest.mark.parametrize(("path", "change"), WRONG, ids=[f"{path} {change}"[:90] for path, change in WRONG])
def test_requests_of_the_wrong_shape(unharmed: World, path: str, change: dict[str, Any]) -> None:
    body = canonical_json(unharmed.ask(path, **change))
    _refused(unharmed, unharmed.a.id, 400, lambda: unharmed.send(unharmed.a.id, path, body))


def test_what_is_not_there_is_refused_like_what_is_not_permitted(unharmed: World) -> None:
    world = unharmed
    answers = set()
    for path in (MANIFEST, INSTANCES):
        for change, records in (
            ({"study_instance_uid": "1.2.3.4"}, 1),
            # The access ticket is another patient's: that is on record too, and not told.
            ({"identifiers": [{"issuer": "NO-SUCH-ISSUER", "value": "1"}]}, 2),
            ({"identifiers": [{"issuer": NATIONAL_ISSUER, "value": national_number(77)}]}, 2),
        ):
            body = canonical_json(world.ask(path, **change))
            document = _refused(
                world, world.a.id, 404, lambda path=path, body=body: world.send(world.a.id, path, body),
                records=records,
            )  # fmt: skip
            answers.add(json.dumps(document))
    body = canonical_json(world.ask(INSTANCES, instances=[[0, "1.2.3"]]))
    answers.add(json.dumps(_refused(world, world.a.id, 404, lambda: world.send(world.a.id, INSTANCES, body))))
    assert len(answers) == 1


def test_unknown_issuers_are_nobody(unharmed: World) -> None:
    identifier = {"issuer": "NO-SUCH-ISSUER", "value": PATIENT.number}
    body = canonical_json(unharmed.ask(LOOKUP, identifiers=[identifier], study_instance_uid=""))
    answer = unharmed.send(unharmed.a.id, LOOKUP, body)
    assert (answer.status_code, answer.json()) == (200, {"answers": []})
    question = canonical_json({"identifier": identifier, "purpose": "TREAT"})
    assert unharmed.send(HUB, "/v1/resolve", question).json() == {"identifiers": [], "holders": []}
    # Nobody's number is under a member's name: a study cannot be announced for a foreign issuer.
    record = {
        "study_instance_uid": "1.2.3",
        "patient": {"identifiers": [identifier], "name": "", "birth_date": "", "sex": ""},
        "accession_number": "",
        "study_date": "",
        "modalities": ["CT"],
    }
    answer = unharmed.send(HUB, "/v1/studies/feed", canonical_json({"upsert": [record], "delete": []}))
    assert answer.status_code == 200
    assert answer.json()["accepted"] == 0
    assert "issuer" in answer.json()["problems"][0]["reason"].lower()


def test_no_other_route_is_open(unharmed: World) -> None:
    """Orthanc's own API is not behind the federation port."""
    for path in ("/system", "/instances", "/studies", "/tools/find", "/dicom-web/studies", "/usmed/status", "/", "/v1"):
        unsigned = _refused(
            unharmed,
            unharmed.a.id,
            401,
            lambda path=path: unharmed.raw(unharmed.a.id, path, None, None, "GET"),
        )
        assert unsigned["error"] == "unsigned"
        _refused(unharmed, unharmed.a.id, 404, lambda path=path: unharmed.send(unharmed.a.id, path, b"{}"))
    assert unharmed.raw(unharmed.a.id, "/health", None, None, "GET").json() == {"status": "up"}


# ---- Sizes and speeds ----


@pytest.mark.parametrize("receiver", ["asked", HUB])
def test_a_body_over_the_limit_is_refused_unread(unharmed: World, receiver: str) -> None:
    path = LOOKUP if receiver != HUB else "/v1/studies/feed"
    limit = LIMIT_BYTES if receiver != HUB else 8 << 20
    body = b" " * (limit + 1)
    authorization = unharmed.authorization(receiver, path, body)
    document = _refused(unharmed, receiver, 413, lambda: unharmed.raw(receiver, path, body, authorization))
    assert str(limit) in document["message"]
    # Announced, never sent: the answer does not wait for it.
    with _tls(unharmed, receiver) as line:
        start = time.monotonic()
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {10 << 30}\r\n\r\n".encode())
        assert b" 413 " in line.recv(65536).partition(b"\r\n")[0]
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("receiver", ["asked", HUB])
def test_a_body_without_a_length_is_refused(unharmed: World, receiver: str) -> None:
    path = LOOKUP if receiver != HUB else "/v1/resolve"
    body = canonical_json(unharmed.ask(LOOKUP))
    authorization = unharmed.authorization(receiver, path, body)
    document = _refused(
        unharmed, receiver, 413, lambda: unharmed.raw(receiver, path, iter([body]), authorization), "length"
    )
    assert document["error"] == "too-large"


@pytest.mark.parametrize("receiver", ["asked", HUB])
def test_bytes_that_are_not_http(unharmed: World, receiver: str) -> None:
    host, port = _endpoint(unharmed, receiver)
    for junk in (b"\x00" * 1000, b"GET\r\n\r\n", b"\r\n\r\n", secrets.token_bytes(5000), b"GET / HTTP/9.9\r\n\r\n"):
        with _tls(unharmed, receiver) as line, contextlib.suppress(OSError):
            line.sendall(junk)
            line.settimeout(3)
            line.recv(4096)
        with socket.create_connection((host, port), timeout=5) as plain, contextlib.suppress(OSError):
            plain.sendall(junk)
            plain.settimeout(1)
            plain.recv(4096)
    with _tls(unharmed, receiver) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"x" * (1 << 20) + b"\r\n\r\n")
        line.settimeout(10)
        with contextlib.suppress(OSError):
            assert b" 200 " not in line.recv(4096).partition(b"\r\n")[0]


def test_slow_callers_do_not_hold_the_federation_port(unharmed: World) -> None:
    """More of them than there are threads: silent ones, and ones that send a byte now and then."""
    host, port = _endpoint(unharmed, unharmed.a.id)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, port), timeout=5)) for _ in range(40)]
        start = time.monotonic()
        assert unharmed.raw(unharmed.a.id, "/health", None, None, "GET").ok
        print(f"with {len(silent)} silent callers: {time.monotonic() - start:.1f} s")
        dripping = [stack.enter_context(_tls(unharmed, unharmed.a.id)) for _ in range(30)]
        waits, end = [], time.monotonic() + 12
        while time.monotonic() < end:
            for one in dripping:
                with contextlib.suppress(OSError):
                    one.sendall(b"P")
            # Inside the hospital nobody notices.
            start = time.monotonic()
            assert unharmed.a.get("/system", headers={"Connection": "close"}).ok
            assert time.monotonic() - start < 1
            time.sleep(1)
        start = time.monotonic()
        assert _answers(unharmed) == 1
        waits.append(time.monotonic() - start)
        print(f"with {len(dripping)} dripping callers: {waits[-1]:.1f} s")
        # A thread that were waited for is not free before a slow caller's patience ends, 20 s.
        assert waits[-1] < 3
    assert unharmed.a.process is not None


def _endpoint(world: World, receiver: str) -> tuple[str, int]:
    if receiver == HUB:
        return world.hub.address, world.hub.port
    return world.a.address, world.a.federation_port


@contextlib.contextmanager
def _tls(world: World, receiver: str) -> Iterator[ssl.SSLSocket]:
    host, port = _endpoint(world, receiver)
    context = ssl.create_default_context(cafile=world.base(receiver)[1])
    with (
        socket.create_connection((host, port), timeout=15) as plain,
        context.wrap_socket(plain, server_hostname=host) as line,
    ):
        yield line


def test_without_the_pinned_certificate_nothing_is_said(unharmed: World) -> None:
    """The other way round: a caller that does not trust A's certificate hangs up, and A goes on."""
    base, _ = unharmed.base(unharmed.a.id)
    for _ in range(5):
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(base + LOOKUP, data=b"{}", timeout=10)
    with pytest.warns(InsecureRequestWarning):
        assert requests.post(base + LOOKUP, data=b"{}", timeout=10, verify=False).status_code == 401


# ---- Inside the hospital: pages, Orthanc's own API ----


@pytest.mark.parametrize("path", ["/usmed/fetch", "/usmed/arrivals"])
def test_malformed_bodies_to_the_pages(unharmed: World, path: str) -> None:
    a = unharmed.a
    as_json = {"Content-Type": "application/json"}
    for what, body in NOT_JSON.items():
        answer = a.post(path, data=body, headers=as_json)
        assert answer.status_code == 400, (what, answer.text)
        assert len(answer.json()["message"]) > 5
    for body in (b"{}", b'{"StudyInstanceUID": 1, "PatientID": 1}', b'{"StudyInstanceUID": "x", "PatientID": ""}'):
        assert a.post(path, data=body, headers=as_json).status_code == 400
    too_long = json.dumps({"StudyInstanceUID": "1." * 40_000}).encode()
    assert a.post(path, data=too_long, headers=as_json).status_code == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = a.post(path, data=b'{"StudyInstanceUID": "1.2.3", "PatientID": "1"}', headers=form)
    assert answer.status_code == 400
    assert "application/json" in answer.json()["message"]


def test_odd_addresses_of_pages(unharmed: World) -> None:
    a = unharmed.a
    for path in ("/usmed/transfers/1.2.3", "/usmed/orthanc-studies/x"):
        assert a.get(path).status_code == 404, path
    for number in ("%", "%25%5C", "a" * 300, "%E2%82%AC", "*", "..%2f..", "%F0%9F%98%80"):
        answer = a.get(f"/usmed/patients/{number}")
        assert answer.status_code in (200, 400, 404), (number, answer.text)
        assert "Traceback" not in answer.text
    # What the table of addresses does not list is denied to everybody.
    for path in ("/usmed/nothing", "/usmed/orthanc-patients/%00"):
        assert a.get(path).status_code == 403, path
    assert a.session.delete(f"{a.url}/usmed/fetch", timeout=10).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/tools/find",
        "/modalities/ws/store",
        "/peers/nobody/store",
        "/dicom-web/servers/nobody/stow",
        "/modalities/ws/store-straight",
        "/jobs/nothing/resubmit",
    ],
)
def test_malformed_bodies_to_orthancs_own_routes(unharmed: World, path: str) -> None:
    for what, body in NOT_JSON.items():
        if path == "/tools/find" and what in ("a member twice",):
            # Orthanc's own reading of JSON; nothing in it names a patient.
            continue
        answer = unharmed.a.post(path, data=body)
        assert 400 <= answer.status_code < 600, (what, answer.status_code)
        assert answer.status_code != 500 or answer.json()["OrthancError"], (what, answer.text)
        assert "Traceback" not in answer.text


def test_malformed_searches(unharmed: World) -> None:
    a = unharmed.a
    for query in ("limit=x", "limit=1.5", "offset=99999999999", "fuzzymatching=maybe"):
        answer = a.get(f"/dicom-web/studies?{query}")
        assert answer.status_code == 400, (query, answer.text)
    for query in ("NoSuchKeyword=1", "0010zzzz=1", "includefield=nothing"):
        # Ignored, as Orthanc's DICOMweb plugin does; what remains names no patient.
        assert a.get(f"/dicom-web/studies?PatientID=nobody&{query}").json() == [], query
    for document in (
        {"Level": "Study"},
        {"Level": "Nothing", "Query": {}},
        {"Level": 5, "Query": {}},
        {"Level": "Study", "Query": []},
        {"Level": "Study", "Query": {"PatientID": 5}},
        {"Level": "Study", "Query": {"PatientID": "1"}, "Limit": "x"},
        {"Level": "Study", "Query": {"PatientID": "1"}, "RequestedTags": [1]},
        {"Level": "Study", "Query": {"NoSuchKeyword": "1", "PatientID": "1"}},
    ):
        answer = a.post("/tools/find", document)
        # Orthanc itself calls some of these an internal error.
        assert 400 <= answer.status_code <= 500, (document, answer.status_code, answer.text)
        assert "OrthancError" in answer.json(), answer.text


# ---- DICOM ----


def _dicom(**changes: Any) -> bytes:
    return Study("malformed", Patient("BAD-1"), instances=1, attributes=changes).files()[0]


BAD_DICOM = {
    "nothing": b"",
    "no DICOM": b"This is no DICOM file. " * 100,
    "only a preamble": b"\0" * 128 + b"DICM",
    "cut short": _dicom()[:1500],
    "rubbish in the middle": _dicom()[:600] + secrets.token_bytes(3000) + _dicom()[3600:],
    "a length beyond the end": _dicom().replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00PN\xff\xff", 1),
}


def test_malformed_dicom_is_refused_or_stored_and_nothing_stops(world: World) -> None:
    """Whatever Orthanc makes of it: the answer is Orthanc's, and the node goes on."""
    assert world.a.process is not None
    pid = world.a.process.pid
    for what, file in BAD_DICOM.items():
        answer = world.a.post("/instances", data=file)
        print(what, answer.status_code)
        assert answer.status_code in (200, 400, 404, 413, 500) and (answer.status_code == 200 or answer.json()), what
    assert world.a.process.pid == pid
    assert _answers(world) == 1


ODD = {
    "no patient's number": {"PatientID": ""},
    "a number that is too long": {"PatientID": "9" * 200},
    "a control character": {"PatientID": "a\x07b"},
    "two numbers": {"PatientID": "1\\2"},
    "a date that is none": {"StudyDate": "20269999"},
    "a birth date that is none": {"PatientBirthDate": "yesterday"},
    "a sex that is none": {"PatientSex": "XYZ"},
    "an accession number that is too long": {"AccessionNumber": "7" * 300},
    "letters that the character set lacks": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Ștefan"},
    "a character set that is none": {"SpecificCharacterSet": "NOTHING"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_objects_are_kept_and_never_stop_the_others(world: World) -> None:
    """Stored by C-STORE and REST; announced to the hub or left out; asked for by a friend; found here."""
    assert world.a.process is not None
    pid = world.a.process.pid
    for number, (what, changes) in enumerate(ODD.items()):
        study = Study(f"odd {number}", Patient(f"ODD-{number}"), instances=1, attributes=changes)
        (file,) = study.files()
        if number % 2:
            dcmtk.store(world.a, [file])
        else:
            assert world.a.post("/instances", data=file).status_code == 200, what
        found = world.a.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study.uid}})
        assert (found.status_code, len(found.json())) == (200, 1), what
        for path in FEDERATION:
            document = world.ask(path, study_instance_uid=study.uid, identifiers=[])
            if path == INSTANCES:
                document["instances"] = [[0, study.sop_uid(1, 1)]]
            answer = world.send(world.a.id, path, canonical_json(document))
            # Nobody agreed to this: the answer for what is unknown, whatever the object holds.
            assert answer.status_code == (200 if path == LOOKUP else 404), (what, path, answer.text)
        panel = world.a.get(f"/usmed/orthanc-studies/{found.json()[0]}")
        assert panel.status_code == 200, (what, panel.text)
    good = Study("after the odd ones", Patient("GOOD-1"), instances=1)
    world.a.store(good.files()[0])
    eventually(lambda: good.uid in _known(world), 20, "the hub hears of good studies all the same")
    assert world.a.process.pid == pid
    assert _answers(world) == 1


def _known(world: World) -> set[str]:
    return {row[0] for row in _rows(world, "SELECT study_instance_uid FROM study")}


# ---- Configuration ----


def _start(config: Path, log: Path) -> tuple[int, str]:
    """Start Orthanc with a wrong configuration; return its exit code and what it said."""
    process = Process(["Orthanc", str(config)], log, {}, ROOT)
    process.start()
    try:
        return process.wait(60), process.text()
    finally:
        process.stop()


def _node(folder: Path, **options: Any) -> Hospital:
    return Hospital("wrong", "Greșit", "WRONG", folder / "wrong", **options)


def test_a_wrong_configuration_is_told_whole_before_anything_starts(world: World, tmp_path: Path) -> None:
    section = {
        "Federation": {"Port": 70000, "Prot": 8043, "Threads": "many"},
        "Lookup": {"DeadlineSeconds": "soon"},
        "Pull": {"Automatic": "sometimes", "Modalities": "CT"},
        "Own": {"Modalities": ["ct"], "Printers": []},
        "Retentoin": {"GuestDays": 3},
    }
    modalities = {"foreign": ["FOREIGN", "127.0.0.1", 11113]}
    settings = {"USMED_PRIVATE_KEY_FILE": str(tmp_path / "no-such-key.pem")}
    node = _node(
        tmp_path, section=section, modalities=modalities, settings=settings, orthanc={"DicomAlwaysAllowGet": True}
    )
    config = node.write_configuration(world.region.file)
    code, said = _start(config, tmp_path / "log")
    assert code != 0
    for path in (
        "Usmed.Federation.Port",
        "Usmed.Federation.Prot",
        "Usmed.Federation.Threads",
        "Usmed.Lookup.DeadlineSeconds",
        "Usmed.Pull.Automatic",
        "Usmed.Pull.Modalities",
        "Usmed.Own.Printers",
        "Usmed.Retentoin",
        "Usmed.PrivateKeyFile",
        "DicomAlwaysAllowGet",
        "DicomModalities.foreign",
    ):
        assert path in said, path
    assert "HTTP server listening" not in said
    assert "DICOM server listening" not in said
    assert not (tmp_path / "wrong" / "storage").exists()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda text: "a: [1, 2", "not YAML"),
        (lambda text: "\x00\x01", "not YAML"),
        (lambda text: "a: " + "[" * 5000, "YAML"),
        (lambda text: "&a [*a, *a]", "mapping"),
        (lambda text: "- 1", "mapping"),
        (lambda text: "!!python/object/apply:os.system ['true']", "not YAML"),
        (lambda text: text.replace("public_key", "pubic_key"), "pubic_key"),
        (lambda text: text.replace("version: 1", "version: one"), "$.version"),
        (lambda text: text.replace("https://", "ftp://"), "address"),
        (lambda text: text.replace("id: asked", "id: Asked Hospital"), "$.hospitals[0].id"),
        (lambda text: text.replace("BEGIN CERTIFICATE", "BEGIN NOTHING"), "tls_certificate"),
    ],
    ids=["broken", "binary", "deep", "endless alias", "list", "code", "key", "type", "scheme", "id", "certificate"],
)
def test_a_wrong_region_manifest(world: World, tmp_path: Path, change: Callable[[str], str], names: str) -> None:
    region = tmp_path / "region.yaml"
    region.write_text(change(yaml.safe_dump(_document(world), allow_unicode=True)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "usmed", "region", "check", str(region)],
        env={"PYTHONPATH": str(ROOT / "plugins"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert names in done.stderr
    assert "Traceback" not in done.stderr


def _document(world: World) -> dict[str, Any]:
    """Return the region's manifest without its signatures."""
    return world.region.document([world.a.member(), world.friend.member(), world.other.member()])


def test_a_node_with_a_wrong_region_manifest_does_not_start(world: World, tmp_path: Path) -> None:
    document = _document(world)
    document["hospitals"][0]["public_key"] = "AAAA"
    document["hospitals"][1]["issuers"] = []
    document["hub"]["adress"] = "x"
    region = tmp_path / "region.yaml"
    region.write_text(yaml.safe_dump(document), "utf-8")
    code, said = _start(_node(tmp_path).write_configuration(region), tmp_path / "log")
    assert code != 0
    for path in ("$.hospitals[0].public_key", "$.hospitals[1].issuers", "$.hub.adress"):
        assert path in said
    assert "listening" not in said


def test_a_node_that_is_not_in_the_manifest_or_has_another_key(world: World, tmp_path: Path) -> None:
    code, said = _start(_node(tmp_path).write_configuration(world.region.file), tmp_path / "log")
    assert code != 0
    assert "there is no hospital 'wrong'" in said
    impostor = Hospital(world.a.id, "Impostor", "ASKED", tmp_path / "impostor")
    code, said = _start(impostor.write_configuration(world.region.file), tmp_path / "log2")
    assert code != 0
    assert "does not belong to the public_key" in said
    assert "listening" not in said


def test_a_taken_federation_port_is_told(world: World, tmp_path: Path) -> None:
    """The port is bound when Orthanc has started; a node that cannot serve the others must not look as if it did."""
    node = _node(tmp_path)
    document = _document(world)
    document["hospitals"].append(node.member())
    region = tmp_path / "region.json"
    region.write_bytes(world.region.signed(document))
    node.federation_port = world.a.federation_port
    code, said = _start(node.write_configuration(region), tmp_path / "log")
    assert code != 0
    assert "cannot be used" in said


def test_a_hub_with_wrong_settings_does_not_start(world: World, tmp_path: Path) -> None:
    environment = world.hub.environment | {
        "USMED_PRIVATE_KEY_FILE": str(world.a.key_file),
        "USMED_MAXIMUM_BODY_BYTES": "lots",
        "USMED_DATABASE_URL": "mysql://x",
    }
    process = Process([sys.executable, "-m", "usmed", "hub"], tmp_path / "log", environment, tmp_path)
    process.start()
    try:
        assert process.wait(60) != 0
    finally:
        process.stop()
    said = process.text()
    for name in ("USMED_PRIVATE_KEY_FILE", "USMED_MAXIMUM_BODY_BYTES"):
        assert name in said
    assert "Traceback" not in said


def test_an_orthanc_that_is_too_old_is_refused_first(tmp_path: Path) -> None:
    """Before anything is imported that its Python may not have: only `orthanc` and the standard library are there."""
    (tmp_path / "orthanc.py").write_text(
        "import sys\n"
        "def CheckVersionAdvanced(major, minor, revision):\n"
        "    print('asked for', major, minor, revision)\n"
        "    return (1, 12, 10) >= (major, minor, revision)\n"
    )
    done = subprocess.run(
        # -S: without Debian's and everybody else's packages.
        [sys.executable, "-S", str(ROOT / "plugins" / "hospital.py")],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "asked for 1 12 11" in done.stdout
    assert "is older than 1.12.11" in done.stderr
    assert "upgrade" in done.stderr
