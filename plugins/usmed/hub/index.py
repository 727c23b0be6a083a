"""Which patients of which hospitals are the same person: the patient index, as a pure function.

A *chart* is one patient as one hospital describes them: the same numbers, birth date and sex over any count of
studies. Charts become one *person* when they share a number of the hospital they are both from, or the national
number, and nothing contradicts it. Where something does, the newer chart does not get the shared number: it stays
apart, is listed for a person to look at, and the number goes on naming whom it named before. So a number names one
person at most, always.

What a person has looked at and decided (`decisions`) goes in as well: that two charts are one person, or are not. A
likeness of names never does (`candidates`).

What a hospital says of another hospital's numbers links nothing: else any hospital could attach itself to any patient
of another, and read their consents. Source: IHE ITI TF-1, Patient Identifier Cross-referencing (PIX).
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.domain.region import Hospital


@dataclass(frozen=True, slots=True)
class Chart:
    """One patient as one hospital describes them.

    Attributes:
        id: higher for those that were seen later.
        hospital: the hospital's id.
        identifiers: the numbers that may link it (see `linking_identifiers`).
        birth_date: DICOM DA, or empty.
        sex: M, F, O or empty.
        name: PatientName, as it was last told. It joins nobody.
    """

    id: int
    hospital: str
    identifiers: frozenset[PatientIdentifier]
    birth_date: str
    sex: str
    name: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Contradiction:
    """A chart did not get a number it claims; `other` is the chart that kept it (0: the number itself speaks)."""

    chart: int
    identifier: PatientIdentifier
    other: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What a person has decided about charts (`decisions`), of those charts that are there.

    Attributes:
        id: higher for those that were made later.
        together: two charts that are one person, whatever their birth dates; empty for a decision that parts.
        apart: two sides; no chart of the one is the same person as any of the other.
        lost: numbers that these charts claim, and that a person has given to the other side.
    """

    id: int
    together: frozenset[int] = frozenset()
    apart: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    lost: frozenset[tuple[int, PatientIdentifier]] = frozenset()


@dataclass(slots=True)
class Links:
    """Each chart's person, named by its oldest chart; the numbers that charts claim but are not found by.

    `void` tells which decisions to join contradict what is there, and why: they join nothing.
    """

    persons: dict[int, int] = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)
    void: dict[int, str] = field(default_factory=dict)


def linking_identifiers(
    identifiers: Iterable[PatientIdentifier], hospital: Hospital, national: NationalNumber | None
) -> frozenset[PatientIdentifier]:
    """Return those that this hospital may speak for: its own numbers, and the national number."""
    issuers = {*hospital.issuers, *([national.issuer] if national else [])}
    return frozenset(identifier for identifier in identifiers if identifier.issuer in issuers)


def link(charts: Iterable[Chart], national: NationalNumber | None, decided: Iterable[Decided] = ()) -> Links:
    """Join charts into persons.

    What a person has decided comes first, and holds against whatever hospitals announce later: a chart that
    contradicts two charts which a person has joined does not get their number.

    Args:
        charts: every chart that shares a number with another of them, or a decision to join; in any order.
        national: the region's national number, if it has one.
        decided: every decision about any of these charts, in any order.

    Returns:
        The same result whatever order they came in: older charts and older decisions are served first.
    """
    links = Links()
    given = sorted(decided, key=lambda one: one.id)
    ordered = sorted(charts, key=lambda chart: chart.id)
    lost = frozenset[tuple[int, PatientIdentifier]]().union(*(one.lost for one in given))
    apart = _apart(given)
    usable: dict[int, list[PatientIdentifier]] = {}
    people: dict[int, _Person] = {}
    for chart in ordered:
        usable[chart.id], refused = _usable(chart, national, lost)
        links.contradictions.extend(refused)
        claimed = [one for one in usable[chart.id] if national and one.issuer == national.issuer]
        people[chart.id] = _Person.of(chart, claimed, apart.get(chart.id, set()))
    for one in given:
        both = sorted({people[key].charts[0]: people[key] for key in one.together & people.keys()}.items())
        if len(both) == 2:
            (_, elder), (_, younger) = both
            if reason := elder.contradicts(younger, whatever_birth_date=True):
                links.void[one.id] = reason
                continue
            elder.absorb(younger)
            people |= dict.fromkeys(younger.charts, elder)
    owners: dict[PatientIdentifier, _Person] = {}
    for chart in ordered:
        person = people[chart.id]
        # When two persons contradict each other, the chart belongs to the one whom the hospital's own number names, and
        # then to the older.
        order = {
            one: (national is not None and one.issuer == national.issuer, owners[one].charts[0] if one in owners else 0)
            for one in usable[chart.id]
        }
        for identifier in sorted(order, key=lambda one: (order[one], one)):
            owner = owners.get(identifier)
            if owner is None or owner is person:
                owners[identifier] = person
                person.numbers.append(identifier)
                continue
            reason = owner.contradicts(person)
            if reason:
                links.contradictions.append(Contradiction(chart.id, identifier, owner.charts[0], reason))
                continue
            owner.absorb(person)
            people |= dict.fromkeys(person.charts, owner)
            owners |= dict.fromkeys(person.numbers, owner)
            person = owner
    links.persons = {chart: person.charts[0] for chart, person in people.items()}
    return links


def _apart(decided: Iterable[Decided]) -> dict[int, set[int]]:
    """Return for each chart those that it must not be with."""
    apart: dict[int, set[int]] = {}
    for one in decided:
        for mine, theirs in (one.apart, one.apart[::-1]):
            for key in mine:
                apart.setdefault(key, set()).update(theirs)
    return apart


@dataclass(slots=True, eq=False)
class _Person:
    charts: list[int]
    births: frozenset[str]
    sex: str
    national: str
    apart: set[int]
    numbers: list[PatientIdentifier] = field(default_factory=list)

    @classmethod
    def of(cls, chart: Chart, national: Sequence[PatientIdentifier], apart: set[int]) -> "_Person":
        # Other values of PatientSex than M and F do not tell persons apart: O is also used for "unknown".
        sex = chart.sex if chart.sex in ("M", "F") else ""
        births = frozenset([chart.birth_date] if chart.birth_date else [])
        return cls([chart.id], births, sex, national[0].value if national else "", set(apart))

    def contradicts(self, other: "_Person", *, whatever_birth_date: bool = False) -> str:
        if not self.apart.isdisjoint(other.charts):
            return "it was decided that they are two persons"
        # Several only where a person has decided so: then either is right.
        if self.births and other.births and self.births.isdisjoint(other.births) and not whatever_birth_date:
            return f"different birth dates: {', '.join(sorted(self.births))} and {', '.join(sorted(other.births))}"
        for what, mine, theirs in (
            ("sexes", self.sex, other.sex),
            ("national numbers", self.national, other.national),
        ):
            if mine and theirs and mine != theirs:
                return f"different {what}: {mine} and {theirs}"
        return ""

    def absorb(self, other: "_Person") -> None:
        self.charts = sorted(self.charts + other.charts)
        self.numbers += other.numbers
        self.births |= other.births
        self.sex = self.sex or other.sex
        self.national = self.national or other.national
        self.apart |= other.apart


def _usable(
    chart: Chart, national: NationalNumber | None, lost: Set[tuple[int, PatientIdentifier]]
) -> tuple[list[PatientIdentifier], list[Contradiction]]:
    """Leave out what was decided to be another's, and national numbers that say that they are not this person's.

    "0000000000000" or a neighbour's number typed in for want of a better one would otherwise join strangers.
    """
    given_away = [one for one in chart.identifiers if (chart.id, one) in lost]
    reasons = dict.fromkeys(given_away, "it was decided that it is another person's")
    kept = sorted(chart.identifiers - reasons.keys())
    claimed = [one for one in kept if national and one.issuer == national.issuer]
    if len(claimed) > 1:
        reasons |= dict.fromkeys(claimed, "one patient with more than one national number")
    elif national:
        reasons |= {
            one: "not a valid national number, or it does not fit the birth date and sex"
            for one in claimed
            if not national.accepts(one.value, chart.birth_date, chart.sex)
        }
    refused = [Contradiction(chart.id, identifier, 0, reason) for identifier, reason in sorted(reasons.items())]
    return [one for one in kept if one not in reasons], refused
