"""Why a member of the region was not reached is told by what really happened on the line."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3
from joserfc.jwk import OKPKey

from contract.hub_region import key_server
from usmed.domain.errors import TransportError
from usmed.domain.region import parse_region
from usmed.platform import connections
from usmed.platform.keys import generate_certificate, generate_key, public_key_text
from usmed.platform.signed_http import Identity, SignedClient

ADDRESS = "127.0.0.1"
BROKEN_OFF = "the connection broke off"
NO_TLS = "it does not speak TLS as this node does (is it the right port?)"
WRONG_CERTIFICATE = "its TLS certificate is not the one in the region manifest"


def hang_up(connection: socket.socket, folder: Path) -> None:
    connection.recv(10)


def reset(connection: socket.socket, folder: Path) -> None:
    connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def plain_http(connection: socket.socket, folder: Path) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def impostor(connection: socket.socket, folder: Path) -> None:
    """Speak TLS with a certificate that somebody else made for the same address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder, "impostor"), folder / "impostor.key")
    context.wrap_socket(connection, server_side=True)


def _certificate(folder: Path, name: str) -> Path:
    file = folder / f"{name}.pem"
    generate_certificate(ADDRESS, certificate=file, key=folder / f"{name}.key", now=datetime.now(UTC))
    return file


@pytest.mark.parametrize(
    ("peer", "diagnosis"),
    [(hang_up, BROKEN_OFF), (reset, BROKEN_OFF), (plain_http, NO_TLS), (impostor, WRONG_CERTIFICATE)],
)
def test_a_handshake_that_fails(peer: Callable[[socket.socket, Path], None], diagnosis: str, tmp_path: Path) -> None:
    with socket.create_server((ADDRESS, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                peer(connection, tmp_path)

        thread = threading.Thread(target=answer)
        thread.start()
        client = _client(tmp_path, f"https://{ADDRESS}:{listener.getsockname()[1]}")
        with pytest.raises(TransportError) as raised:
            client.post("far", "/federation/v1/lookup", {}, deadline_s=10)
        thread.join()
    assert str(raised.value) == f"far was not reached: {diagnosis}"


def _client(folder: Path, address: str) -> SignedClient:
    key = generate_key(folder / "near.pem")

    far = {"address": address, "tls_certificate": _certificate(folder, "tls").read_text("ascii")}
    document = {
        "version": 1,
        "region": "test",
        "name": "Test",
        "issued": "2026-11-21T10:00:00Z",
        "hub": {"address": "https://hub:8443", "public_key": public_key_text(generate_key(folder / "hub.pem"))},
        "hospitals": [
            _hospital("near", key, {"address": "https://near:8043"}),
            _hospital("far", generate_key(folder / "far.pem"), far),
        ],
        **key_server(),
    }
    region = parse_region(document, "region.yaml")
    return SignedClient(Identity("near", key), lambda: region, lambda: datetime.now(UTC))


def test_a_line_that_is_cut_in_the_middle_of_a_record_broke_off() -> None:
    error = ssl.SSLError(1, "[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:2657)")
    error.reason = "RECORD_LAYER_FAILURE"
    assert connections.diagnosis(urllib3.exceptions.SSLError(error)) == BROKEN_OFF
    error.reason = "WRONG_VERSION_NUMBER"
    assert connections.diagnosis(urllib3.exceptions.SSLError(error)) == NO_TLS


def _hospital(hospital_id: str, key: OKPKey, place: dict[str, str]) -> dict[str, Any]:
    named = {"id": hospital_id, "name": hospital_id, "issuers": [hospital_id.upper()]}
    return {**named, "public_key": public_key_text(key), **place}
