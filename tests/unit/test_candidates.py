"""Who may be the same person by name and birth date: which slips are forgiven, and which people stay strangers."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usmed.hub.candidates import (
    PROPOSED_FROM,
    Demographics,
    State,
    blocks,
    lookups,
    score,
    slipped,
    standing,
    words,
)

DAY = "19630615"


def person(name: str, birth_date: str = DAY, sex: str = "", national: str = "") -> Demographics:
    return Demographics(name, birth_date, sex, national)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ştefănescu^Ion", ("ion", "stefanescu")),
        ("ȘTEFĂNESCU^ION^^Dr.^jr.", ("ion", "stefanescu")),
        ("S\u0326tefa\u0306nescu Ion", ("ion", "stefanescu")),
        ("Popescu-Ionescu^Ana Maria", ("ana", "ionescu", "maria", "popescu")),
        ("D'Angelo^Łukasz", ("angelo", "d", "lukasz")),
        ("Иванов^Пётр", ("иванов", "петр")),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("tarou", "yamada")),
        ("=山田^太郎", ()),
        ("Straße^Ærø", ("aero", "strasse")),
        ("  ^^ -- 123 ", ()),
    ],
)
def test_a_name_is_its_words_without_diacritics(name: str, expected: tuple[str, ...]) -> None:
    assert words(name) == expected


def proposed(one: Demographics, other: Demographics) -> bool:
    """Whether one is found and shown when it comes after the other."""
    return bool(lookups(one) & blocks(other)) and score(one, other) >= PROPOSED_FROM


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(person("Ştefănescu^Ion"), person("STEFANESCU^ION"), id="diacritics and case"),
        pytest.param(person("Popescu^Ion"), person("Ion^Popescu"), id="order"),
        pytest.param(person("Popescu^Ion"), person("Popescu Ion"), id="no components"),
        pytest.param(person("Popescu^Ion"), person("Popsecu^Ion"), id="letters exchanged"),
        pytest.param(person("Popescu^Ion"), person("Popecu^Ion"), id="a letter missing"),
        pytest.param(person("Popescu^Ana"), person("Popescu-Ionescu^Ana Maria"), id="more names"),
        pytest.param(person("Popescu^Ion", "19630605"), person("Popescu^Ion", "19630506"), id="day and month"),
        pytest.param(person("Popescu^Ion", "19630615"), person("Popescu^Ion", "19360615"), id="neighbouring digits"),
        pytest.param(person("Popescu^Ion", "19630615"), person("Popescu^Ion", "19530615"), id="a digit of the year"),
        pytest.param(person("Popescu^Ion", "19630615"), person("Popescu^Ion", "19630616"), id="a digit of the day"),
        pytest.param(person("Popescu^Ion", sex="M"), person("Popescu^Ion", sex="O"), id="sex unknown to one"),
    ],
)
def test_a_slip_is_forgiven(one: Demographics, other: Demographics) -> None:
    assert proposed(one, other)
    assert proposed(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(person("Popescu^Ana"), person("Popescu^Ioana Elena"), id="sisters born on one day"),
        pytest.param(person("Popescu^Andrei", sex="M"), person("Popescu^Andreia", sex="F"), id="twins"),
        pytest.param(person("Popescu^Ion", "19630615"), person("Popescu^Ion", "19910202"), id="namesakes"),
        pytest.param(person("Popescu^Ion", national="1"), person("Popescu^Ion", national="2"), id="national numbers"),
        pytest.param(person("Popescu^Ion", ""), person("Popescu^Ion", ""), id="no birth date"),
        pytest.param(person("", DAY), person("", DAY), id="no name"),
        pytest.param(person("=山田^太郎"), person("=山田^太郎"), id="ideographs alone"),
    ],
)
def test_strangers_are_not_proposed(one: Demographics, other: Demographics) -> None:
    assert not proposed(one, other)
    assert not proposed(other, one)


def test_equal_is_a_hundred_and_no_slip_comes_as_high() -> None:
    assert score(person("Popescu^Ion"), person("ion popescu")) == 100
    assert score(person("Popescu^Ion"), person("Popescu^Ion", "19630616")) < 100
    assert score(person("Popescu^Ion"), person("Popescu^Iom")) < 100


NAMES = st.text(alphabet="AaăÂâșȘțțeioPpn^ =-'.森", max_size=24)
DAYS = st.dates().map(lambda day: f"{day:%Y%m%d}".zfill(8)) | st.just("")
PEOPLE = st.builds(Demographics, NAMES, DAYS, st.sampled_from(["M", "F", "O", ""]), st.sampled_from(["", "1", "2"]))


@given(PEOPLE, PEOPLE)
def test_it_makes_no_difference_who_came_first(one: Demographics, other: Demographics) -> None:
    assert score(one, other) == score(other, one)
    assert 0 <= score(one, other) <= 100
    assert bool(lookups(one) & blocks(other)) == bool(lookups(other) & blocks(one))
    assert blocks(one) <= lookups(one)


@given(st.lists(st.sampled_from(["Popescu", "Ștefan", "Ion", "Ana-Maria"]), min_size=1, max_size=3, unique=True), DAYS)
def test_the_order_of_names_makes_no_difference(parts: list[str], day: str) -> None:
    found = {blocks(person("^".join(one), day)) for one in permutations(parts)}
    assert len(found) == 1


@given(PEOPLE)
def test_a_chart_has_few_blocks_and_lookups(one: Demographics) -> None:
    assert len(blocks(one)) <= 8
    assert len(lookups(one)) <= 60


@given(st.dates().map(lambda day: f"{day:%Y%m%d}".zfill(8)))
def test_a_slip_goes_both_ways(day: str) -> None:
    assert all(day in slipped(one) for one in slipped(day))


def test_how_a_pair_stands_follows_from_index_and_decisions() -> None:
    assert standing(one_person=False, decided_apart=False) is State.OPEN
    assert standing(one_person=True, decided_apart=False) is State.JOINED
    # Apart wins: the index joins nobody whom a person has parted.
    assert standing(one_person=True, decided_apart=True) is State.DIFFERENT
    assert standing(one_person=False, decided_apart=True) is State.DIFFERENT
