"""POST /tools/find: with the plugin it answers as without it, errors too."""

import json
from typing import Any

import pytest
import requests

from host.archive_data import uid
from host.conftest import Pair, outcome
from support.region import Hospital
from usmed.domain.identifiers import orthanc_id

PATIENT, STUDY, SERIES = (
    orthanc_id(*parts) for parts in (("1234",), ("1234", uid(1)), ("1234", uid(1), uid(1, 1)))
)  # fmt: skip
OTHER_STUDY = orthanc_id("1234", uid(2))
VOLATILE = {"LastUpdate", "FileUuid", "ReceptionDate", "Attachments", "RemoteIP", "HttpUsername", "IndexInSeries"}
"""What two archives that received the same objects at different times cannot have alike."""


@pytest.fixture(scope="module", autouse=True)
def labelled(pair: Pair) -> None:
    """Give both archives the same labels and metadata."""
    for one in pair:
        for path, body in (
            (f"/studies/{STUDY}/labels/urgent", ""),
            (f"/studies/{STUDY}/labels/teaching", ""),
            (f"/studies/{OTHER_STUDY}/labels/teaching", ""),
            (f"/patients/{PATIENT}/labels/known", ""),
            (f"/studies/{STUDY}/metadata/1030", "reported"),
            (f"/studies/{OTHER_STUDY}/metadata/1030", "draft"),
        ):
            assert one.session.put(one.url + path, data=body, timeout=10).status_code == 200


LEVELS = ("Patient", "Study", "Series", "Instance")
ONE: dict[str, Any] = {"PatientID": "1234"}


def of(query: Any, level: str = "Study", **options: Any) -> dict[str, Any]:
    """Return a request."""
    return {"Level": level, "Query": query, **options}


def by(key: str, direction: str = "ASC", kind: str = "DicomTag") -> list[dict[str, str]]:
    """Return an order."""
    return [{"Type": kind, "Key": key, "Direction": direction}]


NUMBERS = (
    "_1234",
    "%1234",
    "01234",
    "ab-12",
    "AB-12",
    "ID 77",
    "88",
    " 88 ",
    "nobody",
    "Müller-1",
    "1234\\79",
    "12*",
    "*",
)
CONTENTS = (
    ["MainDicomTags"], ["Children", "Labels"], ["Parent", "IsStable"], ["Metadata"], ["RequestedTags"], ["Status"], [],
    ["MainDicomTags", "Metadata", "Labels", "Parent", "Children", "Status", "IsStable"],
)  # fmt: skip

FOUND: list[dict[str, Any]] = [
    # levels, the number alone or the whole
    *(of({}, level) for level in (*LEVELS, "Patients", "studies", "IMAGE")),
    *(of(ONE, level, Expand=True) for level in LEVELS),
    of(ONE), of(ONE, Expand=False),
    # forms of tags
    of(ONE, Expand=True, Short=True), of(ONE, Expand=True, Full=True), of(ONE, Expand=True, Short=True, Full=True),
    of(ONE, Expand=True, Short=True, RequestedTags=["Modality"]),
    of({"0010,0020": "1234"}, Expand=True), of({"0010-0020": "1234"}), of({"00100020": "1234"}),
    # matching
    *(of({"PatientID": number}) for number in NUMBERS),
    *(of({"PatientID": "AB-12"}, CaseSensitive=sensitive) for sensitive in (True, False)),
    *(of({"PatientName": "popescu*"}, CaseSensitive=sensitive) for sensitive in (True, False)),
    of({"PatientName": "ștefănescu*"}), of({"PatientName": "Brânzei*", "PatientID": "2800101221145"}, Expand=True),
    of({"StudyDate": "20200101-20201231"}), of({"StudyDate": "20240101-", "PatientID": "P-1"}),
    of({"ModalitiesInStudy": "PT\\MR"}), of({"Modality": "PT"}),
    of({"StudyInstanceUID": uid(8), "Modality": "PT"}, "Series", Expand=True),
    of({"SOPInstanceUID": uid(1, 1, 2)}, "Instance", Expand=True),
    of({"StudyInstanceUID": uid(8)}, Expand=True), of({"StudyInstanceUID": f"{uid(8)}\\{uid(9)}"}, Expand=True),
    of({"AccessionNumber": "A1"}), of({"AccessionNumber": "A1"}, CaseSensitive=True),
    of({"PatientID": "83", "IssuerOfPatientID": "NODE"}, Expand=True),
    of({"PatientID": ""}), of({**ONE, "StudyDate": ""}), of({**ONE, "StudyDate": "20200101"}, "Patient"),
    # pages and order
    of({}, Limit=5, OrderBy=by("StudyInstanceUID")), of({}, Limit=5, Since=3, OrderBy=by("StudyInstanceUID", "DESC")),
    of({"PatientID": "P-1"}, Limit=1, Expand=True, OrderBy=by("StudyDate")),
    of({"PatientID": "P-1"}, Limit=1, Since=1, Expand=True, OrderBy=by("StudyDate")),
    of({"PatientID": "P-1"}, Since=5), of(ONE, Limit=0), of(ONE, Expand=True, OrderBy=by("1030", kind="Metadata")),
    # labels
    of({}, Labels=["teaching"]), of(ONE, Labels=["teaching"]), of(ONE, Labels=[]),
    *(of(ONE, Labels=["urgent", "teaching"], LabelsConstraint=constraint) for constraint in ("All", "Any", "None")),
    of({}, Labels=["urgent"], LabelsConstraint="None"), of(ONE, "Patient", Labels=["known"], Expand=True),
    # parents and metadata
    of({}, ParentPatient=PATIENT), of(ONE, ParentPatient=PATIENT, Expand=True), of({}, ParentPatient="nobody"),
    of({}, "Series", ParentStudy=STUDY, Expand=True), of(ONE, "Series", ParentPatient=PATIENT),
    of({}, "Instance", ParentSeries=SERIES), of({}, "Instance", ParentStudy=STUDY),
    of({}, MetadataQuery={"1030": "reported"}), of(ONE, MetadataQuery={"1030": "dr*"}),
    # tags and contents asked for
    of(ONE, Expand=True,
       RequestedTags=["ModalitiesInStudy", "NumberOfStudyRelatedInstances", "PatientName", "SeriesDescription"]),
    of({"PatientID": "83"}, Expand=True,
       RequestedTags=["OtherPatientIDsSequence", "0010,1002", "PatientComments", "InstanceAvailability"]),
    of(ONE, RequestedTags=["ModalitiesInStudy"]),
    of(ONE, ResponseContent=["RequestedTags"], RequestedTags=["PatientName"]),
    *(of(ONE, level, ResponseContent=content) for level in LEVELS for content in CONTENTS),
    of({}, ResponseContent=["MainDicomTags"], Limit=2, OrderBy=by("StudyInstanceUID")),
    of(ONE, NoSuchOption=5),
]  # fmt: skip

WRONG: list[Any] = [
    {}, [], "text", None, 5, {"Level": "Study"}, {"Query": {}},
    of({}, "Foo"), {"Level": 5, "Query": {}}, of([]), of({"PatientID": 5}), of({"PatientID": ["1234"]}),
    of({"PatientID": None}), of({"NoSuchTag": "x"}), of({"": "x"}),
    *(of(ONE, Expand=value) for value in ("yes", 1)), *(of(ONE, CaseSensitive=value) for value in ("yes", 1)),
    *(of(ONE, Limit=value) for value in (-1, "1", 1.5)), *(of(ONE, Since=value) for value in (-1, "1", 1.5)),
    *(of(ONE, RequestedTags=value) for value in ("PatientName", ["NoSuchTag"], ["wxyz,0010"], [5])),
    *(of(ONE, Labels=value) for value in ("urgent", [5], {})), of(ONE, Labels=["urgent"], LabelsConstraint="Some"),
    *(of(ONE, ResponseContent=value) for value in ("MainDicomTags", ["NoSuchContent"], [5])),
    *(of(ONE, OrderBy=value) for value in ("StudyDate", [{"Type": "DicomTag", "Key": "StudyDate"}], [5])),
    of(ONE, MetadataQuery={"NoSuchMetadata": "x"}), of(ONE, MetadataQuery=[]), of(ONE, ParentPatient=5),
    of(ONE, Short="yes"), of({"StudyInstanceUID": uid(1)}, ParentSeries=SERIES),
]  # fmt: skip


def settled(value: Any) -> Any:
    """Return an answer without what differs from archive to archive."""
    if isinstance(value, dict):
        return {name: settled(inner) for name, inner in value.items() if name not in VOLATILE}
    return [settled(one) for one in value] if isinstance(value, list) else value


def body(answer: requests.Response, *, ordered: bool) -> Any:
    try:
        document = settled(answer.json())
    except ValueError:
        return answer.text
    if isinstance(document, list) and not ordered:
        return sorted(document, key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(document, dict):
        # Orthanc tells a plugin which error it was, never the details.
        document.pop("Details", None)
    return document


def ask(one: Hospital, request: Any) -> requests.Response:
    return one.post("/tools/find", data=json.dumps(request, ensure_ascii=False).encode())


@pytest.mark.parametrize("request_", [*FOUND, *WRONG], ids=lambda one: json.dumps(one, ensure_ascii=False)[:90])
def test_a_request_is_answered_as_without_the_plugin(request_: Any, pair: Pair) -> None:
    plain, node = (ask(one, request_) for one in pair)
    ordered = isinstance(request_, dict) and "OrderBy" in request_
    assert outcome(node) == outcome(plain)
    assert body(node, ordered=ordered) == body(plain, ordered=ordered)


def test_the_requests_find_something(pair: Pair) -> None:
    """Two empty answers are alike too."""
    found = [len(ask(pair.plain, request).json()) for request in FOUND]
    assert found.count(0) < 12
    assert sum(ask(pair.plain, request).status_code >= 400 for request in WRONG) > 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"Level": "Study", "Query": {}} x',
        b'{"Level": "Study", "Query": {"PatientID": "\xe9"}}',
        b'{"Level": "Study", "Query": {"PatientID": "1234"}, // a comment\n "Expand": true}',
        b'{"Level": "Study", "Level": "Patient", "Query": {"PatientID": "1234"}}',
    ],
)
def test_what_is_hardly_json_is_taken_as_without_the_plugin(data: bytes, pair: Pair) -> None:
    plain, node = (one.post("/tools/find", data=data) for one in pair)
    assert outcome(node) == outcome(plain)
    assert body(node, ordered=False) == body(plain, ordered=False)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods_are_denied_where_plain_orthanc_knows_them_not(method: str, pair: Pair) -> None:
    plain, node = (one.session.request(method, f"{one.url}/tools/find", timeout=10) for one in pair)
    assert plain.status_code in (404, 405)
    assert node.status_code == 403


def test_nobody_without_a_password(pair: Pair) -> None:
    plain, node = (
        requests.post(f"{one.url}/tools/find", data='{"Level": "Study", "Query": {}}', timeout=10) for one in pair
    )
    assert node.status_code == plain.status_code == 401


def test_orthanc_derives_the_identifiers_that_we_derive(pair: Pair) -> None:
    for patient, study in (("1234", 1), ("_1234", 3), ("Müller-1", 8), (" 88 ", 22), ("86\\87", 21)):
        found = pair.plain.find("Study", {"StudyInstanceUID": uid(study)})[0]
        assert (found["ID"], found["ParentPatient"]) == (orthanc_id(patient, uid(study)), orthanc_id(patient))
