"""What names one patient, and how local and remote answers become one list."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.ro import cnp

from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.domain.lookup import Level, RemoteAnswer, Selector, merge_holders, only_remote, select_patient

NAMING = Naming("PARHON", NationalNumber("RO-CNP"))
CNP = "180010122114" + cnp.calc_check_digit("180010122114")
OWN = PatientIdentifier("PARHON", "1234")


def by_number(issuer: str, value: str) -> Selector:
    return Selector(identifier=PatientIdentifier(issuer, value))


SELECTED: list[tuple[dict[str, Any], Selector | None]] = [
    ({"PatientID": "1234"}, by_number("PARHON", "1234")),
    ({"PatientID": " 1234 "}, by_number("PARHON", "1234")),
    ({"PatientID": "_1234"}, by_number("PARHON", "_1234")),
    ({"PatientID": "%"}, by_number("PARHON", "%")),
    ({"PatientID": CNP}, by_number("RO-CNP", CNP)),
    ({"PatientID": CNP, "IssuerOfPatientID": "REGIONAL"}, by_number("REGIONAL", CNP)),
    ({"PatientID": "1234", "PatientName": "Pop*", "StudyDate": "20200101-"}, by_number("PARHON", "1234")),
    ({"PatientID": "1234", "StudyInstanceUID": "1.2"}, by_number("PARHON", "1234")),
    ({"PatientID": "1234", "StudyInstanceUID": "1.2\\1.3"}, by_number("PARHON", "1234")),
    ({"PatientID": "1234", "IssuerOfPatientID": ""}, by_number("PARHON", "1234")),
    ({"StudyInstanceUID": "1.2.3"}, Selector(study_instance_uid="1.2.3")),
    ({"StudyInstanceUID": "1.2.3", "AccessionNumber": "A1"}, Selector(study_instance_uid="1.2.3")),
    ({"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}, Selector(study_instance_uid="1.2.3")),
    ({"AccessionNumber": " A1 "}, Selector(accession_number="A1")),
    ({"AccessionNumber": "A1", "PatientName": "*"}, Selector(accession_number="A1")),
    # what names nobody, or perhaps several
    ({}, None),
    ({"PatientName": "Popescu^Ana"}, None),
    ({"PatientName": "Popescu^Ana", "PatientBirthDate": "19800101"}, None),
    ({"StudyDate": "20200101"}, None),
    ({"PatientID": ""}, None),
    ({"PatientID": "  "}, None),
    ({"PatientID": "*"}, None),
    ({"PatientID": "123?"}, None),
    ({"PatientID": "12*"}, None),
    ({"PatientID": "1234\\1235"}, None),
    ({"PatientID": "1234", "IssuerOfPatientID": "*"}, None),
    ({"PatientID": "1234", "IssuerOfPatientID": "A\\B"}, None),
    ({"PatientID": "x" * 65}, None),
    ({"PatientID": ["1234"]}, None),
    ({"PatientID": 1234}, None),
    # a pattern of patients with a single study or number behind it is still a pattern of patients
    ({"PatientID": "12*", "StudyInstanceUID": "1.2.3"}, None),
    ({"PatientID": "12*", "AccessionNumber": "A1"}, None),
    ({"StudyInstanceUID": "1.2\\1.3"}, None),
    ({"StudyInstanceUID": "1.2.*"}, None),
    ({"StudyInstanceUID": "1.2\\1.3", "AccessionNumber": "A1"}, None),
    ({"StudyInstanceUID": "not a uid"}, None),
    ({"AccessionNumber": "A*"}, None),
    ({"SeriesInstanceUID": "1.2.3.4"}, None),
    ({"SOPInstanceUID": "1.2.3.4.5"}, None),
]


@pytest.mark.parametrize(("keys", "expected"), SELECTED, ids=lambda one: str(one)[:60])
def test_what_names_one_patient(keys: dict[str, Any], expected: Selector | None) -> None:
    assert select_patient(keys, NAMING) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber", "PatientName"]),
        st.text(st.sampled_from("12.A*?\\ "), max_size=5),
    )
)
def test_a_list_or_a_pattern_never_names_a_patient(keys: dict[str, str]) -> None:
    selector = select_patient(keys, NAMING)
    if selector is None:
        return
    chosen = [selector.identifier is not None, bool(selector.study_instance_uid), bool(selector.accession_number)]
    assert chosen.count(True) == 1
    key = "PatientID" if chosen[0] else "StudyInstanceUID" if chosen[1] else "AccessionNumber"
    assert not set("*?\\") & set(keys[key])
    assert key == "PatientID" or not keys.get("PatientID")


def test_a_selector_asks_the_hub_and_names_itself() -> None:
    selectors = [by_number("A", "1"), Selector(study_instance_uid="1.2"), Selector(accession_number="A1")]
    assert [one.to_json() for one in selectors] == [
        {"identifier": {"issuer": "A", "value": "1"}},
        {"study_instance_uid": "1.2"},
        {"accession_number": "A1"},
    ]
    assert list(map(str, selectors)) == ["patient:A:1", "study:1.2", "accession:A1"]


# ---- merging ----


def answer(holder: str, study: str, instances: int = 1, **tags: str) -> RemoteAnswer:
    return RemoteAnswer(holder, OWN, study, {"StudyInstanceUID": study, **tags}, instances)


def held(answers: list[RemoteAnswer]) -> list[tuple[str, str]]:
    return [(one.holder, one.study_instance_uid) for one in answers]


def test_of_several_holders_the_one_with_the_most_answers() -> None:
    answers = [answer("b", "1.1", 5), answer("a", "1.1", 4), answer("c", "1.1", 5), answer("c", "1.2")]
    assert held(merge_holders(Level.STUDY, answers)) == [("b", "1.1"), ("c", "1.2")]


def test_series_and_instances_are_merged_by_their_own_key() -> None:
    series = [answer("a", "1.1", 9, SeriesInstanceUID="s1"), answer("a", "1.1", 9, SeriesInstanceUID="s2"),
              answer("b", "1.1", 3, SeriesInstanceUID="s1"), answer("b", "1.1", 3, SeriesInstanceUID="s3")]  # fmt: skip
    merged = merge_holders(Level.SERIES, series)
    assert [(one.holder, one.tags["SeriesInstanceUID"]) for one in merged] == [("a", "s1"), ("a", "s2"), ("b", "s3")]
    images = [answer("a", "1.1", SOPInstanceUID=str(number % 3)) for number in range(9)]
    assert len(merge_holders(Level.IMAGE, images)) == 3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(answer, st.sampled_from("abc"), st.sampled_from(["1.1", "1.2", "1.3"]), st.integers(0, 3)),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_merging_loses_no_study_and_does_not_depend_on_who_answers_first(
    answers: list[RemoteAnswer], random: Any
) -> None:
    merged = merge_holders(Level.STUDY, answers)
    assert sorted(one.study_instance_uid for one in merged) == sorted({one.study_instance_uid for one in answers})
    assert all(
        one.instances == max(other.instances for other in answers if other.study_instance_uid == one.study_instance_uid)
        for one in merged
    )
    random.shuffle(answers)
    assert merge_holders(Level.STUDY, answers) == merged


def test_what_is_here_whole_is_not_listed_twice() -> None:
    answers = [answer("a", "1.1"), answer("a", "1.2"), answer("a", "1.3")]
    assert held(only_remote(Level.STUDY, answers, ["1.1", "1.3"])) == [("a", "1.2")]
    assert held(only_remote(Level.STUDY, answers, [])) == held(answers)


def test_a_study_of_which_only_a_part_is_here_counts_as_not_here() -> None:
    answers = [answer("a", "1.1"), answer("a", "1.2")]
    assert held(only_remote(Level.STUDY, answers, ["1.1", "1.2"], ["1.2"])) == [("a", "1.2")]
    image = [answer("a", "1.2", SOPInstanceUID="9")]
    assert only_remote(Level.IMAGE, image, ["9"]) == []
    assert only_remote(Level.IMAGE, image, ["9"], ["1.2"]) == image


@pytest.mark.parametrize(
    ("level", "word"), [("PATIENT", "Patient"), ("STUDY", "Study"), ("SERIES", "Series"), ("IMAGE", "Instance")]
)
def test_orthancs_words_for_the_levels(level: str, word: str) -> None:
    assert Level(level).orthanc == word
