"""The patient index: who is joined, who is kept apart, and that a number never names two persons."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.hub.index import Chart, Decided, Links, link, linking_identifiers

NATIONAL = NationalNumber("RO-CNP")
CNP = PatientIdentifier("RO-CNP", "1630615123457")
FOREIGNER = PatientIdentifier("RO-CNP", "9630615123451")
"""A valid number of the kind that says nothing of sex and century."""


def chart(id: int, hospital: str, *numbers: str | PatientIdentifier, birth_date: str = "", sex: str = "") -> Chart:
    """A chart; numbers given as text are the hospital's own."""
    own = (PatientIdentifier(hospital.upper(), one) if isinstance(one, str) else one for one in numbers)
    return Chart(id, hospital, frozenset(own), birth_date, sex)


def groups(links: Links) -> list[set[int]]:
    by_person: dict[int, set[int]] = {}
    for key, person in links.persons.items():
        by_person.setdefault(person, set()).add(key)
    return sorted(by_person.values(), key=min)


def test_the_test_numbers_are_valid() -> None:
    assert NATIONAL.accepts(CNP.value, "19630615", "M")
    assert NATIONAL.accepts(FOREIGNER.value, "19630615", "F")
    assert NATIONAL.accepts(FOREIGNER.value, "20630615", "M")


@pytest.mark.parametrize(
    ("charts", "expected"),
    [
        pytest.param([chart(1, "a", "1", CNP), chart(2, "b", "9", CNP)], [{1, 2}], id="equal national number"),
        pytest.param(
            [chart(1, "a", "1", CNP), chart(2, "b", "9", CNP, birth_date="19630615", sex="M")],
            [{1, 2}],
            id="one of them without birth date and sex",
        ),
        pytest.param([chart(1, "a", "1"), chart(2, "b", "1")], [{1}, {2}], id="equal numbers of two issuers"),
        pytest.param([chart(1, "a", "1"), chart(2, "a", "1", CNP)], [{1, 2}], id="own number links in its hospital"),
        pytest.param(
            [chart(1, "a", "1"), chart(2, "b", "9", CNP), chart(3, "a", "1", CNP)],
            [{1, 2, 3}],
            id="a later chart joins two persons",
        ),
        pytest.param([chart(1, "a", "1"), chart(2, "a", "01"), chart(3, "a", "_")], [{1}, {2}, {3}], id="look-alikes"),
        pytest.param([chart(1, "a", "1", "2"), chart(2, "a", "2")], [{1, 2}], id="two own numbers in one study"),
    ],
)
def test_charts_are_joined(charts: list[Chart], expected: list[set[int]]) -> None:
    links = link(charts, NATIONAL)
    assert groups(links) == expected
    assert links.contradictions == []


@pytest.mark.parametrize(
    ("charts", "refused", "reason"),
    [
        pytest.param(
            [chart(1, "a", "1", CNP), chart(2, "b", "9", CNP, birth_date="19630616")],
            (2, CNP, 0),
            "does not fit",
            id="the number itself says another birth date",
        ),
        pytest.param(
            [chart(1, "a", "1", CNP), chart(2, "b", "9", CNP, sex="F")],
            (2, CNP, 0),
            "does not fit",
            id="the number itself says another sex",
        ),
        pytest.param(
            [chart(1, "a", "1", FOREIGNER, sex="M"), chart(2, "b", "9", FOREIGNER, sex="F")],
            (2, FOREIGNER, 1),
            "different sexes: M and F",
            id="two charts with different sexes",
        ),
        pytest.param(
            [
                chart(1, "a", "1", FOREIGNER, birth_date="19630615"),
                chart(2, "b", "9", FOREIGNER, birth_date="20630615"),
            ],
            (2, FOREIGNER, 1),
            "different birth dates",
            id="two charts with different birth dates",
        ),
        pytest.param(
            [chart(1, "a", "1", CNP), chart(2, "a", "1", FOREIGNER)],
            (2, PatientIdentifier("A", "1"), 1),
            "different national numbers",
            id="one own number, two national numbers",
        ),
        pytest.param(
            [chart(1, "a", "1", birth_date="19630615"), chart(2, "a", "1", birth_date="19500101")],
            (2, PatientIdentifier("A", "1"), 1),
            "different birth dates",
            id="one own number, two birth dates",
        ),
        pytest.param(
            [chart(1, "a", "1"), chart(2, "b", PatientIdentifier("RO-CNP", "0000000000000"))],
            (2, PatientIdentifier("RO-CNP", "0000000000000"), 0),
            "not a valid national number",
            id="a number that is none",
        ),
    ],
)
def test_the_newer_is_kept_apart_and_listed(
    charts: list[Chart], refused: tuple[int, PatientIdentifier, int], reason: str
) -> None:
    links = link(charts, NATIONAL)
    assert groups(links) == [{1}, {2}]
    (contradiction,) = links.contradictions
    assert (contradiction.chart, contradiction.identifier, contradiction.other) == refused
    assert reason in contradiction.reason


def test_two_national_numbers_in_one_chart_link_nothing() -> None:
    links = link([chart(1, "a", "1", CNP), chart(2, "b", "9", CNP, FOREIGNER)], NATIONAL)
    assert groups(links) == [{1}, {2}]
    assert {one.identifier for one in links.contradictions} == {CNP, FOREIGNER}


def test_a_number_whose_first_chart_was_wrong_goes_to_the_one_that_fits() -> None:
    links = link([chart(1, "a", "1", CNP, sex="F"), chart(2, "b", "9", CNP, sex="M")], NATIONAL)
    assert [one.chart for one in links.contradictions] == [1]


def test_a_chart_between_two_persons_that_contradict_each_other_belongs_to_the_older() -> None:
    charts = [
        chart(1, "a", "1", birth_date="19630615"),
        chart(2, "a", "2", birth_date="19500101"),
        chart(3, "a", "1", "2"),
    ]
    links = link(charts, NATIONAL)
    assert groups(links) == [{1, 3}, {2}]
    assert [(one.chart, one.identifier.value, one.other) for one in links.contradictions] == [(3, "2", 2)]


def test_without_a_national_number_nothing_links_across_hospitals() -> None:
    assert groups(link([chart(1, "a", "1", CNP), chart(2, "b", "9")], None)) == [{1}, {2}]


NUMBERS = st.sampled_from([CNP, FOREIGNER, PatientIdentifier("RO-CNP", "1"), *"12_%"])
CHARTS = st.lists(
    st.builds(
        lambda hospital, numbers, birth_date, sex: (hospital, numbers, birth_date, sex),
        st.sampled_from("ab"),
        st.sets(NUMBERS, min_size=1, max_size=3),
        st.sampled_from(["", "19630615", "19500101", "20630615"]),
        st.sampled_from(["", "M", "F", "O"]),
    ),
    max_size=8,
)


def build(rows: Iterable[tuple[str, set[str | PatientIdentifier], str, str]]) -> list[Chart]:
    return [chart(n, h, *numbers, birth_date=b, sex=s) for n, (h, numbers, b, s) in enumerate(rows, 1)]


@given(CHARTS)
def test_whatever_hospitals_feed(rows: list[tuple[str, set[str | PatientIdentifier], str, str]]) -> None:
    charts = build(rows)
    links = link(charts, NATIONAL)
    assert links.persons.keys() == {one.id for one in charts}

    # A number names one person at most.
    refused = {(one.chart, one.identifier) for one in links.contradictions}
    named: dict[PatientIdentifier, int] = {}
    for one in charts:
        for number in one.identifiers:
            if (one.id, number) not in refused:
                assert named.setdefault(number, links.persons[one.id]) == links.persons[one.id]

    # A person is named by its oldest chart, and nothing in it contradicts anything else in it.
    for keys in groups(links):
        members = [one for one in charts if one.id in keys]
        assert {links.persons[key] for key in keys} == {min(keys)}
        assert len({one.birth_date for one in members} - {""}) <= 1
        assert len({one.sex for one in members} - {"", "O"}) <= 1
        nationals = {
            number
            for one in members
            for number in one.identifiers
            if number.issuer == "RO-CNP" and (one.id, number) not in refused
        }
        assert len(nationals) <= 1

    # The order in which the database returns charts does not matter.
    assert link(reversed(charts), NATIONAL) == links


DECISIONS = st.lists(
    st.one_of(
        st.builds(
            lambda one, other: {"together": frozenset({one, other})}, st.integers(1, 8), st.integers(1, 8)
        ),
        st.builds(
            lambda one, other, lost: {"apart": (frozenset(one), frozenset(other - one)), "lost": frozenset(lost)},
            st.sets(st.integers(1, 8), max_size=3),
            st.sets(st.integers(1, 8), max_size=3),
            st.sets(st.tuples(st.integers(1, 8), NUMBERS.filter(lambda one: not isinstance(one, str))), max_size=3),
        ),
    ),
    max_size=5,
)


@given(CHARTS, DECISIONS)
def test_whatever_hospitals_feed_and_people_decide(
    rows: list[tuple[str, set[str | PatientIdentifier], str, str]], given_decisions: list[dict[str, Any]]
) -> None:
    charts = build(rows)
    decided = [Decided(n, **one) for n, one in enumerate(given_decisions, 1)]
    links = link(charts, NATIONAL, decided)
    persons = links.persons

    # A number names one person at most.
    refused = {(one.chart, one.identifier) for one in links.contradictions}
    named: dict[PatientIdentifier, int] = {}
    for one in charts:
        for number in one.identifiers:
            if (one.id, number) not in refused:
                assert named.setdefault(number, persons[one.id]) == persons[one.id]

    for each in decided:
        # What was parted is apart, and a number that was lost finds nobody; what was joined is together, or void.
        mine, theirs = ({persons[key] for key in side if key in persons} for side in each.apart)
        assert mine.isdisjoint(theirs)
        assert {one for one in each.lost if one[0] in persons and one[1] in charts[one[0] - 1].identifiers} <= refused
        together = {persons[key] for key in each.together if key in persons}
        assert len(together) <= 1 or each.id in links.void

    # A decision overrides birth dates, and nothing else.
    for keys in groups(links):
        members = [one for one in charts if one.id in keys]
        assert len({one.sex for one in members} - {"", "O"}) <= 1

    assert link(reversed(charts), NATIONAL, reversed(decided)) == links


def test_a_decision_joins_whatever_the_birth_dates_and_either_is_right_then() -> None:
    charts = [
        chart(1, "a", "1", birth_date="19630605"),
        chart(2, "b", "9", birth_date="19630506"),
        chart(3, "a", "1", birth_date="19630506"),
        chart(4, "b", "9", birth_date="19990101"),
    ]
    links = link(charts, NATIONAL, [Decided(1, together=frozenset({1, 2}))])
    assert groups(links) == [{1, 2, 3}, {4}]
    assert [one.chart for one in links.contradictions] == [4]


def test_a_decision_to_join_what_contradicts_is_void_and_says_why() -> None:
    charts = [chart(1, "a", "1", sex="M"), chart(2, "b", "9", sex="F")]
    links = link(charts, NATIONAL, [Decided(1, together=frozenset({1, 2}))])
    assert groups(links) == [{1}, {2}]
    assert links.void == {1: "different sexes: M and F"}


def test_a_chart_between_two_persons_belongs_to_the_one_its_hospitals_own_number_names() -> None:
    charts = [
        chart(1, "a", "1", CNP),
        chart(2, "b", "9", birth_date="19630615"),
        chart(3, "b", "9", CNP),
    ]
    links = link(charts, NATIONAL, [Decided(1, apart=(frozenset({1}), frozenset({2})))])
    assert groups(links) == [{1}, {2, 3}]
    assert [(one.chart, one.identifier) for one in links.contradictions] == [(3, CNP)]


@given(CHARTS)
def test_persons_of_different_numbers_do_not_depend_on_each_other(
    rows: list[tuple[str, set[str | PatientIdentifier], str, str]],
) -> None:
    charts = build(rows)
    stranger = chart(99, "c", "99", birth_date="19800101")
    with_stranger = link([*charts, stranger], NATIONAL)
    assert with_stranger.persons == {**link(charts, NATIONAL).persons, 99: 99}


def test_a_hospital_speaks_for_its_own_numbers_and_the_national_one_only() -> None:
    from usmed.domain.region import Hospital, public_key

    key = public_key("A" * 43)
    hospital = Hospital("a", "https://a", key, "", "A", ("A", "A2"))
    numbers = [PatientIdentifier(issuer, "1") for issuer in ("A", "A2", "a", "B", "RO-CNP", "UNKNOWN")]
    allowed = linking_identifiers(numbers, hospital, NATIONAL)
    assert {one.issuer for one in allowed} == {"A", "A2", "RO-CNP"}
    assert {one.issuer for one in linking_identifiers(numbers, hospital, None)} == {"A", "A2"}
