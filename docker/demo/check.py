#!/usr/bin/env python3
"""Go through the region's main job without a person, with the tools that hospitals have: DCMTK and plain HTTP.

What must come out is in the sample data's index.json: which study is where, and which hospitals may have it. Prints a
line a step, with tabs: ok or FAIL, the step, what was expected, what happened, how long. Runs in the demonstration's
container `workstation`, which stands in each hospital's network; `scripts/demo --check` calls it once per phase.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import requests
import urllib3
from pydicom.uid import generate_uid
from region import (
    SAMPLE,
    STUDIES,
    A,
    B,
    C,
    Hospital,
    lookups,
    number_of,
    of_person,
    study_of,
    visible,
)
from workstation import (
    DICOM_PORT,
    UnexpectedError,
    associate,
    expect,
    files_of,
    find,
    found,
    get,
    local_studies,
    move,
    objects_of,
    of_study,
    parts,
    post,
    retrieve,
    run,
)

SETTLE_S = 90
"""How long the region may take to know studies that were stored, or a consent that was recorded."""
LOOKUP_S = 2.0
"""What a lookup may take: the nodes' deadline of 1.5 s, and the tool's own start."""


class Report:
    """The lines of one phase."""

    def __init__(self) -> None:
        self.failed = False

    def step(self, name: str, expected: str, do: Callable[[], str]) -> None:
        """Do one step and print its line; `do` returns what happened, or raises."""
        started = time.monotonic()
        mark = "ok"
        try:
            happened = do()
        except (UnexpectedError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            mark, happened = "FAIL", str(error) or type(error).__name__
            self.failed = True
        line = [mark, name, expected, happened, f"{time.monotonic() - started:.2f} s"]
        print("\t".join(re.sub(r"\s+", " ", field) for field in line), flush=True)


def differences() -> list[str]:
    """Look every number up at every hospital; return what was not as expected."""
    wrong = []
    for (name, number), (hospital, expected) in lookups().items():
        answered = found(hospital, PatientID=number)
        if answered != expected:
            missing, extra = len(expected - answered), len(answered - expected)
            wrong.append(f"{number} at {name}: {missing} missing, {extra} too many")
    return wrong


def until(what: Callable[[], list[str]]) -> None:
    """Wait until `what` has nothing to say any more; raise with what it says if that takes too long."""
    deadline = time.monotonic() + SETTLE_S
    while said := what():
        expect(time.monotonic() < deadline, "; ".join(said))
        time.sleep(1)


def every_number() -> str:
    """Look everybody up everywhere, until the region has settled."""
    # A check that did not get to its end left what B fetched while p04 had agreed.
    forget_guests(B)
    until(differences)
    return f"{len(lookups())} as expected"


def lists_with_holder() -> str:
    """C-FIND at B by B's own number lists what A holds."""
    # A lookup fetches what it found. Only when all of it has come is a copy that is removed not just arriving.
    until(not_fetched_yet)
    forget_guests(B)
    answers = find(B, PatientID=number_of("p02", B))
    uids = {str(answer.StudyInstanceUID) for answer in answers}
    expect(uids == visible(B, "p02"), f"{len(uids)} studies")
    remote = [answer for answer in answers if answer.get("InstanceAvailability") == "NEARLINE"]
    named = [answer for answer in remote if "piridon" in str(answer) or A.aet in str(answer)]
    happened = f"{len(answers)} studies, {len(remote)} of them NEARLINE, {len(named)} name A"
    expect({str(one.StudyInstanceUID) for one in remote} == of_person("p02", A), happened)
    expect(len(named) == len(remote), happened)
    return happened


def not_fetched_yet() -> list[str]:
    """Return what B's lookups found elsewhere and is not at B yet, or not whole."""
    found_elsewhere = {uid for hospital, uids in lookups().values() if hospital == B for uid in uids}
    missing = found_elsewhere - local_studies(B)
    return [f"{len(missing)} studies have not come to B"] if missing else []


def forget_guests(hospital: Hospital) -> None:
    """Remove the copies of other hospitals' studies that earlier lookups brought, so that the next steps fetch them."""
    own = {study["study_instance_uid"] for study in STUDIES if study["hospital"] == hospital.id}
    foreign = {study["study_instance_uid"] for study in STUDIES} - own
    for study in get(hospital, "/studies?expand").json():
        if study["MainDicomTags"]["StudyInstanceUID"] in foreign:
            requests.delete(f"{hospital.url}/studies/{study['ID']}", auth=hospital.login, timeout=30)


def same_by_http() -> str:
    """QIDO-RS and /tools/find at B list the same studies as C-FIND."""
    number, expected = number_of("p02", B), visible(B, "p02")
    qido = get(B, "/dicom-web/studies", params={"PatientID": number}).json()
    by_qido = {study["0020000D"]["Value"][0] for study in qido}
    rest = post(B, "/tools/find", {"Level": "Study", "Query": {"PatientID": number}, "Expand": True}).json()
    by_rest = {study["MainDicomTags"]["StudyInstanceUID"] for study in rest}
    happened = f"QIDO-RS {len(by_qido)}, /tools/find {len(by_rest)}"
    expect(by_qido == by_rest == expected, happened)
    return happened


def fetched_by_move(person: str, source: Hospital, modality: str) -> str:
    """C-MOVE at B of a study that another hospital holds: complete at the first request."""
    study = study_of(person, source, modality)
    arrived, counted, status = move(B, study["study_instance_uid"])
    expect(
        arrived == counted == len(study["files"]) and status.startswith("Success"),
        f"{arrived} arrived, {counted} counted, {status}",
    )
    return f"{arrived} arrived, {counted} counted"


def fetched_by_wado(person: str, source: Hospital, modality: str) -> str:
    """WADO-RS at B of a study that another hospital holds."""
    study = study_of(person, source, modality)
    answer = retrieve(B, study["study_instance_uid"])
    expect(answer.status_code == 200, f"HTTP {answer.status_code}")
    expect(parts(answer) == len(study["files"]), f"{parts(answer)} instances")
    return f"{parts(answer)} instances"


def fetched_by_get(person: str, source: Hospital, modality: str) -> str:
    """C-GET at B of a study that came here."""
    study = study_of(person, source, modality)
    with tempfile.TemporaryDirectory() as folder:
        query = of_study(study["study_instance_uid"])
        run(["getscu", "-S", "-od", folder, *associate(B), *query, B.host, DICOM_PORT])
        arrived = len(list(Path(folder).iterdir()))
    expect(arrived == len(study["files"]), f"{arrived} arrived")
    return f"{arrived} arrived"


def same_bytes(person: str, modality: str) -> str:
    """B's copy of A's study is A's, file by file."""
    uid = study_of(person, A, modality)["study_instance_uid"]
    at_a, at_b = files_of(A, uid), files_of(B, uid)
    equal = sum(at_a[one] == at_b.get(one) for one in at_a)
    expect(bool(at_a) and at_a == at_b, f"{equal} of {len(at_a)} files equal")
    return f"{equal} of {len(at_a)} files equal"


def own_number() -> str:
    """B's copy of A's study has A's pixels and B's number of the patient, so that B's archive has one patient."""
    uid = study_of("p02", A, "CT")["study_instance_uid"]
    at_a, at_b = (objects_of(hospital, uid) for hospital in (A, B))
    expect(at_a.keys() == at_b.keys() and bool(at_a), f"{len(at_a)} at A, {len(at_b)} at B")
    numbers = {str(one.PatientID) for one in at_b.values()}
    expect(numbers == {number_of("p02", B)}, f"Patient ID {numbers}")
    same = sum(at_a[one].PixelData == at_b[one].PixelData for one in at_a)
    expect(same == len(at_a), f"the pixels of {same} of {len(at_a)} are the same")
    return f"Patient ID {numbers.pop()}, same pixels"


def as_unknown() -> str:
    """C's answers about a patient who permitted B only are those about nobody, by every interface."""
    study = study_of("p03", A, "CT")["study_instance_uid"]
    number, nobody, no_study = number_of("p03", C), "2990101480010", generate_uid()
    expect(not find(C, PatientID=number) and not find(C, PatientID=nobody), "C-FIND lists something")
    expect(not find(C, StudyInstanceUID=study), "C-FIND by Study Instance UID lists something")
    arrived, counted, status = move(C, study)
    expect((arrived, counted, status) == move(C, no_study), f"C-MOVE: {arrived} arrived, {status}")
    for real, unreal in (
        (f"/dicom-web/studies?PatientID={number}", f"/dicom-web/studies?PatientID={nobody}"),
        (f"/dicom-web/studies/{study}", f"/dicom-web/studies/{no_study}"),
    ):
        one, other = get(C, real), get(C, unreal)
        same = one.status_code == other.status_code
        same = same and one.text.replace(study, no_study).replace(number, nobody) == other.text
        expect(same, f"GET {real}: HTTP {one.status_code}, for nobody {other.status_code}")
    return "C-FIND, C-MOVE, QIDO-RS, WADO-RS: no difference"


def way_out() -> str:
    """A sends nothing of a patient without consent to a system that is not its own."""
    study = study_of("p04", A, "ECG")["study_instance_uid"]
    (orthanc_id,) = post(A, "/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study}}).json()
    answer = post(A, "/modalities/elsewhere/store", orthanc_id)
    expect(answer.status_code == 403, f"HTTP {answer.status_code}: {answer.text[:80]}")
    return "HTTP 403"


def closed_to_peers() -> str:
    """Without a signature the federation's port answers nothing, and without a password Orthanc does not."""
    urllib3.disable_warnings()
    body = {"study_instance_uid": "1.2.3"}
    # The certificate is pinned in the region manifest, which a stranger does not have.
    unsigned = requests.post(f"https://{A.host}:8043/v1/manifest", json=body, verify=False, timeout=10)
    strange = requests.get(f"https://{A.host}:8043/studies", verify=False, timeout=10)
    without_password = requests.get(f"{A.url}/studies", timeout=10)
    codes = (unsigned.status_code, strange.status_code, without_password.status_code)
    expect(all(code in (401, 403, 404) for code in codes) and without_password.status_code == 401, f"HTTP {codes}")
    return f"HTTP {', '.join(map(str, codes))}"


def own_work(hospital: Hospital) -> str:
    """C-STORE into the hospital's archive, look it up, and remove it again."""
    dataset = pydicom.dcmread(SAMPLE / study_of("p04", C, "CT")["files"][0])
    dataset.PatientID = f"CHECK-{int(time.time())}"
    dataset.PatientName = "Check^Check"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (generate_uid() for _ in range(3))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "new.dcm")
        dataset.save_as(file)
        send = ["dcmsend", "--aetitle", "MODALITY", "--call", hospital.aet]
        stored = run([*send, hospital.host, DICOM_PORT, str(file)])
    expect(stored.returncode == 0, f"C-STORE refused: {stored.stderr[-100:]}")
    started = time.monotonic()
    answered = found(hospital, PatientID=str(dataset.PatientID))
    took = time.monotonic() - started
    query = {"Level": "Study", "Query": {"PatientID": dataset.PatientID}}
    for orthanc_id in post(hospital, "/tools/find", query).json():
        requests.delete(f"{hospital.url}/studies/{orthanc_id}", auth=hospital.login, timeout=30)
    expect(answered == {str(dataset.StudyInstanceUID)}, f"stored, but the lookup lists {len(answered)} studies")
    expect(took < LOOKUP_S, f"the lookup took {took:.2f} s")
    return f"stored, found in {took:.2f} s"


def in_time(hospital: Hospital, person: str, least: set[str]) -> str:
    """A lookup answers within its deadline and lists at least these studies."""
    started = time.monotonic()
    answered = found(hospital, PatientID=number_of(person, hospital))
    took = time.monotonic() - started
    expect(least <= answered, f"{len(answered)} studies, {len(least - answered)} missing, in {took:.2f} s")
    expect(took < LOOKUP_S, f"took {took:.2f} s")
    return f"{len(answered)} studies in {took:.2f} s"


def sees(hospital: Hospital, person: str, expected: set[str], *, forget: bool = False) -> str:
    """Wait until a lookup lists just these studies; `forget` removes what the lookup before has fetched."""

    def different() -> list[str]:
        if forget:
            forget_guests(hospital)
        answered = found(hospital, PatientID=number_of(person, hospital))
        return [] if answered == expected else [f"{len(answered)} studies"]

    until(different)
    return f"{len(expected)} studies"


def main_job(report: Report) -> None:
    """Everything that works while everything runs."""
    report.step(
        "every patient looked up at every hospital, C-FIND by Patient ID",
        f"{len(lookups())} lookups: own studies, others' as the patient permits",
        every_number,
    )
    report.step(
        f"C-FIND at B of {number_of('p02', B)}, whom A knows as {number_of('p02', A)}",
        "A's 2 studies listed, NEARLINE, A named",
        lists_with_holder,
    )
    report.step("the same by QIDO-RS and by POST /tools/find", "the same studies", same_by_http)
    ct, mr = (len(study_of("p02", A, modality)["files"]) for modality in ("CT", "MR"))
    report.step("C-MOVE at B of A's CT", f"{ct} arrived, {ct} counted", lambda: fetched_by_move("p02", A, "CT"))
    report.step("WADO-RS at B of A's MR", f"{mr} instances", lambda: fetched_by_wado("p02", A, "MR"))
    report.step("B's copy of A's CT", f"Patient ID {number_of('p02', B)}, same pixels", own_number)
    if any(study["person"] == "p01" and "MR" in study["modalities"] for study in STUDIES):
        head = len(study_of("p01", A, "MR")["files"])
        both = f"{head} arrived, {head} counted"
        report.step("C-MOVE at B of A's MR head series", both, lambda: fetched_by_move("p01", A, "MR"))
        report.step("C-GET at B of the same series", f"{head} arrived", lambda: fetched_by_get("p01", A, "MR"))
        report.step("B's copy of it compared with A's", "every file the same", lambda: same_bytes("p01", "MR"))
    report.step(f"C looks up {number_of('p03', C)}, who permitted B only", "the answers for nobody", as_unknown)
    report.step("A sends a study without consent to a foreign system", "HTTP 403", way_out)
    report.step("A's ports without signature, without password", "HTTP 401, 403 or 404", closed_to_peers)
    report.step("C-STORE and lookup at C of a new study", "stored and found", lambda: own_work(C))


def without_consent(report: Report) -> None:
    """Before p04 has agreed to anything, and after it was withdrawn and B's copies were removed.

    A source may believe for a second that the consent still holds: a lookup in that second fetches, as it should.
    """
    report.step("B looks up a patient who permits nothing", "no study", lambda: sees(B, "p04", set(), forget=True))


def with_consent(report: Report) -> None:
    """After p04's consent was recorded at A's desk."""
    expected = of_person("p04", A, C)
    report.step(
        "A's desk has recorded a consent; B looks up", f"{len(expected)} studies", lambda: sees(B, "p04", expected)
    )


def hub_down(report: Report) -> None:
    """While the hub does not run."""
    report.step("the hub is off: C-STORE and lookup at B", "stored and found", lambda: own_work(B))
    report.step(
        "the hub is off: B looks up a patient of the region",
        f"{len(visible(B, 'p02'))} studies in {LOOKUP_S} s",
        lambda: in_time(B, "p02", visible(B, "p02")),
    )


def one_key_server_down(report: Report) -> None:
    """While one of three does not run."""
    expected = of_person("p06", A, C)
    report.step(
        "one key server is off: a radiologist at B opens a patient",
        f"{len(expected)} studies",
        lambda: panel_shows("p06", expected),
    )


def two_key_servers_down(report: Report) -> None:
    """While two of three do not run: tickets that were signed before hold on, new ones cannot be had."""
    report.step("two key servers are off: the radiologist opens another one", "nothing, and why", nothing_and_why)
    report.step("two key servers are off: C-STORE and lookup at B", "stored and found", lambda: own_work(B))


def key_servers_back(report: Report) -> None:
    """After both were started again, and no node was."""
    expected = of_person("p01", A, C)
    report.step(
        "both are on again: the same patient", f"{len(expected)} studies", lambda: panel_shows("p01", expected)
    )


def panel_of(person: str) -> dict[str, Any]:
    """Return what Orthanc Explorer's panel at B shows of a patient, for a user who has no ticket yet."""
    forget_guests(B)
    return dict(get(B, f"/usmed/patients/{number_of(person, B)}").json())


def panel_shows(person: str, expected: set[str]) -> str:
    """Wait until the panel shows these studies of other hospitals."""

    def different() -> list[str]:
        shown = {str(one["StudyInstanceUID"]) for one in panel_of(person)["studies"]}
        return [] if shown == expected else [f"{len(shown)} studies"]

    until(different)
    return f"{len(expected)} studies"


def nothing_and_why() -> str:
    """Nothing of another hospital is shown, and the panel says why in plain words."""
    panel = panel_of("p01")
    expect(not panel["studies"], f"{len(panel['studies'])} studies in the panel")
    why = str(panel["key_servers"]).partition(" (")[0]
    expect("key servers can be reached" in why, f"the panel says: {why!r}")
    return why


def peer_down(report: Report) -> None:
    """While A does not run."""
    own = of_person("p06", B)
    report.step(
        "A is off: B looks up a patient of A's", f"B's own study in {LOOKUP_S} s", lambda: in_time(B, "p06", own)
    )


def whole_again(report: Report) -> None:
    """After everything was started again."""
    report.step("all on again: every patient at every hospital", f"{len(lookups())} as before", every_number)


PHASES: dict[str, Callable[[Report], None]] = {
    "main": main_job,
    "without-consent": without_consent,
    "with-consent": with_consent,
    "hub-down": hub_down,
    "one-key-server-down": one_key_server_down,
    "two-key-servers-down": two_key_servers_down,
    "key-servers-back": key_servers_back,
    "peer-down": peer_down,
    "whole-again": whole_again,
}


def main() -> int:
    """Run one phase; return 0 if every step did as expected, 10 if one did not."""
    parser = argparse.ArgumentParser(description="Check the demonstration region.")
    parser.add_argument("phase", choices=PHASES)
    report = Report()
    PHASES[parser.parse_args().phase](report)
    return 10 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
