"""What is counted of a node, by day; and where its storage goes. Pure: records in, counts out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from usmed.domain.audit import AuditEventType, Outcome
from usmed.domain.study_kinds import COMPANIONS

FIRST_IMAGE_LIMITS_S = (1, 2, 5, 10, 30)
"""Upper limits of the groups of times to the first image, in seconds; what took longer is `more`."""

MORE = "more"
SHORTEST_TREND_DAYS = 7
TREND_DAYS = 90

type Counts = dict[tuple[str, str], int]
"""A number for each measure and label."""

MEASURES = (
    "lookups", "hits", "asked", "pulls", "pulled-bytes", "first-image", "first-image-ms", "denied", "releases",
    "studies", "studies-of", "bytes", "bytes-of", "storage-bytes", "storage-free",
)  # fmt: skip
"""What is counted. Labels: of lookups and pulls the outcome; of `asked`, `pulled-bytes`, `releases` and what ends in
`-of` the hospital; of studies and bytes the modality; of `denied` the event; of `first-image` the group."""


def count_event(event: Mapping[str, Any]) -> Counts:
    """Return what one record of the audit log adds."""
    kind, outcome, detail = event["event"], event["outcome"], event.get("detail", {})
    found: Counts = {}
    if outcome == Outcome.DENIED:
        found["denied", kind] = 1
    if kind == AuditEventType.LOOKUP:
        if event.get("peer"):
            found["asked", event["peer"]] = 1
        else:
            found["lookups", outcome] = 1
            if _number(detail.get("answers")):
                found["hits", ""] = 1
    elif kind == AuditEventType.RELEASE and outcome == Outcome.SUCCESS:
        found["releases", event.get("peer", "")] = 1
    elif kind == AuditEventType.PULL:
        state = str(detail.get("state", ""))
        if state in ("complete", "failed", "refused"):
            found["pulls", state] = 1
        if state == "complete":
            found["pulled-bytes", event.get("peer", "")] = _number(detail.get("size_bytes"))
            if "first_image_ms" in detail:
                milliseconds = _number(detail["first_image_ms"])
                found["first-image", first_image_group(milliseconds)] = 1
                found["first-image-ms", ""] = milliseconds
    return found


def first_image_group(milliseconds: int) -> str:
    """Return the group that a time to the first image belongs to."""
    return next((str(limit) for limit in FIRST_IMAGE_LIMITS_S if milliseconds <= 1000 * limit), MORE)


def main_modality(modalities: Sequence[str]) -> str:
    """Return the modality under which a study is counted: the first that is no mere companion (a report, a state)."""
    named = sorted(one for one in modalities if one)
    return next((one for one in named if one not in COMPANIONS), named[0] if named else "?")


@dataclass(frozen=True, slots=True)
class Trend:
    """Where the storage goes: a straight line through the last days, by least squares.

    Attributes:
        bytes_a_day: its slope.
        full: the day on which what is free now is used up at that pace; None if it does not shrink, or not within ten
            years.
    """

    bytes_a_day: float
    full: date | None


def storage_trend(sizes: Sequence[tuple[date, int]], free_bytes: int) -> Trend | None:
    """Return where the storage goes; None if there are too few days to tell.

    Args:
        sizes: the archive's size at the end of each day, in order; the last `TREND_DAYS` days count.
        free_bytes: what is free now.
    """
    if not sizes:
        return None
    last = sizes[-1][0]
    used = [(day, size) for day, size in sizes if last - day < timedelta(days=TREND_DAYS)]
    if (last - used[0][0]).days < SHORTEST_TREND_DAYS - 1:
        return None
    x = [(day - last).days for day, _ in used]
    y = [size for _, size in used]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - middle_x) ** 2 for one in x)
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread
    days = free_bytes / slope if slope > 0 else float("inf")
    return Trend(slope, last + timedelta(days=int(days)) if days <= 3650 else None)


def periods(first: date, last: date, days: int) -> list[tuple[date, date]]:
    """Cut a time into stretches of so many days, the last of which ends with `last`; first and last day of each."""
    found = []
    end = last
    while end >= first:
        begin = max(first, end - timedelta(days=days - 1))
        found.append((begin, end))
        end = begin - timedelta(days=1)
    return found[::-1]


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
