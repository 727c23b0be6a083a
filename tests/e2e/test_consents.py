"""What patients can say, from the desk to the lookup: each shape of consent, and what another hospital then sees."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e import dcmtk
from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import Hospital, eventually, on_paper, permit

JSON = {"Content-Type": "application/json"}
WITHIN_S = 25
"""How long a consent that changes may take to show everywhere: nodes ask the hub for changes every few seconds."""


def _coded(code: str, system: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def _source(hospital_id: str) -> dict[str, Any]:
    identifier = {"system": "urn:usmed:hospital", "value": hospital_id}
    role = _coded("CST", "http://terminology.hl7.org/CodeSystem/v3-ParticipationType")
    return {"role": role, "reference": {"identifier": identifier}}


def _modalities(*codes: str) -> dict[str, Any]:
    return {"code": [_coded(one, "http://dicom.nema.org/resources/ontology/DCM") for one in codes]}


def _purpose(code: str) -> dict[str, Any]:
    return {"purpose": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code}]}


def _studies(*studies: Study) -> dict[str, Any]:
    return {
        "data": [
            {
                "meaning": "instance",
                "reference": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{one.uid}"}},
            }
            for one in studies
        ]
    }


def _deny(**provision: Any) -> dict[str, Any]:
    return {"provision": [{"type": "deny", **provision}]}


def _recipient(hospital_id: str) -> list[dict[str, Any]]:
    actor: dict[str, Any] = permit("X", "1", recipients=[hospital_id])["provision"]["actor"][0]
    return [actor]


class Case:
    """One patient with a CT of 2020 and an MR of 2023 at A and a CT of 2023 at D, and what they said."""

    def __init__(self, index: int, name: str, *said: Mapping[str, Any], seen: str) -> None:
        self.name, self.seen = name, set(seen.split())
        self.number = national_number(700 + index)
        patient = Patient(self.number, name=f"Consimțământ^{index}")
        self.studies = {
            "ct2020": Study(f"consent {index} ct 2020", patient, instances=1, date="20200315"),
            "mr2023": Study(f"consent {index} mr 2023", patient, modality="MR", instances=1, date="20230315"),
            "d2023": Study(f"consent {index} d 2023", patient, instances=1, date="20230316"),
        }
        self._said = said

    def resources(self) -> list[dict[str, Any]]:
        """Return the consents as FHIR resources."""
        resources = []
        for one in self._said:
            options = dict(one)
            named = options.pop("named", None)
            if named:
                options |= _studies(*(self.studies[key] for key in named))
            sources = options.pop("sources", ())
            resource = permit("RO-CNP", self.number, **options)
            for source in sources:
                resource["provision"].setdefault("actor", []).append(_source(source))
            resources.append(resource)
        return resources

    def placed(self, world: World) -> list[tuple[Hospital, Study]]:
        """Return which study is where."""
        return [
            (world.d if key == "d2023" else world.a, study) for key, study in self.studies.items()
        ]


ALL = "ct2020 mr2023 d2023"
SOON, LATE = (datetime.now(UTC) + timedelta(days=days) for days in (30, 60))
CASES = [
    Case(0, "nothing said", seen=""),
    Case(1, "everybody, everything", {}, seen=ALL),
    Case(2, "b only", {"recipients": ["parhon"]}, seen=ALL),
    Case(3, "b and c", {"recipients": ["regional", "parhon"]}, seen=ALL),
    Case(4, "c only", {"recipients": ["regional"]}, seen=""),
    Case(5, "deny alone", {"kind": "deny"}, seen=""),
    Case(6, "deny wins over permit", {}, {"recipients": ["parhon"], "kind": "deny"}, seen=""),
    Case(7, "deny of another does not matter", {}, {"recipients": ["regional"], "kind": "deny"}, seen=ALL),
    Case(8, "permit wins nothing back", {"kind": "deny"}, {"recipients": ["parhon"]}, seen=""),
    Case(9, "mr only", _modalities("MR"), seen="mr2023"),
    Case(10, "all but mr", {}, {"kind": "deny", **_modalities("MR")}, seen="ct2020 d2023"),
    Case(11, "two modalities", _modalities("MR", "CT"), seen=ALL),
    Case(12, "since 2022", {"dataPeriod": {"start": "2022-01-01"}}, seen="mr2023 d2023"),
    Case(13, "that very day", {"dataPeriod": {"start": "2023-03-15", "end": "2023-03-15"}}, seen="mr2023"),
    Case(14, "not since 2022", {}, {"kind": "deny", "dataPeriod": {"start": "2022-01-01"}}, seen="ct2020"),
    Case(15, "named study", {"named": ["ct2020"]}, seen="ct2020"),
    Case(16, "all but a named study", {}, {"kind": "deny", "named": ["ct2020"]}, seen="mr2023 d2023"),
    Case(17, "made by a", {"sources": ["spiridon"]}, seen="ct2020 mr2023"),
    Case(18, "not made by a", {}, {"kind": "deny", "sources": ["spiridon"]}, seen="d2023"),
    Case(19, "made by a, for c", {"sources": ["spiridon"], "recipients": ["regional"]}, seen=""),
    Case(20, "for treatment", _purpose("TREAT"), seen=ALL),
    Case(21, "for emergencies only", _purpose("ETREAT"), seen=""),
    Case(22, "not for research", {}, {"kind": "deny", **_purpose("HRESCH")}, seen=ALL),
    Case(23, "exception inside", _deny(**_modalities("MR")), seen="ct2020 d2023"),
    Case(24, "exception of a hospital inside", _deny(actor=_recipient("parhon")), seen=""),
    Case(25, "from next month", {"period": {"start": f"{SOON:%Y-%m-%d}"}}, seen=""),
    Case(26, "until next month", {"period": {"end": f"{SOON:%Y-%m-%d}"}}, seen=ALL),
    Case(27, "deny from next month", {}, {"kind": "deny", "period": {"start": f"{SOON:%Y-%m-%d}"}}, seen=ALL),
    Case(28, "two permits add up", _modalities("MR"), {"named": ["d2023"]}, seen="mr2023 d2023"),
    Case(29, "both conditions of one permit", {**_modalities("CT"), "sources": ["spiridon"]}, seen="ct2020"),
]


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store every patient's studies and record what they said."""
    world.place(one for case in CASES for one in case.placed(world))
    world.region.consent(*(resource for case in CASES for resource in case.resources()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_b_sees_what_the_patient_permits(world: World, case: Case) -> None:
    found = dcmtk.find(world.b, "STUDY", {"PatientID": case.number, "StudyInstanceUID": ""})
    keys = {study.uid: key for key, study in case.studies.items()}
    assert {keys[uid] for uid in found.studies} == case.seen
    panel = world.b.get(f"/usmed/patients/{case.number}").json()
    assert {keys[one["StudyInstanceUID"]] for one in panel["studies"]} == case.seen
    assert panel["permission"] is bool(case.seen)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_b_gets_what_the_patient_permits(world: World, case: Case) -> None:
    """Also when B asks for a study whose UID it has from elsewhere."""
    for key, study in case.studies.items():
        answer = world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON)
        assert answer.status_code == (200 if key in case.seen else 404), key


def sees(hospital: Hospital, study: Study) -> bool:
    """Tell whether a lookup by number lists a study."""
    keys = {"PatientID": study.patient.number, "StudyInstanceUID": ""}
    return study.uid in dcmtk.find(hospital, "STUDY", keys).studies


def test_a_consent_given_at_the_desk_shows_at_the_next_look_and_so_does_its_withdrawal(world: World) -> None:
    first, second = (
        Study(f"withdrawn {n}", Patient(national_number(750)), instances=1) for n in (1, 2)
    )
    world.place([(world.a, first), (world.a, second)])
    assert not sees(world.b, first)
    (consent,) = world.region.consent(permit("RO-CNP", first.patient.number, recipients=[world.b.id]))
    eventually(lambda: sees(world.b, first), WITHIN_S, "the consent shows")
    world.b.post("/usmed/fetch", {"StudyInstanceUID": first.uid}, headers=JSON)
    eventually(lambda: world.b.get(f"/usmed/transfers/{first.uid}").json()["State"] == "complete")
    world.region.withdraw(consent)
    withdrawn = time.monotonic()
    eventually(lambda: not sees(world.b, second), WITHIN_S, "the withdrawal shows")
    # What B has got goes, too (`test_withdrawn_copies`); nothing more comes.
    assert world.b.post("/usmed/fetch", {"StudyInstanceUID": second.uid}, headers=JSON).status_code == 404
    assert not world.b.get(f"/dicom-web/studies/{second.uid}/metadata").ok
    assert time.monotonic() - withdrawn < 2 * WITHIN_S


def test_a_consent_ends_by_itself(world: World) -> None:
    study = Study("ends", Patient(national_number(751)), instances=1)
    world.place([(world.a, study)])
    end = datetime.now(UTC) + timedelta(seconds=12)
    period = {"end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    world.region.consent(permit("RO-CNP", study.patient.number, period=period))
    eventually(lambda: sees(world.b, study), 10, "the consent holds")
    eventually(lambda: not sees(world.b, study), 12 + WITHIN_S, "it has ended")
    assert world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).status_code == 404


def test_a_new_version_of_a_consent_replaces_the_old_one(world: World) -> None:
    study = Study("replaced", Patient(national_number(752)), instances=1)
    world.place([(world.a, study)])
    (consent,) = world.region.consent(permit("RO-CNP", study.patient.number, recipients=[world.b.id]))
    eventually(lambda: sees(world.b, study), WITHIN_S)
    other = permit("RO-CNP", study.patient.number, recipients=[world.c.id])
    world.region.consent({**other, "id": consent})
    eventually(lambda: not sees(world.b, study), WITHIN_S)
    eventually(lambda: sees(world.c, study), WITHIN_S)


def test_a_withdrawal_during_the_lookups_validity_stops_the_pull_itself(world: World) -> None:
    """Whatever B remembers, A decides anew."""
    study = Study("stopped", Patient(national_number(753)), instances=1)
    world.place([(world.a, study)])
    (consent,) = world.region.consent(permit("RO-CNP", study.patient.number))
    eventually(lambda: sees(world.b, study), WITHIN_S)
    world.region.withdraw(consent)
    world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON)
    path = f"/usmed/transfers/{study.uid}"

    def settled() -> bool:
        answer = world.b.get(path)
        return answer.status_code == 404 or not answer.json()["Unfinished"]

    eventually(settled, 20)
    assert world.b.get("/dicom-web/studies", params={"StudyInstanceUID": study.uid}).json() == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"status": "draft"}, "status"),
        ({"provision": {"purpose": None}}, "names its purposes"),
        ({"provision": _purpose("HRESCH")}, "research"),
        ({"provision": {"period": {"start": "2026-01-01"}}}, "ends at most 366 days"),
        ({"patient": {"identifier": {"system": "urn:usmed:issuer:NOBODY", "value": "1"}}}, "NOBODY"),
        ({"patient": {"identifier": {"system": "urn:usmed:issuer:RO-CNP", "value": "1234567890123"}}}, "national"),
        ({"provision": {"actor": _recipient("nowhere")}}, "nowhere"),
        ({"provision": {"class": []}}, "class"),
        ({"provision": {"period": {"end": "2020-01-01"}}}, "past"),
        ({"extension": []}, "extension"),
    ],
)
def test_a_consent_that_would_not_be_understood_whole_is_not_recorded(
    world: World, change: Mapping[str, Any], complaint: str
) -> None:
    number = national_number(754)
    before = world.hub.command("consent", "list").stdout
    paper = on_paper(permit("RO-CNP", number))
    provision = {**paper["provision"], **change.get("provision", {})}
    resource = {**paper, **change, "provision": {name: one for name, one in provision.items() if one is not None}}
    refusal = world.a.post("/usmed/consents", {"Resource": resource}, headers=JSON)
    assert refusal.status_code == 400
    assert complaint in refusal.json()["message"]
    assert number not in world.a.get("/usmed/consents").text
    assert world.hub.command("consent", "list").stdout == before
