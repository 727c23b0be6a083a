"""C-MOVE of local studies: with the plugin the same instances arrive, with the same counts and status."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from host.archive_data import STUDIES, uid
from host.conftest import WORKSTATION, Pair, storage_scp
from support.region import Hospital

COUNTS = ("Remaining", "Completed", "Failed", "Warning")


@dataclass(frozen=True)
class Moved:
    """What a C-MOVE did: final status, the four counts of the final response, what the workstation received."""

    status: str
    counts: tuple[str, ...]
    received: list[str]


@pytest.fixture(scope="module")
def inbox(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the workstation's storage SCP."""
    with storage_scp(WORKSTATION, pair.workstation_port, tmp_path_factory.mktemp("scp") / "inbox") as folder:
        yield folder


@pytest.fixture
def move(inbox: Path) -> Callable[..., Moved]:
    """Return a function that sends a C-MOVE with DCMTK: `move(orthanc, "STUDY", "StudyInstanceUID=...")`."""

    def run(
        one: Hospital, level: str | None, *keys: str, to: str = WORKSTATION, aet: str = WORKSTATION, model: str = "-S"
    ) -> Moved:
        for old in inbox.iterdir():
            old.unlink()
        arguments = ["movescu", "-d", model, "-aet", aet, "-aec", one.aet, "-aem", to]
        for key in (*([f"QueryRetrieveLevel={level}"] if level is not None else []), *keys):
            arguments += ["-k", key]
        done = subprocess.run(
            [*arguments, one.address, str(one.dicom_port)], capture_output=True, check=False, timeout=60
        )
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        # The last response is the final one; a refused association has none.
        final = text.rpartition("Message Type                  : C-MOVE RSP")[2]
        status = re.search(r"DIMSE Status +: (.*)", final) or re.search(r"[EF]: (.*)", text)
        counts = [re.search(rf"{name}.*?: +(\S+)", final) for name in COUNTS]
        received = sorted(
            str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in inbox.iterdir() if path.is_file()
        )
        return Moved(
            status[1] if status else text[-200:], tuple(found[1] if found else "none" for found in counts), received
        )

    return run


def held(study: int) -> list[str]:
    """Return the SOP Instance UIDs of a study."""
    series = next(one[4] for one in STUDIES if one[0] == study)
    return sorted(
        uid(study, position, index)
        for position, (_, count) in enumerate(series, start=1)
        for index in range(1, count + 1)
    )


REQUESTS: list[tuple[str, tuple[str, ...], int]] = [
    ("STUDY", (f"StudyInstanceUID={uid(1)}",), 4),
    ("STUDY", (f"StudyInstanceUID={uid(1)}", "PatientID=1234"), 4),
    ("STUDY", (f"StudyInstanceUID={uid(1)}\\{uid(8)}\\{uid(99)}",), 7),
    ("STUDY", (f"StudyInstanceUID={uid(99)}",), 0),
    ("STUDY", ("AccessionNumber=A2",), 2),
    ("STUDY", ("AccessionNumber=none",), 0),
    ("PATIENT", ("PatientID=2800101221145",), 3),
    ("PATIENT", ("PatientID=78\\79",), 2),
    ("PATIENT", ("PatientID=nobody",), 0),
    ("PATIENT", ("PatientID=78*",), 0),
    ("SERIES", (f"StudyInstanceUID={uid(1)}", f"SeriesInstanceUID={uid(1, 1)}"), 3),
    ("SERIES", (f"SeriesInstanceUID={uid(1, 1)}",), 3),
    ("SERIES", (f"StudyInstanceUID={uid(1)}", f"SeriesInstanceUID={uid(1, 1)}\\{uid(1, 2)}"), 4),
    ("IMAGE", (f"StudyInstanceUID={uid(1)}", f"SeriesInstanceUID={uid(1, 1)}", f"SOPInstanceUID={uid(1, 1, 2)}"), 1),
    ("IMAGE", (f"SOPInstanceUID={uid(1, 1, 2)}",), 1),
    ("IMAGE", (f"StudyInstanceUID={uid(1)}", f"SOPInstanceUID={uid(1, 1, 1)}\\{uid(1, 1, 3)}"), 2),
    ("IMAGE", (f"SOPInstanceUID={uid(9, 9, 9)}",), 0),
    # what names nothing at its level, or what there is not
    ("STUDY", (), 0),
    ("STUDY", ("StudyInstanceUID=",), 0),
    ("STUDY", ("PatientID=1234",), 0),
    ("PATIENT", ("PatientName=Popescu^Ana",), 0),
    ("SERIES", (f"StudyInstanceUID={uid(1)}",), 0),
    ("IMAGE", (f"StudyInstanceUID={uid(1)}",), 0),
    ("FOO", (f"StudyInstanceUID={uid(1)}",), 0),
]


@pytest.mark.parametrize(("level", "keys", "expected"), REQUESTS, ids=lambda one: str(one)[:80])
def test_a_request_does_as_without_the_plugin(
    level: str, keys: tuple[str, ...], expected: int, pair: Pair, move: Callable[..., Moved]
) -> None:
    plain, node = (move(one, level, *keys) for one in pair)
    assert node == plain
    assert len(node.received) == expected
    assert node.status.startswith("0x0000" if expected else "0xc000")


def test_what_differs_on_purpose(pair: Pair, move: Callable[..., Moved]) -> None:
    """Orthanc 1.13 moves 1234, _1234 and %1234 for 1234, A1 and a1 for A1, and asks for no parent to fit."""
    for number, study in (("_1234", 3), ("%1234", 4), ("01234", 5), ("ab-12", 6), ("AB-12", 7), ("_2800101221145", 0)):
        assert move(pair.node, "PATIENT", f"PatientID={number}").received == (held(study) if study else [])
    assert move(pair.node, "PATIENT", "PatientID=1234").received == sorted(held(1) + held(2))
    assert move(pair.node, "PATIENT", "PatientID=Ab-12").received == []
    assert move(pair.node, "STUDY", "AccessionNumber=A1").received == held(1)
    assert move(pair.node, "STUDY", f"StudyInstanceUID={uid(1)}", "PatientID=_1234").received == []
    assert move(pair.node, "SERIES", f"StudyInstanceUID={uid(2)}", f"SeriesInstanceUID={uid(1, 1)}").received == []
    # The SDK gives a plugin no request without a level (PS3.4 C.4.2.1.4.1 wants one); Orthanc guesses it.
    assert move(pair.node, None, f"StudyInstanceUID={uid(2)}").status.startswith("0xc000")


def test_everything_of_a_study_arrives_whole(pair: Pair, move: Callable[..., Moved]) -> None:
    for study in (1, 8, 14, 24):
        assert move(pair.node, "STUDY", f"StudyInstanceUID={uid(study)}").received == held(study)


def test_destinations_that_there_are_not(pair: Pair, move: Callable[..., Moved]) -> None:
    """`UNKNOWN` is listed nowhere; `NOBODY` is listed and does not answer."""
    plain, node = (move(one, "STUDY", f"StudyInstanceUID={uid(1)}", to="UNKNOWN") for one in pair)
    assert node == plain
    for one in pair:
        assert not move(one, "STUDY", f"StudyInstanceUID={uid(1)}", to="NOBODY").status.startswith("0x0000")


ONLY_MR = """[[TransferSyntaxes]]
[Any]
TransferSyntax1 = LittleEndianImplicit
TransferSyntax2 = LittleEndianExplicit
[[PresentationContexts]]
[OnlyMR]
PresentationContext1 = MRImageStorage\\Any
PresentationContext2 = VerificationSOPClass\\Any
[[Profiles]]
[Default]
PresentationContexts = OnlyMR
"""


def test_what_a_destination_refuses_does_not_count_as_sent(
    pair: Pair, move: Callable[..., Moved], tmp_path: Path
) -> None:
    """The rest is sent all the same; Orthanc without the plugin gives up at the first."""
    (tmp_path / "scp.cfg").write_text(ONLY_MR)
    port = int(pair.node.get("/modalities/nobody/configuration").json()["Port"])
    with storage_scp("NOBODY", port, tmp_path / "mr", "-xf", str(tmp_path / "scp.cfg"), "Default") as folder:
        done = move(pair.node, "STUDY", f"StudyInstanceUID={uid(1)}\\{uid(2)}", to="NOBODY")
        assert len(list(folder.iterdir())) == 2
    assert done.status.startswith("0xb000")
    assert done.counts[2] == "1"


def test_the_patient_root_model(pair: Pair, move: Callable[..., Moved]) -> None:
    for level, keys in (("PATIENT", ("PatientID=79",)), ("STUDY", ("PatientID=1234", f"StudyInstanceUID={uid(2)}"))):
        plain, node = (move(one, level, *keys, model="-P") for one in pair)
        assert node == plain
        assert node.received


def test_a_caller_that_is_not_listed_is_refused(pair: Pair, move: Callable[..., Moved]) -> None:
    plain, node = (move(one, "STUDY", f"StudyInstanceUID={uid(1)}", aet="STRANGER") for one in pair)
    assert node == plain
    assert node.received == []


def test_several_at_once(pair: Pair, inbox: Path) -> None:
    """Four requests side by side: each sends its own, none waits for another's end."""
    for old in inbox.iterdir():
        old.unlink()
    command = ["movescu", "-S", "-aet", WORKSTATION, "-aec", pair.node.aet, "-aem", WORKSTATION, "-k",
               "QueryRetrieveLevel=STUDY"]  # fmt: skip
    started = time.monotonic()
    requests = [
        subprocess.Popen(
            [*command, "-k", f"StudyInstanceUID={uid(study)}", pair.node.address, str(pair.node.dicom_port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for study in (1, 2, 8, 6)
    ]
    assert [request.wait(60) for request in requests] == [0] * 4
    assert time.monotonic() - started < 20
    received = sorted(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in inbox.iterdir())
    assert received == sorted(one for study in (1, 2, 8, 6) for one in held(study))
