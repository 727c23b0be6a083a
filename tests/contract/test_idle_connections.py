"""Hub and key server as they run: more slow callers than threads, and members and patients notice nothing."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.key_server import UNLIMITED, KeyServer
from support.region import Hospital, Hub, Region
from usmed.domain.region import HUB
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient

CALLERS = 40
AT_ONCE_S = 3.0
"""A thread that were waited for is not free before a silent caller's patience ends, 20 s."""


@dataclass
class Door:
    """One process's port, and what is asked there."""

    port: int
    certificate_file: Path
    ask: Callable[[], None]

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def line(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificate_file))
        return context.wrap_socket(self.plain(), server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    folder = tmp_path_factory.mktemp("region")
    asker, server = Hospital("asker", "x", "ASKER", folder / "a"), KeyServer("keys-1", folder / "k", settings=UNLIMITED)
    hub = Hub(folder / "hub")
    region = Region(folder, [asker], hub, [server])
    region.write_manifest()
    hub.start(region.file)
    server.start(region.file)
    manifest = load_region(region.file)

    number = {"issuer": "ASKER", "value": "1"}

    def ask(member: str, path: str, question: dict[str, Any]) -> Callable[[], None]:
        def once() -> None:
            client = SignedClient(Identity(asker.id, asker.key), lambda: manifest, lambda: datetime.now(UTC))
            client.post(member, path, question, deadline_s=AT_ONCE_S)
            client.close()

        return once

    of_hub = ask(HUB, "/v1/resolve", {"identifier": number, "purpose": "TREAT"})
    of_server = ask(server.id, "/v1/records/for", {"identifiers": [number]})
    yield {
        HUB: Door(hub.port, hub.certificate_file, of_hub),
        server.id: Door(server.port, server.certificate_file, of_server),
    }
    hub.stop()
    server.stop()


def silent(door: Door) -> socket.socket:
    return door.plain()


def silent_after_tls(door: Door) -> socket.socket:
    return door.line()


def half_a_head(door: Door) -> socket.socket:
    line = door.line()
    line.sendall(b"POST /v1/resolve HTTP/1.1\r\nHost: x\r\nX-")
    return line


def half_a_body(door: Door) -> socket.socket:
    line = door.line()
    line.sendall(b"POST /v1/resolve HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
    return line


def reading_nothing(door: Door) -> socket.socket:
    line = door.line()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(20):
        line.sendall(b"GET /v1/openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n")
    return line


@pytest.mark.parametrize("kind", [silent, silent_after_tls, half_a_head, half_a_body, reading_nothing])
@pytest.mark.parametrize("member", [HUB, "keys-1"])
def test_members_and_patients_are_served_as_before(
    doors: dict[str, Door], member: str, kind: Callable[[Door], socket.socket]
) -> None:
    door = doors[member]
    with ExitStack() as stack:
        for _ in range(CALLERS):
            stack.enter_context(kind(door))
        start = time.monotonic()
        door.ask()
        assert time.monotonic() - start < AT_ONCE_S
        if member == HUB:
            context = ssl.create_default_context(cafile=str(door.certificate_file))
            browser = http.client.HTTPSConnection("127.0.0.1", door.port, context=context, timeout=AT_ONCE_S)
            browser.request("GET", "/portal/login")
            assert browser.getresponse().status == 200
            browser.close()
