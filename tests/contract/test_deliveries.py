"""The hub's deliveries: what it was handed reaches all key servers, and hospitals if it takes away, come what may."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.key_servers import SERVERS, Servers, region_document
from contract.test_key_servers import CNP, HOSPITALS, PLUGINS
from support.process import eventually, free_port
from support.signed_region import SignedRegion
from usmed.domain.errors import PeerDataError, TransportError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB, RegionManifest, parse_region
from usmed.domain.withdrawal import LAST_TICKET
from usmed.hospital.changes import Changes
from usmed.hospital.store import CHAIN as HOSPITAL_CHAIN
from usmed.hospital.store import ToldStore
from usmed.hub.tables import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import HOSPITAL_PATH, KEY_SERVER_PATH, Deliveries
from usmed.platform.delivery_store import DeliveryStore, Item
from usmed.platform.keys import generate_certificate, generate_key
from usmed.platform.storage import Database, open_database

LOCAL = PatientIdentifier("BACAU", "9")


@dataclass
class Hub:
    """The sending half of a hub, on a database that outlives it; `asked` lists whom it reached, where."""

    url: str
    servers: Servers
    hospitals: dict[str, Changes]
    asked: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def running(self, region: Callable[[], RegionManifest] | None = None) -> Iterator["Process"]:
        """Run it as one process does."""
        database = open_database(self.url, [CHAIN])
        deliveries = Deliveries(
            own=HUB, region=region or self.servers.current, store=DeliveryStore(database), post=self.post,
            clock=self.servers.clock, retry_s=0.05,
        )  # fmt: skip
        try:
            yield Process(database, deliveries)
        finally:
            deliveries.stop(10)
            database.close()

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
        """Reach key servers through their applications, and hospitals through what takes changes in there."""
        if member_id in self.servers.down:
            raise TransportError(f"{member_id} was not reached")
        self.asked.append((member_id, path))
        if member_id in SERVERS:
            send = self.servers.post_as(HUB)
            return send(member_id, path, document, deadline_s=deadline_s, limit_bytes=limit_bytes)
        told = self.hospitals[member_id].told(HUB, document["records"], document["enrolments"])
        return {"problems": told}

    def holding(self, id: str, version: int, patient: PatientIdentifier = CNP) -> set[str]:
        """Return the key servers that hold a version of a consent."""
        return {one for one in SERVERS if (id, version) in self.held(one, patient)[0]}

    def held(self, server: str, patient: PatientIdentifier = CNP) -> tuple[list[tuple[str, int]], list[str]]:
        """Return what a server holds of a patient: consents' ids and versions, and enrolments' tokens."""
        named = {"identifiers": [{"issuer": patient.issuer, "value": patient.value}]}
        found = self.servers.send("iasi", server, "/v1/records/for", named).json
        consents = [(one["document"]["id"], one["document"]["version"]) for one in found["records"]]
        return consents, [one["token"] for one in found["enrolments"]]


@dataclass
class Process:
    """One run of it."""

    database: Database
    deliveries: Deliveries

    def add(self, *items: Item) -> None:
        """Hand these in, in one transaction."""
        with self.database.write() as connection:
            for one in items:
                self.deliveries.add(connection, one)

    def bring(self, item: Item) -> None:
        """Hand it in, and try at once."""
        self.add(item)
        self.deliveries.deliver(item)

    def delivered(self, id: str) -> set[str]:
        """Return who has the newest version."""
        found = self.deliveries.latest(id)
        assert found is not None
        return set(found.delivered)

    def done(self, id: str) -> bool:
        """Tell whether the newest version is done."""
        found = self.deliveries.latest(id)
        assert found is not None
        return self.deliveries.progress(found).done


@pytest.fixture
def hub(servers: Servers, new_database_url: Callable[[], str]) -> Iterator[Hub]:
    hospitals, opened = {}, []
    for name in HOSPITALS:
        database = open_database(new_database_url(), [HOSPITAL_CHAIN])
        audit = AuditLog(database)
        opened.append((database, audit))
        hospitals[name] = Changes(
            region=servers.current, store=ToldStore(database), audit=audit, clock=servers.clock,
            changed=lambda patient: None,
        )  # fmt: skip
    yield Hub(new_database_url(), servers, hospitals)
    for database, audit in opened:
        audit.close()
        database.close()


def item(servers: Servers, id: str, version: int = 1, *enrolments: dict[str, str], **changes: Any) -> Item:
    """Return a consent that is proved."""
    return Item(id, version, servers.record(id, version=version, **changes), enrolments)


def test_a_permission_goes_to_all_key_servers_with_what_proves_it_and_to_nobody_else(hub: Hub) -> None:
    enrolment = hub.servers.enrolment(CNP, LOCAL)
    with hub.running() as process:
        process.bring(item(hub.servers, "consent-1", 1, enrolment, to="bacau"))
        assert process.delivered("consent-1") == set(SERVERS)
        assert process.done("consent-1")
    assert [hub.held(one) for one in SERVERS] == [([("consent-1", 1)], [enrolment["token"]])] * 3
    assert sorted(hub.asked) == [(one, KEY_SERVER_PATH) for one in SERVERS]


def test_an_enrolment_goes_to_all_key_servers(hub: Hub) -> None:
    enrolment = hub.servers.enrolment(CNP, LOCAL)
    with hub.running() as process:
        process.bring(Item("enrolment-1", 1, enrolment))
        assert process.delivered("enrolment-1") == set(SERVERS)
        assert process.done("enrolment-1")
    assert [hub.held(one)[1] for one in SERVERS] == [[enrolment["token"]]] * 3


def test_nothing_is_lost_when_it_stops_while_a_server_is_down(hub: Hub) -> None:
    hub.servers.down.add("keys-3")
    with hub.running() as process:
        process.bring(item(hub.servers, "consent-1"))
        found = process.deliveries.latest("consent-1")
        assert found is not None
        assert set(found.delivered) == {"keys-1", "keys-2"}
        assert found.problems == {"keys-3": "keys-3 was not reached"}
        # Killed before it could bring this to anybody.
        process.add(item(hub.servers, "consent-2"))
    with hub.running() as process:
        process.deliveries.start()
        eventually(lambda: process.delivered("consent-2") == {"keys-1", "keys-2"})
        assert process.delivered("consent-1") == {"keys-1", "keys-2"}
        hub.servers.down.clear()
        eventually(lambda: process.delivered("consent-1") == process.delivered("consent-2") == set(SERVERS))
    assert hub.holding("consent-1", 1) == hub.holding("consent-2", 1) == set(SERVERS)


@pytest.mark.parametrize("down", [(), ("keys-2",), ("keys-1", "keys-3"), tuple(SERVERS)], ids=len)
def test_a_withdrawal_is_done_when_no_quorum_without_it_is_left(hub: Hub, down: tuple[str, ...]) -> None:
    """What it says of itself is what the key servers then do."""
    given = [hub.servers.record("consent-1", to="bacau")]
    hub.servers.give(records=given)
    ticket = hub.servers.propose("bacau", given).to_json()
    hub.servers.down.update(down)
    with hub.running() as process:
        process.bring(item(hub.servers, "consent-1", 2, to="bacau", status="inactive"))
        assert process.delivered("consent-1") == {*SERVERS, *HOSPITALS} - set(down)
        signing = [one for one in SERVERS if hub.servers.ask("bacau", one, ticket, given)[0] == 200]
        assert signing == list(down)
        assert process.done("consent-1") is (len(signing) < hub.servers.manifest.threshold)


@pytest.mark.parametrize(
    ("version", "changes"),
    [(2, {"status": "inactive"}), (2, {"to": "iasi"}), (1, {"type": "deny"})],
    ids=["withdrawal", "amendment", "denial"],
)
def test_what_takes_away_waits_for_the_hospitals_or_for_the_last_ticket(
    hub: Hub, version: int, changes: dict[str, Any]
) -> None:
    hub.servers.down.add("bacau")
    with hub.running() as process:
        process.bring(item(hub.servers, "consent-1", version, **changes))
        assert process.delivered("consent-1") == {*SERVERS, "iasi"}
        assert ("iasi", HOSPITAL_PATH) in hub.asked
        assert not process.done("consent-1")
        hub.servers.clock.advance(LAST_TICKET.total_seconds() - 1)
        assert not process.done("consent-1")
        hub.servers.clock.advance(1)
        assert process.done("consent-1")
        hub.servers.clock.advance(-LAST_TICKET.total_seconds())
        hub.servers.down.clear()
        process.deliveries.start()
        eventually(lambda: process.done("consent-1"))
    first, third = (hub.servers.record("consent-1", version=one, to="bacau") for one in (1, 3))
    told = hub.hospitals["bacau"].told("bacau", [first], [])
    assert told != [] or "to" not in changes, "bacau knows better than the first version"
    if "status" in changes:
        (problem,) = hub.hospitals["bacau"].told("bacau", [third], [])
        assert "withdrawn, which is final" in problem
    assert bool(hub.hospitals["bacau"].denials([CNP])) is (changes == {"type": "deny"})


def test_the_same_again_does_no_harm(hub: Hub) -> None:
    one = item(hub.servers, "consent-1")
    # A server may have it from another one.
    hub.servers.give("keys-2", records=[one.record])
    with hub.running() as process:
        process.add(one, one)
        process.bring(one)
        first = process.deliveries.latest("consent-1")
        hub.servers.clock.advance(60)
        # Signed once more, it is the same document.
        process.bring(item(hub.servers, "consent-1"))
        assert process.deliveries.latest("consent-1") == first
        assert process.delivered("consent-1") == set(SERVERS)
    # An answer that was lost on its way is a delivery that is repeated.
    database = open_database(hub.url, [CHAIN])
    DeliveryStore(database).failed("keys-1", [one], "no answer")
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE delivery SET delivered = 0")
    database.close()
    with hub.running() as process:
        process.deliveries.start()
        eventually(lambda: process.delivered("consent-1") == set(SERVERS))
    assert [hub.held(one)[0] for one in SERVERS] == [[("consent-1", 1)]] * 3
    assert len(hub.asked) == 6


def test_two_documents_of_one_version_are_one_too_many(hub: Hub) -> None:
    with hub.running() as process:
        process.add(item(hub.servers, "consent-1", to="bacau"))
        with pytest.raises(PeerDataError, match="another document of this id and version"):
            process.add(item(hub.servers, "consent-2"), item(hub.servers, "consent-1", to="iasi"))
        assert process.deliveries.latest("consent-2") is None, "it was the same transaction"
        many = tuple({"hospital": "bacau", "token": str(number)} for number in range(101))
        with pytest.raises(PeerDataError, match="at most 100 enrolments"):
            process.add(item(hub.servers, "consent-3", 1, *many))


def test_what_a_server_refuses_holds_nothing_else_up(hub: Hub) -> None:
    # iasi does not speak for numbers of Bacau.
    wrong = Item("consent-0", 1, hub.servers.record("consent-0", LOCAL, by="iasi"))
    with hub.running() as process:
        process.add(wrong, item(hub.servers, "consent-1"))
        process.bring(item(hub.servers, "consent-2"))
        found = process.deliveries.latest("consent-0")
        assert found is not None
        assert found.problems == dict.fromkeys(SERVERS, "not taken: consent: iasi does not assign numbers of BACAU")
        assert process.delivered("consent-1") == process.delivered("consent-2") == set(SERVERS)
        # It is tried again, after what was never refused.
        process.bring(item(hub.servers, "consent-2", 2, status="inactive"))
        assert process.done("consent-2")
        assert not process.done("consent-0")


def test_consents_that_need_many_enrolments_go_in_several_requests(hub: Hub) -> None:
    needed = [hub.servers.enrolment(PatientIdentifier("BACAU", f"many-{number}")) for number in range(150)]
    with hub.running() as process:
        process.add(item(hub.servers, "consent-1", 1, *needed[:75]), item(hub.servers, "consent-2", 1, *needed[75:]))
        process.bring(item(hub.servers, "consent-3", 1, *needed[75:]))
        for number in (1, 2, 3):
            assert process.delivered(f"consent-{number}") == set(SERVERS)
    assert len(hub.asked) == 2 * len(SERVERS)


def test_a_key_server_that_is_new_gets_the_newest_of_everything_however_old(hub: Hub) -> None:
    document = region_document(hub.servers.keys)
    two = parse_region({**document, "key_servers": document["key_servers"][:2]}, "test")
    with hub.running(lambda: two) as process:
        withdrawal = item(hub.servers, "consent-2", 2, status="inactive")
        for one in (item(hub.servers, "consent-1"), item(hub.servers, "consent-2"), withdrawal):
            process.bring(one)
            assert process.delivered(one.id) >= set(SERVERS[:2])
    hub.servers.clock.advance(60 * 86400)
    with hub.running() as process:
        process.deliveries.start()
        for id in ("consent-1", "consent-2"):
            eventually(lambda id=id: process.delivered(id) >= set(SERVERS))
    assert hub.held(SERVERS[2])[0] == [("consent-1", 1), ("consent-2", 2)]


def test_members_are_added_in_slices_and_once(hub: Hub) -> None:
    items = [item(hub.servers, f"consent-{number}", version) for number in range(5) for version in (1, 2)]
    with hub.running() as process:
        store = DeliveryStore(process.database)
        process.add(*items)
        for slice_size in (1, 2, 5):
            members = [f"new-{slice_size}", f"newer-{slice_size}"]
            for _ in range(2):
                store.add_members(members, slice_size)
            for one in members:
                assert {(each.id, each.version) for each in store.open(one, 50)} == {
                    (f"consent-{number}", 2) for number in range(5)
                }
        store.acknowledged("new-1", items[1:2], hub.servers.clock())
        store.add_members(["new-1"])
        assert len(store.open("new-1", 50)) == 4


def test_the_hub_ends_while_a_delivery_hangs_and_forgets_nothing(tmp_path: Path, database_url: str) -> None:
    region = SignedRegion()
    region.keys[HUB] = generate_key(tmp_path / "hub.pem")
    now = datetime.now(UTC)
    generate_certificate("localhost", certificate=tmp_path / "tls.pem", key=tmp_path / "tls.key", now=now)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        document = region.document(expires="2099-01-01T00:00:00Z")
        for one in document["key_servers"]:
            one["address"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "region.json").write_bytes(region.data(document=document))
        manifest = parse_region(document, "test")
        record = {"document": {"id": "consent-1", "version": 1, "resource": {"status": "active"}}, "proof": {}}
        database = open_database(database_url, [CHAIN])
        store = DeliveryStore(database)
        with database.write() as connection:
            store.add(connection, Item("consent-1", 1, record), manifest.key_servers, now)
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(PLUGINS), "LC_ALL": "C.UTF-8",
            "USMED_REGION_FILE": str(tmp_path / "region.json"), "USMED_PRIVATE_KEY_FILE": str(tmp_path / "hub.pem"),
            "USMED_DATABASE_URL": database_url, "USMED_HUB_PORT": str(free_port()),
            "USMED_TLS_CERTIFICATE_FILE": str(tmp_path / "tls.pem"),
            "USMED_TLS_PRIVATE_KEY_FILE": str(tmp_path / "tls.key"),
        }  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "usmed", "hub"], cwd=tmp_path, env=environment)
        silent.settimeout(30)
        try:
            with silent.accept()[0]:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    assert set(store.members_with_open()) == set(SERVERS)
    command = [sys.executable, "-m", "usmed", "audit", "tail"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert [json.loads(one)["detail"]["what"] for one in shown.splitlines()][-1] == "stopped"
    database.close()
