"""Every way out of a hospital passes the consent check; only the hospital's own systems get what they always got.

`stranger`, `partner` (said to be C's) and `inhouse` (listed as own) are three names of one plain Orthanc outside, known
to every hospital as a modality, as an Orthanc peer and as a DICOMweb server: what has left is what is in there.
"""

import base64
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e import dcmtk
from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import AUTH, Hospital, eventually, permit

JSON = {"Content-Type": "application/json"}


def _study(label: str, person: int, **changes: Any) -> Study:
    return Study(f"out {label}", Patient(national_number(person), name="Plecat^Ion"), **changes)


SILENT = _study("silent", 601)
EVERYBODY = _study("everybody", 602)
ONLY_C = _study("only c", 603)
NOT_C = _study("not c", 604)
ONLY_B = _study("only b", 605)
STUDIES = (SILENT, EVERYBODY, ONLY_C, NOT_C, ONLY_B)
NAMES = ("inhouse", "stranger", "partner")
STORES = ("/modalities/partner/store", "/peers/partner/store", "/dicom-web/servers/partner/stow")

ALLOWED = {
    SILENT.label: {"inhouse"},
    # Nobody knows whose the stranger is, so nobody can sign for it.
    EVERYBODY.label: {"inhouse", "partner"},
    ONLY_C.label: {"inhouse", "partner"},
    NOT_C.label: {"inhouse"},
    ONLY_B.label: {"inhouse"},
}
"""Where a study may go."""


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store the studies at A, and record what the patients said."""
    world.place((world.a, study) for study in STUDIES)
    world.region.consent(
        permit("RO-CNP", EVERYBODY.patient.number),
        permit("RO-CNP", ONLY_C.patient.number, recipients=[world.c.id]),
        permit("RO-CNP", NOT_C.patient.number),
        permit("RO-CNP", NOT_C.patient.number, recipients=[world.c.id], kind="deny"),
        permit("RO-CNP", ONLY_B.patient.number, recipients=[world.b.id]),
    )


@pytest.fixture(autouse=True)
def empty(world: World) -> Iterator[None]:
    """Leave nothing outside."""
    yield
    world.forget_outside()


def has_left(world: World, study: Study) -> int:
    """Return how many instances of a study are outside."""
    found = world.outside.post(
        "/tools/find", {"Level": "Instance", "Query": {"StudyInstanceUID": study.uid}}
    ).json()
    return len(found)


def orthanc_study(hospital: Hospital, study: Study) -> str:
    """Return the identifier of a study in a hospital's archive."""
    (found,) = hospital.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study.uid}}).json()
    return str(found)


def files_of(hospital: Hospital, study: Study) -> list[bytes]:
    """Return the files that a hospital's archive has of a study."""
    instances = hospital.get(f"/studies/{orthanc_study(hospital, study)}/instances").json()
    return [hospital.get(f"/instances/{one['ID']}/file").content for one in instances]


type Way = Callable[[Hospital, Study, str], bool]
"""Sends a study of a hospital to one of the three names; tells whether the hospital says that it did."""


def _rest(answer: requests.Response) -> bool:
    if answer.status_code == 403:
        # It says whom it did not send to, and what can be done.
        assert "consent" in answer.json()["message"]
        return False
    assert answer.status_code == 200, answer.text
    return True


def _straight(hospital: Hospital, study: Study, destination: str) -> bool:
    said = [_rest(hospital.post(f"{destination}/store-straight", data=file)) for file in files_of(hospital, study)]
    # Each file is a request of its own: a new consent may become known between two of them, but none is forgotten.
    assert said == sorted(said)
    return all(said)


def _move(hospital: Hospital, study: Study, name: str) -> bool:
    done = dcmtk.move(hospital, name.upper(), "STUDY", {"StudyInstanceUID": study.uid})
    return done.final.status == "0x0000" and done.final.completed == len(study.sop_uids)


WAYS: dict[str, Way] = {
    "store to a modality": lambda hospital, study, name: _rest(
        hospital.post(f"/modalities/{name}/store", [orthanc_study(hospital, study)])
    ),
    "store-straight to a modality": lambda hospital, study, name: _straight(hospital, study, f"/modalities/{name}"),
    "store to a peer": lambda hospital, study, name: _rest(
        hospital.post(f"/peers/{name}/store", {"Resources": [orthanc_study(hospital, study)]})
    ),
    "store-straight to a peer": lambda hospital, study, name: _straight(hospital, study, f"/peers/{name}"),
    "stow": lambda hospital, study, name: _rest(
        hospital.post(f"/dicom-web/servers/{name}/stow", {"Resources": [orthanc_study(hospital, study)]})
    ),
    "C-MOVE": _move,
}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.label.removeprefix("out "))
@pytest.mark.parametrize("way", WAYS)
def test_a_study_leaves_where_the_patient_agreed(world: World, way: str, study: Study) -> None:
    for name in NAMES:
        world.forget_outside()
        allowed = name in ALLOWED[study.label]
        assert WAYS[way](world.a, study, name) is allowed, name
        assert has_left(world, study) == (len(study.sop_uids) if allowed else 0), name


def test_each_attempt_is_on_record(world: World) -> None:
    for study, name, outcome in ((SILENT, "stranger", "denied"), (ONLY_C, "partner", "success")):
        WAYS["store to a modality"](world.a, study, name)
        last = [one for one in world.a.audit() if one["event"] == "release"][-1]
        assert (last["study_instance_uid"], last["outcome"]) == (study.uid, outcome)
        assert last["agent"] == "admin"
        assert last["peer"] == (world.c.id if name == "partner" else "Modalities:stranger")


# ---- The body of a request ----


def _children(hospital: Hospital, study: Study) -> dict[str, str]:
    parent = hospital.get(f"/studies/{orthanc_study(hospital, study)}").json()
    series = hospital.get(f"/series/{parent['Series'][0]}").json()
    return {
        "patient": parent["ParentPatient"],
        "study": parent["ID"],
        "series": series["ID"],
        "instance": series["Instances"][0],
    }


@pytest.mark.parametrize("level", ["patient", "study", "series", "instance"])
@pytest.mark.parametrize("kind", ["modalities", "peers"])
def test_every_level_and_every_form_of_the_body_is_checked(world: World, kind: str, level: str) -> None:
    silent, agreed = (_children(world.a, one)[level] for one in (SILENT, EVERYBODY))
    for one, status in ((silent, 403), (agreed, 200)):
        forms: list[dict[str, Any]] = [
            {"data": one},
            {"data": json.dumps(one)},
            {"data": json.dumps([one])},
            {"data": json.dumps({"Resources": [one]})},
            {"data": json.dumps({"Resources": [one], "Synchronous": True})},
        ]
        for form in forms:
            answer = world.a.post(f"/{kind}/partner/store", **form)
            assert answer.status_code == status, (form, answer.text)
        assert bool(has_left(world, SILENT)) is False
        assert bool(has_left(world, EVERYBODY)) is (status == 200)


@pytest.mark.parametrize("path", STORES)
def test_one_study_that_may_not_go_keeps_all(world: World, path: str) -> None:
    both = [orthanc_study(world.a, EVERYBODY), orthanc_study(world.a, SILENT)]
    for body in ({"Resources": both}, {"Resources": both[::-1]}):
        answer = world.a.post(path, body)
        assert answer.status_code == 403
        assert SILENT.uid in answer.json()["message"]
        assert EVERYBODY.uid not in answer.json()["message"]
        last = [one for one in world.a.audit() if one["event"] == "release"][-2:]
        assert {(one["study_instance_uid"], one["outcome"]) for one in last} == {
            (SILENT.uid, "denied"),
            (EVERYBODY.uid, "denied"),
        }
    assert has_left(world, EVERYBODY) == has_left(world, SILENT) == 0


@pytest.mark.parametrize("path", STORES)
def test_a_body_that_says_two_things_is_sent_as_it_was_checked(world: World, path: str) -> None:
    silent, agreed = (orthanc_study(world.a, one) for one in (SILENT, EVERYBODY))
    for first, second in ((silent, agreed), (agreed, silent)):
        world.a.post(path, data=f'{{"Resources": ["{first}"], "Resources": ["{second}"]}}'.encode())
        assert has_left(world, SILENT) == 0


def test_an_asynchronous_send_is_checked_before_it_is_a_job(world: World) -> None:
    jobs = set(world.a.get("/jobs").json())
    answer = world.a.post(
        "/modalities/stranger/store", {"Resources": [orthanc_study(world.a, SILENT)], "Asynchronous": True}
    )
    assert answer.status_code == 403
    assert set(world.a.get("/jobs").json()) == jobs


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"Resources": []}', b'{"Resources": "x", "More": 1}', b'{"Resources": [1]}', b"{not json",
     b'"11111111-11111111-11111111-11111111-11111111"', b'["../studies"]'],
)  # fmt: skip
@pytest.mark.parametrize("path", STORES)
def test_a_body_that_names_nothing_sends_nothing_and_says_so(world: World, path: str, body: bytes) -> None:
    answer = world.a.post(path, data=body)
    assert answer.status_code in (400, 404), answer.text
    assert world.outside.get("/instances").json() == []


@pytest.mark.parametrize("kind", ["modalities", "peers"])
def test_what_is_no_dicom_is_not_sent_straight(world: World, kind: str) -> None:
    for body in (b"", b"DICM", SILENT.files()[0][:200], b"\0" * 128 + b"DICM" + b"\xff" * 500):
        assert world.a.post(f"/{kind}/stranger/store-straight", data=body).status_code in (400, 403)
    assert world.outside.get("/instances").json() == []


# ---- Destinations that nobody has told us about ----


def _modality(world: World, aet: str, **options: Any) -> dict[str, Any]:
    return {"AET": aet, "Host": world.outside.address, "Port": world.outside.dicom_port, **options}


def _put(hospital: Hospital, path: str, document: Any) -> requests.Response:
    return hospital.session.put(hospital.url + path, data=json.dumps(document), timeout=30)


def test_a_modality_added_at_run_time_is_foreign(world: World) -> None:
    try:
        assert _put(world.a, "/modalities/later", _modality(world, "LATER", AllowGet=False)).status_code == 200
        for way in ("store to a modality", "store-straight to a modality", "C-MOVE"):
            world.forget_outside()
            for study in (SILENT, EVERYBODY):
                assert not WAYS[way](world.a, study, "later")
                assert has_left(world, study) == 0
        assert dcmtk.find(world.a, "STUDY", {"StudyInstanceUID": EVERYBODY.uid}, aet="LATER").answers == []
    finally:
        world.a.session.delete(f"{world.a.url}/modalities/later", timeout=30)
    assert world.a.get("/modalities/later").status_code == 404


@pytest.mark.parametrize("name", ["opened", "stranger"])
def test_no_put_opens_c_get_to_a_foreign_system(world: World, name: str) -> None:
    before = world.a.get("/modalities?expand").json()
    for document in (
        _modality(world, "OPENED"),
        _modality(world, "OPENED", AllowGet=True),
        _modality(world, "OPENED", AllowGet="false"),
        ["OPENED", world.outside.address, world.outside.dicom_port],
        ["OPENED", world.outside.address, world.outside.dicom_port, "Generic"],
    ):
        answer = _put(world.a, f"/modalities/{name}", document)
        assert answer.status_code == 403, document
        assert "AllowGet" in answer.json()["message"]
    assert _put(world.a, f"/modalities/{name}", "no modality").status_code in (400, 403)
    assert world.a.get("/modalities?expand").json() == before


def test_a_peer_added_at_run_time_is_foreign(world: World) -> None:
    user, password = AUTH
    peer = {"Url": world.outside.url, "Username": user, "Password": password}
    try:
        assert _put(world.a, "/peers/later", peer).status_code == 200
        for way in ("store to a peer", "store-straight to a peer"):
            world.forget_outside()
            for study in (SILENT, EVERYBODY):
                assert not WAYS[way](world.a, study, "later")
                assert has_left(world, study) == 0
    finally:
        world.a.session.delete(f"{world.a.url}/peers/later", timeout=30)


def test_a_dicomweb_server_added_at_run_time_is_foreign(world: World) -> None:
    user, password = AUTH
    server = {"Url": f"{world.outside.url}/dicom-web/", "Username": user, "Password": password}
    try:
        assert _put(world.a, "/dicom-web/servers/later", server).status_code == 200
        assert _put(world.a, "/dicom-web/servers/announced", server).status_code == 200
        assert not WAYS["stow"](world.a, SILENT, "later")
        assert not WAYS["stow"](world.a, EVERYBODY, "later")
        # One that is said to be C's is refused too, but for another reason, and it says what to do.
        answer = world.a.post("/dicom-web/servers/announced/stow", {"Resources": [orthanc_study(world.a, EVERYBODY)]})
        assert answer.status_code == 403
        assert "DicomWeb.Servers" in answer.json()["message"]
        assert world.outside.get("/instances").json() == []
    finally:
        for name in ("later", "announced"):
            world.a.session.delete(f"{world.a.url}/dicom-web/servers/{name}", timeout=30)


def test_another_address_under_a_foreign_name_stays_foreign(world: World) -> None:
    assert _put(world.a, "/modalities/partner", _modality(world, "PARTNER", AllowGet=False)).status_code == 200
    assert not WAYS["store to a modality"](world.a, SILENT, "partner")
    assert WAYS["store to a modality"](world.a, ONLY_C, "partner")


# ---- C-GET, C-FIND and C-MOVE by a system that is not ours ----


def test_c_get_serves_own_systems_only(world: World, tmp_path: Path) -> None:
    folders = {aet: tmp_path / aet for aet in ("WS", "STRANGER", "PARTNER", "NOBODY")}
    for aet, folder in folders.items():
        folder.mkdir()
        for study in (SILENT, EVERYBODY):
            dcmtk.get(world.a, folder, {"StudyInstanceUID": study.uid}, aet=aet)
    received = {aet: len(list(folder.iterdir())) for aet, folder in folders.items()}
    assert received == {"WS": 4, "STRANGER": 0, "PARTNER": 0, "NOBODY": 0}


def test_a_foreign_system_finds_nothing(world: World) -> None:
    for level, model, keys in (
        ("PATIENT", "-P", {"PatientID": "*"}),
        ("STUDY", "-S", {"PatientID": "", "StudyInstanceUID": ""}),
        ("STUDY", "-S", {"PatientID": EVERYBODY.patient.number, "StudyInstanceUID": ""}),
        ("SERIES", "-S", {"StudyInstanceUID": EVERYBODY.uid, "SeriesInstanceUID": ""}),
    ):
        for aet in ("STRANGER", "PARTNER"):
            assert dcmtk.find(world.a, level, keys, aet=aet, model=model).answers == []


@pytest.mark.parametrize("destination", ["STRANGER", "INHOUSE", "NOBODY"])
def test_a_move_by_a_foreign_system_tells_it_nothing(world: World, destination: str) -> None:
    """What it may not have is to it as what does not exist."""

    def said(uid: str) -> str:
        done = dcmtk.move(world.a, destination, "STUDY", {"StudyInstanceUID": uid}, aet="STRANGER")
        return done.output.replace(uid, "<study>")

    unknown = SILENT.uid[:-1] + str((int(SILENT.uid[-1]) + 1) % 10)
    assert said(SILENT.uid) == said(unknown)
    assert world.outside.get("/instances").json() == []


def test_a_move_by_a_foreign_system_of_what_it_may_have(world: World) -> None:
    done = dcmtk.move(world.a, "PARTNER", "STUDY", {"StudyInstanceUID": ONLY_C.uid}, aet="PARTNER")
    assert done.final.completed == len(ONLY_C.sop_uids) == has_left(world, ONLY_C)


def test_a_foreign_system_makes_no_hospital_ask_the_region(world: World) -> None:
    """B may have the study; whoever asks B from outside may not make it come."""
    study = _study("not for strangers", 606)
    world.place([(world.a, study)])
    world.region.consent(permit("RO-CNP", study.patient.number, recipients=[world.b.id]))
    for keys in ({"StudyInstanceUID": study.uid}, {"PatientID": study.patient.number}):
        level, model = ("STUDY", "-S") if "StudyInstanceUID" in keys else ("PATIENT", "-P")
        dcmtk.move(world.b, "STRANGER", level, keys, aet="STRANGER", model=model)
    assert world.b.get(f"/usmed/transfers/{study.uid}").status_code == 404


# ---- Ways around the check ----


def test_a_finished_send_is_not_repeated(world: World) -> None:
    """Consent may be gone by then."""
    answer = world.a.post(
        "/modalities/partner/store", {"Resources": [orthanc_study(world.a, EVERYBODY)], "Asynchronous": True}
    )
    job = answer.json()["ID"]
    eventually(lambda: world.a.get(f"/jobs/{job}").json()["State"] == "Success")
    world.forget_outside()
    assert world.a.post(f"/jobs/{job}/resubmit", {}).status_code == 403
    assert world.a.get(f"/jobs/{job}").json()["State"] == "Success"
    assert has_left(world, EVERYBODY) == 0


def test_the_inner_name_of_a_server_is_for_the_plugin_alone(world: World) -> None:
    # The name exists once something was sent.
    assert WAYS["stow"](world.a, EVERYBODY, "partner")
    world.forget_outside()
    body = json.dumps({"Resources": [orthanc_study(world.a, SILENT)], "Uri": "/studies"}).encode()
    for name in ("usmed-checked-partner", "%75smed-checked-stranger", "usmed-checked-"):
        for rest in ("", "/stow", "/get", "/retrieve", "/wado", "/qido"):
            for method in ("GET", "POST", "PUT", "DELETE"):
                assert _raw(world.a, method, f"/dicom-web/servers/{name}{rest}", body) == 403, (method, name, rest)
    assert world.outside.get("/instances").json() == []
    # None of this has harmed what it is for.
    assert WAYS["stow"](world.a, EVERYBODY, "partner")


SPELLINGS = [
    "/modalities//stranger/store", "/modalities/stranger/store/", "/modalities/stranger//store",
    "/modalities/./stranger/store", "/modalities/x/../stranger/store", "/x/../modalities/stranger/store",
    "/modalities/str%61nger/store", "/modalities/stranger%2Fstore", "/%6dodalities/stranger/store",
    "/modalities/stranger/store?x=1", "/modalities/stranger/store;x", "/MODALITIES/stranger/store",
    "//peers/stranger/store", "/peers/stranger/store/", "/peers/stranger/%73tore",
    "/dicom-web//servers/stranger/stow", "/dicom-web/servers/stranger/stow/", "/dicom-web/servers/str%61nger/stow",
    "/dicom-web/x/../servers/stranger/stow", "//dicom-web/servers/usmed-checked-partner/stow",
    "/dicom-web/servers//usmed-checked-partner/stow", "/dicom-web/./servers/usmed-checked-partner/stow",
    "/dicom-web/servers/x/../usmed-checked-partner/stow", "/dicom%2Dweb/servers/usmed-checked-partner/stow",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_other_spelling_of_an_address_leads_past_the_check(world: World, path: str) -> None:
    body = json.dumps({"Resources": [orthanc_study(world.a, SILENT)]}).encode()
    assert _raw(world.a, "POST", path, body) in (400, 403, 404, 405)
    assert world.outside.get("/instances").json() == []


def _raw(hospital: Hospital, method: str, path: str, body: bytes) -> int:
    """Send a request whose address no library has tidied up; return the status."""
    connection = http.client.HTTPConnection(hospital.address, hospital.http_port, timeout=30)
    token = base64.b64encode(":".join(AUTH).encode()).decode()
    connection.request(method, path, body, {"Authorization": f"Basic {token}", **JSON})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tools/execute-script", 'SendToPeer("x", "stranger")'),
        ("/instances/{instance}/export", "/tmp/out.dcm"),
        ("/studies/{study}/export", "/tmp/out"),
    ],
)
def test_what_no_check_can_see_is_closed(world: World, path: str, body: str) -> None:
    children = _children(world.a, SILENT)
    answer = world.a.post(path.format(**children), data=body.encode())
    assert answer.status_code in (403, 404, 405), answer.text


@pytest.mark.parametrize("tool", ["create-archive", "create-media", "bulk-content", "bulk-modify", "bulk-anonymize"])
def test_bulk_tools_send_nothing_anywhere(world: World, tool: str) -> None:
    """They answer whoever asked, inside the hospital; what they make is the hospital's own and checked as such."""
    before = set(world.a.get("/studies").json())
    body = {
        "Resources": [orthanc_study(world.a, SILENT)], "Level": "Study", "Replace": {"StudyDescription": "x"},
        "Force": True, "Target": "stranger", "Peer": "stranger", "Destination": "stranger", "Asynchronous": False,
    }  # fmt: skip
    answer = world.a.post(f"/tools/{tool}", body)
    assert answer.status_code in (200, 400), answer.text
    assert world.outside.get("/instances").json() == []
    for one in set(world.a.get("/studies").json()) - before:
        # A study under a number that nobody has agreed for stays where it is.
        assert world.a.post("/modalities/stranger/store", [one]).status_code == 403
        world.a.session.delete(f"{world.a.url}/studies/{one}", timeout=30)


# ---- A guest copy that goes on ----

def _source(hospital: Hospital) -> dict[str, Any]:
    """Return the FHIR actor that says whose studies a consent is about."""
    coding = {"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "CST"}
    identifier = {"system": "urn:usmed:hospital", "value": hospital.id}
    return {"role": {"coding": [coding]}, "reference": {"identifier": identifier}}


@pytest.mark.parametrize("way", WAYS)
def test_a_guest_copy_goes_on_only_as_the_patient_said_of_its_source(world: World, way: str) -> None:
    number = 610 + list(WAYS).index(way)
    cnp = national_number(number)
    guest = Study(f"guest of a {number}", Patient(f"SP-{number}").also("RO-CNP", cnp))
    own = Study(f"own of b {number}", Patient(f"PA-{number}").also("RO-CNP", cnp))
    world.place([(world.a, guest), (world.b, own)])
    to_b = permit("RO-CNP", cnp, recipients=[world.b.id])
    from_b = permit("RO-CNP", cnp, recipients=[world.c.id])
    from_b["provision"]["actor"].append(_source(world.b))
    world.region.consent(to_b, from_b)
    world.b.post("/usmed/fetch", {"StudyInstanceUID": guest.uid}, headers=JSON)
    eventually(lambda: world.b.get(f"/usmed/transfers/{guest.uid}").json()["State"] == "complete", 30)
    # C may have what B made, not what A made, wherever that is.
    assert WAYS[way](world.b, own, "partner")
    assert not WAYS[way](world.b, guest, "partner")
    assert has_left(world, guest) == 0
    from_a = permit("RO-CNP", cnp, recipients=[world.c.id])
    from_a["provision"]["actor"].append(_source(world.a))
    world.region.consent(from_a)
    eventually(lambda: WAYS[way](world.b, guest, "partner"), 15, "the new consent is known")
    assert has_left(world, guest) == len(guest.sop_uids)
    assert not WAYS[way](world.b, own, "stranger")
    assert not WAYS[way](world.b, guest, "stranger")
