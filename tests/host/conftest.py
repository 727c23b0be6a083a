"""Two Orthancs with the same studies: one without our plugin, one a node of a region."""

import re
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import Dataset, dcmread

from host.archive_data import STUDIES, instances
from support.region import Hospital, Hub, Process, eventually, free_port, running_region

WORKSTATION = "WS"
"""AE title of the workstation that looks up and fetches; it belongs to the hospital."""


@dataclass(frozen=True)
class Pair:
    """The two Orthancs, and the workstation's port."""

    plain: Hospital
    node: Hospital
    workstation_port: int

    def __iter__(self) -> Iterator[Hospital]:
        return iter((self.plain, self.node))


@contextmanager
def running_pair(folder: Path, orthanc: Mapping[str, Any]) -> Iterator[Pair]:
    """Start both, with everything of `archive_data` in them.

    Args:
        folder: where they keep their files.
        orthanc: settings of Orthanc's own, for both.
    """
    port = free_port()
    modalities = {
        "workstation": {"AET": WORKSTATION, "Host": "127.0.0.1", "Port": port},
        "nobody": {"AET": "NOBODY", "Host": "127.0.0.1", "Port": free_port()},
    }
    own = {"Own": {"Modalities": list(modalities)}}
    plain = Hospital("plain", "S", "NODE", folder / "plain", plain=True, modalities=modalities, orthanc=orthanc)
    node = Hospital("node", "S", "NODE", folder / "node", modalities=modalities, section=own, orthanc=orthanc)
    plain.aet = node.aet = "ARCHIVE"
    with running_region(folder, [plain, node], Hub(folder / "hub")):
        with warnings.catch_warnings():
            # Some of the data is what DICOM does not allow and archives see all the same.
            warnings.simplefilter("ignore")
            files = list(instances())
        for one in (plain, node):
            for file in files:
                one.store(file)
            assert one.get("/statistics").json()["CountStudies"] == len(STUDIES)
        yield Pair(plain, node, port)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Start the two with the project's own configuration, and wait until their studies are stable."""
    with running_pair(tmp_path_factory.mktemp("pair"), {}) as pair:
        for one in pair:
            eventually(lambda one=one: all(study["IsStable"] for study in one.find("Study", {})), 30, "stable studies")
        yield pair


@pytest.fixture(scope="module")
def other_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Start the two with names that match with their case, and with Orthanc's default encoding."""
    with running_pair(tmp_path_factory.mktemp("other"), {"CaseSensitivePN": True, "DefaultEncoding": "Latin1"}) as pair:
        yield pair


@contextmanager
def storage_scp(aet: str, port: int, folder: Path, *options: str) -> Iterator[Path]:
    """Run DCMTK's storage SCP; give the folder that it fills."""
    folder.mkdir()
    process = Process(
        ["storescp", "-aet", aet, "--output-directory", str(folder), *options, str(port)],
        folder.with_suffix(".log"), {}, folder,
    )  # fmt: skip
    process.start()
    echo = ["echoscu", "127.0.0.1", str(port)]
    try:
        eventually(lambda: subprocess.run(echo, capture_output=True, check=False).returncode == 0, 10, "storescp")
        yield folder
    finally:
        process.stop()


@dataclass(frozen=True)
class Found:
    """What a C-FIND brought: the final status as DCMTK words it, and each answer as tag to value."""

    status: str
    answers: list[dict[str, Any]]


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., Found]:
    """Return a function that sends a C-FIND with DCMTK: `find(orthanc, "PATIENT", "PatientID=1", ...)`."""

    def run(
        orthanc: Hospital, level: str | None, *keys: str | bytes, aet: str = WORKSTATION, model: str = "-S"
    ) -> Found:
        folder = tmp_path / f"answers-{orthanc.id}"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        arguments: list[str | bytes] = [
            "findscu",
            "-v",
            model,
            "-X",
            "-od",
            str(folder),
            "-aet",
            aet,
            "-aec",
            orthanc.aet,
        ]
        if level is not None:
            arguments += ["-k", f"QueryRetrieveLevel={level}"]
        for key in keys:
            arguments += ["-k", key]
        done = subprocess.run(
            [*arguments, orthanc.address, str(orthanc.dicom_port)], capture_output=True, check=False, timeout=60
        )
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        # The final status; an aborted association has none.
        statuses = re.findall(r"Final Find Response \((.*)\)", text) or re.findall(r"[EF]: (.*)", text)[:1]
        return Found(
            statuses[-1] if statuses else "none", [decoded(dcmread(path)) for path in sorted(folder.iterdir())]
        )

    return run


def decoded(dataset: Dataset) -> dict[str, Any]:
    """Return every element as text, so that answers compare whatever their encoding; sequences as lists."""
    found: dict[str, Any] = {}
    for element in dataset:
        if element.VR == "SQ":
            found[str(element.tag)] = [decoded(one) for one in element.value]
        else:
            found[str(element.tag)] = (element.VR, repr(element.value))
    return found


def in_any_order(answers: Sequence[dict[str, Any]]) -> list[str]:
    """Return answers in an order of their own, for comparing what has no order."""
    return sorted(repr(sorted(one.items())) for one in answers)


def outcome(answer: requests.Response) -> tuple[int, str]:
    """Return status and kind of content of an HTTP answer."""
    return answer.status_code, answer.headers.get("Content-Type", "")
