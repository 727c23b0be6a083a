"""DCMTK's tools as tests use them: each call is one run of the tool, its result what the tool itself saw."""

import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from support.region import Hospital, Process, eventually

WORKSTATION = "WS"
"""AE title of the workstation that every hospital of the tests lists as its own."""


@dataclass(frozen=True)
class Found:
    """What findscu got: the answers, and everything it printed."""

    answers: list[Dataset]
    output: str

    def values(self, keyword: str) -> list[str]:
        """Return one attribute of every answer, sorted."""
        return sorted(str(one.get(keyword, "")) for one in self.answers)

    @property
    def studies(self) -> set[str]:
        """Return the Study Instance UIDs."""
        return set(self.values("StudyInstanceUID"))


@dataclass(frozen=True)
class Counts:
    """The sub-operations of one C-MOVE or C-GET response (PS3.7 §9.3.4.2); -1 where the response has none."""

    status: str
    remaining: int
    completed: int
    failed: int
    warning: int


@dataclass(frozen=True)
class Retrieved:
    """What a retrieval gave: its responses, the last being the final one, and everything the tool printed."""

    responses: list[Counts]
    output: str
    exit_code: int

    @property
    def final(self) -> Counts:
        """Return the final response."""
        return self.responses[-1]

    @property
    def pending(self) -> list[Counts]:
        """Return the responses before the final one."""
        return self.responses[:-1]


def run(*command: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run a tool to its end; what it prints is in `stdout`, errors too."""
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
        errors="replace",
    )


def store(hospital: Hospital, files: Sequence[bytes], aet: str = "CT1") -> None:
    """Send files with storescu, as a modality does."""
    with tempfile.TemporaryDirectory() as folder:
        for index, file in enumerate(files):
            (Path(folder) / f"{index:05d}.dcm").write_bytes(file)
        done = run(
            "storescu", "+sd", "-aet", aet, "-aec", hospital.aet, hospital.address, str(hospital.dicom_port), folder
        )
        assert done.returncode == 0, done.stdout


def find(
    hospital: Hospital, level: str, keys: Mapping[str, str], aet: str = WORKSTATION, model: str = "-S"
) -> Found:
    """Look up with findscu; `model` is -P (patient root) or -S (study root)."""
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            "findscu", "-d", model, "-X", "-od", folder, "-aet", aet, "-aec", hospital.aet,
            *_keys({"QueryRetrieveLevel": level, **keys}), hospital.address, str(hospital.dicom_port),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        files = sorted(Path(folder).glob("rsp*"))
        answers = [pydicom.dcmread(one, force=True) for one in files]
        for one in answers:
            one.decode()
        return Found(answers, done.stdout.replace(folder, "FOLDER"))


def move(
    hospital: Hospital,
    destination: str,
    level: str,
    keys: Mapping[str, str],
    aet: str = WORKSTATION,
    model: str = "-S",
) -> Retrieved:
    """Have instances sent to an AE title with movescu."""
    done = run(
        "movescu", "-d", model, "-aet", aet, "-aem", destination, "-aec", hospital.aet,
        *_keys({"QueryRetrieveLevel": level, **keys}), hospital.address, str(hospital.dicom_port),
    )  # fmt: skip
    return Retrieved(_responses(done.stdout), done.stdout, done.returncode)


def get(
    hospital: Hospital, folder: Path, keys: Mapping[str, str], level: str = "STUDY", aet: str = WORKSTATION
) -> Retrieved:
    """Fetch instances into a folder with getscu."""
    done = run(
        "getscu", "-d", "-S", "-od", str(folder), "-aet", aet, "-aec", hospital.aet,
        *_keys({"QueryRetrieveLevel": level, **keys}), hospital.address, str(hospital.dicom_port),
    )  # fmt: skip
    return Retrieved(_responses(done.stdout), done.stdout.replace(str(folder), "FOLDER"), done.returncode)


class Receiver:
    """A storescp: the third AE of a C-MOVE."""

    def __init__(self, aet: str, port: int, folder: Path) -> None:
        self.aet, self.port, self.folder = aet, port, folder

    def received(self) -> list[Dataset]:
        """Return what has arrived."""
        # storescp writes into a file of its own first and gives it its name when it is whole.
        return [pydicom.dcmread(one) for one in sorted(self.folder.iterdir())]

    def empty(self) -> None:
        """Forget what has arrived."""
        for one in self.folder.iterdir():
            one.unlink()


@contextmanager
def receiver(aet: str, port: int, folder: Path) -> Iterator[Receiver]:
    """Run storescp."""
    files = folder / "received"
    files.mkdir(parents=True)
    process = Process(
        ["storescp", "--fork", "+uf", "-aet", aet, "-od", str(files), str(port)], folder / "storescp.log", {}, folder
    )
    process.start()

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listening, 10, "storescp")
        yield Receiver(aet, port, files)
    finally:
        process.stop()


def sop_uids(datasets: Sequence[Dataset]) -> list[str]:
    """Return the SOP Instance UIDs, sorted; twice where an instance came twice."""
    return sorted(str(one.SOPInstanceUID) for one in datasets)


def errors_of(file: Path) -> set[str]:
    """Return the errors that dciodvfy finds in a DICOM file."""
    return {line for line in run("dciodvfy", str(file)).stdout.splitlines() if line.startswith("Error")}


def _keys(keys: Mapping[str, str]) -> list[str]:
    return [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]


def _responses(output: str) -> list[Counts]:
    """Read the responses that movescu and getscu print with -d."""
    blocks = re.split(r"^D: =+ INCOMING DIMSE MESSAGE =+$", output, flags=re.M)[1:]
    return [
        Counts(
            status=_field(block, "DIMSE Status", r"(0x[0-9a-f]{4})") or "",
            remaining=_count(block, "Remaining"),
            completed=_count(block, "Completed"),
            failed=_count(block, "Failed"),
            warning=_count(block, "Warning"),
        )
        for block in blocks
        if re.search(r"Message Type\s*:\s*C-(MOVE|GET) RSP", block)
    ]


def _count(block: str, name: str) -> int:
    found = _field(block, f"{name} Suboperations", r"(\d+)")
    return int(found) if found else -1


def _field(block: str, name: str, pattern: str) -> str | None:
    found = re.search(rf"{name}\s*:\s*{pattern}", block)
    return found[1] if found else None
