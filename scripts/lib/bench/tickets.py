"""Access tickets: getting one from three key servers, how many decisions a server makes, what a source has to check."""

import http.client
import secrets
import socket
import ssl
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Kind, Limit, Report, Result, seconds
from bench.nodes import BenchError
from support.key_server import UNLIMITED, KeyServer
from support.region import Hospital, Hub, Region, on_paper, permit
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.domain.request_signature import sign_request
from usmed.domain.ticket import Staff, verify_ticket
from usmed.domain.ticket_wish import TicketWish
from usmed.hospital.circuit import Circuit
from usmed.hospital.tickets import SignedTicket, Tickets
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient

SERVERS, THRESHOLD = 3, 2
TICKETS_A_ROUND = 100
DECISIONS_A_ROUND = 1500
CLIENTS = 8
VERIFICATIONS = 300


@dataclass(frozen=True)
class _World:
    region: RegionManifest
    asker: Hospital
    servers: Sequence[KeyServer]
    tickets: Tickets


def tickets(folder: Path, report: Report, runs: int) -> None:
    """All that an access ticket costs."""
    asker = Hospital("asker", "Cine întreabă", "ASKER", folder / "asker")
    servers = [KeyServer(f"keys-{number}", folder / f"keys-{number}", settings=UNLIMITED) for number in range(SERVERS)]
    files = Region(folder, [asker], Hub(folder / "hub"), servers, threshold=THRESHOLD)
    files.write_manifest()
    region = load_region(files.file)
    client = SignedClient(Identity(asker.id, asker.key), lambda: region, _now)
    getter = Tickets(
        hospital=asker.id, key=region.hospitals[asker.id].key, region=lambda: region, client=client,
        circuit=Circuit(1, time.monotonic), clock=_now, deadline_s=5,
    )  # fmt: skip
    world = _World(region, asker, servers, getter)
    try:
        for one in servers:
            one.start(files.file)
        _tickets(world, client, report, runs)
        _decisions(world, client, report, runs)
        _verification(world, report, runs)
    finally:
        getter.close()
        client.close()
        for one in servers:
            one.stop()


def _tickets(world: _World, client: SignedClient, report: Report, runs: int) -> None:
    """A ticket of a patient nobody has asked about, from three servers that hold the consent."""
    medians, worst, network = [], [], []
    for number in range(-1, runs):
        patients = [_patient() for _ in range(TICKETS_A_ROUND)]
        _give(client, world, patients)
        took = [1000 * seconds(lambda one=one: world.tickets.get([one], "bench")) for one in patients]  # type: ignore[misc]
        if number >= 0:
            medians.append(statistics.median(took))
            worst.append(statistics.quantiles(took, n=20)[-1])
            network.append(_round_trip_ms(world.servers[0]))
    note = (
        f"{THRESHOLD} of {SERVERS} servers, each a process with SQLite, over TLS, all on this machine, for a patient"
        f" nobody has asked about. Median and 95th percentile of {TICKETS_A_ROUND} patients. Plain: a request for"
        " /health over a connection that is open, which stands for the network."
    )
    report.add(Result("ticket, median", "ms", medians, network, Limit(Kind.MORE_AT_MOST, 15), note))
    report.add(Result("ticket, 95th percentile", "ms", worst, network, Limit(Kind.MORE_AT_MOST, 40)))


def _decisions(world: _World, client: SignedClient, report: Report, runs: int) -> None:
    """How many tickets one server process signs in a second, while others only ask."""
    rates = []
    patients = [_patient() for _ in range(20)]
    _give(client, world, patients)
    for _ in range(runs):
        requests = _signed_requests(world, patients)
        shares = [requests[number::CLIENTS] for number in range(CLIENTS)]
        server = world.servers[0]
        with ProcessPoolExecutor(CLIENTS) as pool:
            list(pool.map(_nothing, range(CLIENTS)))
            started = time.perf_counter()
            done = sum(pool.map(_send, [(server.address, server.port, str(server.certificate_file))] * CLIENTS, shares))
            rates.append(done / (time.perf_counter() - started))
    note = (
        f"{CLIENTS} clients with {DECISIONS_A_ROUND} requests that were signed before, on the same processors; each"
        " decision and each nonce is on disk before the answer. Plain: the limit."
    )
    plain = [300.0] * len(rates)
    report.add(Result("decisions of one server", "/s", rates, plain, Limit(Kind.RATIO_AT_LEAST, 1.0), note))


def _verification(world: _World, report: Report, runs: int) -> None:
    """What the source does with a ticket, and what one that is remembered costs the requester."""
    patient = _patient()
    client = SignedClient(Identity(world.asker.id, world.asker.key), lambda: world.region, _now)
    _give(client, world, [patient])
    held = world.tickets.get([patient], "bench")
    verified = [_each_ms(lambda: _verify(world, held)) for _ in range(runs)]
    note = "All that does not depend on a study: signatures, time, requester, proof of possession. Plain: the limit."
    at_most = Limit(Kind.RATIO_AT_MOST, 1.0)
    report.add(Result("verification at the source", "ms", verified, [1.0] * runs, at_most, note))
    document = {"identifiers": [{"issuer": patient.issuer, "value": patient.value}], "ticket": None}

    def with_ticket() -> None:
        canonical_json({**document, "ticket": world.tickets.get([patient], "bench").signed})

    cached = [_each_ms(with_ticket) for _ in range(runs)]
    plain = [_each_ms(lambda: canonical_json(document)) for _ in range(runs)]
    note = "Finding it and writing it into the request. Plain: the same request without."
    report.add(Result("a remembered ticket", "ms", cached, plain, Limit(Kind.MORE_AT_MOST, 0.2), note))
    client.close()


def _verify(world: _World, held: SignedTicket) -> None:
    region = world.region
    verify_ticket(
        held.signed, region.key_server_key, threshold=region.threshold, region=region.region, requester=world.asker.id,
        requester_key=region.hospitals[world.asker.id].key, now=_now(),
    )  # fmt: skip


def _each_ms(action: Any) -> float:
    def all_of_them() -> None:
        for _ in range(VERIFICATIONS):
            action()

    return 1000 * seconds(all_of_them) / VERIFICATIONS


def _give(client: SignedClient, world: _World, patients: Sequence[PatientIdentifier]) -> None:
    """Let every server hold a consent of each patient."""
    records = [_record(world, one) for one in patients]
    for server in world.servers:
        for start in range(0, len(records), 100):
            body = {"records": records[start : start + 100], "enrolments": []}
            answer = client.post(server.id, "/v1/records", body, deadline_s=60)
            if answer["problems"]:
                raise BenchError(answer["problems"][0])


def _record(world: _World, patient: PatientIdentifier) -> Any:
    resource = on_paper(permit(patient.issuer, patient.value, recipients=[world.asker.id]))
    document = consent_document(resource, id=f"bench-{secrets.token_hex(8)}", version=1)
    proof = attest(world.asker.key, document, hospital=world.asker.id, staff=["ionescu", "popa"], now=_now())
    return {"document": document, "proof": proof}


def _signed_requests(world: _World, patients: Sequence[PatientIdentifier]) -> list[tuple[bytes, str]]:
    requests = []
    now = _now().replace(microsecond=0)
    for number in range(DECISIONS_A_ROUND):
        wish = TicketWish(
            jti=secrets.token_urlsafe(18), recipient=world.asker.id, staff=Staff("bench", "staff"),
            patient=frozenset({patients[number % len(patients)]}), purpose=Purpose.TREAT, issued=now,
        )  # fmt: skip
        body = canonical_json({"wish": wish.to_json(), "records": [], "enrolments": []})
        authorization = sign_request(
            world.asker.key, sender=world.asker.id, receiver=world.servers[0].id, method="POST", target="/v1/tickets",
            body=body, now=now, jti=secrets.token_urlsafe(18),
        )  # fmt: skip
        requests.append((body, authorization))
    return requests


def _nothing(_number: int) -> None:
    """Let a worker start."""
    time.sleep(0.05)


def _send(server: tuple[str, int, str], requests: Sequence[tuple[bytes, str]]) -> int:
    """Send requests one after the other, with next to no work of its own: the server has the same processors."""
    address, port, certificate = server
    head = f"POST /v1/tickets HTTP/1.1\r\nHost: {address}:{port}\r\nContent-Type: application/json\r\n"
    messages = [
        f"{head}Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for body, authorization in requests
    ]
    context = ssl.create_default_context(cafile=certificate)
    plain = socket.create_connection((address, port), timeout=60)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(plain, server_hostname=address) as line:
        for message in messages:
            line.sendall(message)
            status, body = _answer(line)
            if status != b"200" or b'"signature":' not in body:
                raise BenchError(f"{status!r} {body[:300]!r}")
    return len(requests)


def _answer(line: ssl.SSLSocket) -> tuple[bytes, bytes]:
    got = b""
    while b"\r\n\r\n" not in got:
        got += _some(line)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _some(line)
    return head.split(b" ", 2)[1], body


def _some(line: ssl.SSLSocket) -> bytes:
    data = line.recv(65536)
    if not data:
        raise BenchError("the key server closed the connection")
    return data


def _round_trip_ms(server: KeyServer) -> float:
    context = ssl.create_default_context(cafile=str(server.certificate_file))
    connection = http.client.HTTPSConnection(server.address, server.port, context=context, timeout=60)

    def ask() -> None:
        connection.request("GET", "/health")
        connection.getresponse().read()

    ask()
    median = statistics.median(1000 * seconds(ask) for _ in range(20))
    connection.close()
    return median


def _patient() -> PatientIdentifier:
    return PatientIdentifier("ASKER", secrets.token_hex(8))


def _now() -> datetime:
    return datetime.now(UTC)
