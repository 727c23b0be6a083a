"""What is counted of a record, where the storage goes, and how a plot is drawn."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.statistics import count_event, first_image_group, main_modality, periods, storage_trend
from usmed.hospital.plots import Series, bars, in_words, line, scale

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
TODAY = date(2026, 11, 22)
GB = 10**9


def counted(kind: str, **members: Any) -> dict[tuple[str, str], int]:
    return count_event(AuditEvent(NOW, AuditEventType(kind), "x", **members).to_json())


@pytest.mark.parametrize(
    ("kind", "members", "expected"),
    [
        ("lookup", {"detail": {"answers": 0}}, {("lookups", "success"): 1}),
        ("lookup", {"detail": {"answers": 3}}, {("lookups", "success"): 1, ("hits", ""): 1}),
        ("lookup", {"outcome": Outcome.PARTIAL}, {("lookups", "partial"): 1}),
        ("lookup", {"peer": "iasi", "detail": {"answers": 3}}, {("asked", "iasi"): 1}),
        ("lookup", {"peer": "iasi", "outcome": Outcome.DENIED}, {("asked", "iasi"): 1, ("denied", "lookup"): 1}),
        ("release", {"peer": "iasi"}, {("releases", "iasi"): 1}),
        ("release", {"peer": "iasi", "outcome": Outcome.DENIED}, {("denied", "release"): 1}),
        ("pull", {"peer": "iasi", "detail": {"state": "waiting", "size_bytes": 7}}, {}),
        ("pull", {"peer": "iasi", "detail": {"state": "failed"}}, {("pulls", "failed"): 1}),
        ("pull", {"peer": "iasi", "detail": {"state": "complete", "size_bytes": 7, "first_image_ms": 1800}}, {
            ("pulls", "complete"): 1, ("pulled-bytes", "iasi"): 7, ("first-image", "2"): 1,
            ("first-image-ms", ""): 1800,
        }),
        ("refused", {"outcome": Outcome.DENIED}, {("denied", "refused"): 1}),
        ("audit", {}, {}),
    ],
)  # fmt: skip
def test_what_a_record_adds(kind: str, members: dict[str, Any], expected: dict[tuple[str, str], int]) -> None:
    assert counted(kind, **members) == expected


@pytest.mark.parametrize(
    ("milliseconds", "group"), [(0, "1"), (1000, "1"), (1001, "2"), (5000, "5"), (30_000, "30"), (30_001, "more")]
)
def test_groups_of_times_to_the_first_image(milliseconds: int, group: str) -> None:
    assert first_image_group(milliseconds) == group


def test_a_study_counts_under_its_images_not_its_report() -> None:
    assert main_modality(("SR", "CT")) == "CT"
    assert main_modality(("SR",)) == "SR"
    assert main_modality(()) == "?"


def test_a_steady_growth_is_found_and_when_it_is_full() -> None:
    sizes = [(TODAY - timedelta(days=n), (100 - n) * GB) for n in range(30)][::-1]
    trend = storage_trend(sizes, 45 * GB)
    assert trend is not None
    assert trend.bytes_a_day == pytest.approx(GB)
    assert trend.full == TODAY + timedelta(days=45)


def test_only_the_last_ninety_days_count() -> None:
    old = [(TODAY - timedelta(days=n), 0) for n in range(200, 90, -1)]
    new = [(TODAY - timedelta(days=n), 5 * GB) for n in range(89, -1, -1)]
    trend = storage_trend(old + new, GB)
    assert trend is not None
    assert trend.bytes_a_day == pytest.approx(0)
    assert trend.full is None


@pytest.mark.parametrize("days", [0, 1, 6])
def test_a_few_days_make_no_trend(days: int) -> None:
    assert storage_trend([(TODAY + timedelta(days=n), n) for n in range(days)], 1) is None


def test_a_shrinking_archive_never_gets_full() -> None:
    trend = storage_trend([(TODAY + timedelta(days=n), (50 - n) * GB) for n in range(10)], 1)
    assert trend is not None
    assert trend.full is None


def test_periods_end_with_the_last_day_and_leave_none_out() -> None:
    found = periods(TODAY - timedelta(days=9), TODAY, 7)
    assert found == [(TODAY - timedelta(9), TODAY - timedelta(7)), (TODAY - timedelta(6), TODAY)]


def test_bars_stand_on_each_other_to_scale_and_are_described() -> None:
    drawn = ET.fromstring(
        bars("a", "Title <", "what it says", ["1", "2"], [Series("x", [4, 0]), Series("y", [4, None])])
    )
    first, second = drawn.findall("rect")
    assert float(first.get("height", "")) == pytest.approx(float(second.get("height", "")), abs=0.2)
    end = float(second.get("y", "")) + float(second.get("height", ""))
    assert end == pytest.approx(float(first.get("y", "")), abs=0.2)
    assert (first.get("class"), second.get("class")) == ("s0", "s1")
    assert drawn.get("role") == "img"
    assert drawn.get("aria-labelledby") == "a-title a-desc"
    assert [drawn.findtext("title"), drawn.findtext("desc")] == ["Title <", "what it says"]
    assert not [one for one in drawn.iter() if one.get("style")]


def test_a_line_stops_where_nothing_is_known_and_goes_on_broken() -> None:
    drawn = ET.fromstring(line("a", "t", "d", ["1", "2", "3"], Series("x", [1, 2, None]), [None, 2, 3]))
    known, trend = drawn.findall("path")
    assert known.get("d", "").count(" ") == trend.get("d", "").count(" ") == 3
    assert trend.get("class") == "line trend"


@pytest.mark.parametrize("largest", [0, 1, 4, 5, 9, 11, 45, 81, 99, 101, 12_345, 8.1e9])
def test_an_axis_reaches_over_the_largest_and_not_far(largest: float) -> None:
    top = scale(largest)
    assert top >= largest
    assert top <= max(4, 2.5 * largest)
    assert top / 4 == int(top / 4) or top < 40


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0, "", "0"), (1234567, "", "1\u202f234\u202f567"), (2.5, "", "2.5"), (0, "bytes", "0 B"),
     (1_500, "bytes", "1.5 kB"), (2.5e8, "bytes", "250 MB"), (4.2e15, "bytes", "4200 TB")],
)  # fmt: skip
def test_numbers_for_people(value: float, unit: str, text: str) -> None:
    assert in_words(value, unit) == text
