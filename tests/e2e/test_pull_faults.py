"""A pull that is killed, cut, starved or lied to ends complete and verified, or not at all; it never looks whole early.

A real hospital sends to real hospitals through a line that tests cut and slow down; what no real hospital would send
comes from a simulated one.
"""

import contextlib
import hashlib
import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e import dcmtk
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from simulators.cutting_proxy import CuttingProxy, bad_line, replacing
from simulators.peer import HeldStudy, Peer, frame
from support.region import Hospital, Hub, Region, eventually, permit
from usmed.domain.identifiers import orthanc_id
from usmed.domain.manifest import frame_end

INSTANCES = 500
SPEED = 11e6
"""Bytes per second on the line from the source: the pull of 500 small instances then takes about two seconds."""
ROUNDS = 10
SEED = int(os.environ.get("USMED_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
MEMORY_FOLDER = Path("/dev/shm")
"""A file system of limited size that needs no right to mount one."""

PATIENT, OTHER_PATIENT = Patient(national_number(1)), Patient(national_number(2))
BIG = Study("five hundred", PATIENT, instances=1)


def _big_files() -> Iterator[bytes]:
    """Give the instances of BIG: copies of the first that differ in their SOP Instance UID (and so in their hash)."""
    (first,) = BIG.files()
    uid = BIG.sop_uid(1, 1)
    for number in range(INSTANCES):
        yield first.replace(uid.encode(), f"{uid[:-3]}{number:03d}".encode())


class Relayed(Hospital):
    """A hospital that the others reach over a bad line."""

    line: CuttingProxy

    def member(self) -> dict[str, Any]:
        """Return its entry of the region manifest, with the line's address."""
        return super().member() | {"address": f"https://{self.address}:{self.line.port}"}


@dataclass(frozen=True)
class World:
    """A is the source, behind `line`; B the receiver; `full` a receiver on a small disk; `liar` says what it likes,
    `plain` is honest but speaks plain HTTP over `plain_line`."""

    region: Region
    a: Hospital
    b: Hospital
    full: Hospital
    liar: Peer
    plain: Peer
    line: CuttingProxy
    plain_line: CuttingProxy
    small_disk: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    small_disk = MEMORY_FOLDER / f"usmed-test-{os.getpid()}"
    section = {
        "Pull": {"Automatic": "click"},
        "Own": {"Modalities": ["ws"]},
        "Hub": {"ConsentSeconds": 1},
        # How long a lookup may take, and whom it leaves alone for how long, is tested elsewhere.
        "Lookup": {"DeadlineSeconds": 10, "CircuitSeconds": 1},
    }
    workstation = {"ws": {"AET": dcmtk.WORKSTATION, "Host": "127.0.0.1", "Port": 11112}}

    def options(address: str) -> dict[str, Any]:
        return {"address": address, "section": section, "modalities": workstation}

    a = Relayed("source", "Sursa", "SOURCE", folder / "a", **options("127.0.0.1"))
    b = Hospital("receiver", "Primitorul", "RECEIVER", folder / "b", **options("127.0.0.2"))
    on_small_disk = {
        "USMED_STORAGE_DIRECTORY": str(small_disk),
        "USMED_DATABASE_URL": f"sqlite:///{small_disk / 'usmed.db'}",
    }
    full = Hospital("full", "Disc plin", "FULL", folder / "full", settings=on_small_disk, **options("127.0.0.3"))
    liar = Peer("liar", "LIAR", folder / "liar")
    plain = Peer("plain", "PLAIN", folder / "plain", tls=False)
    region = Region(folder, [a, b, full], Hub(folder / "hub"))
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_tree, small_disk)
        a.line = stack.enter_context(bad_line((a.address, a.federation_port)))
        plain_line = stack.enter_context(bad_line((plain.address, plain.port)))
        for peer in (liar, plain):
            peer.start()
            stack.callback(peer.stop)
        stack.callback(region.stop)
        over_line = plain.member() | {"address": f"http://{plain_line.address}:{plain_line.port}"}
        region.start([liar.member(), over_line])
        for one in _big_files():
            a.store(one)
        patients = (PATIENT, OTHER_PATIENT)
        region.consent(*(permit(NATIONAL_ISSUER, one.number, recipients=[b.id, full.id]) for one in patients))
        eventually(lambda: _knows(b, BIG.uid), 30, "the region knows the study")
        a.line.bytes_per_second = SPEED
        yield World(region, a, b, full, liar, plain, a.line, plain_line, small_disk)


def _remove_tree(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _knows(hospital: Hospital, study: str) -> bool:
    found = hospital.find("Study", {"PatientID": PATIENT.number})
    return any(one["MainDicomTags"]["StudyInstanceUID"] == study for one in found)


def _transfer(hospital: Hospital, study: str) -> dict[str, Any]:
    answer = hospital.get(f"/usmed/transfers/{study}")
    return dict(answer.json()) if answer.status_code == 200 else {}


def _fetch(hospital: Hospital, study: str) -> dict[str, Any]:
    def asked() -> dict[str, Any] | None:
        answer = hospital.post("/usmed/fetch", json={"StudyInstanceUID": study})
        # Just after a fault the source is left alone for a moment.
        return dict(answer.json()) if answer.status_code == 200 else None

    return eventually(asked, 15, "the study can be asked for")


def _complete(hospital: Hospital, study: str, timeout_s: float = 40) -> dict[str, Any]:
    transfer: dict[str, Any] = {}

    def done() -> dict[str, Any] | None:
        transfer.update(_transfer(hospital, study))
        assert transfer.get("State") not in ("failed", "refused"), transfer
        return transfer if transfer.get("State") == "complete" else None

    try:
        return eventually(done, timeout_s)
    except AssertionError as error:
        raise AssertionError(f"the pull to {hospital.id} is not complete: {transfer}") from error


def _study_id(study: Study) -> str:
    return orthanc_id(study.patient.number, study.uid)


def _stored(hospital: Hospital, storage: Path, study: Study) -> dict[str, str]:
    """Return SOP Instance UID and SHA-256 of every instance of a study, from the files themselves."""
    found: dict[str, str] = {}
    for one in hospital.find("Instance", {"StudyInstanceUID": study.uid}):
        if "FileUuid" not in one:
            # Another hospital's answer.
            continue
        sop, file = one["MainDicomTags"]["SOPInstanceUID"], one["FileUuid"]
        assert sop not in found, f"{sop} is stored twice"
        content = (storage / file[:2] / file[2:4] / file).read_bytes()
        found[sop] = f"{hashlib.sha256(content).hexdigest()} of {len(content)} bytes"
    return found


def _assert_whole(hospital: Hospital, storage: Path, study: Study, expected: dict[str, str], size_bytes: int) -> None:
    """Everything is there, as it was at the source, once; the archive holds nothing else."""
    assert _stored(hospital, storage, study) == expected
    # Not /statistics: the DICOMweb plugin attaches what it computes to a series, when it likes.
    statistics = hospital.get(f"/studies/{_study_id(study)}/statistics").json()
    assert (statistics["CountInstances"], int(statistics["DicomDiskSize"])) == (len(expected), size_bytes)
    assert hospital.get("/statistics").json()["CountInstances"] == len(expected)
    labels = hospital.get(f"/studies/{_study_id(study)}/labels").json()
    assert labels == ["usmed-guest"]


def _source_files(world: World) -> tuple[dict[str, str], int]:
    source = _stored(world.a, world.a.folder / "storage", BIG)
    assert len(source) == INSTANCES
    return source, int(world.a.get(f"/studies/{_study_id(BIG)}/statistics").json()["DicomDiskSize"])


class Watcher:
    """Looks at a receiver through everything that shows a study, all the time, and notes when one of them lies.

    Attributes:
        lies: what was shown as complete with how many instances.
        seen: how often each view showed the study incomplete, and complete.
    """

    def __init__(self, hospital: Hospital, study: Study) -> None:
        self._hospital, self._study, self._id = hospital, study, _study_id(study)
        self.lies: list[str] = []
        self.seen: Counter[str] = Counter()
        self.errors: list[str] = []
        self._stop = threading.Event()
        looks = (
            (self._rest_find, 0.05),
            (self._qido, 0.15),
            (self._transfer, 0.07),
            (self._labels, 0.07),
            (self._panel, 0.3),
            (self._c_find, 0.4),
        )
        self._looking = [threading.Lock() for _ in looks]
        self._threads = [
            threading.Thread(target=self._run, args=(*one, lock), daemon=True)
            for one, lock in zip(looks, self._looking, strict=True)
        ]

    def __enter__(self) -> "Watcher":
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Do not look meanwhile; a look that has begun is waited for."""
        with contextlib.ExitStack() as stack:
            for one in self._looking:
                stack.enter_context(one)
            yield

    def _run(self, look: Callable[[requests.Session], None], interval_s: float, looking: threading.Lock) -> None:
        session = requests.Session()
        session.auth = self._hospital.session.auth
        while not self._stop.wait(interval_s):
            with looking:
                try:
                    look(session)
                except (requests.RequestException, AssertionError) as error:
                    # The receiver is being killed again and again: nobody is shown anything then.
                    self.errors.append(f"{look.__name__}: {error}")

    def _note(self, view: str, complete: bool, instances: int) -> None:
        self.seen[f"{view} {'complete' if complete else 'incomplete'}"] += 1
        if complete and instances < INSTANCES:
            self.lies.append(f"{view}: complete with {instances} instances")

    def _instances(self, session: requests.Session) -> int:
        return int(session.get(f"{self._hospital.url}/statistics", timeout=5).json()["CountInstances"])

    def _rest_find(self, session: requests.Session) -> None:
        request = {
            "Level": "Study",
            "Query": {"StudyInstanceUID": self._study.uid},
            "ResponseContent": ["MainDicomTags", "RequestedTags", "Labels"],
            "RequestedTags": ["NumberOfStudyRelatedInstances", "InstanceAvailability"],
        }
        answer = session.post(f"{self._hospital.url}/tools/find", json=request, timeout=30)
        for one in answer.json():
            asked = one["RequestedTags"]
            complete = "NEARLINE" not in (one.get("InstanceAvailability"), asked.get("InstanceAvailability"))
            self._note("find", complete, int(asked["NumberOfStudyRelatedInstances"]))
            if asked.get("InstanceAvailability") == "ONLINE":
                self._note("requested tag", True, int(asked["NumberOfStudyRelatedInstances"]))

    def _qido(self, session: requests.Session) -> None:
        url = f"{self._hospital.url}/dicom-web/studies?StudyInstanceUID={self._study.uid}"
        for one in session.get(url, timeout=30).json():
            self._note("qido", one["00080056"]["Value"] == ["ONLINE"], int(one["00201208"]["Value"][0]))

    def _transfer(self, session: requests.Session) -> None:
        answer = session.get(f"{self._hospital.url}/usmed/transfers/{self._study.uid}", timeout=5)
        if answer.status_code == 200:
            self._note("transfer", answer.json()["State"] == "complete", self._instances(session))

    def _labels(self, session: requests.Session) -> None:
        answer = session.get(f"{self._hospital.url}/studies/{self._id}/labels", timeout=5)
        if answer.status_code == 200 and "usmed-guest" in answer.json():
            self._note("labels", "usmed-arriving" not in answer.json(), self._instances(session))

    def _panel(self, session: requests.Session) -> None:
        answer = session.get(f"{self._hospital.url}/usmed/orthanc-studies/{self._id}", timeout=30)
        if answer.status_code == 200:
            for one in answer.json()["studies"]:
                self._note("panel", one["State"] == "here", self._instances(session))

    def _c_find(self, session: requests.Session) -> None:
        keys = {"StudyInstanceUID": self._study.uid, "InstanceAvailability": "", "NumberOfStudyRelatedInstances": ""}
        for one in dcmtk.find(self._hospital, "STUDY", keys).answers:
            self._note("c-find", one.InstanceAvailability == "ONLINE", int(one.NumberOfStudyRelatedInstances or 0))


VIEWS = ("find", "qido", "transfer", "labels", "panel", "c-find")


def _kill_receiver(world: World) -> None:
    world.b.stop(signal.SIGKILL)
    world.b.start()


def _kill_source(world: World) -> None:
    world.a.stop(signal.SIGKILL)
    world.a.start()


def _cut_line(world: World) -> None:
    world.line.cut()


@pytest.fixture(scope="module")
def duration_s(world: World) -> float:
    """Pull once without any fault; return how long it takes."""
    expected, size = _source_files(world)
    start = time.monotonic()
    _fetch(world.b, BIG.uid)
    _complete(world.b, BIG.uid)
    took = time.monotonic() - start
    _assert_whole(world.b, world.b.folder / "storage", BIG, expected, size)
    _forget(world.b)
    return took


def _forget(hospital: Hospital) -> None:
    deleted = hospital.session.delete(f"{hospital.url}/studies/{_study_id(BIG)}", timeout=60)
    assert deleted.status_code == 200, deleted.text


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", [_kill_receiver, _kill_source, _cut_line], ids=lambda fault: fault.__name__[1:])
def test_a_pull_survives_a_fault_at_any_moment(world: World, duration_s: float, fault: Callable[[World], None]) -> None:
    moments = random.Random(f"{SEED} {fault.__name__}")
    print(f"seed {SEED}, pull {duration_s:.1f} s, fault {fault.__name__}")
    expected, size = _source_files(world)
    hit = 0
    with Watcher(world.b, BIG) as watcher:
        for number in range(ROUNDS):
            moment_s = moments.uniform(0.0, duration_s)
            start = time.monotonic()
            with watcher.blind():
                if number:
                    _forget(world.b)
                _fetch(world.b, BIG.uid)
            time.sleep(moment_s)
            arrived = int(world.b.get("/statistics").json()["CountInstances"])
            fault(world)
            hit += arrived < INSTANCES
            transfer = _complete(world.b, BIG.uid)
            took = time.monotonic() - start
            print(f"{number}: at {moment_s:.2f} s, {arrived} there; {transfer['Attempts']} attempts, {took:.1f} s")
            _assert_whole(world.b, world.b.folder / "storage", BIG, expected, size)
            assert watcher.lies == []
    _forget(world.b)
    print(sorted(watcher.seen.items()))
    assert hit >= ROUNDS // 2, "the faults came too late to test anything"
    # A watcher that never saw a study arriving could not have caught a lie.
    assert not [view for view in VIEWS if not watcher.seen[f"{view} incomplete"]], watcher.errors[-10:]


def test_after_a_restart_a_part_is_never_shown_as_whole(world: World) -> None:
    """Also not in the first moments, before the node has taken up its queue, and while the source is away."""
    world.line.bytes_per_second = SPEED / 4
    _fetch(world.b, BIG.uid)
    eventually(lambda: _transfer(world.b, BIG.uid)["Arrived"] > 50, what="a part has arrived")
    world.a.process.suspend()  # type: ignore[union-attr]
    try:
        world.b.stop(signal.SIGKILL)
        with Watcher(world.b, BIG) as watcher:
            world.b.start()
            enough = {"find": 20, "c-find": 3, "qido": 5, "transfer": 10}
            eventually(
                lambda: all(watcher.seen[f"{view} incomplete"] >= times for view, times in enough.items()),
                40,
                "every view has been looked at",
            )
            seen = _transfer(world.b, BIG.uid)
        assert watcher.lies == []
        assert seen["Unfinished"]
        assert 0 < seen["Arrived"] < INSTANCES
    finally:
        world.a.process.resume()  # type: ignore[union-attr]
        world.line.bytes_per_second = SPEED
    _complete(world.b, BIG.uid)
    _forget(world.b)


def test_a_stalled_line_is_given_up_and_the_pull_resumes(world: World) -> None:
    """A line that breaks without a word: nothing is sent, nothing is closed."""
    _fetch(world.full, BIG.uid)
    eventually(lambda: _transfer(world.full, BIG.uid)["Arrived"] > 20, what="a part has arrived")
    world.line.stall()
    try:
        before = _transfer(world.full, BIG.uid)["Arrived"]
        assert before < INSTANCES
        # The node's own limit (20 s) is for the real world; here the line is cut after a while of silence.
        time.sleep(1)
        world.line.cut()
    finally:
        world.line.flow()
    _complete(world.full, BIG.uid)
    expected, size = _source_files(world)
    _assert_whole(world.full, world.small_disk, BIG, expected, size)
    _forget(world.full)


def test_a_full_disk_leaves_a_pull_that_resumes(world: World) -> None:
    """The node's own tables are on that disk too, as by default: not even the reason can be written down."""
    filler = world.small_disk / "filler"
    free = os.statvfs(world.small_disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - (7 << 20)))
    with Watcher(world.full, BIG) as watcher:
        _fetch(world.full, BIG.uid)
        here: list[int] = []

        def stopped() -> bool:
            """Tell whether something has come, and for two seconds no more."""
            here.append(int(world.full.get("/statistics").json()["CountInstances"]))
            return len(here) > 20 and 0 < here[-1] == here[-20] and not time.sleep(0.05)

        eventually(stopped, 40, "the disk is full")
        assert here[-1] < INSTANCES
        assert os.statvfs(world.small_disk).f_bavail * free.f_frsize < 1 << 20
        assert _transfer(world.full, BIG.uid)["Unfinished"]
        # Local care goes on.
        assert world.full.get("/system").status_code == 200
        assert world.full.find("Study", {"PatientID": "nobody"}) == []
        filler.unlink()
        _complete(world.full, BIG.uid)
        assert watcher.lies == []
        assert watcher.seen["find incomplete"]
    expected, size = _source_files(world)
    _assert_whole(world.full, world.small_disk, BIG, expected, size)


# ---- Lies, and bytes altered on the way ----

Frames = Callable[[HeldStudy, Sequence[Sequence[Any]]], Iterator[bytes]]
Manifest = Callable[[HeldStudy, str], dict[str, Any]]

_numbers = count(1)


def _held(world: World, peer: Peer, instances: int = 12) -> tuple[HeldStudy, Study]:
    """Put a study at a simulated hospital; its patient has agreed that B sees it."""
    study = Study(f"simulated {next(_numbers)}", OTHER_PATIENT, instances=instances)
    held = peer.hold(
        HeldStudy(
            study.uid,
            study.series_uid(1),
            (NATIONAL_ISSUER, study.patient.number),
            files={study.sop_uid(1, i + 1): file for i, file in enumerate(study.files())},
        )
    )
    peer.feed(world.region.file)
    return held, study


@contextlib.contextmanager
def _lying(peer: Peer, *, frames: Frames | None = None, manifest: Manifest | None = None) -> Iterator[None]:
    """Let a simulated hospital send other frames, or another manifest, for a while."""
    peer.make_frames, peer.make_manifest = frames or peer.frames, manifest or peer.manifest
    try:
        yield
    finally:
        peer.make_frames, peer.make_manifest = peer.frames, peer.manifest


def _comes_whole(world: World, study: Study, held: HeldStudy) -> None:
    """Without the fault it comes, at the next request, and is what the source holds."""
    _fetch(world.b, study.uid)
    _complete(world.b, study.uid)
    assert _stored(world.b, world.b.folder / "storage", study) == {
        sop: f"{hashlib.sha256(file).hexdigest()} of {len(file)} bytes" for sop, file in held.files.items()
    }


def _failed_once(world: World, study: Study) -> dict[str, Any]:
    """Ask B for a study and wait until a try has failed."""
    _fetch(world.b, study.uid)
    return eventually(
        lambda: (seen := _transfer(world.b, study.uid))["State"] in ("waiting", "failed") and seen,
        20,
        "a try has failed",
    )


def _pull_records(world: World, study: Study) -> list[dict[str, Any]]:
    return [one for one in world.b.audit() if one["event"] == "pull" and one["study_instance_uid"] == study.uid]


def _assert_refused(world: World, study: Study, transfer: dict[str, Any], names: str) -> None:
    """It is said what was refused, to people and in the audit log, and it is not in the archive."""
    assert names in transfer["Reason"]
    records = eventually(lambda: _pull_records(world, study))
    assert records[-1]["outcome"] == "failure"
    assert names in records[-1]["reason"]
    for one in world.b.find("Study", {"StudyInstanceUID": study.uid}):
        assert one["InstanceAvailability"] == "NEARLINE"
    assert names not in _stored(world.b, world.b.folder / "storage", study)


@contextlib.contextmanager
def _altering(line: CuttingProxy, old: bytes, new: bytes) -> Iterator[None]:
    """Let a line change bytes for a while; connections from before and after are not kept."""
    line.alter = replacing(old, new)
    line.cut()
    try:
        yield
    finally:
        line.alter = None
        line.cut()


def test_an_instance_altered_on_the_way_is_refused_named_and_fetched_again(world: World) -> None:
    held, study = _held(world, world.plain)
    victim = study.sop_uid(1, 7)
    # Its last digit becomes a letter: still the same length.
    with _altering(world.plain_line, victim.encode(), victim[:-1].encode() + b"x"):
        transfer = _failed_once(world, study)
        _assert_refused(world, study, transfer, victim)
    _comes_whole(world, study, held)


def test_a_manifest_altered_on_the_way_is_refused(world: World) -> None:
    held, study = _held(world, world.plain)
    with _altering(world.plain_line, b'{"manifest":"ey', b'{"manifest":"eY'):
        transfer = _failed_once(world, study)
        _assert_refused(world, study, transfer, "manifest")
        assert transfer["Arrived"] == 0
        assert world.b.get(f"/studies/{_study_id(study)}/labels").status_code == 404
    _comes_whole(world, study, held)


Change = Callable[[int, bytes], list[bytes]]
"""Gives, for an instance's index and file, what is sent in place of its frame; after b"" nothing more is sent."""


def _frames(change: Change, victim: str) -> Frames:
    """Return a stream in which one instance's frame is changed."""

    def frames(study: HeldStudy, wanted: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        for index, sop in wanted:
            for part in change(index, study.files[sop]) if sop == victim else [frame(index, study.files[sop])]:
                if not part:
                    return
                yield part
        yield frame_end()

    return frames


def _other_pixels(index: int, file: bytes) -> list[bytes]:
    return [frame(index, file[:-1] + bytes([file[-1] ^ 1]))]


def _twice(index: int, file: bytes) -> list[bytes]:
    return [frame(index, file), frame(index, file)]


def _wrong_place(index: int, file: bytes) -> list[bytes]:
    return [frame(index + 1, file)]


def _cut_short(index: int, file: bytes) -> list[bytes]:
    return [frame(index, file)[:-1000], b""]


def _left_out(index: int, file: bytes) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("change", "named"),
    [(_other_pixels, 0), (_wrong_place, 0), (_twice, 1), (_cut_short, 0), (_left_out, 0)],
    ids=["other content", "wrong place", "twice", "cut short", "left out"],
)
def test_a_stream_that_is_not_what_the_manifest_says(world: World, change: Change, named: int) -> None:
    """`named` counts from the victim: a second copy of it stands where the next instance should."""
    held, study = _held(world, world.liar)
    order = sorted(study.sop_uids)
    # The third instance and the next come over the same connection.
    with _lying(world.liar, frames=_frames(change, order[2])):
        transfer = _failed_once(world, study)
        _assert_refused(world, study, transfer, order[2 + named])
    _comes_whole(world, study, held)


def test_a_stream_that_goes_on_after_its_end(world: World) -> None:
    """It brings an instance that the manifest does not name."""
    held, study = _held(world, world.liar)
    extra = Study(study.label, study.patient, instances=13).files()[12]

    def frames(one: HeldStudy, wanted: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        for index, sop in wanted:
            yield frame(index, one.files[sop])
        yield frame(len(one.files), extra)
        yield frame_end()

    with _lying(world.liar, frames=frames):
        transfer = _failed_once(world, study)
        _assert_refused(world, study, transfer, "goes on after its end")
    _comes_whole(world, study, held)


def _put(held: HeldStudy, file: bytes) -> None:
    held.files[sorted(held.files)[3]] = file


def _of_other_patient(study: Study, held: HeldStudy) -> None:
    victim = sorted(held.files)[3]
    others = Study(study.label, Patient(national_number(99)), instances=study.instances).files()
    _put(held, next(one for one in others if victim.encode() in one))


def _of_other_study(study: Study, held: HeldStudy) -> None:
    _put(held, Study("elsewhere", study.patient, instances=1).files()[0])


def _other_instance(study: Study, held: HeldStudy) -> None:
    _put(held, held.files[sorted(held.files)[4]])


def _no_dicom(study: Study, held: HeldStudy) -> None:
    _put(held, b"This is no DICOM file. " * 200)


def _broken_dicom(study: Study, held: HeldStudy) -> None:
    file = held.files[sorted(held.files)[3]]
    _put(held, file[:200] + b"\xff" * 300 + file[500:])


def _header_only(study: Study, held: HeldStudy) -> None:
    _put(held, held.files[sorted(held.files)[3]][:132])


def _deflated_nonsense(study: Study, held: HeldStudy) -> None:
    """Say that what follows the meta header is compressed (PS3.5 §A.5), which it is not."""
    file = held.files[sorted(held.files)[3]]
    plain, deflated = (b"UI" + struct.pack("<H", len(uid)) + uid for uid in (b"1.2.840.10008.1.2.1\0", _DEFLATED))
    assert plain in file
    _put(held, file.replace(plain, deflated))


_DEFLATED = b"1.2.840.10008.1.2.1.99"


@pytest.mark.parametrize(
    "change",
    [_of_other_patient, _of_other_study, _other_instance, _no_dicom, _broken_dicom, _header_only, _deflated_nonsense],
)
def test_a_file_that_fits_its_hash_but_is_not_the_instance(
    world: World, change: Callable[[Study, HeldStudy], None]
) -> None:
    """The manifest and the stream agree, and are properly signed: the hospital itself lies, or is broken."""
    held, study = _held(world, world.liar)
    victim = sorted(held.files)[3]
    honest = held.files[victim]
    change(study, held)
    transfer = _failed_once(world, study)
    _assert_refused(world, study, transfer, victim)
    assert world.b.find("Patient", {"PatientID": national_number(99)}) == []
    held.files[victim] = honest
    _comes_whole(world, study, held)


def test_an_instance_that_the_source_changed_meanwhile_is_fetched_anew(world: World) -> None:
    """What is here must be what the last manifest says, not what an earlier one said."""
    held, study = _held(world, world.liar)
    order = sorted(held.files)
    with _lying(world.liar, frames=_frames(_other_pixels, order[-1])):
        _failed_once(world, study)
        assert order[0] in _stored(world.b, world.b.folder / "storage", study)
        corrected = Study(study.label, study.patient, instances=12, attributes={"StudyDescription": "Corectat"})
        held.files[order[0]] = next(one for one in corrected.files() if order[0].encode() in one)
    _comes_whole(world, study, held)


def _wrong(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update({name: value})


def _repeated(manifest: dict[str, Any]) -> None:
    manifest["entries"].append(manifest["entries"][0])


def _without_hash(manifest: dict[str, Any]) -> None:
    manifest["entries"][2][3] = ""


def _too_large(manifest: dict[str, Any]) -> None:
    manifest["entries"][2][2] = 1 << 50


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_wrong("source", "source"), "another study, source or requester"),
        (_wrong("requester", "somebody"), "another study, source or requester"),
        (_wrong("study_instance_uid", "1.2.3"), "another study, source or requester"),
        (_wrong("identifier", {"issuer": NATIONAL_ISSUER, "value": national_number(98)}), "another patient"),
        (_wrong("identifier", "x"), "manifest"),
        (_wrong("entries", []), "0 instances"),
        (_wrong("entries", None), "manifest"),
        (_repeated, "twice"),
        (_without_hash, "SHA-256"),
        (_too_large, "size"),
    ],
)
def test_a_manifest_that_is_signed_and_wrong(
    world: World, change: Callable[[dict[str, Any]], None], names: str
) -> None:
    held, study = _held(world, world.liar, instances=3)

    def manifest(one: HeldStudy, requester: str) -> dict[str, Any]:
        document = world.liar.manifest(one, requester)
        change(document)
        return document

    with _lying(world.liar, manifest=manifest):
        transfer = _failed_once(world, study)
        _assert_refused(world, study, transfer, names)
        assert transfer["Arrived"] == 0
        assert world.b.get(f"/studies/{_study_id(study)}/labels").status_code == 404
    _comes_whole(world, study, held)
