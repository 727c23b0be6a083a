"""A node in a real Orthanc takes a new region manifest up while it runs, and a restart does not take it back."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from joserfc.jwk import OKPKey

from support.region import Hospital, Hub, eventually
from support.signed_region import sign_region
from usmed.domain.canonical import parse_json
from usmed.platform.keys import public_key_text

ADMINISTRATORS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("keys-1", "keys-2")}
SERVERS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ADMINISTRATORS}


def manifest(hub: Hub, node: Hospital, version: int, name: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "version": version, "region": "test", "name": name, "issued": now.isoformat(timespec="seconds"),
        "expires": (now + timedelta(days=1)).isoformat(timespec="seconds"), "hub": hub.member(),
        "hospitals": [node.member()], "threshold": 2,
        "key_servers": [
            {"id": one, "name": one, "address": f"https://{one}:8044", "public_key": public_key_text(SERVERS[one]),
             "administrator": {"name": one, "public_key": public_key_text(key)}}
            for one, key in ADMINISTRATORS.items()
        ],
    }  # fmt: skip


def believed(node: Hospital) -> list[tuple[Any, str]]:
    return [(one["detail"].get("version"), one["outcome"]) for one in node.audit() if one["event"] == "configuration"]


def test_a_node_follows_the_region_while_it_runs(tmp_path: Path) -> None:
    hub, node = Hub(tmp_path / "hub"), Hospital("node", "Nod", "NODE", tmp_path / "node")
    node.settings["USMED_REGION_POLL_S"] = "1"
    first = sign_region(manifest(hub, node, 1, "Întâia"), ADMINISTRATORS)
    path = tmp_path / "region.json"
    path.write_bytes(first)
    try:
        hub.start(path)
        node.start(path)
        assert believed(node) == [(1, "success")]
        # From the hub.
        second = sign_region(manifest(hub, node, 2, "A doua"), ADMINISTRATORS)
        answer = requests.post(
            f"{hub.member()['address']}/v1/region/publish",
            json={"versions": [parse_json(second, limit_bytes=1 << 20)]},
            verify=str(hub.certificate_file),
            timeout=10,
        )
        assert (answer.status_code, answer.json()) == (200, {"version": 2})
        eventually(lambda: believed(node) == [(1, "success"), (2, "success")], 20, "version 2")
        # From its file, with the hub gone.
        hub.stop()
        path.write_bytes(sign_region(manifest(hub, node, 3, "A treia"), ADMINISTRATORS))
        eventually(lambda: believed(node)[-1] == (3, "success"), 20, "version 3")
        time.sleep(3)
        assert node.process is not None
        assert node.process.text().count("gives no region manifests") == 1
        # What was the region once, and another of the same number.
        assert node.stop() == 0
        path.write_bytes(first)
        node.start()
        assert believed(node)[-1] == (3, "success")
        path.write_bytes(sign_region(manifest(hub, node, 3, "Alta"), ADMINISTRATORS))
        eventually(lambda: believed(node)[-1] == (None, "denied"), 20, "the refusal")
        assert node.get("/usmed/status").status_code == 200
        assert node.stop() == 0
    finally:
        node.stop()
        hub.stop()


def test_a_node_does_not_start_with_a_draft(tmp_path: Path) -> None:
    hub, node = Hub(tmp_path / "hub"), Hospital("node", "Nod", "NODE", tmp_path / "node")
    path = tmp_path / "region.json"
    path.write_text(json.dumps(manifest(hub, node, 1, "Ciornă")), "utf-8")
    try:
        node.start(path)
    except AssertionError as error:
        assert "has to be signed by the administrators" in str(error)
    else:
        raise AssertionError("it has started")
    finally:
        node.stop()
