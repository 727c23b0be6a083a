"""Every option of `POST /tools/find` where a part of the answer is elsewhere, against an Orthanc that has everything.

What the options do to what is here is compared with a plain Orthanc in tests/host.
"""

from typing import Any

import pytest

from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import permit

CNP = national_number(901)
PATIENT = Patient(CNP, name="Opțiune^Ana")
HERE = [
    Study("options here 1", PATIENT, instances=1, date="20210101", accession="H1"),
    Study("options here 2", PATIENT, instances=2, date="20230101", accession="H2"),
]
THERE = [
    Study("options there 1", PATIENT, series=2, instances=2, date="20200101", accession="T1"),
    Study("options there 2", PATIENT, modality="MR", instances=1, date="20220101", accession="T2"),
    Study("options there 3", PATIENT, instances=1, date="20240101", accession="T3"),
]
HERE_ONLY = {"Status", "LastUpdate", "Metadata", "Labels", "Attachments"}


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store two studies at B and three at A; the plain Orthanc has all five."""
    world.place([*((world.b, one) for one in HERE), *((world.a, one) for one in THERE)])
    world.forget_outside()
    for one in (*HERE, *THERE):
        for file in one.files():
            world.outside.store(file)
    world.region.consent(permit("RO-CNP", CNP, recipients=[world.b.id]))
    for hospital in (world.b, world.outside):
        (one,) = _ask(hospital, Query={"StudyInstanceUID": HERE[0].uid})
        hospital.session.put(f"{hospital.url}/studies/{one}/labels/reviewed", data=b"", timeout=30).raise_for_status()


def _ask(hospital: Any, **request: Any) -> list[Any]:
    answer = hospital.post("/tools/find", {"Level": "Study", "Query": {"PatientID": CNP}, **request})
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def _remote(answers: list[Any]) -> list[Any]:
    return [one for one in answers if "HeldBy" in one]


@pytest.mark.parametrize("level", ["Patient", "Study", "Series", "Instance"])
def test_without_expand_the_identifiers_are_those_that_the_resources_will_have(world: World, level: str) -> None:
    everything = _ask(world.outside, Level=level)
    assert sorted(_ask(world.b, Level=level)) == sorted(everything)
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("options", [{}, {"Short": True}, {"Full": True}], ids=["plain", "short", "full"])
@pytest.mark.parametrize("level", ["Study", "Series", "Instance"])
def test_what_is_elsewhere_is_described_as_if_it_were_here(world: World, level: str, options: dict[str, Any]) -> None:
    """Each value that is given is the one that Orthanc would give; some are missing, and the holder is named."""
    plain = {one["ID"]: one for one in _ask(world.outside, Level=level, Expand=True, **options)}
    remote = _remote(_ask(world.b, Level=level, Expand=True, **options))
    assert len(remote) == {"Study": 3, "Series": 4, "Instance": 6}[level]
    for one in remote:
        expected = plain[one["ID"]]
        held = one.pop("HeldBy")
        assert (held["Hospital"], held["Name"]) == (world.a.id, world.a.name)
        assert one.pop("InstanceAvailability") == "NEARLINE"
        assert one.pop("Labels") == ["usmed-remote"]
        for name in ("MainDicomTags", "PatientMainDicomTags"):
            for tag, value in one.pop(name, {}).items():
                # The institution is where the holder is named.
                if tag not in ("InstitutionName", "0008,0080"):
                    assert expected[name][tag] == value, (name, tag)
            assert (name in expected) is (name == "MainDicomTags" or level == "Study")
        one.pop("LastUpdate", None)
        # The plain Orthanc may have got it a moment ago.
        assert one.pop("IsStable", True)
        # What it consists of is not known yet.
        for children in ("Series", "Instances"):
            assert one.pop(children, []) == []
        assert {name: expected[name] for name in one} == one


def test_response_content_is_what_was_asked_for(world: World) -> None:
    always = {"ID", "Type", "HeldBy", "InstanceAvailability"}
    for content, members in (
        ([], set()),
        (["MainDicomTags"], {"MainDicomTags", "PatientMainDicomTags"}),
        (["Labels"], {"Labels"}),
        (["Parent"], {"ParentPatient"}),
        (["Children"], {"Series"}),
        (["IsStable"], {"IsStable"}),
        (["Metadata"], {"Metadata"}),
        (["RequestedTags"], {"RequestedTags"}),
        (["Parent", "Labels"], {"ParentPatient", "Labels"}),
    ):
        for one in _remote(_ask(world.b, ResponseContent=content)):
            assert set(one) == always | members, content


def test_requested_tags_are_computed_as_by_orthanc(world: World) -> None:
    tags = ["ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "PatientName",
            "PatientID", "StudyDate", "0008,0050", "0010,0040"]  # fmt: skip
    plain = {one["ID"]: one["RequestedTags"] for one in _ask(world.outside, Expand=True, RequestedTags=tags)}
    answers = _ask(world.b, Expand=True, RequestedTags=tags)
    assert {one["ID"]: one["RequestedTags"] for one in answers} == plain


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("expand", [False, True])
def test_pages_give_each_study_once(world: World, limit: int, expand: bool) -> None:
    whole = _ask(world.b, Expand=expand)
    pages: list[Any] = []
    for since in range(0, 8, limit):
        page = _ask(world.b, Expand=expand, Since=since, Limit=limit)
        assert len(page) <= limit
        pages += page
    assert pages == whole
    assert len(pages) == 5
    assert _ask(world.b, Expand=expand, Since=3) == whole[3:]


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("key", ["StudyDate", "AccessionNumber", "0008,0020"])
@pytest.mark.parametrize("page", [{}, {"Since": 1, "Limit": 3}, {"Limit": 2}, {"Since": 4}], ids=str)
def test_the_order_is_that_of_everything_together(world: World, key: str, direction: str, page: dict[str, int]) -> None:
    order = {"OrderBy": [{"Type": "DicomTag", "Key": key, "Direction": direction}]}
    assert _ask(world.b, **order, **page) == _ask(world.outside, **order, **page)
    expanded = _ask(world.b, **order, **page, ResponseContent=["MainDicomTags"])
    assert [one["ID"] for one in expanded] == _ask(world.outside, **order, **page)


def test_the_order_by_more_than_one_key(world: World) -> None:
    order = {
        "OrderBy": [
            {"Type": "DicomTag", "Key": "PatientID", "Direction": "DESC"},
            {"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"},
        ]
    }
    assert _ask(world.b, **order) == _ask(world.outside, **order)
    series = {"Level": "Series", "OrderBy": [
        {"Type": "DicomTag", "Key": "Modality", "Direction": "DESC"},
        {"Type": "DicomTagAsInt", "Key": "SeriesNumber", "Direction": "DESC"},
    ]}  # fmt: skip
    modalities = [one["MainDicomTags"]["Modality"] for one in _ask(world.b, **series, Expand=True)]
    assert modalities == ["MR"] + ["CT"] * 5


@pytest.mark.parametrize(
    ("labels", "constraint", "count"),
    [
        (["reviewed"], "All", 1),
        (["usmed-remote"], "All", 3),
        (["usmed-remote"], "Any", 3),
        (["usmed-remote", "reviewed"], "Any", 4),
        (["usmed-remote", "reviewed"], "All", 0),
        (["usmed-remote"], "None", 2),
        (["reviewed"], "None", 4),
        (["reviewed", "usmed-remote"], "None", 1),
        (["never"], "All", 0),
        (["never"], "None", 5),
        ([], "All", 5),
    ],
)
def test_labels(world: World, labels: list[str], constraint: str, count: int) -> None:
    assert len(_ask(world.b, Labels=labels, LabelsConstraint=constraint)) == count


@pytest.mark.parametrize(
    "query",
    [
        {"StudyDate": "20200101-20221231"},
        {"StudyDescription": "studiu OPTIONS there*"},
        {"StudyDescription": "Studiu options*1"},
        {"ModalitiesInStudy": "MR"},
        {"ModalitiesInStudy": "MR\\US"},
        {"AccessionNumber": "t?"},
        {"PatientName": "opțiune*"},
        {"PatientName": "Nimeni"},
        {"0010,0020": CNP, "0008,0020": "20240101"},
    ],
    ids=str,
)
@pytest.mark.parametrize("case_sensitive", [False, True, None])
def test_further_keys_and_case(world: World, query: dict[str, str], case_sensitive: bool | None) -> None:
    if "PatientName" in query:
        # Names match in any case across the region, as in C-FIND.
        case_sensitive = False
    options: dict[str, Any] = {"Query": {"PatientID": CNP, **query}}
    if case_sensitive is not None:
        options["CaseSensitive"] = case_sensitive
    assert sorted(_ask(world.b, **options)) == sorted(_ask(world.outside, **options))


def test_what_speaks_of_this_archive_alone_stays_here(world: World) -> None:
    (parent,) = _ask(world.b, Level="Patient")
    assert len(_ask(world.b, ParentPatient=parent)) == len(HERE)
    assert _ask(world.b, MetadataQuery={"LastUpdate": "*"}) == _ask(world.b, ParentPatient=parent)
    count = world.b.post("/tools/count-resources", {"Level": "Study", "Query": {"PatientID": CNP}}).json()
    assert count == {"Count": len(HERE)}
