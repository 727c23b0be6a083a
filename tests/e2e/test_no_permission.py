"""Without consent every answer is the one for an unknown patient: the same command, compared character by character."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e import dcmtk, signed
from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import Hospital, permit
from usmed.domain.identifiers import orthanc_id

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Names:
    """What a request can name of one patient and study. All sets have the same lengths: DCMTK prints lengths too."""

    number: str
    study: str
    series: str
    sop: str
    accession: str

    @classmethod
    def of(cls, study: Study) -> "Names":
        """Return the names of a study that exists."""
        return cls(study.patient.number, study.uid, study.series_uid(1), study.sop_uid(1, 1), study.accession)

    def nowhere(self, number: str) -> "Names":
        """Return names of the same lengths that nothing has."""
        series, sop = (_other_uid(one) for one in (self.series, self.sop))
        return Names(number, _other_uid(self.study), series, sop, self.accession[::-1])

    @property
    def orthanc_study(self) -> str:
        """Return what Orthanc would call the study."""
        return orthanc_id(self.number, self.study)

    @property
    def orthanc_patient(self) -> str:
        """Return what Orthanc would call the patient."""
        return orthanc_id(self.number)

    def normalised(self, text: str) -> str:
        """Replace these names, and nothing else, by words."""
        for name in ("number", "study", "series", "sop", "accession", "orthanc_study", "orthanc_patient"):
            text = text.replace(getattr(self, name), f"<{name}>")
        return text


def _other_uid(uid: str) -> str:
    return uid[:-6] + f"{(int(uid[-6:]) + 1) % 10**6:06d}"


def _study(label: str, number: str) -> Study:
    patient = Patient(number, name="Necunoscut^Ion")
    return Study(label, patient, accession=f"NP-{number[-6:]}", attributes={"StudyDescription": "Torace"})


SILENT = _study("np-silent", national_number(301))
"""Its patient has said nothing."""
OTHERS = _study("np-others", national_number(302))
"""Its patient agreed, for B only."""
DENIED = _study("np-denied", national_number(303))
"""Its patient agreed for everybody, but denied C."""
OLD = _study("np-old", national_number(304))
"""Its patient had agreed, and has withdrawn."""
CASES = [SILENT, OTHERS, DENIED, OLD]


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store one study of each patient at A, and record what they said."""
    world.place((world.a, study) for study in CASES)
    said = [
        permit("RO-CNP", OTHERS.patient.number, recipients=[world.b.id]),
        permit("RO-CNP", DENIED.patient.number),
        permit("RO-CNP", DENIED.patient.number, recipients=[world.c.id], kind="deny"),
        permit("RO-CNP", OLD.patient.number),
    ]
    world.region.withdraw(world.region.consent(*said)[-1])


type Probe = Callable[[World, Hospital, Names, Path], str]

PROBES: dict[str, Probe] = {}
"""Every way of asking: returns everything that the asker gets to see."""


def _find(name: str, level: str, model: str, *named: str, **keys: str) -> None:
    def probe(world: World, hospital: Hospital, names: Names, folder: Path) -> str:
        values = {_KEYWORDS[one]: getattr(names, one) for one in named}
        return dcmtk.find(hospital, level, {**keys, **values}, model=model).output

    PROBES[f"C-FIND {name}"] = probe


def _move(level: str, model: str, *named: str) -> None:
    def probe(world: World, hospital: Hospital, names: Names, folder: Path) -> str:
        world.third.empty()
        done = dcmtk.move(hospital, "THIRD", level, {_KEYWORDS[one]: getattr(names, one) for one in named}, model=model)
        return f"{done.exit_code} {len(world.third.received())} {done.output}"

    PROBES[f"C-MOVE {level} {model}"] = probe


def _tools_find(name: str, level: str, *named: str, **options: Any) -> None:
    def probe(world: World, hospital: Hospital, names: Names, folder: Path) -> str:
        query = {_KEYWORDS[one]: getattr(names, one) for one in named}
        return _seen(hospital.post("/tools/find", {"Level": level, "Query": query, **options}))

    PROBES[f"/tools/find {name}"] = probe


def _http(name: str, request: Callable[[Hospital, Names], requests.Response]) -> None:
    PROBES[name] = lambda world, hospital, names, folder: _seen(request(hospital, names))


def _get(name: str, path: Callable[[Names], str], **headers: str) -> None:
    _http(name, lambda hospital, names: hospital.get(path(names), headers=headers))


_KEYWORDS = {
    "number": "PatientID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID", "sop": "SOPInstanceUID",
    "accession": "AccessionNumber",
}  # fmt: skip

_find("PATIENT", "PATIENT", "-P", "number", PatientName="", NumberOfPatientRelatedStudies="")
_find("STUDY by number", "STUDY", "-S", "number", StudyInstanceUID="", PatientName="", InstanceAvailability="")
_find("STUDY by number and issuer", "STUDY", "-S", "number", StudyInstanceUID="", IssuerOfPatientID="RO-CNP")
_find("STUDY by UID", "STUDY", "-S", "study", PatientID="", PatientName="")
_find("STUDY by accession number", "STUDY", "-S", "accession", PatientID="", StudyInstanceUID="")
_find("SERIES", "SERIES", "-S", "study", SeriesInstanceUID="", Modality="")
_find("IMAGE", "IMAGE", "-S", "study", "series", SOPInstanceUID="", InstanceNumber="")
_move("PATIENT", "-P", "number")
_move("STUDY", "-S", "study")
_move("SERIES", "-S", "study", "series")
_move("IMAGE", "-S", "study", "series", "sop")
_tools_find("Study", "Study", "number")
_tools_find("Study expanded", "Study", "number", Expand=True, RequestedTags=["ModalitiesInStudy"])
_tools_find("Study by UID", "Study", "study", Expand=True)
_tools_find("Study by accession number", "Study", "accession", Expand=True)
_tools_find("Study in pages", "Study", "number", Expand=True, Since=0, Limit=1)
_tools_find("Study with a label", "Study", "number", Labels=["usmed-remote"])
_tools_find("Patient", "Patient", "number", Expand=True)
_tools_find("Series", "Series", "study", Expand=True)
_tools_find("Instance", "Instance", "study", ResponseContent=["MainDicomTags"])
_get("QIDO by number", lambda names: f"/dicom-web/studies?PatientID={names.number}")
_get("QIDO by UID", lambda names: f"/dicom-web/studies?0020000D={names.study}&includefield=all")
_get("QIDO by accession number", lambda names: f"/dicom-web/studies?AccessionNumber={names.accession}")
_get("QIDO in XML", lambda names: f"/dicom-web/studies?PatientID={names.number}", Accept="application/dicom+xml")
_get("QIDO series of a study", lambda names: f"/dicom-web/studies/{names.study}/series")
_get("QIDO instances of a study", lambda names: f"/dicom-web/studies/{names.study}/instances")
_get("QIDO series", lambda names: f"/dicom-web/series?StudyInstanceUID={names.study}")
_get("QIDO instances", lambda names: f"/dicom-web/instances?StudyInstanceUID={names.study}")
_get("WADO study", lambda names: f"/dicom-web/studies/{names.study}")
_get("WADO study metadata", lambda names: f"/dicom-web/studies/{names.study}/metadata")
_get("WADO series", lambda names: f"/dicom-web/studies/{names.study}/series/{names.series}")
_get(
    "WADO instance",
    lambda names: f"/dicom-web/studies/{names.study}/series/{names.series}/instances/{names.sop}",
)
_get(
    "WADO rendered",
    lambda names: f"/dicom-web/studies/{names.study}/series/{names.series}/instances/{names.sop}/rendered",
)
_get(
    "WADO-URI",
    lambda names: f"/wado?requestType=WADO&studyUID={names.study}&seriesUID={names.series}&objectUID={names.sop}",
)
_get("REST study", lambda names: f"/studies/{names.orthanc_study}")
_get("REST archive", lambda names: f"/studies/{names.orthanc_study}/archive")
_get("panel", lambda names: f"/usmed/patients/{names.number}")
_get("panel with issuer", lambda names: f"/usmed/patients/{names.number}?issuer=RO-CNP")
_get("panel of a study", lambda names: f"/usmed/orthanc-studies/{names.orthanc_study}")
_get("transfer", lambda names: f"/usmed/transfers/{names.study}")
_http(
    "click", lambda hospital, names: hospital.post("/usmed/fetch", {"StudyInstanceUID": names.study}, headers=JSON)
)
_http("arrival", lambda hospital, names: hospital.post("/usmed/arrivals", {"PatientID": names.number}, headers=JSON))


def _get_scu(world: World, hospital: Hospital, names: Names, folder: Path) -> str:
    done = dcmtk.get(hospital, folder, {"StudyInstanceUID": names.study})
    return f"{done.exit_code} {len(list(folder.iterdir()))} {done.output}"


PROBES["C-GET"] = _get_scu


def _direct(name: str, path: str, document: Callable[[Names], Any], **changes: Any) -> None:
    """Ask A past C's own node, as a C would that had been taken over; with the access ticket that it gets, if any."""

    def probe(world: World, hospital: Hospital, names: Names, folder: Path) -> str:
        request = signed.complete(hospital, document(names)) | changes
        return _seen(signed.send(hospital, world.a, path, request))

    PROBES[name] = probe


def _person(names: Names) -> list[tuple[str, str]]:
    return [("RO-CNP", names.number)]


_direct("direct lookup by number", signed.LOOKUP, lambda names: signed.lookup(_person(names)))
_direct(
    "direct lookup by UID",
    signed.LOOKUP,
    lambda names: signed.lookup(_person(names), study=names.study),
    identifiers=[],
)
_direct("direct lookup of instances", signed.LOOKUP, lambda names: signed.lookup(_person(names), level="IMAGE"))
_direct("direct manifest", signed.MANIFEST, lambda names: signed.of_study(names.study, _person(names)))
_direct(
    "direct manifest without number",
    signed.MANIFEST,
    lambda names: signed.of_study(names.study, _person(names)),
    identifiers=[],
)
_direct(
    "direct instances",
    signed.INSTANCES,
    lambda names: signed.of_study(names.study, _person(names)) | {"instances": [[0, names.sop]]},
)


def _hub(name: str, question: Callable[[Names], dict[str, Any]]) -> None:
    PROBES[f"hub by {name}"] = lambda world, hospital, names, folder: _seen(
        signed.send(hospital, world.hub, "/v1/resolve", {**question(names), "purpose": "TREAT"})
    )


_hub("number", lambda names: {"identifier": {"issuer": "RO-CNP", "value": names.number}})
_hub("UID", lambda names: {"study_instance_uid": names.study})
_hub("accession number", lambda names: {"accession_number": names.accession})


def _seen(answer: requests.Response) -> str:
    """Return all of an HTTP answer that does not depend on the moment: status, headers, body."""
    moment = {"date", "x-usmed-signature"}
    headers = [f"{name}: {value}" for name, value in answer.headers.items() if name.lower() not in moment]
    text = "\n".join([str(answer.status_code), *headers, "", answer.content.decode("utf-8", "replace")])
    # The boundary of a multipart answer is random.
    boundary = re.search(r'boundary="?([^";]+)', answer.headers.get("Content-Type", ""))
    return text.replace(boundary[1], "<boundary>") if boundary else text


@pytest.mark.parametrize("name", PROBES)
def test_the_answer_is_the_one_for_an_unknown_patient(world: World, tmp_path: Path, name: str) -> None:
    unknown = Names.of(SILENT).nowhere(national_number(399))
    expected = _probe(world, world.c, name, unknown, tmp_path)
    for case in CASES:
        assert _probe(world, world.c, name, Names.of(case), tmp_path) == expected, case.label


@pytest.mark.parametrize("name", [one for one in PROBES if one != "C-GET"])
def test_the_comparison_would_notice(world: World, tmp_path: Path, name: str) -> None:
    """With consent the same command gives something else, so what is compared above is not just emptiness."""
    real = Names.of(OTHERS)
    unknown = real.nowhere(national_number(399))
    assert _probe(world, world.b, name, real, tmp_path) != _probe(world, world.b, name, unknown, tmp_path)


def test_nothing_has_moved_at_all(world: World) -> None:
    assert world.c.get("/studies").json() == []
    assert world.c.get("/usmed/transfers").json() == []
    studies = {one.uid for one in CASES}
    released = [one for one in world.a.audit() if one["event"] == "release" and one["study_instance_uid"] in studies]
    assert {one["peer"] for one in released} <= {world.b.id}


def _probe(world: World, hospital: Hospital, name: str, names: Names, folder: Path) -> str:
    for one in folder.iterdir():
        one.unlink()
    return names.normalised(PROBES[name](world, hospital, names, folder))


# ---- A patient whom C knows itself ----

KNOWN = _study("np-known-a", national_number(305))
KNOWN_HERE = _study("np-known-c", national_number(305))
ALONE_HERE = _study("np-alone-c", national_number(306))


def test_of_a_patient_whom_c_treats_itself_it_sees_its_own_studies_only(world: World) -> None:
    """As of a patient who has never been anywhere else."""
    world.place([(world.a, KNOWN), (world.c, KNOWN_HERE), (world.c, ALONE_HERE)])
    known, alone = Names.of(KNOWN_HERE), Names.of(ALONE_HERE)
    for look in (
        lambda names: str(
            dcmtk.find(world.c, "STUDY", {"PatientID": names.number, "StudyInstanceUID": "", "PatientName": ""})
            .answers[0].to_json_dict()
        ),
        lambda names: world.c.post(
            "/tools/find",
            {"Level": "Study", "Query": {"PatientID": names.number}, "ResponseContent": ["RequestedTags", "Labels"],
             "RequestedTags": ["StudyInstanceUID", "NumberOfStudyRelatedInstances", "PatientID"]},
        ).text,
        lambda names: world.c.get(f"/dicom-web/studies?PatientID={names.number}").text,
        lambda names: world.c.get(f"/usmed/patients/{names.number}").text,
        lambda names: world.c.get(f"/usmed/orthanc-patients/{orthanc_id(names.number)}").text,
        lambda names: world.c.get(f"/usmed/orthanc-studies/{names.orthanc_study}").text,
    ):  # fmt: skip
        seen = known.normalised(look(known))
        assert seen == alone.normalised(look(alone))
        assert KNOWN.uid not in seen
    for one in world.c.get("/studies").json():
        world.c.session.delete(f"{world.c.url}/studies/{one}", timeout=30)
