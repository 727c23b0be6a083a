"""Which charts may be the same person by what patients are called, when they were born, and their sex: pure.

It proposes, for a person to look at, and joins nothing: whatever the score, `index.link` does not know of it. Charts
are compared only with those under a common *block*, a key that an index finds, so that ten million of them need no
comparison of each with each.

The likeness of two texts is rapidfuzz's (Indel distance of sorted words).
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from rapidfuzz import fuzz
from rapidfuzz.distance import OSA

from usmed.domain.study_record import is_date

PROPOSED_FROM = 80
"""The lowest score that is shown to a person; of 100."""

LEAST_LIKE = 75
"""Names that are less alike than this are not proposed whatever the birth dates: brothers and sisters share a family
name, twins the birth date as well."""

MOST_WORDS = 4
"""Of a name, how many words its blocks are made of."""

_NAME_WEIGHT, _BIRTH_WEIGHT = 0.6, 0.4
_SLIP = 90.0
"""The likeness of two birth dates of which one may be the other with one slip of the pen."""

_PART = 90.0
"""The likeness of two names of which one has all words of the other: a second given name, a name before marriage."""

_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ð": "d", "ø": "o", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th"})
"""Letters that Unicode does not take apart into a letter and a mark."""

_SOFT = frozenset("aeiouyh")


class State(StrEnum):
    """How a proposed pair stands. It follows from the index and from decisions alone (`standing`).

    | from      | by                                             | to        |
    |-----------|------------------------------------------------|-----------|
    | open      | a decision to link; a number that joins them   | joined    |
    | open      | a decision that they are different             | different |
    | joined    | an undone link; a number that joins no more    | open      |
    | joined    | an unlink                                      | different |
    | different | an undone decision                             | open      |

    A pair ends with either of its charts.
    """

    OPEN = "open"
    JOINED = "joined"
    DIFFERENT = "different"


def standing(*, one_person: bool, decided_apart: bool) -> State:
    """Return how a pair stands."""
    if decided_apart:
        return State.DIFFERENT
    return State.JOINED if one_person else State.OPEN


@dataclass(frozen=True, slots=True)
class Demographics:
    """What a chart says of its patient.

    Attributes:
        name: DICOM PN.
        birth_date: DICOM DA, or empty.
        sex: M, F, O or empty.
        national: the national number, or empty.
    """

    name: str
    birth_date: str
    sex: str
    national: str = ""


def words(name: str) -> tuple[str, ...]:
    """Return the words of a name, sorted: in small letters, without diacritics.

    Of a PN (PS3.5 §6.2.1) the alphabetic group counts, the ideographic and the phonetic one do not; of its components
    family, given and middle name, without prefix and suffix. Hyphens, apostrophes and spaces part words.
    """
    components = name.partition("=")[0].split("^")[:3]
    plain = unicodedata.normalize("NFKD", " ".join(components).casefold()).translate(_LETTERS)
    letters = (one if one.isalpha() else "" if unicodedata.combining(one) else " " for one in plain)
    return tuple(sorted(set("".join(letters).split())))


def blocks(one: Demographics) -> frozenset[str]:
    """Return under which blocks a chart is found; none without a name or a birth date."""
    found = words(one.name)
    if not found or not is_date(one.birth_date):
        return frozenset()
    return frozenset(_blocks(found, one.birth_date))


def lookups(one: Demographics) -> frozenset[str]:
    """Return in which blocks to look for charts that may be the same person: its own, and those of a slip of the pen.

    Whoever is found so would find this one: the order in which charts came makes no difference.
    """
    found = words(one.name)
    if not found or not is_date(one.birth_date):
        return frozenset()
    slips = (f"d {day} {initials}" for day in slipped(one.birth_date) for initials in _initials(found))
    return frozenset((*_blocks(found, one.birth_date), *slips))


def slipped(day: str) -> frozenset[str]:
    """Return the days that a day may have been typed for: day and month exchanged, two neighbouring digits exchanged.

    Args:
        day: DICOM DA.
    """
    turned = [day[:4] + day[6:] + day[4:6]]
    turned += [day[:at] + day[at + 1] + day[at] + day[at + 2 :] for at in range(len(day) - 1)]
    return frozenset(one for one in turned if one != day and is_date(one))


def score(one: Demographics, other: Demographics) -> int:
    """Return how likely two charts are the same person by what they say, 0 to 100.

    0 where they contradict each other in what a person cannot change by looking (sex, national number), and where
    names or birth dates are missing or too far apart.
    """
    if _contradict(one.sex, other.sex, "MF") or _contradict(one.national, other.national):
        return 0
    names = _names_alike(words(one.name), words(other.name))
    births = _births_alike(one.birth_date, other.birth_date)
    if names < LEAST_LIKE or not births:
        return 0
    return int(_NAME_WEIGHT * names + _BIRTH_WEIGHT * births)


def _blocks(found: tuple[str, ...], day: str) -> Iterator[str]:
    for initials in _initials(found):
        yield f"d {day} {initials}"
    # One wrong digit leaves the year or the day of the year as it was.
    sound = " ".join(_sound(one) for one in found[:MOST_WORDS])
    yield f"y {day[:4]} {sound}"
    yield f"m {day[4:]} {sound}"


def _initials(found: tuple[str, ...]) -> set[str]:
    # Of two words at once: a single letter would put a tenth of all people born on a day together.
    first = sorted(one[0] for one in found[:MOST_WORDS])
    return {a + b for a, b in combinations(first, 2)} or set(first)


def _sound(word: str) -> str:
    """Return a word's consonants, and its first letter: what is left of it in most spellings."""
    kept = [word[0]]
    kept += [one for before, one in pairwise(word) if one != before and one not in _SOFT]
    return "".join(kept)


def _names_alike(mine: tuple[str, ...], theirs: tuple[str, ...]) -> float:
    if not mine or not theirs:
        return 0.0
    whole = fuzz.token_sort_ratio(" ".join(mine), " ".join(theirs))
    is_part = len(set(mine) & set(theirs)) == min(len(mine), len(theirs)) >= 2
    return max(whole, _PART if is_part else 0.0)


def _births_alike(mine: str, theirs: str) -> float:
    if not is_date(mine) or not is_date(theirs):
        return 0.0
    if mine == theirs:
        return 100.0
    # OSA: one wrong digit, or two neighbours exchanged.
    return _SLIP if theirs in slipped(mine) or OSA.distance(mine, theirs) == 1 else 0.0


def _contradict(mine: str, theirs: str, known: str = "") -> bool:
    if known:
        mine, theirs = (one if one and one in known else "" for one in (mine, theirs))
    return bool(mine and theirs and mine != theirs)
