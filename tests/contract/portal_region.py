"""A region with a portal: a real hub, three real key servers of which two are needed, and what hospitals take in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc.jwk import OKPKey
from werkzeug.test import Client

from contract.hub_region import LIMIT_BYTES, Region
from contract.key_servers import SERVERS, Servers, region_document
from support.signed_region import sign_region
from usmed.domain.canonical import parse_json
from usmed.domain.errors import TransportError
from usmed.domain.region import HUB
from usmed.domain.region_chain import follow
from usmed.hospital.changes import Changes
from usmed.hospital.store import CHAIN as HOSPITAL_CHAIN
from usmed.hospital.store import ToldStore
from usmed.hub.settings import HubSettings
from usmed.hub.tables import CHAIN
from usmed.hub.wsgi import wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import RegionFile
from usmed.platform.region_store import RegionStore
from usmed.platform.storage import open_database

NAMES = {
    "iasi": "Spitalul „Sf. Spiridon” Iași",
    "bacau": "Spitalul Județean de Urgență Bacău",
    "suceava": "Spitalul Județean Suceava",
}


@dataclass
class PortalRegion(Region):
    """A hub and its surroundings; `down` names who cannot be reached."""

    servers: Servers = field(init=False)
    deliveries: Deliveries = field(init=False)
    hospitals: dict[str, Changes] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)

    def post_out(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
        """Reach key servers through their applications, and hospitals through what takes changes in there."""
        if member_id in self.down:
            raise TransportError(f"{member_id} was not reached")
        if member_id in SERVERS:
            send = self.servers.post_as(HUB)
            return send(member_id, path, document, deadline_s=deadline_s, limit_bytes=limit_bytes)
        return {"problems": self.hospitals[member_id].told(HUB, document["records"], document["enrolments"])}

    def holding(self, consent: str, version: int = 1) -> set[str]:
        """Return the key servers that hold a version of a consent."""
        found = set()
        for name in SERVERS:
            with self.servers.databases[name].read() as connection:
                rows = connection.exec_driver_sql("SELECT id, version FROM consent_record").all()
            found |= {name} if (consent, version) in {tuple(row) for row in rows} else set()
        return found


@contextmanager
def running_portal_region(
    servers: Servers, new_database_url: Callable[[], str], **gateways: Any
) -> Iterator[PortalRegion]:
    """Start a hub in the key servers' region, with hospitals that people would recognise.

    Args:
        gateways: `mail` and `sms` of the hub's settings; without them nobody is told of anything.
    """
    servers.keys["suceava"] = OKPKey.generate_key("Ed25519", private=True)
    document = region_document(servers.keys) | {"expires": "2100-01-01T00:00:00Z"}
    suceava = {
        "id": "suceava", "address": "https://suceava:8043", "issuers": ["SUCEAVA"],
        "public_key": public_key_text(servers.keys["suceava"]),
    }  # fmt: skip
    listed = [*(one for one in document["hospitals"] if one["id"] != "suceava"), suceava]
    document["hospitals"] = [{**one, "name": NAMES[one["id"]]} for one in listed]
    signed = parse_json(
        sign_region(document, {name: servers.keys[f"{name}-admin"] for name in SERVERS}), limit_bytes=1 << 20
    )
    servers.manifest = follow(signed, "test", None).manifest
    url = new_database_url()
    database = open_database(url, [CHAIN])
    audit = AuditLog(database)
    opened = [(database, audit)]
    region = PortalRegion(servers.manifest, servers.keys, servers.clock, database, audit, Client(lambda *_: []))
    region.servers = servers
    for name in NAMES:
        own = open_database(new_database_url(), [HOSPITAL_CHAIN])
        log = AuditLog(own)
        opened.append((own, log))
        region.hospitals[name] = Changes(
            region=servers.current, store=ToldStore(own), audit=log, clock=servers.clock, changed=lambda _: None
        )
    file = RegionFile(servers.manifest, signed)
    regions = RegionStore(database, audit, servers.clock, agent=HUB, file=file)
    settings = HubSettings(url, file, servers.keys[HUB], LIMIT_BYTES, **gateways)
    wired = wire(settings, database, audit, servers.clock, regions, region.post_out)
    region.client, region.deliveries = Client(wired.application), wired.deliveries
    region.contacts, region.herald = wired.contacts, wired.herald
    try:
        yield region
    finally:
        for one, log in opened:
            log.close()
            one.close()
