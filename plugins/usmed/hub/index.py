"""Which patients of which hospitals are the same person: the patient index, as a pure function.

A *chart* is one patient as one hospital describes them: the same numbers, birth date and sex over any count of
studies. Charts become one *person* when they share a number of the hospital they are both from, or the national
number, and nothing contradicts it. Where something does, the newer chart does not get the shared number: it stays
apart, is listed for a person to look at, and the number goes on naming whom it named before. So a number names one
person at most, always.

What a hospital says of another hospital's numbers links nothing: else any hospital could attach itself to any patient
of another, and read their consents. Source: IHE ITI TF-1, Patient Identifier Cross-referencing (PIX).
"""

from collections.abc import Iterable, Sequence
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


@dataclass(slots=True)
class Links:
    """Each chart's person, named by its oldest chart; and the numbers that charts claim but are not found by."""

    persons: dict[int, int] = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)


def linking_identifiers(
    identifiers: Iterable[PatientIdentifier], hospital: Hospital, national: NationalNumber | None
) -> frozenset[PatientIdentifier]:
    """Return those that this hospital may speak for: its own numbers, and the national number."""
    issuers = {*hospital.issuers, *([national.issuer] if national else [])}
    return frozenset(identifier for identifier in identifiers if identifier.issuer in issuers)


def link(charts: Iterable[Chart], national: NationalNumber | None) -> Links:
    """Join charts into persons.

    Args:
        charts: every chart that shares a number with another of them, in any order.
        national: the region's national number, if it has one.

    Returns:
        The same result whatever order the charts came in: older charts are served first.
    """
    links = Links()
    owners: dict[PatientIdentifier, _Person] = {}
    people: dict[int, _Person] = {}
    for chart in sorted(charts, key=lambda chart: chart.id):
        usable, refused = _usable(chart, national)
        links.contradictions.extend(refused)
        person = _Person.of(chart, [one for one in usable if national and one.issuer == national.issuer])
        people[chart.id] = person
        # The oldest person first: when two of them contradict each other, the chart belongs to the older.
        for identifier in sorted(usable, key=lambda one: (owners[one].charts[0] if one in owners else 0, one)):
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


@dataclass(slots=True, eq=False)
class _Person:
    charts: list[int]
    birth_date: str
    sex: str
    national: str
    numbers: list[PatientIdentifier] = field(default_factory=list)

    @classmethod
    def of(cls, chart: Chart, national: Sequence[PatientIdentifier]) -> "_Person":
        # Other values of PatientSex than M and F do not tell persons apart: O is also used for "unknown".
        sex = chart.sex if chart.sex in ("M", "F") else ""
        return cls([chart.id], chart.birth_date, sex, national[0].value if national else "")

    def contradicts(self, other: "_Person") -> str:
        for what, mine, theirs in (
            ("birth dates", self.birth_date, other.birth_date),
            ("sexes", self.sex, other.sex),
            ("national numbers", self.national, other.national),
        ):
            if mine and theirs and mine != theirs:
                return f"different {what}: {mine} and {theirs}"
        return ""

    def absorb(self, other: "_Person") -> None:
        self.charts = sorted(self.charts + other.charts)
        self.numbers += other.numbers
        self.birth_date = self.birth_date or other.birth_date
        self.sex = self.sex or other.sex
        self.national = self.national or other.national


def _usable(chart: Chart, national: NationalNumber | None) -> tuple[list[PatientIdentifier], list[Contradiction]]:
    """Leave out national numbers that say themselves that they are not this person's.

    "0000000000000" or a neighbour's number typed in for want of a better one would otherwise join strangers.
    """
    claimed = [one for one in sorted(chart.identifiers) if national and one.issuer == national.issuer]
    if national is None or not claimed:
        return sorted(chart.identifiers), []
    if len(claimed) > 1:
        reasons = dict.fromkeys(claimed, "one patient with more than one national number")
    else:
        reasons = {
            one: "not a valid national number, or it does not fit the birth date and sex"
            for one in claimed
            if not national.accepts(one.value, chart.birth_date, chart.sex)
        }
    refused = [Contradiction(chart.id, identifier, 0, reason) for identifier, reason in reasons.items()]
    return sorted(chart.identifiers - reasons.keys()), refused
