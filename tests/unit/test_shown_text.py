"""What members of the region may show to patients reads as it is written."""

import pytest

from usmed.domain.shown_text import is_readable

WRITTEN = ["", "Radiologie și imagistică", "Urgențe (UPU) – etaj 2", "e\u0301\u0302", "放射科", "<b>"]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_is_readable(text: str) -> None:
    assert is_readable(text)


@pytest.mark.parametrize(
    "text",
    [
        "a\u202eb", "a\u2067b\u2069", "a\u200bb", "a\u200db", "a\0b", "a\nb", "a\u2028b", "\ufeffa", "\ud800", "\ue000",
        "\u3164", "\u2800", "\u115f", "a\u0301\u0302\u0303", "a\u00a0b", "\U000e0041",
    ],
)  # fmt: skip
def test_what_reads_otherwise_is_not(text: str) -> None:
    assert not is_readable(text)
