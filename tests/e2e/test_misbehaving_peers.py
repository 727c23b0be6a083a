"""A lookup answers in time with what the others hold, says who is missing, and does not pay twice for the same peer.

One real hospital looks up. What misbehaves is simulated, with real keys: each misbehaviour at a hospital of its own,
with a patient of its own who also has a study at an honest one.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e import dcmtk
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from simulators import peer as simulated
from simulators.peer import Behaviour, HeldStudy, Peer
from support.region import Hospital, Hub, Region, eventually, permit

DEADLINE_S = 1.5
"""The default of `Lookup.DeadlineSeconds`, which the tests leave as it is."""
CIRCUIT_S = 5.0

BEHAVIOURS: dict[str, Behaviour] = {
    "silent": simulated.silent,
    "not-http": simulated.not_http,
    "not-json": simulated.not_json,
    "signed-nonsense": simulated.signed_nonsense,
    "signed-not-json": simulated.signed_not_json,
    "deeply-nested": simulated.deeply_nested,
    "endless": simulated.endless,
    "gigabytes": simulated.announced_gigabytes,
    "endless-head": simulated.endless_head,
    "endless-continue": simulated.endless_continue,
    "gzip-bomb": simulated.gzip_bomb,
    "dripping": simulated.dripping,
    "dripping-head": simulated.dripping_head,
    "redirecting": simulated.honest,  # set when the honest one's address is known
    "unsigned": simulated.unsigned,
    "wrong-key": simulated.wrongly_signed,
    "anothers-key": simulated.honest,
    "other-body": simulated.signed_other_body,
    "replaying": simulated.Replaying(),
    "off": simulated.honest,  # stopped
    "swallowed": simulated.honest,  # its address in the manifest is one where nothing is accepted or refused
}
WORK = ("silent", "endless", "gigabytes", "gzip-bomb", "dripping", "dripping-head", "swallowed", "endless-continue")
"""The ones that would cost time, memory or threads."""


@dataclass(frozen=True)
class World:
    """`b` looks up; `honest` holds a study of every patient; `peers` misbehave by their names.

    Attributes:
        overhead_s: what a lookup costs here with nobody to ask, with the tools: REST and findscu.
    """

    region: Region
    b: Hospital
    honest: Peer
    peers: dict[str, Peer]
    patients: dict[str, str]
    overhead_s: tuple[float, float]

    @property
    def hub(self) -> Hub:
        """Return the hub."""
        return self.region.hub


EVERYWHERE = "everywhere"
"""The patient with a study at every hospital."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("peers")
    section = {
        "Pull": {"Automatic": "click"},
        "Own": {"Modalities": ["ws"]},
        # Every lookup asks the others, and after a second the hub too, so that a test meets them as they are.
        "Lookup": {"CircuitSeconds": CIRCUIT_S, "CacheSeconds": 0, "IdentitySeconds": 1},
        "Hub": {"ConsentSeconds": 1},
    }
    workstation = {"ws": {"AET": dcmtk.WORKSTATION, "Host": "127.0.0.1", "Port": 11112}}
    b = Hospital("asker", "Cine întreabă", "ASKER", folder / "b", section=section, modalities=workstation)
    honest = Peer("honest", "HONEST", folder / "honest")
    peers = {name: Peer(name, name.upper(), folder / name) for name in BEHAVIOURS}
    patients = {name: national_number(position) for position, name in enumerate([EVERYWHERE, *peers], 100)}
    region = Region(folder, [b], Hub(folder / "hub"))
    with contextlib.ExitStack() as stack:
        for one in (honest, *peers.values()):
            one.start()
            stack.callback(one.stop)
        swallowed = stack.enter_context(simulated.full_backlog())
        stack.callback(region.stop)
        members = [one.member() for one in (honest, *peers.values())]
        for member in members:
            if member["id"] == "swallowed":
                member["address"] = f"https://127.0.0.1:{swallowed}"
        region.start(members)
        for name, patient in patients.items():
            _hold(honest, patient, name)
            for one in peers.values() if name == EVERYWHERE else [peers[name]]:
                _hold(one, patient, name)
        for one in (honest, *peers.values()):
            one.feed(region.file)
        region.consent(*(permit(NATIONAL_ISSUER, one, recipients=[b.id]) for one in patients.values()))
        b.store(Study("local", Patient("LOCAL-1"), instances=1).files()[0])
        for name, behaviour in BEHAVIOURS.items():
            peers[name].behaviour = behaviour
        peers["redirecting"].behaviour = simulated.redirecting(f"https://127.0.0.1:{honest.port}{simulated.LOOKUP}")
        peers["anothers-key"].behaviour = simulated.signed_by(honest)
        peers["off"].stop()
        overhead = tuple(max(_timed(look)[0] for _ in range(5)) for look in (lambda: _local(b), lambda: _c_local(b)))
        yield World(region, b, honest, peers, patients, overhead)


def _hold(peer: Peer, patient: str, name: str) -> None:
    study = Study(f"{peer.id} {name}", Patient(patient))
    peer.hold(HeldStudy(study.uid, study.series_uid(1), (NATIONAL_ISSUER, patient)))


def _timed[T](look: Callable[[], T]) -> tuple[float, T]:
    start = time.monotonic()
    result = look()
    return time.monotonic() - start, result


def _local(hospital: Hospital) -> list[Any]:
    return hospital.find("Study", {"PatientID": "LOCAL*"})


def _c_local(hospital: Hospital) -> dcmtk.Found:
    return dcmtk.find(hospital, "STUDY", {"PatientID": "LOCAL*", "StudyInstanceUID": ""})


def _rest(world: World, patient: str) -> set[str]:
    """Look up over REST; return the ids of the hospitals whose studies are listed."""
    found = world.b.find("Study", {"PatientID": world.patients[patient]})
    return {one["HeldBy"]["Hospital"] for one in found}


def _c_find(world: World, patient: str) -> set[str]:
    """Look up over DICOM; return the ids of the hospitals whose studies are listed."""
    keys = {"PatientID": world.patients[patient], "StudyInstanceUID": "", "InstitutionName": ""}
    found = dcmtk.find(world.b, "STUDY", keys).values("InstitutionName")
    return {one.removeprefix("Spitalul ") for one in found}


def _in_time(world: World, seconds: float, tool: int = 0) -> bool:
    """Tell whether a lookup took no longer than it may; a machine that is busy makes the tools slow, not the node."""
    return seconds <= DEADLINE_S + 0.2 + 2 * world.overhead_s[tool]


def _soon(world: World, seconds: float, tool: int = 0) -> bool:
    """Tell whether a lookup waited for nobody."""
    return seconds <= 0.5 + 3 * world.overhead_s[tool]


def _recorded(world: World, patient: str) -> dict[str, Any] | None:
    """Return the last audit record of a lookup of this patient."""
    name = f"{NATIONAL_ISSUER}:{world.patients[patient]}"
    records = [one for one in world.b.audit() if one["event"] == "lookup" and one["patient"] == name]
    return records[-1] if records else None


def _recorded_as_partial(world: World, patient: str) -> dict[str, Any] | None:
    record = _recorded(world, patient)
    return record if record is not None and record["outcome"] == "partial" else None


def _panel(world: World, patient: str) -> dict[str, Any]:
    return dict(world.b.get(f"/usmed/patients/{world.patients[patient]}").json())


def _missing(world: World, patient: str) -> dict[str, str]:
    """Return what the panel says: hospital to reason."""
    missing: dict[str, str] = _panel(world, patient)["missing"]
    return {name.removeprefix("Spitalul "): reason for name, reason in missing.items()}


def _process(hospital: Hospital, name: str) -> int:
    """Return a number from /proc/PID/status: VmHWM (KiB, most memory so far), VmRSS, Threads."""
    assert hospital.process is not None
    text = Path(f"/proc/{hospital.process.pid}/status").read_text()
    match = re.search(rf"^{name}:\s+(\d+)", text, flags=re.M)
    assert match is not None
    return int(match[1])


def _files(hospital: Hospital) -> int:
    assert hospital.process is not None
    return len(list(Path(f"/proc/{hospital.process.pid}/fd").iterdir()))


# ---- Peers ----


def test_all_of_them_at_once(world: World) -> None:
    memory, threads, files = (_process(world.b, "VmHWM"), _process(world.b, "Threads"), _files(world.b))
    took, holders = _timed(lambda: _c_find(world, EVERYWHERE))
    print(f"all at once: {took:.2f} s, {holders}")
    assert _in_time(world, took, 1)
    # The one that replays has nothing to replay for this patient, the first time.
    assert {"honest"} <= holders <= {"honest", "replaying"}
    slowest, tries = 0.0, 0
    end = time.monotonic() + 2.5 * CIRCUIT_S
    while time.monotonic() < end or tries < 50:
        took, holders = _timed(lambda: _rest(world, EVERYWHERE))
        tries += 1
        slowest = max(slowest, took)
        assert "honest" in holders
        time.sleep(0.1)
    print(f"{tries} further lookups, the slowest {slowest:.2f} s")
    # While it stays so nobody pays again, also when it is tried whether somebody is back.
    assert _soon(world, slowest)
    missing = _missing(world, EVERYWHERE)
    assert set(missing) >= set(BEHAVIOURS) - {"replaying"}
    grown_kib = _process(world.b, "VmHWM") - memory
    print(f"memory +{grown_kib >> 10} MiB, threads {threads} -> {_process(world.b, 'Threads')}")
    assert sum(one.sent_bytes for one in world.peers.values()) > 0
    assert grown_kib < 200 << 10
    # Whom nobody waits for is let go: no thread and no connection stays with it.
    time.sleep(2 * DEADLINE_S)
    assert _process(world.b, "Threads") <= threads + 30
    assert _files(world.b) <= files + 30
    # The next tests meet them for the first time again. Stopped first: it may be trying whether somebody is back.
    world.b.stop()
    world.peers["replaying"].behaviour = simulated.Replaying()
    world.b.start()


@pytest.mark.parametrize("name", list(BEHAVIOURS))
def test_one_peer_misbehaves(world: World, name: str) -> None:
    peer = world.peers[name]
    if name == "replaying":
        # Its first answer is true; every later lookup gets that one again.
        assert _rest(world, name) == {"honest", name}
    took, holders = _timed(lambda: _rest(world, name))
    print(f"{name}: first lookup {took:.2f} s")
    assert holders == {"honest"}
    assert _in_time(world, took)
    # Written a moment later; until then the last record may be that of an earlier lookup, which was answered in full.
    record = eventually(lambda: _recorded_as_partial(world, name), 5, "the lookup is in the audit log")
    assert f"{name}: " in record["reason"]
    assert record["detail"]["holders"] == ["honest"]
    asked = peer.lookups
    for look in (_rest, _c_find, _rest):
        took, holders = _timed(lambda look=look: look(world, name))  # type: ignore[misc]
        assert holders == {"honest"}
        assert _soon(world, took, int(look is _c_find)), f"{took:.2f} s: the lookup paid again"
    missing = _missing(world, name)
    assert list(missing) == [name]
    print(f"{name}: {missing[name]}")
    assert len(missing[name]) > 10
    assert peer.lookups == asked


def test_fifty_lookups_pile_up_no_threads(world: World) -> None:
    for _ in range(5):
        _rest(world, EVERYWHERE)
    before = _process(world.b, "Threads")
    for _ in range(50):
        _rest(world, EVERYWHERE)
    assert _process(world.b, "Threads") <= before + 10


def test_lookups_that_name_no_single_patient_ask_nobody(world: World) -> None:
    asked = {name: len(one.requests) for name, one in world.peers.items()}
    honest = len(world.honest.requests)
    for keys in ({"PatientID": "LOCAL*"}, {"PatientName": "*"}, {"StudyDate": "20260101-"}, {}):
        took, _ = _timed(lambda keys=keys: world.b.find("Study", keys))  # type: ignore[misc]
        assert took <= 0.2 + 2 * world.overhead_s[0]
    took, _ = _timed(lambda: _c_local(world.b))
    assert took <= 0.2 + 2 * world.overhead_s[1]
    assert len(world.honest.requests) == honest
    # Tries beside earlier lookups may still be under way; nothing new is asked for these.
    assert all(len(one.requests) <= asked[name] + 1 for name, one in world.peers.items())


def test_who_behaves_again_is_heard_again(world: World) -> None:
    for name, peer in world.peers.items():
        peer.behaviour = simulated.honest
        peer.hang_up()
        if name == "off":
            peer.start()
    everybody = {"honest", *world.peers} - {"swallowed"}
    eventually(lambda: _rest(world, EVERYWHERE) >= everybody, 6 * CIRCUIT_S, "everybody is heard")
    assert list(_missing(world, EVERYWHERE)) == ["swallowed"]


# ---- The hub ----


def _as_hub(behaviour: Behaviour) -> Callable[[World], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def state(world: World) -> Iterator[None]:
        world.hub.stop()
        stand_in = Peer("hub", "", world.region.folder / f"hub-{time.monotonic_ns()}", place=world.hub)
        stand_in.behaviour = behaviour
        stand_in.start()
        try:
            yield
        finally:
            stand_in.stop()
            world.hub.start()

    return state


@contextlib.contextmanager
def _down(world: World) -> Iterator[None]:
    world.hub.stop()
    try:
        yield
    finally:
        world.hub.start()


def _hub_signed_nonsense(peer: Peer, request: simulated.Request, line: simulated.Line) -> None:
    peer.answer_json(request, line, {"identifiers": "all of them", "holders": 7})


HUB_STATES = {
    "down": _down,
    "silent": _as_hub(simulated.silent),
    "signed-nonsense": _as_hub(_hub_signed_nonsense),
    "dripping-head": _as_hub(simulated.dripping_head),
}


@pytest.mark.parametrize("state", list(HUB_STATES))
def test_care_goes_on_without_the_hub(world: World, state: str) -> None:
    """Whom it knows it asks by what it remembers; and all hospitals, because some may be new."""
    known, unknown = world.patients["unsigned"], world.patients["wrong-key"]
    everybody = {"honest", *world.peers} - {"swallowed"}
    eventually(lambda: _rest(world, EVERYWHERE) >= everybody, 30, "everybody is heard")
    assert world.b.find("Study", {"PatientID": known})
    # What it remembers in memory is old by then; how old it is on disk does not matter.
    time.sleep(1)
    with HUB_STATES[state](world):
        lookups = {name: one.lookups for name, one in world.peers.items()}
        took, holders = _timed(lambda: _rest(world, "unsigned"))
        print(f"hub {state}: first lookup {took:.2f} s, {sorted(holders)}")
        assert _in_time(world, took)
        assert holders == {"honest", "unsigned"}
        assert all(one.lookups > lookups[name] for name, one in world.peers.items() if name != "swallowed")
        assert len(_panel(world, "unsigned")["hub"]) > 10
        eventually(lambda: "hub: " in (_recorded(world, "unsigned") or {}).get("reason", ""), 5, "it is on record")
        # A patient nobody has looked up yet is asked for by the number alone.
        took, found = _timed(lambda: world.b.find("Study", {"PatientID": unknown}))
        assert _soon(world, took)
        assert {one["HeldBy"]["Hospital"] for one in found} == {"honest", "wrong-key"}
        # Until it has been tried once whether the hub is back, where that could take time.
        slowest, end = 0.0, time.monotonic() + (7 if state in ("silent", "dripping-head") else 1)
        while time.monotonic() < end:
            slowest = max(slowest, _timed(lambda: _rest(world, EVERYWHERE))[0])
            time.sleep(0.2)
        print(f"hub {state}: the slowest of further lookups {slowest:.2f} s")
        assert _soon(world, slowest)
        # Local care.
        study = Study(f"local {state}", Patient("LOCAL-2"), instances=1)
        dcmtk.store(world.b, study.files())
        took, found = _timed(lambda: world.b.find("Study", {"StudyInstanceUID": study.uid}))
        assert _soon(world, took)
        assert len(found) == 1
    eventually(lambda: world.b.get("/usmed/status").json()["Hub"] == "up", 40, "the hub is back")
    eventually(lambda: not _panel(world, EVERYWHERE)["hub"], 20, "the hub is asked again")
