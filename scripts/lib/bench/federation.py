"""What goes on between hospitals: looking a patient up at ten of them, and bringing a study here."""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.dicom import HUB_ALLOWANCE_MS
from bench.measure import NO_LIMIT, Kind, Limit, Report, Result, in_turns, say, seconds
from bench.nodes import BenchError, Http, delete_study, find_ids, instances_of, manifest_with, node, running, upload
from bench.objects import Images, patient_id, study_uid
from simulators.delay_proxy import DelayProxy
from support.region import Hospital, Region, eventually, permit
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient

PEERS = 10
PATIENTS_A_ROUND = 8
ONE_WAY_S = 0.02
"""40 ms there and back."""


def lookup(folder: Path, report: Report, runs: int) -> None:
    """One patient, ten hospitals that hold something: the lookup against the slowest peer's own answer."""
    here = node("here", folder, section={"Pull": {"Automatic": "click"}})
    peers = [node(f"peer-{number}", folder) for number in range(PEERS)]
    with running(folder, [here, *peers], []) as region:
        rounds = runs + 1
        say(
            f"{PEERS} peers, each a node with an Orthanc of its own;"
            f" one image of {2 * rounds * PATIENTS_A_ROUND} patients at each"
        )
        images = Images(64, 64)
        for patient in range(2 * rounds * PATIENTS_A_ROUND):
            for number, peer in enumerate(peers):
                upload([peer], images, patient, patient * PEERS + number, 1)
        _agree(region, range(2 * rounds * PATIENTS_A_ROUND), here)
        _known(region, here, 2 * rounds * PATIENTS_A_ROUND - 1, PEERS)
        client = SignedClient(Identity(here.id, here.key), lambda: load, lambda: datetime.now(UTC))
        load = load_region(region.file)
        connection = Http(here)
        values: dict[str, list[float]] = {name: [] for name in ("first", "first-own", "again", "again-own", "together")}
        with ThreadPoolExecutor(PEERS) as pool:
            for number in range(rounds):
                asked = range(2 * number * PATIENTS_A_ROUND, (2 * number + 1) * PATIENTS_A_ROUND)
                directly = {
                    one: here.ticket(("RO-CNP", patient_id(one)))
                    for one in range((2 * number + 1) * PATIENTS_A_ROUND, (2 * number + 2) * PATIENTS_A_ROUND)
                }
                one = {
                    "first-own": _slowest(client, peers, directly),
                    "first": statistics.median(_lookup(connection, patient, ()) for patient in asked),
                    "again": statistics.median(_lookup(connection, patient, ("StudyID",)) for patient in asked),
                    "again-own": _slowest(client, peers, directly),
                    "together": statistics.median(_together(pool, client, peers, *each) for each in directly.items()),
                }
                for name, value in one.items():
                    if number:
                        values[name].append(value)
        connection.close()
    limit = Limit(Kind.MORE_AT_MOST, HUB_ALLOWANCE_MS)
    note = (
        f"/tools/find of one patient with {PEERS} holders; every answer asked of the peers. Plain: the slowest of the"
        f" {PEERS}, each asked alone by a signed request of the same client (median of {PATIENTS_A_ROUND} patients)."
        f" All {PEERS} nodes, the hub and the client share this machine's processors."
    )
    report.add(
        Result(f"lookup at {PEERS} peers, patient known", "ms", values["again"], values["again-own"], limit, note)
    )
    note = (
        "As above, for a patient nobody has asked about: the hub is asked who they are, a key server for a ticket."
    )
    report.add(Result(f"lookup at {PEERS} peers, patient new", "ms", values["first"], values["first-own"], limit, note))
    note = f"Plain: the slowest answer when the same client asks all {PEERS} at once, which is what a lookup does."
    report.add(
        Result(f"lookup, beside {PEERS} requests at once", "ms", values["again"], values["together"], NO_LIMIT, note)
    )


def pull(folder: Path, report: Report, runs: int) -> None:
    """500 CT slices, 250 MB, between two nodes, with and without a distance."""
    study = Images(512, 512), 500
    with _Two(folder, study) as two:
        near = two.measure(runs, ("ours", "peers", "dicomweb"))
        far = two.measure(runs, ("ours", "peers", "dicomweb"), one_way_s=ONE_WAY_S, once=("peers",))
        fastest_near = _fastest(near)
        name, note = "pull of 500 CT slices (250 MB)", _NOTE.format(images=study[1])
        report.add(
            Result(
                name,
                "s",
                near["ours"],
                near[fastest_near],
                Limit(Kind.RATIO_AT_MOST, 1.0),
                f"{note} Plain: {_NAMES[fastest_near]}, the faster. {_all(near)}",
            )
        )
        fastest = _fastest(far)
        limit = Limit(Kind.RATIO_AT_MOST, 1.3)
        report.add(
            Result(
                f"{name} at 40 ms",
                "s",
                far["ours"],
                far[fastest],
                limit,
                f"The same over a line with a round trip of 40 ms. Plain: {_NAMES[fastest]}, the faster. {_all(far)}",
            )
        )
        report.add(
            Result(
                f"{name} at 40 ms against 0 ms",
                "s",
                far["ours"],
                near[fastest_near],
                limit,
                f"Plain: {_NAMES[fastest_near]} at 0 ms.",
            )
        )


def small(folder: Path, report: Report, runs: int) -> None:
    """2,000 objects of 8 KB over a line with a round trip of 40 ms."""
    with _Two(folder, (Images(64, 40), 2000)) as two:
        far = two.measure(runs, ("ours", "peers"), one_way_s=ONE_WAY_S, warm_up=0)
    speed = [1 / one for one in far["ours"]], [1 / one for one in far["peers"]]
    del speed
    report.add(
        Result(
            "2,000 objects of 8 KB at 40 ms",
            "s",
            far["ours"],
            far["peers"],
            Limit(Kind.RATIO_AT_MOST, 0.10),
            "Plain: /peers/store, measured whole. A ratio of 0.10 is ten times faster.",
        )
    )


_NAMES = {"ours": "ours", "peers": "/peers/store", "dicomweb": "DICOMweb retrieve"}
_NOTE = (
    "From the request until all {images} are stored, for every contender between two Orthancs over plain HTTP; every"
    " round a new study. Ours includes the lookup, the consent, the signed manifest and the verification."
)


def _fastest(values: Mapping[str, list[float]]) -> str:
    return min((name for name in values if name != "ours"), key=lambda name: statistics.median(values[name]))


def _all(values: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{_NAMES[name]} {statistics.median(one):.2f} s" for name, one in values.items()) + "."


class _Two:
    """Two hospitals with our plugin, and two plain Orthancs, between which the same study goes."""

    def __init__(self, folder: Path, study: tuple[Images, int]) -> None:
        self._images, self._count = study
        self._next = 1
        self.here, self.there = node("here", folder), node("there", folder)
        self.plain_here, self.plain_there = (
            node("plain-here", folder, plain=True),
            node("plain-there", folder, plain=True),
        )
        self._running = running(folder, [self.here, self.there], [self.plain_here, self.plain_there])

    def __enter__(self) -> "_Two":
        self.region: Region = self._running.__enter__()
        self._http = {one.id: Http(one) for one in (self.here, self.there, self.plain_here, self.plain_there)}
        _agree(self.region, [1], self.here)
        return self

    def __exit__(self, *details: object) -> None:
        for one in self._http.values():
            one.close()
        self._running.__exit__(None, None, None)

    def measure(
        self,
        runs: int,
        contenders: tuple[str, ...],
        *,
        one_way_s: float = 0.0,
        warm_up: int = 1,
        once: tuple[str, ...] = (),
    ) -> dict[str, list[float]]:
        """Let the contenders take turns; return the seconds of each.

        Args:
            runs: rounds.
            contenders: of `ours`, `peers`, `dicomweb`.
            one_way_s: delay of the line, each way; it lies before the port that the contender connects to.
            warm_up: rounds before.
            once: contenders too slow to be measured every round: their one value stands for all.
        """
        proxies: list[DelayProxy] = []

        def port_to(hospital: Hospital, port: int) -> int:
            if not one_way_s:
                return port
            proxy = DelayProxy((hospital.address, port), one_way_s)
            proxy.start()
            proxies.append(proxy)
            return proxy.port

        try:
            port = port_to(self.there, self.there.federation_port)
            self._http["here"].close()
            self.here.stop()
            self.here.start(manifest_with(self.region, "there", port))
            user, password = "admin", "test"
            web = f"http://127.0.0.1:{port_to(self.plain_there, self.plain_there.http_port)}/"
            peer = f"http://127.0.0.1:{port_to(self.plain_here, self.plain_here.http_port)}/"
            self._http["plain-there"].call(
                "PUT", "/peers/here", _json({"Url": peer, "Username": user, "Password": password})
            )
            server = {"Url": f"{web}dicom-web/", "Username": user, "Password": password}
            self._http["plain-here"].call("PUT", "/dicom-web/servers/there", _json(server))
            sides = {"ours": self._pull, "peers": self._store, "dicomweb": self._retrieve}
            values: dict[str, list[float]] = {}
            prepared: set[int] = set()

            def side(name: str) -> Callable[[int], float]:
                def measured(number: int) -> float:
                    if name in once and number != 0:
                        return 0.0
                    if number not in prepared:
                        prepared.add(number)
                        self._prepare()
                    took = sides[name](study_uid(self._next))
                    say(f"    {_NAMES[name]}: {took:.2f} s")
                    return took

                return measured

            values = in_turns({name: side(name) for name in contenders}, runs, warm_up)
            return {name: [one[0]] * runs if name in once else one for name, one in values.items()}
        finally:
            for proxy in proxies:
                proxy.stop()

    def _prepare(self) -> None:
        """Put a new study at both sources, and remove the last one everywhere."""
        for connection in self._http.values():
            delete_study(connection, study_uid(self._next))
        self._next += 1
        upload([self.there, self.plain_there], self._images, 1, self._next, self._count)
        _known(self.region, self.here, 1, 1, study_uid(self._next))
        # The stores of both are still busy with what they were given.
        time.sleep(1)

    def _pull(self, uid: str) -> float:
        connection = self._http["here"]
        delete_study(connection, uid)

        def fetch() -> None:
            connection.json("POST", "/usmed/fetch", {"StudyInstanceUID": uid})
            # This request is held until the study is here whole.
            connection.json("GET", f"/dicom-web/studies/{uid}/series")

        took = seconds(fetch)
        state = connection.json("GET", f"/usmed/transfers/{uid}")
        if state["State"] != "complete":
            raise BenchError(f"the pull is {state['State']}: {state['Reason']}")
        self._whole(connection, uid)
        return took

    def _store(self, uid: str) -> float:
        delete_study(self._http["plain-here"], uid)
        source = self._http["plain-there"]
        (identifier,) = find_ids(source, uid)
        request = {"Resources": [identifier], "Synchronous": True}
        took = seconds(lambda: source.json("POST", "/peers/here/store", request))
        self._whole(self._http["plain-here"], uid)
        return took

    def _retrieve(self, uid: str) -> float:
        connection = self._http["plain-here"]
        delete_study(connection, uid)
        request = {"Resources": [{"Study": uid}], "Synchronous": True}
        took = seconds(lambda: connection.json("POST", "/dicom-web/servers/there/retrieve", request))
        self._whole(connection, uid)
        return took

    def _whole(self, connection: Http, uid: str) -> None:
        found = instances_of(connection, uid)
        if found != self._count:
            raise BenchError(f"{found} of {self._count} instances arrived")


def _json(document: Any) -> bytes:
    import json

    return json.dumps(document).encode()


def _agree(region: Region, patients: Any, recipient: Hospital) -> None:
    region.consent(*(permit("RO-CNP", patient_id(one), recipients=[recipient.id]) for one in patients))


def _known(region: Region, here: Hospital, patient: int, holders: int, study: str = "") -> None:
    """Wait until the hub tells `here` that so many hospitals hold something of a patient, of a study."""
    region_manifest = load_region(region.file)
    client = SignedClient(Identity(here.id, here.key), lambda: region_manifest, lambda: datetime.now(UTC))
    question: dict[str, Any] = {"identifier": {"issuer": "RO-CNP", "value": patient_id(patient)}}
    if study:
        question = {"study_instance_uid": study}

    def told() -> bool:
        answer = client.post("hub", "/v1/resolve", {**question, "purpose": "TREAT"}, deadline_s=10)
        return len(answer["holders"]) >= holders

    eventually(told, 60, "the hub knows the studies")


def _lookup(connection: Http, patient: int, tags: tuple[str, ...]) -> float:
    document = {
        "Level": "Study",
        "Query": {"PatientID": patient_id(patient)},
        "RequestedTags": list(tags),
        "Expand": True,
    }
    started = time.perf_counter()
    found = connection.json("POST", "/tools/find", document)
    took = (time.perf_counter() - started) * 1000
    if len(found) != PEERS:
        raise BenchError(f"{len(found)} studies instead of {PEERS} were found")
    return took


def _ask(client: SignedClient, peer: Hospital, patient: int, ticket: Any) -> float:
    document = {
        "identifiers": [{"issuer": "RO-CNP", "value": patient_id(patient)}],
        "study_instance_uid": "",
        "level": "STUDY",
        "keys": {},
        "tags": ["AccessionNumber", "InstitutionName", "ModalitiesInStudy", "NumberOfStudyRelatedInstances",
                 "PatientBirthDate", "PatientName", "PatientSex", "ReferringPhysicianName", "StudyDate",
                 "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime"],
        "case_sensitive": False,
        "purpose": "TREAT",
        "ticket": ticket,
    }  # fmt: skip
    started = time.perf_counter()
    answer = client.post(peer.id, "/federation/v1/lookup", document, deadline_s=10)
    took = (time.perf_counter() - started) * 1000
    if len(answer["answers"]) != 1:
        raise BenchError(f"{peer.id} answered {len(answer['answers'])} studies")
    return took


def _slowest(client: SignedClient, peers: list[Hospital], patients: Mapping[int, Any]) -> float:
    """Return the time of the peer that is slowest when each is asked alone: the highest of the peers' medians."""
    return max(statistics.median(_ask(client, peer, *each) for each in patients.items()) for peer in peers)


def _together(
    pool: ThreadPoolExecutor, client: SignedClient, peers: list[Hospital], patient: int, ticket: Any
) -> float:
    return max(pool.map(lambda peer: _ask(client, peer, patient, ticket), peers))
