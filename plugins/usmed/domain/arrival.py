"""A patient who comes to this hospital today, and how far the studies from elsewhere have come by then."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import UNFINISHED, State

LONGEST_AHEAD = timedelta(days=366)
"""How far ahead an arrival may be: what is told is kept until its day has passed."""


class Source(StrEnum):
    """Who says that the patient comes."""

    HL7 = "hl7"
    WORKLIST = "worklist"


class Prefetch(StrEnum):
    """How far bringing the patient's studies from elsewhere has come."""

    WAITING = "waiting"  # not asked yet
    ASKING = "asking"  # the region is being asked now
    NOTHING = "nothing"  # the region was asked with the patient's permission, and has nothing that is to come
    NOT_PERMITTED = "not-permitted"  # no permission; that does not tell whether there is anything
    FOUND = "found"  # there are studies, and this hospital brings them only when somebody asks
    ARRIVING = "arriving"
    HERE = "here"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One patient on one day.

    Attributes:
        day: the day, as the hospital's own clock has it.
        identifier: the number that names the patient here.
        identifiers: all that the source names.
        name: DICOM PN; birth_date: DICOM DA; sex: M, F, O; each empty when unknown.
        time: HHMM on the hospital's clock, or empty.
        modality: what is expected, DICOM modalities joined by a backslash, or empty.
        place: where in the hospital, or empty.
        source: who says so.
    """

    day: date
    identifier: PatientIdentifier
    identifiers: frozenset[PatientIdentifier]
    name: str
    birth_date: str
    sex: str
    time: str
    modality: str
    place: str
    source: Source


def settled(pulls: Sequence[State | None]) -> Prefetch:
    """Return where a prefetch stands by its studies' pulls; None for a study that was here before."""
    if any(one in UNFINISHED for one in pulls):
        return Prefetch.ARRIVING
    return Prefetch.HERE if all(one in (None, State.COMPLETE) for one in pulls) else Prefetch.FAILED


def united(first: str, second: str) -> str:
    """Return two lists of modalities as one: sorted, without repetition."""
    return "\\".join(sorted({one for one in (*first.split("\\"), *second.split("\\")) if one}))
