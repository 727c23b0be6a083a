"""The processes that are measured: nodes with the plugin, the same Orthanc without it, and who they talk to."""

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.objects import Images
from support.region import AUTH, Hospital, Hub, Region, eventually, free_port

CLIENT_AET = "BENCH"
SINK_AET = "SINK"
IDLE_S = 0.4
"""Orthanc closes a connection that was silent for KeepAliveTimeout, 1 s."""

_AUTHORIZATION = "Basic " + base64.b64encode(":".join(AUTH).encode()).decode()


class BenchError(Exception):
    """Something that was to be measured did not work."""


class Http:
    """A kept-alive connection to an Orthanc: as little as can be beside what is measured."""

    def __init__(self, hospital: Hospital) -> None:
        self._connection = http.client.HTTPConnection(hospital.address, hospital.http_port, timeout=600)
        self._used = time.monotonic()

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request and return the whole answer.

        Raises:
            BenchError: another status than 200.
        """
        if time.monotonic() - self._used > IDLE_S:
            self._connection.close()
        headers = {"Authorization": _AUTHORIZATION, "Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        self._used = time.monotonic()
        if answer.status != 200:
            raise BenchError(f"{method} {path}: {answer.status} {data[:300].decode('utf-8', 'replace')}")
        return data

    def json(self, method: str, path: str, document: Any = None) -> Any:
        """Send and read JSON."""
        return json.loads(self.call(method, path, None if document is None else json.dumps(document).encode()))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Sink:
    """DCMTK's storescp, which takes everything and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process = subprocess.Popen(
            ["storescp", "--ignore", "--aetitle", SINK_AET, "--max-pdu", "131072", str(self.port)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._listens, 10, "storescp")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


def modalities(sink_port: int = 104) -> dict[str, Any]:
    """Return the systems that every measured Orthanc knows."""
    return {"bench": [CLIENT_AET, "127.0.0.1", 104], "sink": [SINK_AET, "127.0.0.1", sink_port]}


def node(
    name: str, folder: Path, *, plain: bool = False, sink_port: int = 104, section: Mapping[str, Any] | None = None
) -> Hospital:
    """Return an Orthanc that is configured like every other here, but for the plugin."""
    shutil.rmtree(folder / name, ignore_errors=True)
    return Hospital(
        name,
        f"Spitalul {name}",
        name.upper(),
        folder / name,
        plain=plain,
        tls=False,
        modalities=modalities(sink_port),
        section=None if plain else {"Own": {"Modalities": ["bench", "sink"]}, **(section or {})},
    )


@contextlib.contextmanager
def running(folder: Path, hospitals: Sequence[Hospital], plain: Sequence[Hospital]) -> Iterator[Region]:
    """Run a region and plain Orthancs for a while.

    The hub runs only with the nodes: without any there is no region.
    """
    shutil.rmtree(folder / "hub", ignore_errors=True)
    region = Region(folder, hospitals, Hub(folder / "hub"))
    try:
        for one in plain:
            one.start()
        region.start()
        yield region
    finally:
        region.stop()
        for one in plain:
            one.stop()
        for one in (*hospitals, *plain):
            shutil.rmtree(one.folder / "storage", ignore_errors=True)


def manifest_with(region: Region, hospital_id: str, port: int) -> Path:
    """Write the next region manifest, in which one hospital answers behind another port (a delayed line)."""
    members = [one.member() for one in region.hospitals.values()]
    for one in members:
        if one["id"] == hospital_id:
            one["address"] = f"http://127.0.0.1:{port}"
    region.version += 1
    path = region.file.with_name(f"region-{region.version}.json")
    path.write_bytes(region.signed(region.document(members)))
    return path


def upload(hospitals: Sequence[Hospital], images: Images, patient: int, study: int, count: int) -> None:
    """Store the same study at several Orthancs, side by side."""
    files = list(images.study(patient, study, count))

    def send(hospital: Hospital) -> None:
        connection = Http(hospital)
        for dicom in files:
            connection.call("POST", "/instances", dicom)
        connection.close()

    with ThreadPoolExecutor(len(hospitals)) as pool:
        list(pool.map(send, hospitals))


def delete_study(connection: Http, study_instance_uid: str) -> None:
    """Delete a study and make sure that it is gone."""
    for identifier in find_ids(connection, study_instance_uid):
        connection.call("DELETE", f"/studies/{identifier}")
    if find_ids(connection, study_instance_uid):
        raise BenchError(f"{study_instance_uid} could not be deleted")


def find_ids(connection: Http, study_instance_uid: str) -> list[str]:
    """Return Orthanc's identifiers of the studies with this UID that are here."""
    found = json.loads(connection.call("POST", "/tools/lookup", study_instance_uid.encode()))
    return [one["ID"] for one in found if one["Type"] == "Study"]


def instances_of(connection: Http, study_instance_uid: str) -> int:
    """Return how many instances of a study are here."""
    ids = find_ids(connection, study_instance_uid)
    return sum(int(connection.json("GET", f"/studies/{one}/statistics")["CountInstances"]) for one in ids)


def run_tool(*arguments: str) -> None:
    """Run a DCMTK tool.

    Raises:
        BenchError: it failed.
    """
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{arguments[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
