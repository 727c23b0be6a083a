"""Unusual patterns of access to patients' data, for an auditor to look at. No rule says that somebody did wrong.

There is no rule for a person who looks up their own name: a node's accounts carry log-in names, not people's.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum

SHOWN_RECORDS = 200
"""How many records one finding names at most."""


class Pattern(StrEnum):
    """What is unusual."""

    MANY_PATIENTS = "many-patients"
    WATCHED = "watched"
    OUT_OF_HOURS = "out-of-hours"


@dataclass(frozen=True, slots=True)
class Access:
    """One record about one patient.

    Attributes:
        sequence: the record's number.
        at: aware UTC.
        agent: who.
        patient: text of a PatientIdentifier.
    """

    sequence: int
    at: datetime
    agent: str
    patient: str


@dataclass(frozen=True, slots=True)
class Rules:
    """When something is unusual.

    Attributes:
        many_patients: so many different patients of one person within `window`; 0 switches the rule off.
        watched: patients whose every access is shown (`issuer:value`).
        opens, closes: the hospital's hours, in its own time; equal for a hospital that never closes.
        out_of_hours: so many different patients of one person outside the hours of one day; 0 switches the rule off.
        zone: the hospital's.
        systems: agents that are no persons, and look up as many patients as they like.
    """

    many_patients: int = 40
    window: timedelta = timedelta(hours=1)
    watched: frozenset[str] = frozenset()
    opens: time = time(6)
    closes: time = time(22)
    out_of_hours: int = 10
    zone: tzinfo = UTC
    systems: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unusual, with the records behind it.

    Attributes:
        pattern: what.
        agent: who.
        patients: how many different patients.
        first, last: when it began and ended, aware UTC.
        sequences: numbers of the first records behind it, `SHOWN_RECORDS` at most.
        patient: the patient who is under watch, else empty.
        records: how many records there are behind it.
    """

    pattern: Pattern
    agent: str
    patients: int
    first: datetime
    last: datetime
    sequences: tuple[int, ...] = field(repr=False)
    patient: str = ""
    records: int = 0


def find_patterns(accesses: Iterable[Access], rules: Rules) -> list[Finding]:
    """Return what is unusual, the newest first; `accesses` in any order."""
    of_agent: dict[str, list[Access]] = defaultdict(list)
    watched: dict[tuple[str, str], list[Access]] = defaultdict(list)
    for one in accesses:
        if one.patient in rules.watched:
            # Of systems as well: whoever is under watch wants to know.
            watched[one.patient, one.agent].append(one)
        if one.agent not in rules.systems:
            of_agent[one.agent].append(one)
    found = [_finding(Pattern.WATCHED, group, patient) for (patient, _), group in watched.items()]
    for group in of_agent.values():
        group.sort(key=lambda one: (one.at, one.sequence))
        found += _many_patients(group, rules)
        found += _out_of_hours(group, rules)
    return sorted(found, key=lambda one: (one.last, one.agent), reverse=True)


def _many_patients(group: Sequence[Access], rules: Rules) -> list[Finding]:
    """Slide the window over one person's accesses; stretches that overlap are one finding."""
    if not rules.many_patients:
        return []
    counts: dict[str, int] = defaultdict(int)
    begin = 0
    stretches: list[list[int]] = []
    for end, one in enumerate(group):
        counts[one.patient] += 1
        while one.at - group[begin].at > rules.window:
            gone = group[begin].patient
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
            begin += 1
        if len(counts) >= rules.many_patients:
            if stretches and begin <= stretches[-1][1]:
                stretches[-1][1] = end
            else:
                stretches.append([begin, end])
    return [_finding(Pattern.MANY_PATIENTS, group[first : last + 1]) for first, last in stretches]


def _out_of_hours(group: Sequence[Access], rules: Rules) -> list[Finding]:
    """Look at each night, or each day of a hospital whose hours go over midnight, by itself."""
    if not rules.out_of_hours or rules.opens == rules.closes:
        return []
    nights: dict[str, list[Access]] = defaultdict(list)
    for one in group:
        local = one.at.astimezone(rules.zone)
        if not is_within(local.time(), rules.opens, rules.closes):
            # What is before the opening belongs to the night that began the day before.
            night = local - timedelta(days=1) if local.time() < rules.opens else local
            nights[night.date().isoformat()].append(one)
    return [
        _finding(Pattern.OUT_OF_HOURS, night)
        for night in nights.values()
        if len(_patients(night)) >= rules.out_of_hours
    ]


def is_within(moment: time, opens: time, closes: time) -> bool:
    """Tell whether a time of day is within hours, which may go over midnight."""
    if opens <= closes:
        return opens <= moment < closes
    return moment >= opens or moment < closes


def _finding(pattern: Pattern, group: Sequence[Access], patient: str = "") -> Finding:
    sequences = sorted(one.sequence for one in group)
    return Finding(
        pattern,
        group[0].agent,
        len(_patients(group)),
        min(one.at for one in group),
        max(one.at for one in group),
        tuple(sequences[:SHOWN_RECORDS]),
        patient,
        len(group),
    )


def _patients(group: Iterable[Access]) -> Collection[str]:
    return {one.patient for one in group}
