"""The proxy before the portal, with the file that is installed: what it passes on, to whom, and what it keeps out."""

import http.client
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from support.key_server import UNLIMITED, KeyServer
from support.process import Process, eventually, free_port
from support.region import ROOT, Hub, Region
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import generate_certificate, public_key_text
from usmed.platform.storage import open_database

NAME = "localhost"


class BehindProxy(Hub):
    """A hub that believes its proxy, which is at 127.0.0.1."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "USMED_TRUSTED_PROXIES": "127.0.0.1"}

    @property
    def portal(self) -> str:
        return f"https://{NAME}"


class Front:
    """The proxy, and callers from different addresses."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.hub, self.port, plain = hub, free_port(), free_port()
        generate_certificate(
            NAME, certificate=folder / "portal.pem", key=folder / "portal.key", now=datetime.now(UTC)
        )
        text = (ROOT / "docker" / "portal-proxy.conf").read_text("utf-8")
        for before, after in (
            ("hub.region.example:8443", f"{NAME}:{hub.port}"),
            ("hub.region.example", NAME),
            ("/run/secrets/tls.pem", str(hub.certificate_file)),
            ("/run/secrets/", f"{folder}/"),
            ("/run/usmed/", f"{folder}/"),
            ("listen 9443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("listen 8080", f"listen 127.0.0.1:{plain}"),
        ):
            assert before in text
            text = text.replace(before, after)
        (folder / "proxy.conf").write_text(text, "utf-8")
        command = ["nginx", "-e", "stderr", "-c", str(folder / "proxy.conf"), "-g", "daemon off;"]
        self.process = Process(command, folder / "proxy.log", {}, folder)
        self.context = ssl.create_default_context(cafile=str(folder / "portal.pem"))
        self.process.start()
        eventually(self._answers, 10, "the proxy")

    def _answers(self) -> bool:
        assert self.process.running, self.process.text()
        try:
            return self.ask("GET", "/")[0] == 302
        except OSError:
            return False

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, address: str = "127.0.0.1", **headers: str
    ) -> tuple[int, http.client.HTTPMessage]:
        connection = http.client.HTTPSConnection(
            NAME, self.port, context=self.context, timeout=20, source_address=(address, 0)
        )
        try:
            given = {"Host": NAME, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers
        finally:
            connection.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("proxy")
    hub = BehindProxy(folder / "hub", address=NAME)
    region = Region(folder, [], hub, [KeyServer("keys-1", folder / "k", settings=UNLIMITED)])
    key = OKPKey.generate_key("Ed25519", private=True)
    hospital = {
        "id": "iasi", "name": "Iași", "address": "https://127.0.0.1:20001", "public_key": public_key_text(key),
        "issuers": ["IASI"],
    }  # fmt: skip
    region.write_manifest([hospital])
    hub.start(region.file)
    front = Front(folder, hub)
    yield front
    front.process.stop(signal.SIGQUIT)
    hub.stop()


def test_the_portal_is_there_and_nothing_else(front: Front) -> None:
    assert front.ask("GET", "/")[1]["Location"] == "/portal/"
    assert front.ask("GET", "/portal")[1]["Location"] == "/portal/"
    for path in ("/portal/login", "/portal/help", "/portal/static/portal.css"):
        assert front.ask("GET", path)[0] == 200, path
    around = ("/portal/../v1/openapi.yaml", "/portal%2f..%2fv1/openapi.yaml")
    for path in ("/health", "/v1/openapi.yaml", "/v1/resolve", *around):
        assert front.ask("GET", path)[0] == 404, path
    assert front.ask("POST", "/v1/resolve", b"{}")[0] == 404


def test_a_browser_is_told_to_come_by_tls_only(front: Front) -> None:
    assert front.ask("GET", "/portal/login")[1]["Strict-Transport-Security"] == "max-age=31536000"


def test_the_hub_learns_who_calls_whatever_the_caller_claims(front: Front) -> None:
    code = "A" * 32
    assert front.ask("GET", f"/portal/enrol/{code}", address="127.0.0.7", X_Forwarded_For="198.51.100.9")[0] == 403
    database = open_database(front.hub.database_url, [])
    log = AuditLog(database)
    agents = [one["agent"] for one in log.tail(100) if one["event"] == "refused"]
    log.close()
    database.close()
    assert any("127.0.0.7" in one for one in agents), agents
    assert not any("198.51.100.9" in one for one in agents)
    # An invitation's code stands in no log.
    assert front.hub.process is not None
    assert code not in front.process.text() + front.hub.process.text()


def test_a_body_that_no_page_sends_is_refused(front: Front) -> None:
    assert front.ask("POST", "/portal/login", b"x" * (129 << 10))[0] == 413


def test_one_address_cannot_ask_without_end_and_others_notice_nothing(front: Front) -> None:
    context = front.context
    with (
        socket.create_connection((NAME, front.port), timeout=20, source_address=("127.0.0.8", 0)) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as line,
    ):
        line.sendall(f"GET /portal/worker.js HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode() * 400)
        received = b""
        while received.count(b"HTTP/1.1 ") < 400 and (piece := line.recv(65536)):
            received += piece
        answers = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert answers.count(b"429") > 50
    assert front.ask("GET", "/portal/login", address="127.0.0.9")[0] == 200


def test_another_hub_in_its_place_is_not_spoken_to(front: Front) -> None:
    front.hub.stop()
    impostor = front.hub.folder / "impostor"
    impostor.mkdir()
    generate_certificate(NAME, certificate=impostor / "tls.pem", key=impostor / "tls.key", now=datetime.now(UTC))
    own = front.hub.certificate_file, front.hub.tls_key_file
    try:
        front.hub.certificate_file, front.hub.tls_key_file = impostor / "tls.pem", impostor / "tls.key"
        front.hub.start()
        assert front.ask("GET", "/portal/login")[0] == 502
    finally:
        front.hub.stop()
        front.hub.certificate_file, front.hub.tls_key_file = own
        front.hub.start()
    assert front.ask("GET", "/portal/login")[0] == 200
