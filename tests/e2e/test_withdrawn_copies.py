"""A patient takes something back: the copies that other hospitals have pulled go too, and nothing else does.

Four hospitals, two of three key servers have to agree. A holds the studies and records what patients say; B has copies;
C keeps copies by law; D has none.
"""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e import dcmtk
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from support.key_server import KeyServer
from support.region import AUTH, DOCTOR, Hospital, Hub, Region, eventually, on_paper, permit

JSON = {"Content-Type": "application/json"}
LAW = "Legea 95/2006, art. 656: evidența medicală"
REASON = "adus inconstient dupa un accident"
WITHIN_S = 30


@dataclass(frozen=True)
class World:
    """The region."""

    region: Region
    a: Hospital
    b: Hospital
    c: Hospital
    d: Hospital
    servers: tuple[KeyServer, ...]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("withdrawn")
    workstation = {"workstation": {"AET": dcmtk.WORKSTATION, "Host": "127.0.0.1", "Port": 11112}}

    def hospital(id: str, **retention: Any) -> Hospital:
        section = {
            "Pull": {"Automatic": "click", "IdleSeconds": 2},
            "Lookup": {"CacheSeconds": 0, "IdentitySeconds": 1, "CircuitSeconds": 1, "DeadlineSeconds": 5},
            "Hub": {"ConsentSeconds": 1},
            "Retention": {"SweepSeconds": 1, **retention},
            "Own": {"Modalities": ["workstation"]},
        }
        return Hospital(
            id, f"Spitalul {id.upper()}", id.upper(), folder / id, section=section, modalities=workstation
        )

    hospitals = [
        hospital("a"), hospital("b"), hospital("c", AfterWithdrawal="keep", LegalBasis=LAW), hospital("d")
    ]  # fmt: skip
    servers = tuple(KeyServer(f"keys-{number}", folder / f"keys-{number}") for number in (1, 2, 3))
    region = Region(folder, hospitals, Hub(folder / "hub"), servers, threshold=2)
    try:
        region.start()
        yield World(region, *hospitals, servers)
    finally:
        region.stop()


_numbers = iter(range(300, 400))


def new_patient() -> Patient:
    return Patient(national_number(next(_numbers)))


def at(hospital: Hospital, patient: Patient, **attributes: Any) -> Study:
    """Store a study of a patient at a hospital."""
    study = Study(f"withdrawn {time.monotonic_ns()}", patient, **{"instances": 3, **attributes})
    for file in study.files():
        hospital.store(file)
    return study


def consent(world: World, patient: Patient, *recipients: str, **provision: Any) -> str:
    resource = on_paper(permit(NATIONAL_ISSUER, patient.number, recipients=recipients, **provision))
    return str(world.a.attest(resource)["Attested"]["ID"])


def state(hospital: Hospital, study: Study) -> str:
    answer = hospital.get(f"/usmed/transfers/{study.uid}")
    return str(answer.json()["State"]) if answer.ok else ""


def copied(hospital: Hospital, *studies: Study) -> None:
    """Pull studies and wait until they are here."""
    for study in studies:
        ask = lambda study=study: hospital.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).ok  # noqa: E731
        eventually(ask, WITHIN_S, "the study may be fetched")
        eventually(lambda study=study: state(hospital, study) == "complete", WITHIN_S, "the copy")


def instances(hospital: Hospital, study: Study) -> dict[str, Path]:
    """Return the files of a study's instances that are here, by SOP Instance UID, as this Orthanc keeps them."""
    found = hospital.find("Instance", {"StudyInstanceUID": study.uid})
    return {
        one["MainDicomTags"]["SOPInstanceUID"]: hospital.folder
        / "storage" / one["FileUuid"][:2] / one["FileUuid"][2:4] / one["FileUuid"]
        for one in found if "FileUuid" in one
    }  # fmt: skip


def is_gone(hospital: Hospital, study: Study) -> bool:
    """Tell whether no way of looking finds a study, or what is left of its pull."""
    found = dcmtk.find(hospital, "STUDY", {"PatientID": study.patient.number, "StudyInstanceUID": ""})
    here = hospital.post("/tools/lookup", data=study.uid).json()
    listed = hospital.get("/dicom-web/studies", params={"StudyInstanceUID": study.uid}).json()
    return study.uid not in found.studies and not here and not listed and state(hospital, study) == ""


def kept_or_deleted(hospital: Hospital, study: Study) -> list[dict[str, Any]]:
    """Return what the hospital's audit log says about the copy's end."""
    mine = [one for one in hospital.audit() if one["event"] == "retention"]
    return [one for one in mine if one["study_instance_uid"] == study.uid]


@contextmanager
def away(*servers: KeyServer) -> Iterator[None]:
    for one in servers:
        one.stop()
    try:
        yield
    finally:
        for one in servers:
            one.start()


def test_a_withdrawal_deletes_the_copies_and_nothing_else(world: World) -> None:
    patient, other = new_patient(), new_patient()
    study, second = at(world.a, patient), at(world.a, patient, modality="MR")
    others, own = at(world.a, other), at(world.b, patient)
    given = consent(world, patient, "b")
    consent(world, other, "b")
    copied(world.b, study, second, others)
    files = [*instances(world.b, study).values(), *instances(world.b, second).values()]
    assert len(files) == 6
    assert all(one.is_file() for one in files)
    assert world.a.withdraw(given)["Attested"]["Done"]
    eventually(lambda: is_gone(world.b, study) and is_gone(world.b, second), WITHIN_S, "the copies are gone")
    assert [one for one in files if one.exists()] == []
    for one in (study, second):
        (record,) = kept_or_deleted(world.b, one)
        assert (record["detail"]["what"], record["detail"]["consents"]) == ("withdrawn", [given])
        assert (record["detail"]["deleted"], record["detail"]["own"]) == (3, 0)
        assert (record["peer"], record["patient"]) == ("a", f"{NATIONAL_ISSUER}:{patient.number}")
    assert set(instances(world.b, others)) == others.sop_uids
    assert state(world.b, others) == "complete"
    assert set(instances(world.b, own)) == own.sop_uids
    assert set(instances(world.a, study)) == study.sop_uids


def test_what_another_consent_permits_stays(world: World) -> None:
    patient = new_patient()
    ct, mr = at(world.a, patient), at(world.a, patient, modality="MR")
    everything = consent(world, patient, "b")
    modality = {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "MR"}
    consent(world, patient, code=[{"coding": [modality]}])
    copied(world.b, ct, mr)
    world.a.withdraw(everything)
    eventually(lambda: is_gone(world.b, ct), WITHIN_S, "the CT is gone")
    time.sleep(2)
    assert set(instances(world.b, mr)) == mr.sop_uids
    assert kept_or_deleted(world.b, mr) == []


def test_a_denial_deletes_what_was_permitted(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    consent(world, patient)
    copied(world.b, study)
    denial = consent(world, patient, "b", kind="deny")
    eventually(lambda: is_gone(world.b, study), WITHIN_S, "the copy is gone")
    assert kept_or_deleted(world.b, study)[0]["detail"]["consents"] == [denial]


def test_a_copy_of_an_emergency_stays(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    given = consent(world, patient, "d")
    asked = world.b.as_staff(DOCTOR, "/emergencies", {"PatientID": patient.number, "Reason": REASON}).json()
    assert world.b.as_staff(AUTH, f"/emergencies/{asked['ID']}/confirmation", {}).ok
    eventually(lambda: world.b.get(f"/usmed/patients/{patient.number}").json()["studies"], WITHIN_S)
    copied(world.b, study)
    copied(world.d, study)
    world.a.withdraw(given)
    eventually(lambda: is_gone(world.d, study), WITHIN_S, "the copy that rests on the consent is gone")
    time.sleep(2)
    assert set(instances(world.b, study)) == study.sop_uids


def test_images_of_the_hospitals_own_in_a_pulled_study_stay_and_are_its_own_from_then_on(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    given = consent(world, patient, "b")
    copied(world.b, study)
    by_rest, by_stow = Study(study.label, patient, instances=5).files()[3:]
    world.b.store(by_rest)
    _stow(world.b, by_stow)
    assert len(instances(world.b, study)) == 5
    world.a.withdraw(given)
    own = {study.sop_uid(1, 4), study.sop_uid(1, 5)}
    eventually(lambda: set(instances(world.b, study)) == own, WITHIN_S, "what was pulled is gone")
    eventually(lambda: state(world.b, study) == "", WITHIN_S)
    (here,) = world.b.find("Study", {"StudyInstanceUID": study.uid})
    assert world.b.get(f"/studies/{here['ID']}/labels").json() == []
    assert world.b.get(f"/studies/{here['ID']}/metadata/5301").status_code == 404
    assert kept_or_deleted(world.b, study)[0]["detail"]["own"] == 2


def test_an_unused_copy_goes_without_the_images_of_the_hospitals_own(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    consent(world, patient, "b")
    copied(world.b, study)
    world.b.store(Study(study.label, patient, instances=4).files()[3])
    with closing(sqlite3.connect(world.b.folder / "storage" / "usmed.db", timeout=30)) as database, database:
        database.execute("UPDATE pull SET last_used = 1 WHERE study_instance_uid = ?", (study.uid,))
    eventually(lambda: set(instances(world.b, study)) == {study.sop_uid(1, 4)}, WITHIN_S, "what was pulled is gone")
    eventually(lambda: kept_or_deleted(world.b, study), WITHIN_S)
    assert kept_or_deleted(world.b, study)[0]["detail"] == {
        "what": "unused", "consents": [], "deleted": 3, "own": 1,
    }  # fmt: skip


def test_nothing_is_deleted_until_enough_key_servers_have_spoken(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    given = consent(world, patient, "b")
    copied(world.b, study)
    with away(*world.servers[:2]):
        world.a.withdraw(given)
        waits = _waiting_checks(world.b)
        assert [one for one, _ in waits] == [given]
        eventually(lambda: _waiting_checks(world.b)[0][1] >= 2, WITHIN_S, "it was tried, and tried again")
        assert set(instances(world.b, study)) == study.sop_uids
        assert state(world.b, study) == "complete"
    eventually(lambda: is_gone(world.b, study), 2 * WITHIN_S, "the copy is gone")
    assert _waiting_checks(world.b) == []


def test_a_node_that_was_killed_before_it_could_delete_deletes_when_it_is_back(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    given = consent(world, patient, "b")
    copied(world.b, study)
    files = instances(world.b, study).values()
    with away(*world.servers[:2]):
        world.a.withdraw(given)
        world.b.stop(signal.SIGKILL)
        assert [one for one, _ in _waiting_checks(world.b)] == [given]
        assert all(one.is_file() for one in files)
    world.b.start()
    eventually(lambda: is_gone(world.b, study), 2 * WITHIN_S, "the copy is gone")
    assert kept_or_deleted(world.b, study)[0]["detail"]["consents"] == [given]


def test_a_hospital_that_must_keep_copies_says_by_which_law(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    given = consent(world, patient, "c")
    copied(world.c, study)
    world.a.withdraw(given)
    eventually(lambda: kept_or_deleted(world.c, study), WITHIN_S, "it is written down")
    (record,) = kept_or_deleted(world.c, study)
    assert (record["reason"], record["detail"]) == (LAW, {"what": "kept", "consents": [given]})
    assert set(instances(world.c, study)) == study.sop_uids
    assert state(world.c, study) == "complete"


def test_a_pull_that_runs_is_broken_off(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient, instances=400)
    consent(world, patient, "b")
    ask = lambda: world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).ok  # noqa: E731
    eventually(ask, WITHIN_S)
    path = f"/usmed/transfers/{study.uid}"
    eventually(lambda: 1 < world.b.get(path).json()["Arrived"] < 400, WITHIN_S, "some have come")
    process = world.a.process
    assert process is not None
    # The source can neither go on nor stop: only B itself can end it.
    process.suspend()
    try:
        assert state(world.b, study) != "complete"
        world.d.attest(permit(NATIONAL_ISSUER, patient.number, kind="deny"))
        eventually(lambda: is_gone(world.b, study), 2 * WITHIN_S, "it was broken off, and what had come is gone")
    finally:
        process.resume()
    time.sleep(2)
    assert is_gone(world.b, study)


def test_a_consent_that_ends_by_itself_takes_no_copy_back(world: World) -> None:
    patient = new_patient()
    study = at(world.a, patient)
    end = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 15))}"
    consent(world, patient, "b", period={"end": end})
    copied(world.b, study)
    eventually(lambda: world.b.ticket((NATIONAL_ISSUER, patient.number)) is None, WITHIN_S, "it has ended")
    # What only adds is no reason either, though the hub tells of it.
    at(world.b, patient)
    consent(world, patient, "d")
    time.sleep(4)
    assert set(instances(world.b, study)) == study.sop_uids


def _waiting_checks(hospital: Hospital) -> list[tuple[str, int]]:
    path = hospital.folder / "storage" / "usmed.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return list(database.execute("SELECT consent, attempts FROM copy_check WHERE consent <> ''"))


def _stow(hospital: Hospital, dicom: bytes) -> None:
    body = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + dicom + b"\r\n--part--\r\n"
    answer = requests.post(
        f"{hospital.url}/dicom-web/studies", data=body, auth=AUTH, timeout=30,
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=part'},
    )  # fmt: skip
    assert answer.ok, answer.text
