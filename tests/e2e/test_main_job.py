"""The main job with the tools that hospitals have: what A stored is found at B, and fetched at the first request."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from e2e import dcmtk
from e2e.conftest import World
from e2e.dcmtk import Counts
from e2e.studies import Patient, Study, differing, national_number
from support.region import AUTH, Hospital, eventually, permit

JSON = {"Content-Type": "application/json"}

PATIENT = Patient(national_number(1))
SHOWN = Study("shown", PATIENT, series=2, instances=2, date="20230310", accession="SP-1")
"""Looked at by every test, fetched by none."""

MOVED = {
    "STUDY": Study("moved-study", PATIENT, series=2, instances=3, date="20210601"),
    "SERIES": Study("moved-series", PATIENT, series=2, instances=3, date="20210602"),
    "IMAGE": Study("moved-image", PATIENT, series=2, instances=3, date="20210603"),
}
WADO = {
    name: Study(f"wado-{name}", PATIENT, modality="MR", series=2, instances=2, date="20190101")
    for name in ("study", "series", "instance", "study-metadata", "series-metadata", "instance-metadata", "frames",
                 "search-series", "search-instances", "uri", "rest", "rest-archive", "compressed")
}  # fmt: skip
"""One study for each way of asking, so that each is the first request for its study."""

MANY = Patient(national_number(2))
OF_MANY = [Study(f"of-many-{n}", MANY, instances=2, date=f"2022010{n}") for n in (1, 2, 3)]
"""Everything of one patient, moved at once."""

UNNAMED = Patient(national_number(4), name="Nenumit^Ion")
OF_UNNAMED = [Study(f"of-unnamed-{n}", UNNAMED, date="20180808") for n in (1, 2)]
"""Looked up in ways that do not name the patient."""

FETCHED = Patient(national_number(3))
OF_FETCHED = [Study(f"of-fetched-{n}", FETCHED, series=2, instances=2) for n in (1, 2)]
"""Fetched by D because somebody looked the patient up."""

EVERYTHING = [SHOWN, *MOVED.values(), *WADO.values()]


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Have a modality at A store, and the patients agree for B and D."""
    placed = [(world.a, study) for study in (*EVERYTHING, *OF_MANY, *OF_UNNAMED, *OF_FETCHED)]
    world.place(placed, store=dcmtk.store)
    world.region.consent(
        *(
            permit("RO-CNP", one.number, recipients=[world.b.id, world.d.id])
            for one in (PATIENT, MANY, UNNAMED, FETCHED)
        )
    )


@pytest.fixture
def third(world: World) -> Iterator[dcmtk.Receiver]:
    """Empty the third AE before and after."""
    world.third.empty()
    yield world.third
    world.third.empty()


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[DICOMwebClient]:
    """Return a DICOMweb client of B."""
    session = create_session_from_user_pass(*AUTH)
    yield DICOMwebClient(f"{world.b.url}/dicom-web", session=session)
    session.close()


def files_of(hospital: Hospital, study: Study) -> dict[str, bytes]:
    """Return the files that a hospital's archive holds of a study, by SOP Instance UID."""
    (found,) = hospital.find("Study", {"StudyInstanceUID": study.uid})
    instances = hospital.get(f"/studies/{found['ID']}/instances?expand").json()
    return {
        one["MainDicomTags"]["SOPInstanceUID"]: hospital.get(f"/instances/{one['ID']}/file").content
        for one in instances
    }


def is_here(hospital: Hospital, study: Study) -> bool:
    """Tell whether a hospital's own archive holds something of a study, asking only its archive."""
    query = {"Level": "Study", "Query": {"StudyInstanceUID": study.uid}}
    # This route is Orthanc's own: the region never answers it.
    return bool(hospital.post("/tools/count-resources", query).json()["Count"])


# ---- C-FIND ----


def test_findscu_at_b_lists_a_study_of_a_as_a_does_and_says_who_holds_it(world: World) -> None:
    keys = dict.fromkeys(
        ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
         "StudyDescription", "StudyID", "AccessionNumber", "ModalitiesInStudy", "NumberOfStudyRelatedSeries",
         "NumberOfStudyRelatedInstances", "ReferringPhysicianName"), "",
    )  # fmt: skip
    keys |= {"PatientID": PATIENT.number, "StudyDate": SHOWN.date}
    (at_a,) = dcmtk.find(world.a, "STUDY", keys).answers
    (at_b,) = dcmtk.find(world.b, "STUDY", {**keys, "InstanceAvailability": "", "InstitutionName": ""}).answers
    assert at_b.InstanceAvailability == "NEARLINE"
    assert at_b.InstitutionName == world.a.name
    assert at_b.RetrieveAETitle == world.b.aet
    del at_b.InstanceAvailability, at_b.InstitutionName
    at_a.RetrieveAETitle = world.b.aet
    assert dict(at_b) == dict(at_a)
    assert at_b.PatientName == PATIENT.name
    assert not is_here(world.b, SHOWN)


def test_findscu_returns_the_requested_keys_and_no_others(world: World) -> None:
    found = dcmtk.find(world.b, "STUDY", {"StudyInstanceUID": SHOWN.uid, "StudyDescription": ""})
    (answer,) = found.answers
    always = {"QueryRetrieveLevel", "RetrieveAETitle", "SpecificCharacterSet"}
    assert {one.keyword for one in answer} == {"StudyInstanceUID", "StudyDescription"} | always
    assert answer.StudyDescription == "Studiu shown"


@pytest.mark.parametrize("model", ["-P", "-S"])
def test_findscu_by_patient_id_lists_everything(world: World, model: str) -> None:
    found = dcmtk.find(world.b, "STUDY", {"PatientID": PATIENT.number, "StudyInstanceUID": ""}, model=model)
    assert found.values("StudyInstanceUID") == sorted(one.uid for one in EVERYTHING)


def test_findscu_by_study_and_by_accession_number(world: World) -> None:
    keys = {"PatientID": "", "StudyInstanceUID": ""}
    for named in ({"StudyInstanceUID": SHOWN.uid}, {"AccessionNumber": SHOWN.accession}):
        found = dcmtk.find(world.b, "STUDY", {**keys, **named})
        assert (found.studies, found.values("PatientID")) == ({SHOWN.uid}, [PATIENT.number])


def test_findscu_lists_the_patient_once(world: World) -> None:
    keys = {"PatientID": PATIENT.number, "PatientName": "", "PatientBirthDate": "", "PatientSex": "",
            "NumberOfPatientRelatedStudies": "", "NumberOfPatientRelatedInstances": ""}  # fmt: skip
    (answer,) = dcmtk.find(world.b, "PATIENT", keys, model="-P").answers
    assert (answer.PatientID, answer.PatientName) == (PATIENT.number, PATIENT.name)
    assert (answer.PatientBirthDate, answer.PatientSex) == (PATIENT.birth_date, PATIENT.sex)
    assert answer.NumberOfPatientRelatedStudies == len(EVERYTHING)
    assert answer.NumberOfPatientRelatedInstances == sum(len(one.sop_uids) for one in EVERYTHING)


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("SERIES", {"SeriesInstanceUID": "", "Modality": "", "SeriesNumber": "", "SeriesDescription": "",
                    "NumberOfSeriesRelatedInstances": ""}),
        ("SERIES", {"SeriesInstanceUID": "", "SeriesNumber": "2"}),
        ("SERIES", {"SeriesInstanceUID": SHOWN.series_uid(1), "Modality": ""}),
        ("IMAGE", {"SeriesInstanceUID": SHOWN.series_uid(2), "SOPInstanceUID": "", "InstanceNumber": "",
                   "SOPClassUID": ""}),
        ("IMAGE", {"SeriesInstanceUID": SHOWN.series_uid(2), "SOPInstanceUID": SHOWN.sop_uid(2, 1), "Rows": "",
                   "ImageType": ""}),
    ],
)  # fmt: skip
def test_findscu_at_series_and_image_level_as_at_a(world: World, level: str, keys: dict[str, str]) -> None:
    asked = {"StudyInstanceUID": SHOWN.uid, **keys}
    at_a, at_b = dcmtk.find(world.a, level, asked), dcmtk.find(world.b, level, asked)
    key = "SeriesInstanceUID" if level == "SERIES" else "SOPInstanceUID"
    assert at_b.values(key) == at_a.values(key) != []
    for mine, theirs in zip(
        sorted(at_b.answers, key=lambda one: str(one[key].value)),
        sorted(at_a.answers, key=lambda one: str(one[key].value)),
        strict=True,
    ):
        theirs.RetrieveAETitle = world.b.aet
        assert dict(mine) == dict(theirs)
    assert not is_here(world.b, SHOWN)


@pytest.mark.parametrize(
    "keys",
    [
        {"StudyDate": "20210601-20210602"},
        {"StudyDate": "-20200101"},
        {"StudyDescription": "Studiu moved*"},
        {"StudyDescription": "studiu moved*"},
        {"ModalitiesInStudy": "CT"},
        {"ModalitiesInStudy": "US"},
        {"PatientName": "Țurcanu*"},
        {"PatientName": "Popescu*"},
        {"PatientBirthDate": "19700102"},
    ],
)
def test_further_matching_keys_narrow_the_answer_as_at_a(world: World, keys: dict[str, str]) -> None:
    asked = {"PatientID": PATIENT.number, "StudyInstanceUID": "", **keys}
    assert dcmtk.find(world.b, "STUDY", asked).studies == dcmtk.find(world.a, "STUDY", asked).studies


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientID": f"{UNNAMED.number[:-1]}*"},
        {"PatientID": f"{UNNAMED.number[:-1]}?"},
        {"PatientID": f"{UNNAMED.number}\\{UNNAMED.number}"},
        {"PatientName": UNNAMED.name},
        {"StudyDate": OF_UNNAMED[0].date},
        {"StudyInstanceUID": "\\".join(one.uid for one in OF_UNNAMED)},
    ],
)
def test_a_lookup_that_names_no_single_patient_stays_here(world: World, keys: dict[str, str]) -> None:
    asked = {"PatientID": "", "StudyInstanceUID": "", **keys}
    assert dcmtk.find(world.a, "STUDY", asked).studies == {one.uid for one in OF_UNNAMED}
    assert dcmtk.find(world.b, "STUDY", asked).answers == []


# ---- C-MOVE ----


def moved(level: str) -> tuple[dict[str, str], set[str]]:
    """Return the keys of a C-MOVE at a level, and the instances that it names."""
    study = MOVED[level]
    keys = {"StudyInstanceUID": study.uid}
    if level == "STUDY":
        return keys, study.sop_uids
    keys["SeriesInstanceUID"] = study.series_uid(2)
    if level == "SERIES":
        return keys, {study.sop_uid(2, one) for one in (1, 2, 3)}
    return {**keys, "SOPInstanceUID": study.sop_uid(2, 3)}, {study.sop_uid(2, 3)}


@pytest.mark.parametrize("level", MOVED)
def test_movescu_delivers_everything_at_the_first_request(world: World, third: dcmtk.Receiver, level: str) -> None:
    study, (keys, expected) = MOVED[level], moved(level)
    assert not is_here(world.b, study)
    result = dcmtk.move(world.b, third.aet, level, keys)
    _check_counts(result, len(expected))
    assert dcmtk.sop_uids(third.received()) == sorted(expected)
    assert {one.PatientID for one in third.received()} == {PATIENT.number}


def test_movescu_of_a_study_that_is_here_by_now_does_the_same(world: World, third: dcmtk.Receiver) -> None:
    study = MOVED["STUDY"]
    eventually(lambda: world.b.get(f"/usmed/transfers/{study.uid}").json().get("State") == "complete")
    result = dcmtk.move(world.b, third.aet, "STUDY", {"StudyInstanceUID": study.uid})
    _check_counts(result, len(study.sop_uids))
    assert dcmtk.sop_uids(third.received()) == sorted(study.sop_uids)
    (answer,) = dcmtk.find(world.b, "STUDY", {"StudyInstanceUID": study.uid, "InstanceAvailability": ""}).answers
    assert answer.InstanceAvailability == "ONLINE"


def test_movescu_of_a_whole_patient(world: World, third: dcmtk.Receiver) -> None:
    expected = sorted(uid for study in OF_MANY for uid in study.sop_uids)
    result = dcmtk.move(world.b, third.aet, "PATIENT", {"PatientID": MANY.number}, model="-P")
    _check_counts(result, len(expected))
    assert dcmtk.sop_uids(third.received()) == expected


def _check_counts(result: dcmtk.Retrieved, instances: int) -> None:
    """Check status and sub-operation counts of every response (PS3.4 C.4.2.1.6)."""
    assert result.exit_code == 0, result.output
    # The final response of success has no count of what remains.
    assert result.final == Counts("0x0000", remaining=-1, completed=instances, failed=0, warning=0)
    assert result.pending == [
        Counts("0xff00", remaining=instances - done, completed=done, failed=0, warning=0)
        for done in range(1, instances)
    ]


# ---- C-GET, for which Orthanc has no plugin hook: the C-FIND before it has started the pull ----


def test_getscu_delivers_everything_after_the_pull_that_the_lookup_started(world: World, tmp_path: Path) -> None:
    study = OF_FETCHED[0]
    early = dcmtk.get(world.d, tmp_path, {"StudyInstanceUID": study.uid})
    assert early.final.completed <= 0
    keys = {"PatientID": FETCHED.number, "StudyInstanceUID": "", "InstanceAvailability": ""}
    found = dcmtk.find(world.d, "STUDY", keys)
    assert found.studies == {one.uid for one in OF_FETCHED}
    assert found.values("InstanceAvailability") == ["NEARLINE"] * 2

    def online() -> bool:
        return dcmtk.find(world.d, "STUDY", keys).values("InstanceAvailability") == ["ONLINE"] * 2

    eventually(online, 20, "the lookup's pull")
    for one in OF_FETCHED:
        folder = tmp_path / one.label
        folder.mkdir()
        result = dcmtk.get(world.d, folder, {"StudyInstanceUID": one.uid})
        # This is Orthanc's own C-GET; unlike its C-MOVE it says at the end that nothing remains.
        assert result.final == Counts("0x0000", remaining=0, completed=4, failed=0, warning=0)
        assert dcmtk.sop_uids([pydicom.dcmread(file) for file in folder.iterdir()]) == sorted(one.sop_uids)


# ---- DICOMweb ----


def test_qido_lists_as_at_a(world: World, client: DICOMwebClient) -> None:
    at_a = DICOMwebClient(f"{world.a.url}/dicom-web", session=client._session)
    for filters in (
        {"PatientID": PATIENT.number, "StudyDate": SHOWN.date},
        {"StudyInstanceUID": SHOWN.uid},
        {"AccessionNumber": SHOWN.accession},
        {"PatientID": UNNAMED.number},
    ):
        theirs = at_a.search_for_studies(search_filters=filters)
        mine = client.search_for_studies(search_filters=filters)
        assert _by_study(mine).keys() == _by_study(theirs).keys()
        for uid, answer in _by_study(mine).items():
            assert answer.pop("00080056")["Value"] == ["NEARLINE"]
            assert answer.pop("00080080")["Value"] == [world.a.name]
            # The client names no port in its Host header, so there is none in the address.
            assert answer.pop("00081190")["Value"] == [f"http://{world.b.address}/dicom-web/studies/{uid}"]
            expected = _by_study(theirs)[uid]
            del expected["00080056"], expected["00081190"]
            assert answer == expected


def test_qido_says_where_to_retrieve(world: World) -> None:
    (answer,) = world.b.get("/dicom-web/studies", params={"StudyInstanceUID": SHOWN.uid}).json()
    assert answer["00081190"]["Value"] == [f"{world.b.url}/dicom-web/studies/{SHOWN.uid}"]


def test_qido_of_a_wildcard_stays_here(client: DICOMwebClient) -> None:
    assert client.search_for_studies(search_filters={"PatientID": f"{UNNAMED.number[:-1]}*"}) == []


def test_qido_pages_over_remote_studies(client: DICOMwebClient) -> None:
    filters = {"PatientID": PATIENT.number}
    everything = client.search_for_studies(search_filters=filters)
    pages: list[dict[str, Any]] = []
    while page := client.search_for_studies(search_filters=filters, limit=4, offset=len(pages)):
        assert len(page) <= 4
        pages += page
    assert pages == everything
    assert len(pages) == len(EVERYTHING)


def _by_study(answers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["0020000D"]["Value"][0]: one for one in answers}


def test_wado_retrieve_study_at_the_first_request(world: World, client: DICOMwebClient) -> None:
    study = WADO["study"]
    assert not is_here(world.b, study)
    instances = client.retrieve_study(study.uid)
    assert dcmtk.sop_uids(instances) == sorted(study.sop_uids)
    # B knows the patient by the same national number, so nothing at all had to be changed.
    assert files_of(world.b, study) == files_of(world.a, study)
    for one in instances:
        original = pydicom.dcmread(io.BytesIO(files_of(world.a, study)[str(one.SOPInstanceUID)]))
        assert differing(one, original) == set()


def test_wado_retrieve_series_and_instance_at_the_first_request(world: World, client: DICOMwebClient) -> None:
    study = WADO["series"]
    instances = client.retrieve_series(study.uid, study.series_uid(2))
    assert dcmtk.sop_uids(instances) == sorted(study.sop_uid(2, one) for one in (1, 2))
    study = WADO["instance"]
    assert not is_here(world.b, study)
    instance = client.retrieve_instance(study.uid, study.series_uid(1), study.sop_uid(1, 2))
    original = pydicom.dcmread(io.BytesIO(files_of(world.a, study)[study.sop_uid(1, 2)]))
    assert differing(instance, original) == set()


def test_wado_metadata_at_the_first_request(world: World, client: DICOMwebClient) -> None:
    study = WADO["study-metadata"]
    assert not is_here(world.b, study)
    metadata = client.retrieve_study_metadata(study.uid)
    assert {one["00080018"]["Value"][0] for one in metadata} == study.sop_uids
    study = WADO["series-metadata"]
    metadata = client.retrieve_series_metadata(study.uid, study.series_uid(1))
    assert {one["00080018"]["Value"][0] for one in metadata} == {study.sop_uid(1, one) for one in (1, 2)}
    study = WADO["instance-metadata"]
    one = client.retrieve_instance_metadata(study.uid, study.series_uid(1), study.sop_uid(1, 1))
    assert one["00080018"]["Value"] == [study.sop_uid(1, 1)]


def test_wado_frames_at_the_first_request(world: World, client: DICOMwebClient) -> None:
    study = WADO["frames"]
    assert not is_here(world.b, study)
    uids = (study.uid, study.series_uid(1), study.sop_uid(1, 1))
    (frame,) = client.retrieve_instance_frames(*uids, [1], media_types=("application/octet-stream",))
    original = pydicom.dcmread(io.BytesIO(files_of(world.a, study)[study.sop_uid(1, 1)]))
    assert frame == original.PixelData


def test_qido_below_a_study_at_the_first_request(world: World, client: DICOMwebClient) -> None:
    study = WADO["search-series"]
    assert not is_here(world.b, study)
    found = client.search_for_series(study.uid)
    assert {one["0020000E"]["Value"][0] for one in found} == {study.series_uid(one) for one in (1, 2)}
    study = WADO["search-instances"]
    found = client.search_for_instances(study.uid)
    assert {one["00080018"]["Value"][0] for one in found} == study.sop_uids


def test_wado_uri_at_the_first_request(world: World) -> None:
    study = WADO["uri"]
    assert not is_here(world.b, study)
    answer = world.b.get(
        "/wado",
        params={"requestType": "WADO", "studyUID": study.uid, "seriesUID": study.series_uid(1),
                "objectUID": study.sop_uid(1, 1), "contentType": "application/dicom"},
    )  # fmt: skip
    assert answer.status_code == 200
    assert answer.content == files_of(world.a, study)[study.sop_uid(1, 1)]


# ---- Orthanc's own REST API, as Orthanc Explorer uses it ----


def test_rest_by_the_identifier_that_the_lookup_gave(world: World) -> None:
    study = WADO["rest"]
    (identifier,) = world.b.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study.uid}}).json()
    assert not is_here(world.b, study)
    answer = world.b.get(f"/studies/{identifier}").json()
    assert (answer["ID"], answer["MainDicomTags"]["StudyInstanceUID"]) == (identifier, study.uid)
    assert len(answer["Series"]) == 2
    assert len(world.b.get(f"/studies/{identifier}/instances").json()) == len(study.sop_uids)


def test_a_click_brings_the_study_and_says_so(world: World) -> None:
    study = WADO["rest-archive"]
    assert not is_here(world.b, study)
    panel = {one["StudyInstanceUID"]: one for one in world.b.get(f"/usmed/patients/{PATIENT.number}").json()["studies"]}
    assert (panel[study.uid]["State"], panel[study.uid]["Holder"]) == ("remote", world.a.name)
    assert world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).ok
    state = f"/usmed/transfers/{study.uid}"
    eventually(lambda: world.b.get(state).json()["State"] == "complete")
    panel = {one["StudyInstanceUID"]: one for one in world.b.get(f"/usmed/patients/{PATIENT.number}").json()["studies"]}
    assert (panel[study.uid]["State"], panel[study.uid]["Arrived"]) == ("here", len(study.sop_uids))
    answer = world.b.get(f"/studies/{panel[study.uid]['OrthancStudy']}/archive")
    assert answer.headers["Content-Type"] == "application/zip"


def test_files_that_the_source_has_compressed_on_disk_arrive_as_they_were_stored(world: World) -> None:
    """As those are that Orthanc has stored at a time when StorageCompression was on."""
    study = WADO["compressed"]
    before = files_of(world.a, study)
    (found,) = world.a.find("Study", {"StudyInstanceUID": study.uid})
    for one in world.a.get(f"/studies/{found['ID']}/instances").json():
        assert world.a.post(f"/instances/{one['ID']}/attachments/dicom/compress", data=b"").ok
        assert world.a.get(f"/instances/{one['ID']}/attachments/dicom/is-compressed").text == "1"
    assert world.b.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON).ok
    eventually(lambda: world.b.get(f"/usmed/transfers/{study.uid}").json()["State"] == "complete")
    assert files_of(world.a, study) == before
    assert set(files_of(world.b, study)) == set(before)
