"""QIDO-RS search for studies: with our plugin it answers as the DICOMweb plugin does."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
import requests

from host.archive_data import uid
from host.conftest import Pair, outcome
from support.region import Hospital

AVAILABILITY = "00080056"
"""InstanceAvailability, which Table 10.6.3-3 of PS3.18 wants in every answer and the DICOMweb plugin leaves out."""

SEARCHES = [
    "", "PatientID=1234", "PatientID=_1234", "PatientID=%251234", "PatientID=01234", "PatientID=77", "PatientID=ID 77",
    "PatientID=nobody", "PatientID=", "PatientID=88", "PatientID=86", "PatientID=Müller-1", "PatientID=1234,79",
    "PatientID=12*", "PatientID=?1234", "0010,0020=1234", "00100020=1234", "PatientID=2800101221145",
    "PatientName=popescu*", "PatientName=POPESCU^ANA", "PatientName=popescu*&PatientID=1234", "PatientName=王*",
    "PatientName=ștefănescu*", "PatientName=Иванов*", "fuzzymatching=true&PatientName=popescu*", "fuzzymatching=false",
    f"StudyInstanceUID={uid(8)}", f"StudyInstanceUID={uid(1)},{uid(8)},1.2", "StudyInstanceUID=not-a-uid",
    "StudyInstanceUID=", f"0020000D={uid(8)}", "StudyDate=20200101-20201231", "StudyDate=20230101-",
    "StudyDate=-20180505", "StudyDate=x", "StudyTime=100000-120000", "AccessionNumber=A1", "AccessionNumber=A22",
    "AccessionNumber=A*1", "ModalitiesInStudy=PT", "ModalitiesInStudy=CT,MR", "Modality=MR",
    "SeriesDescription=Serie 1", "StudyID=S11", "ReferringPhysicianName=ref*", "StudyDescription=*contrast",
    "PatientBirthDate=19800101&PatientSex=F", "PatientComments=a comment",
    "limit=0", "limit=-1", "offset=31", "offset=100", "offset=-1", "PatientID=P-1&limit=1&offset=5",
    # what it does not know it leaves out of account
    "NoSuch=1", "PatientID=1234&emptyvaluematching=true", "PatientID=82&ProcedureCodeSequence.CodeValue=P1", "=x",
]  # fmt: skip

FIELDS = [
    "PatientID=1234&includefield=StudyDescription", "PatientID=81&includefield=00081030",
    "PatientID=83&includefield=all",
    "PatientID=83&includefield=PatientComments,IssuerOfPatientID,OtherPatientIDsSequence", "PatientID=83&includefield=",
    "PatientID=82&includefield=RequestAttributesSequence,ProcedureCodeSequence", "PatientID=83&includefield=NoSuch",
    "PatientID=83&includefield=SliceThickness,ImageType,Rows,FrameIncrementPointer,SOPClassesInStudy",
    "PatientID=1234&includefield=NumberOfStudyRelatedInstances,ModalitiesInStudy", "includefield=StudyTime",
]  # fmt: skip

WRONG = ["limit=x", "limit=", "limit=1.5", "limit=99999999999", "offset=x", "fuzzymatching=maybe", "limit=5&offset=1e3"]


def search(one: Hospital, query: str, **headers: str) -> requests.Response:
    return one.get(f"/dicom-web/studies?{query}", headers=headers)


def settled(one: Hospital, answer: requests.Response) -> Any:
    """Return the answer without what has to differ: where it came from, and the availability."""
    document = answer.json()
    if isinstance(document, dict):
        document.pop("Details", None)
        return document
    for dataset in document:
        dataset.pop(AVAILABILITY, None)
        dataset["00081190"]["Value"] = [url.replace(str(one.http_port), "PORT") for url in dataset["00081190"]["Value"]]
    return sorted(document, key=lambda dataset: dataset["0020000D"]["Value"])


@pytest.mark.parametrize("query", SEARCHES)
def test_a_search_answers_as_the_dicomweb_plugin(query: str, pair: Pair) -> None:
    plain, node = (search(one, query) for one in pair)
    assert outcome(node) == outcome(plain) == (200, "application/dicom+json")
    assert settled(pair.node, node) == settled(pair.plain, plain)


@pytest.mark.parametrize("query", FIELDS)
def test_who_asks_for_fields_gets_at_least_those(query: str, pair: Pair) -> None:
    plain, node = (search(one, query) for one in pair)
    assert outcome(node) == outcome(plain)
    expected, found = settled(pair.plain, plain), settled(pair.node, node)
    assert len(found) == len(expected) > 0
    for wanted, given in zip(expected, found, strict=True):
        assert {tag: given.get(tag) for tag in wanted} == wanted


@pytest.mark.parametrize("query", WRONG)
def test_what_is_wrong_is_refused_as_by_the_dicomweb_plugin(query: str, pair: Pair) -> None:
    plain, node = (search(one, query) for one in pair)
    assert outcome(node) == outcome(plain) == (400, "text/plain")
    assert settled(pair.node, node) == settled(pair.plain, plain)


def test_the_searches_find_something(pair: Pair) -> None:
    """Two empty answers are alike too."""
    counts = [len(search(pair.plain, query).json()) for query in SEARCHES]
    assert counts.count(0) < 18
    assert max(counts) == 31


def test_pages(pair: Pair) -> None:
    for one in pair:
        whole = [dataset["0020000D"]["Value"] for dataset in search(one, "").json()]
        assert len(whole) == 31
        paged = [
            dataset["0020000D"]["Value"]
            for offset in range(0, 40, 7)
            for dataset in search(one, f"limit=7&offset={offset}").json()
        ]
        assert sorted(paged) == sorted(whole)


def test_a_patient_number_counts_with_its_case(pair: Pair) -> None:
    """The DICOMweb plugin lists both patients; here they never mix."""
    assert len(search(pair.plain, "PatientID=AB-12").json()) == 2
    for number, study in (("AB-12", 7), ("ab-12", 6)):
        found = search(pair.node, f"PatientID={number}").json()
        assert [one["0020000D"]["Value"] for one in found] == [[uid(study)]]
    assert search(pair.node, "PatientID=Ab-12").json() == []
    assert len(search(pair.node, "PatientID=?B-12").json()) == 1
    assert len(search(pair.node, "PatientID=AB-12,ab-12").json()) == 2


def test_every_answer_says_that_it_is_here(pair: Pair) -> None:
    for dataset in search(pair.node, "").json():
        assert dataset[AVAILABILITY] == {"vr": "CS", "Value": ["ONLINE"]}


ACCEPTS = [
    "*/*", "application/json", "application/dicom+json", "application/dicom+xml", "multipart/related",
    'multipart/related; type="application/dicom+xml"', "multipart/related; type=application/dicom+xml", "text/html",
    "application/dicom+json, multipart/related", "image/jpeg",
]  # fmt: skip


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_form_that_was_asked_for(accept: str, pair: Pair) -> None:
    plain, node = (search(one, "PatientID=83", Accept=accept) for one in pair)
    kinds = [re.sub("boundary=.*", "boundary", answer.headers["Content-Type"]) for answer in (plain, node)]
    assert kinds[0] == kinds[1]
    assert node.status_code == plain.status_code == 200


def xml_datasets(one: Hospital, answer: requests.Response) -> list[str]:
    """Return each part of a multipart answer in canonical form."""
    boundary = re.search('boundary="?([^";]*)', answer.headers["Content-Type"])
    assert boundary is not None
    datasets = []
    for part in answer.content.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        assert b"Content-Type: application/dicom+xml" in head
        text = body.strip().decode().replace(str(one.http_port), "PORT")
        root = ElementTree.fromstring(text)
        for attribute in list(root):
            if attribute.get("tag") == AVAILABILITY:
                root.remove(attribute)
        datasets.append(ElementTree.canonicalize(ElementTree.tostring(root, "unicode"), strip_text=True))
    return sorted(datasets)


@pytest.mark.parametrize("query", ["PatientID=1234", "", "PatientName=王*", "PatientID=11", "PatientID=83"])
def test_xml(query: str, pair: Pair) -> None:
    plain, node = (search(one, query, Accept="application/dicom+xml") for one in pair)
    assert xml_datasets(pair.node, node) == xml_datasets(pair.plain, plain)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "pacs.example:99"},
        {"Forwarded": "for=1.2.3.4;host=pacs.example;proto=https"},
        {"Forwarded": "host=pacs.example"},
        {"Forwarded": "proto=https"},
        {"Forwarded": "Host=a.example;Proto=https, host=b.example;proto=http"},
        {"X-Forwarded-Proto": "https"},
    ],
    ids=str,
)
def test_the_address_under_which_it_can_be_fetched(headers: dict[str, str], pair: Pair) -> None:
    plain, node = (settled(one, search(one, "PatientID=83", **headers)) for one in pair)
    assert node == plain


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_other_methods_are_denied_where_plain_orthanc_knows_them_not(method: str, pair: Pair) -> None:
    plain, node = (one.session.request(method, f"{one.url}/dicom-web/studies", timeout=10) for one in pair)
    assert (plain.status_code, node.status_code) == (405, 403)


@pytest.mark.parametrize(
    "path",
    [
        f"studies/{uid(8)}/series", f"studies/{uid(8)}/instances", "series?PatientID=1234", "instances?PatientID=1234",
        f"studies/{uid(8)}/metadata", f"studies/{uid(8)}/series/{uid(8, 2)}/instances?limit=1",
        f"series?StudyInstanceUID={uid(8)}",
        f"studies/{uid(99)}/series", f"studies/{uid(99)}/metadata", "servers", "info",
    ],
)  # fmt: skip
def test_the_other_routes_stay_with_the_dicomweb_plugin(path: str, pair: Pair) -> None:
    plain, node = (one.get(f"/dicom-web/{path}") for one in pair)
    assert outcome(node) == outcome(plain)
    texts = [answer.text.replace(str(one.http_port), "PORT") for one, answer in zip(pair, (plain, node), strict=True)]
    assert sorted(texts[0]) == sorted(texts[1])
