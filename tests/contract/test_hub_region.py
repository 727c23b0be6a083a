"""The hub takes published region manifests, keeps every version, and gives them to members."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from contract.hub_region import LIMIT_BYTES, Clock, Region
from support.signed_region import SignedRegion
from usmed.domain.canonical import canonical_json
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.region_chain import follow
from usmed.hub.settings import HubSettings
from usmed.hub.tables import CHAIN
from usmed.hub.wsgi import build
from usmed.platform.audit_log import AuditLog
from usmed.platform.region_file import RegionFile
from usmed.platform.region_store import RegionStore
from usmed.platform.storage import open_database

PUBLISH, AFTER = "/v1/region/publish", "/v1/region/after"


@pytest.fixture
def signed() -> SignedRegion:
    return SignedRegion()


@contextmanager
def running(url: str, signed: SignedRegion, clock: Clock) -> Iterator[Region]:
    """Start a hub of the region; its database outlives it."""
    file: RegionFile = signed.file()
    database = open_database(url, [CHAIN])
    audit = AuditLog(database)
    store = RegionStore(database, audit, clock, agent=HUB, file=file)
    client = Client(build(HubSettings(url, file, signed.keys[HUB], LIMIT_BYTES), database, audit, clock, store))
    try:
        yield Region(file.manifest, signed.keys, clock, database, audit, client)
    finally:
        audit.close()
        database.close()


@pytest.fixture
def hub(database_url: str, signed: SignedRegion) -> Iterator[Region]:
    with running(database_url, signed, Clock()) as region:
        yield region


def read_manifest(signed: Any) -> RegionManifest:
    return follow(signed, "test", None).manifest


def publish(hub: Region, *versions: Any) -> TestResponse:
    return hub.raw(PUBLISH, canonical_json({"versions": list(versions)}), {})


def test_who_has_the_signatures_may_publish(hub: Region, signed: SignedRegion) -> None:
    answer = publish(hub, signed.signed(2))
    assert (answer.status_code, answer.json) == (200, {"version": 2})
    # Again does no harm, and the ones before may come along.
    assert publish(hub, signed.signed(1), signed.signed(2), signed.signed(3), signed.signed(4)).json == {"version": 4}
    events = [one for one in hub.audit.tail() if one["event"] == "configuration"]
    assert [(one["detail"]["version"], one["detail"]["source"]) for one in events[1:]] == [
        (number, "published at the hub") for number in (2, 3, 4)
    ]


def test_members_get_what_they_lack(hub: Region, signed: SignedRegion) -> None:
    publish(hub, signed.signed(2), signed.signed(3))
    for member in ("iasi", "keys-2", HUB):
        assert hub.post(member, AFTER, {"version": 1}) == {"versions": [signed.signed(2), signed.signed(3)]}
    assert hub.post("iasi", AFTER, {"version": 3}) == {"versions": []}
    assert hub.post("iasi", AFTER, {"version": 0})["versions"][0] == signed.signed(1)
    # keys-4 is nobody yet, and unsigned requests are nobody's.
    assert hub.send("keys-4", AFTER, canonical_json({"version": 1})).status_code == 401
    assert hub.raw(AFTER, canonical_json({"version": 1}), {}).status_code == 401


def test_who_joins_or_leaves_is_known_from_the_next_request_on(hub: Region, signed: SignedRegion) -> None:
    question = canonical_json({"version": 0})
    assert [hub.send(one, AFTER, question).status_code for one in ("keys-1", "keys-4")] == [200, 401]
    second = signed.signed(2, "keys-2", "keys-3", servers=["keys-2", "keys-3", "keys-4"])
    assert publish(hub, second).json == {"version": 2}
    hub.manifest = read_manifest(second)
    assert [hub.send(one, AFTER, question).status_code for one in ("keys-1", "keys-4")] == [401, 200]


def test_large_histories_come_in_parts(hub: Region, signed: SignedRegion) -> None:
    for number in range(2, 6):
        assert publish(hub, signed.signed(number, name="x" * 700_000)).status_code == 200
    got = hub.post("iasi", AFTER, {"version": 1})["versions"]
    assert 1 <= len(got) < 4
    later = hub.post("iasi", AFTER, {"version": 1 + len(got)})["versions"]
    assert later


BAD: list[tuple[str, Callable[[SignedRegion], Any], int]] = [
    ("one signature", lambda s: {"versions": [s.signed(2, "keys-1")]}, 400),
    ("a gap", lambda s: {"versions": [s.signed(3)]}, 400),
    ("the same version, other bytes", lambda s: {"versions": [s.signed(1, name="Alta")]}, 400),
    ("expired", lambda s: {"versions": [s.signed(2, expires="2026-11-21T09:30:00Z")]}, 400),
    ("faults", lambda s: {"versions": [s.signed(2, hospitals=[], name="")]}, 400),
    ("no list", lambda s: {"versions": s.signed(2)}, 400),
    ("nothing", lambda s: {"versions": []}, 400),
    ("more", lambda s: {"versions": [s.signed(2)], "more": 1}, 400),
    ("a draft", lambda s: {"versions": [s.document(2)]}, 400),
    ("short signature", lambda s: {"versions": [shortened(s.signed(2))]}, 400),
    ("too many signatures", lambda s: {"versions": [many(s.signed(2))]}, 400),
    ("a payload that is no JSON", lambda s: {"versions": [with_payload(s.signed(2), b"\xff")]}, 400),
    ("a payload nested deeply", lambda s: {"versions": [with_payload(s.signed(2), b"[" * 5000 + b"]" * 5000)]}, 400),
    ("a member twice", lambda s: {"versions": [with_payload(s.signed(2), b'{"version":2,"version":3}')]}, 400),
]


def shortened(signed: dict[str, Any]) -> dict[str, Any]:
    first, *rest = signed["signatures"]
    return {**signed, "signatures": [{**first, "signature": first["signature"][:-2]}, *rest]}


def many(signed: dict[str, Any]) -> dict[str, Any]:
    return {**signed, "signatures": signed["signatures"] * 20}


def with_payload(signed: dict[str, Any], payload: bytes) -> dict[str, Any]:
    return {**signed, "payload": base64.urlsafe_b64encode(payload).rstrip(b"=").decode()}


@pytest.mark.parametrize(("make", "status"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
def test_what_is_published_wrongly_changes_nothing(
    hub: Region, signed: SignedRegion, make: Callable[[SignedRegion], Any], status: int
) -> None:
    answer = hub.raw(PUBLISH, canonical_json(make(signed)), {})
    assert answer.status_code == status, answer.text
    assert answer.json["error"] == "bad-request"
    assert "Traceback" not in answer.text
    assert hub.audit.tail()[-1]["reason"] == f"{status} POST {PUBLISH}"
    assert hub.audit.tail()[-1]["outcome"] == "denied"
    assert hub.post("iasi", AFTER, {"version": 1}) == {"versions": []}
    assert publish(hub, signed.signed(2)).status_code == 200


def test_other_bodies_are_refused(hub: Region) -> None:
    assert hub.raw(PUBLISH, b"{", {}).status_code == 400
    assert hub.raw(PUBLISH, b'{"versions":[],"versions":[]}', {}).status_code == 400
    assert hub.raw(PUBLISH, b"x" * (LIMIT_BYTES + 1), {}).status_code == 413
    assert hub.client.post(PUBLISH, data=b"{}", content_type="text/plain").status_code == 415
    assert hub.client.get(PUBLISH).status_code == 401
    for wrong in ({}, {"version": -1}, {"version": "1"}, {"version": 1, "more": 1}):
        assert hub.send("iasi", AFTER, canonical_json(wrong)).status_code == 400


def test_the_hub_remembers_across_a_restart(database_url: str, signed: SignedRegion) -> None:
    clock = Clock()
    with running(database_url, signed, clock) as hub:
        publish(hub, signed.signed(2), signed.signed(3))
    with running(database_url, signed, clock) as hub:
        assert hub.post("iasi", AFTER, {"version": 1}) == {"versions": [signed.signed(2), signed.signed(3)]}
        assert publish(hub, signed.signed(3, name="Alta")).status_code == 400
        assert publish(hub, signed.signed(4)).json == {"version": 4}


def test_one_is_checked_at_a_time(hub: Region, signed: SignedRegion) -> None:
    """Anybody may publish; checking must not be a way to keep all of the hub's threads busy."""
    body = canonical_json({"versions": [signed.signed(2)]})
    statuses: list[int] = []
    threads = [Thread(target=lambda: statuses.append(hub.raw(PUBLISH, body, {}).status_code)) for _ in range(3)]
    with hub.database.write() as connection:
        # Nobody gets past the audit log now: neither the first, which is taken, nor the records of the refusals.
        connection.exec_driver_sql("UPDATE audit_head SET id = id")
        for thread in threads:
            thread.start()
            time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 429, 429]
    assert publish(hub, signed.signed(3)).status_code == 200
