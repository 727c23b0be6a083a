"""Three key servers that reach each other through werkzeug's test client, and what can go wrong on the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc.jwk import OKPKey
from werkzeug.test import Client

from contract.hub_region import Clock
from contract.test_key_servers import HOSPITALS, RATES, SERVERS, KeyRegion
from support.signed_region import sign_region
from usmed.domain.canonical import parse_json
from usmed.domain.errors import RefusedError, TransportError
from usmed.domain.region import HUB, RegionManifest, parse_region
from usmed.keyserver.settings import KeyServerSettings
from usmed.keyserver.store import CHAIN
from usmed.keyserver.wsgi import Wired, wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.log_heads import HeadStore
from usmed.platform.storage import open_database


def region_document(keys: dict[str, OKPKey], version: int = 1) -> dict[str, Any]:
    """Return the manifest of a region with these keys."""
    return {
        "version": version, "region": "moldova", "name": "Regiunea Moldova", "issued": "2026-11-21T10:00:00Z",
        "expires": "2027-11-21T10:00:00Z",
        "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
        "portal": {"address": "https://portal.example"},
        "hub": {"address": "https://hub:8443", "public_key": public_key_text(keys[HUB])},
        "hospitals": [
            {"id": name, "name": name, "address": f"https://{name}:8043", "public_key": public_key_text(keys[name]),
             "issuers": [issuer]}
            for name, issuer in HOSPITALS.items() if name in keys
        ],
        "threshold": 2,
        "key_servers": [
            {"id": name, "name": name, "address": f"https://{name}:8044", "public_key": public_key_text(keys[name]),
             "administrator": {"name": name, "public_key": public_key_text(keys[f"{name}-admin"])}}
            for name in SERVERS
        ],
    }  # fmt: skip


def signed_region(keys: dict[str, OKPKey], version: int = 1) -> bytes:
    """Return that manifest as a file, signed by all administrators."""
    document = region_document(keys, version) | {"expires": "2100-01-01T00:00:00Z"}
    return sign_region(document, {name: keys[f"{name}-admin"] for name in SERVERS})


@dataclass
class Servers(KeyRegion):
    """The servers; `sent` lists what they asked each other, `down` who does not answer, `liars` who answers what,
    `calls` every path, question, status and answer."""

    wired: dict[str, Wired] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    liars: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    encryption: dict[str, OKPKey] = field(default_factory=dict)
    calls: list[tuple[str, Any, int, Any]] = field(default_factory=list)
    sent: list[tuple[str, str, Any, Any]] = field(default_factory=list)

    def current(self) -> RegionManifest:
        """Return the region as it is now."""
        return self.manifest

    def post_as(self, sender: str) -> Callable[..., Any]:
        """Return how a server reaches the others."""

        def post(member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
            if {sender, member_id} & self.down:
                raise TransportError(f"{member_id} was not reached")
            answer = self.send(sender, member_id, path, document)
            body = parse_json(answer.data, limit_bytes=limit_bytes)
            self.calls.append((path, document, answer.status_code, body))
            if answer.status_code != 200:
                raise RefusedError(body["error"], body["message"])
            if member_id in self.liars:
                body = self.liars[member_id](body)
            self.sent.append((sender, member_id, document, body))
            return body

        return post

    def rewire(self, name: str) -> None:
        """Start a server anew on its database."""
        key = self.encryption.setdefault(name, OKPKey.generate_key("X25519", private=True))
        settings = KeyServerSettings(name, self.keys[name], rates=RATES, encryption_key=key)
        self.wired[name] = wire(
            settings, self.current, self.databases[name], self.audits[name], self.clock, self.post_as(name)
        )
        self.clients[name] = Client(self.wired[name].application)

    def ask(self, sender: str, server: str, *rest: Any, **more: Any) -> Any:  # type: ignore[override]
        """With a ticket as `KeyRegion`; without one, let a key server ask another."""
        if rest or more:
            return super().ask(sender, server, *rest, **more)
        return self.wired[sender].exchange.ask_one(server)

    def round(self) -> None:
        """Let each ask each other once."""
        for sender in SERVERS:
            for server in SERVERS:
                if sender != server:
                    self.ask(sender, server)

    def heads(self, name: str) -> HeadStore:
        """Return what a server knows about logs."""
        return HeadStore(self.databases[name])

    def health(self, name: str) -> Any:
        """Return what a server says of itself."""
        return self.clients[name].get("/health").json

    def change_region(self, *, with_: dict[str, OKPKey]) -> None:
        """Publish the next version of the manifest."""
        self.keys.update(with_)
        self.manifest = parse_region(region_document(self.keys, self.manifest.version + 1), "test")


@contextmanager
def running_servers(new_database_url: Callable[[], str], *, without: frozenset[str] = frozenset()) -> Iterator[Servers]:
    """Start three key servers on empty databases."""
    administrators = [f"{name}-admin" for name in SERVERS]
    names = [one for one in (HUB, *HOSPITALS, *SERVERS, *administrators) if one not in without]
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in names}
    urls = {name: new_database_url() for name in SERVERS}
    databases = {name: open_database(url, [CHAIN]) for name, url in urls.items()}
    audits = {name: AuditLog(one) for name, one in databases.items()}
    manifest = parse_region(region_document(keys), "test")
    servers = Servers(manifest, keys, Clock(), {}, audits, databases, urls=urls)
    for name in SERVERS:
        servers.rewire(name)
    try:
        yield servers
    finally:
        for name in SERVERS:
            audits[name].close()
            databases[name].close()
