"""The region with key servers: two of three have to agree; whoever is away, nothing is released against the patient.

Three hospitals: A holds the studies, B may see them, C may not.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from support.key_server import KeyServer
from support.region import AUTH, CLERK, DOCTOR, Hospital, Hub, Region, eventually, on_paper, permit

CIRCUIT_S = 1.0


@dataclass(frozen=True)
class World:
    """A region with key servers."""

    region: Region
    a: Hospital
    b: Hospital
    c: Hospital
    servers: tuple[KeyServer, ...]


_numbers = iter(range(500, 600))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tickets")
    section = {
        "Pull": {"Automatic": "click"},
        "Lookup": {"CacheSeconds": 0, "IdentitySeconds": 1, "CircuitSeconds": CIRCUIT_S, "DeadlineSeconds": 5},
    }
    names = {"a": "Spitalul A", "b": "Spitalul B", "c": "Spitalul C"}
    hospitals = [Hospital(id, name, id.upper(), folder / id, section=section) for id, name in names.items()]
    servers = tuple(KeyServer(f"keys-{number}", folder / f"keys-{number}") for number in (1, 2, 3))
    region = Region(folder, hospitals, Hub(folder / "hub"), servers, threshold=2)
    try:
        region.start()
        yield World(region, *hospitals, servers)
    finally:
        region.stop()


def _patient_at_a(world: World, **attributes: Any) -> Study:
    """Store a study of a new patient at A, of which the region knows."""
    study = Study(f"study {time.monotonic_ns()}", Patient(national_number(next(_numbers))), instances=3, **attributes)
    for file in study.files():
        world.a.store(file)
    return study


def _consent(world: World, study: Study, *recipients: str, at: Hospital | None = None, **provision: Any) -> str:
    resource = on_paper(permit(NATIONAL_ISSUER, study.patient.number, recipients=recipients, **provision))
    entry = (at or world.a).attest(resource)
    assert entry["Attested"]["Done"], json.dumps(entry, indent=1)
    return str(entry["Attested"]["ID"])


def _seen(hospital: Hospital, study: Study) -> bool:
    found = hospital.find("Study", {"PatientID": study.patient.number})
    return any(one["MainDicomTags"]["StudyInstanceUID"] == study.uid for one in found)


def _panel(hospital: Hospital, study: Study) -> dict[str, Any]:
    return dict(hospital.get(f"/usmed/patients/{study.patient.number}").json())


def _fetched(hospital: Hospital, study: Study) -> dict[str, Any]:
    assert hospital.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).status_code == 200

    def ended() -> Any:
        transfer = hospital.get(f"/usmed/transfers/{study.uid}").json()
        return transfer if not transfer["Unfinished"] or transfer["State"] == "waiting" else None

    return dict(eventually(ended, 30, "the transfer"))


def _desk(hospital: Hospital, path: str, body: dict[str, Any], who: tuple[str, str]) -> requests.Response:
    return requests.post(f"{hospital.url}/usmed/consents{path}", json=body, auth=who, timeout=60)


JSON = {"Content-Type": "application/json"}


def test_a_consent_at_the_desk_opens_the_study_to_whom_it_names(world: World) -> None:
    study = _patient_at_a(world)
    assert not _seen(world.b, study)
    _consent(world, study, "b")
    eventually(lambda: _seen(world.b, study), 20, "B sees it")
    assert not _seen(world.c, study)
    assert _fetched(world.b, study)["State"] == "complete"
    released = [one for one in world.a.audit() if one["event"] == "release"]
    assert released[-1]["detail"]["ticket"]
    (here,) = [one["ID"] for one in world.b.find("Study", {"StudyInstanceUID": study.uid})]
    provenance = world.b.get(f"/studies/{here}/metadata/5301").json()
    assert provenance["ticket"]


def test_one_server_away_changes_nothing_two_stop_everything_and_nobody_needs_a_restart(world: World) -> None:
    one, two, three = (_patient_at_a(world) for _ in range(3))
    for study in (one, two, three):
        _consent(world, study, "b")
    eventually(lambda: all(_seen(world.b, study) for study in (one,)), 20, "B sees it")
    world.servers[0].stop()
    eventually(lambda: _seen(world.b, two), 10, "with one server away")
    assert _fetched(world.b, two)["State"] == "complete"
    world.servers[1].stop()
    # A ticket that was signed before holds on until it ends; no new one comes.
    assert not _seen(world.b, three)
    panel = _panel(world.b, three)
    assert panel["studies"] == []
    assert "key servers can be reached and 2 have to agree" in panel["key_servers"]
    # Local care goes on.
    assert _seen(world.a, three)
    world.servers[0].start()
    world.servers[1].start()
    eventually(lambda: _seen(world.b, three), 15, "both are back")
    assert _fetched(world.b, three)["State"] == "complete"
    assert _panel(world.b, three)["key_servers"] == ""


def test_a_withdrawal_is_done_when_no_two_servers_without_it_exist(world: World) -> None:
    study = _patient_at_a(world)
    consent = _consent(world, study, "b")
    eventually(lambda: _seen(world.b, study), 20, "B sees it")
    # Two of three do not hear of it.
    world.servers[1].stop()
    world.servers[2].stop()
    entry = world.a.withdraw(consent)["Attested"]
    assert not entry["Done"]
    assert entry["CertainAt"] is None
    assert entry["KeyServers"] == ["keys-1"]
    assert entry["KeyServersNeeded"] == 2
    # A itself knows already.
    assert not _seen(world.b, study)
    world.servers[1].start()

    def done() -> Any:
        shown = world.a.get(f"/usmed/consents/{consent}").json()["Attested"]
        return shown if shown["Done"] else None

    entry = eventually(done, 20, "the second has it")
    assert entry["WaitingForKeyServers"] == ["keys-3"]
    assert not _seen(world.b, study)
    # The third, which was cut off, comes back with its old knowledge.
    world.servers[2].start()
    for _ in range(5):
        assert not _seen(world.b, study)
        time.sleep(0.3)
    shown = f"/usmed/consents/{consent}"
    eventually(lambda: not world.a.get(shown).json()["Attested"]["WaitingForKeyServers"], 20, "the third knows")


def test_a_study_under_a_local_number_is_under_the_national_numbers_consent_once_the_hospital_has_stated_it(
    world: World,
) -> None:
    cnp = national_number(next(_numbers))
    local = Patient("A-4711")
    both, alone = Study("both numbers", local.also(NATIONAL_ISSUER, cnp)), Study("the local number alone", local)
    for study in (both, alone):
        for file in study.files():
            world.a.store(file)
    world.a.attest(on_paper(permit(NATIONAL_ISSUER, cnp, recipients=["b", "c"])))
    seen = lambda hospital: {  # noqa: E731
        one["MainDicomTags"]["StudyInstanceUID"] for one in hospital.find("Study", {"PatientID": cnp})
    }
    # The hub believes that it is one person, which moves no key server.
    eventually(lambda: seen(world.b) == {both.uid}, 20, "B sees the study that names both")
    numbers = [{"issuer": "A", "value": local.number}, {"issuer": NATIONAL_ISSUER, "value": cnp}]
    draft = _desk(world.a, "/numbers", {"Patient": numbers}, CLERK).json()
    assert draft["Patient"] == numbers
    assert draft in world.a.get("/usmed/consents").json()
    confirmation = f"/{draft['ID']}/confirmation"
    assert _desk(world.a, confirmation, {"Sha256": draft["Sha256"]}, CLERK).status_code == 403
    # As long as the second has not confirmed it, nothing is stated.
    assert world.c.ticket((NATIONAL_ISSUER, cnp))["signatures"]
    assert world.c.ticket(("A", local.number)) is None
    entry = _desk(world.a, confirmation, {"Sha256": draft["Sha256"]}, AUTH).json()
    assert entry["Attested"]["Done"], entry
    assert entry["Attested"]["KeyServers"] == ["keys-1", "keys-2", "keys-3"]
    assert seen(world.c) == {both.uid, alone.uid}
    assert _fetched(world.c, alone)["State"] == "complete"
    # The hub knows it for the portal.
    told = world.region.hub.command("audit", "tail", "--patient", f"A:{local.number}").stdout
    assert '"what":"enrolled"' in told.replace(" ", ""), told


def test_a_statement_reaches_a_key_server_that_was_away(world: World) -> None:
    cnp = national_number(next(_numbers))
    numbers = [{"issuer": "A", "value": "A-4712"}, {"issuer": NATIONAL_ISSUER, "value": cnp}]
    world.servers[2].stop()
    draft = _desk(world.a, "/numbers", {"Patient": numbers}, CLERK).json()
    entry = _desk(world.a, f"/{draft['ID']}/confirmation", {"Sha256": draft["Sha256"]}, AUTH).json()
    assert entry["Attested"]["WaitingForKeyServers"] == ["keys-3"]
    world.servers[2].start()
    shown = f"/usmed/consents/{draft['ID']}"
    eventually(lambda: not world.a.get(shown).json()["Attested"]["WaitingForKeyServers"], 20, "the third knows")


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ([("A", "1")], "two numbers or more"),
        ([("A", "1"), ("A", "1")], "two numbers or more"),
        ([("A", "1"), ("B", "1")], "does not assign B numbers"),
        ([("A", "1"), (NATIONAL_ISSUER, "1700101220018")], "not a valid national number"),
        ([(NATIONAL_ISSUER, national_number(1)), (NATIONAL_ISSUER, national_number(2))], "one national number"),
        ([("A", "")], "not 1 to 64"),
    ],
)
def test_numbers_that_a_hospital_cannot_join(world: World, numbers: list[tuple[str, str]], complaint: str) -> None:
    patient = [{"issuer": issuer, "value": value} for issuer, value in numbers]
    refused = _desk(world.a, "/numbers", {"Patient": patient}, CLERK)
    assert refused.status_code == 400
    assert complaint in refused.json()["message"]


def test_what_is_sent_needs_a_ticket_too(world: World) -> None:
    study = _patient_at_a(world)
    (here,) = [one["ID"] for one in world.a.find("Study", {"StudyInstanceUID": study.uid})]
    world.a.get("/modalities")
    refused = world.a.post("/peers/nobody/store", here)
    assert refused.status_code == 403, refused.text
    assert "no hospital of the region" in refused.text


REASON = "adus inconstient dupa un accident"


def test_an_emergency_needs_two_people_and_no_consent(world: World) -> None:
    study, other = _patient_at_a(world), _patient_at_a(world)
    asked = {"PatientID": study.patient.number, "Reason": REASON}
    assert world.b.as_staff(DOCTOR, "/emergencies", {**asked, "Reason": "urgent"}).status_code == 400
    emergency = world.b.as_staff(DOCTOR, "/emergencies", asked).json()
    confirmation = f"/emergencies/{emergency['ID']}/confirmation"
    assert world.b.as_staff(DOCTOR, confirmation, {}).status_code == 403
    assert world.b.as_staff(AUTH, "/emergencies/none/confirmation", {}).status_code == 400
    assert not _seen(world.b, study)
    opened = world.b.as_staff(AUTH, confirmation, {}).json()
    assert (opened["AskedBy"], opened["ConfirmedBy"]) == (DOCTOR[0], AUTH[0])
    assert timedelta(minutes=59) < datetime.fromisoformat(opened["Until"]) - datetime.now(UTC) <= timedelta(hours=1)
    assert _seen(world.b, study)
    assert _fetched(world.b, study)["State"] == "complete"
    # This patient, this hospital.
    assert not _seen(world.b, other)
    mixed = {"PatientID": other.patient.number, "StudyInstanceUID": study.uid}
    remote = world.b.get("/usmed/region", params=mixed).json()
    assert remote["studies"] == []
    assert not _seen(world.c, study)
    released = [one for one in world.a.audit() if one["event"] == "release"][-1]["detail"]
    assert (released["purpose"], released["ticket"]) == ("ETREAT", opened["Ticket"])
    mine = [one for one in world.b.audit() if one["event"] == "emergency"]
    did = [one["detail"]["what"] for one in mine if one["outcome"] == "success"]
    assert did == ["asked for", "agreed to", "opened"]
    assert ["second-person" in one["detail"]["what"] for one in mine if one["outcome"] == "denied"] == [True]
    told = [server for server in world.servers if any(one["event"] == "emergency" for one in server.audit())]
    assert len(told) >= 2


def test_a_patient_can_forbid_even_emergencies(world: World) -> None:
    study = _patient_at_a(world)
    purpose = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "ETREAT"}]
    _consent(world, study, kind="deny", purpose=purpose)
    asked = world.b.as_staff(DOCTOR, "/emergencies", {"PatientID": study.patient.number, "Reason": REASON}).json()
    refused = world.b.as_staff(AUTH, f"/emergencies/{asked['ID']}/confirmation", {})
    assert refused.status_code == 403
    assert "forbidden" in refused.text
    assert not _seen(world.b, study)
    assert [one["outcome"] for one in world.b.audit() if one["event"] == "emergency"][-1] == "denied"


def test_who_asks_for_too_many_emergencies_is_refused_and_that_is_written_down(world: World) -> None:
    def ask() -> requests.Response:
        number = national_number(next(_numbers))
        return world.c.as_staff(DOCTOR, "/emergencies", {"PatientID": number, "Reason": REASON})

    assert [ask().status_code for _ in range(6)] == [200] * 5 + [403]
    last = [one for one in world.c.audit() if one["event"] == "emergency"][-1]
    assert (last["outcome"], last["agent"], last["reason"]) == ("denied", DOCTOR[0], REASON)
    assert last["detail"]["what"].startswith("too-many: ")


@contextmanager
def _moved(who: Hospital | KeyServer, by: str) -> Iterator[None]:
    """Let a process run with a clock that is wrong."""
    settings = who.environment if isinstance(who, Hospital) else who.settings
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    who.stop()
    settings |= {"LD_PRELOAD": str(library), "FAKETIME": by, "DONT_FAKE_MONOTONIC": "1"}
    try:
        who.start()
        yield
    finally:
        who.stop()
        for name in ("LD_PRELOAD", "FAKETIME", "DONT_FAKE_MONOTONIC"):
            del settings[name]
        who.start()


def _refused_for_time(who: Hospital | KeyServer) -> int:
    return sum(one.get("outcome") == "denied" and "clock" in one.get("reason", "") for one in who.audit())


def test_one_key_server_with_a_wrong_clock_changes_nothing_and_two_sign_nothing(world: World) -> None:
    one, two = (_patient_at_a(world) for _ in range(2))
    for study in (one, two):
        _consent(world, study, "b")
    before = [_refused_for_time(server) for server in world.servers]
    with _moved(world.servers[0], "+10m"):
        eventually(lambda: _seen(world.b, one), 20, "the other two agree")
        with _moved(world.servers[1], "-10m"):
            assert not _seen(world.b, two)
            assert "check both clocks" in _panel(world.b, two)["key_servers"]
            for server, count in list(zip(world.servers, before, strict=True))[:2]:
                eventually(lambda one=server, least=count: _refused_for_time(one) > least, 10, server.id)
    eventually(lambda: _seen(world.b, two), 20, "the clocks are right again")


def test_a_hospital_with_a_wrong_clock_gets_and_gives_nothing(world: World) -> None:
    study = _patient_at_a(world)
    _consent(world, study, "b")
    eventually(lambda: _seen(world.b, study), 20, "B sees it")

    def refused(who: Hospital | KeyServer, more_than: int) -> bool:
        assert not _seen(world.b, study)
        return _refused_for_time(who) > more_than

    before = _refused_for_time(world.servers[0])
    with _moved(world.b, "+10m"):
        eventually(lambda: refused(world.servers[0], before), 10, "a key server refuses B")
    eventually(lambda: _seen(world.b, study), 20, "B's clock is right again")
    before = _refused_for_time(world.a)
    with _moved(world.a, "-10m"):
        eventually(lambda: refused(world.a, before), 10, "A refuses B")
        # Local care goes on.
        assert _seen(world.a, study)
    eventually(lambda: _seen(world.b, study), 20, "A's clock is right again")
