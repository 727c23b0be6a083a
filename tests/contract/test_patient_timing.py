"""How long an answer takes tells nobody who is a patient: medians over alternating requests, in one process."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any
from uuid import uuid4

import pytest

from contract.attack_region import national_number
from contract.hub_region import Region, study
from usmed.domain.canonical import canonical_json
from usmed.hub.requests import Requests
from usmed.hub.resolve import Resolver

PAIRS = 20
TOLERANCE = 0.25
"""Of the shorter median. What a network adds by itself is more."""

type Ask = Callable[[str], object]


def differ(ask: Ask, known: list[str], unknown: list[str]) -> bool:
    """Tell whether known numbers take another time than unknown ones; a difference has to show three times over."""
    for _ in range(3):
        times: tuple[list[float], list[float]] = ([], [])
        for pair in zip(known, unknown, strict=True):
            for place, number in enumerate(pair):
                begun = time.perf_counter()
                ask(number)
                times[place].append(time.perf_counter() - begun)
        shorter, longer = sorted(map(median, times))
        if longer < (1 + TOLERANCE) * shorter:
            return False
    return True


@pytest.fixture
def known(region: Region) -> list[str]:
    """Return the numbers of patients whom Iași has announced."""
    numbers = [national_number(place) for place in range(1, PAIRS + 1)]
    region.feed("iasi", *(study(f"1.2.{place}", ("RO-CNP", one)) for place, one in enumerate(numbers, start=1)))
    return numbers


@pytest.fixture
def unknown() -> list[str]:
    return [national_number(place) for place in range(500, 500 + PAIRS)]


def requests(region: Region) -> Ask:
    def ask(number: str) -> None:
        # So many requests an hour, and so many of one patient a day: these are not what is measured.
        region.clock.advance(25 * 3600)
        body = {"id": str(uuid4()), "identifier": {"issuer": "RO-CNP", "value": number}, "purpose": "TREAT",
                "department": "Radiologie", "role": "medic"}  # fmt: skip
        assert region.send("bacau", "/v1/requests", canonical_json(body)).json == {"state": "open"}

    return ask


def resolving(region: Region) -> Ask:
    def ask(number: str) -> None:
        answer = region.resolve("bacau", "RO-CNP", number)
        assert answer["holders"] == []

    return ask


@pytest.mark.parametrize("questions", [requests, resolving])
def test_known_and_unknown_patients_take_the_same_time(
    region: Region, known: list[str], unknown: list[str], questions: Callable[[Region], Ask]
) -> None:
    ask = questions(region)
    for number in (known[0], unknown[0]):
        ask(number)
    assert not differ(ask, known, unknown)


@pytest.mark.parametrize(
    ("questions", "module", "method"), [(requests, Requests, "ask"), (resolving, Resolver, "resolve")]
)
def test_the_measure_finds_a_difference(
    region: Region,
    known: list[str],
    unknown: list[str],
    questions: Callable[[Region], Ask],
    module: Any,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask, honest = questions(region), getattr(module, method)
    begun = time.perf_counter()
    ask(unknown[0])
    longer_s = 0.6 * (time.perf_counter() - begun) + 0.002

    def telling(*given: Any, **more: Any) -> Any:
        if any(number in str((given[1:], more)) for number in known):
            time.sleep(longer_s)
        return honest(*given, **more)

    monkeypatch.setattr(module, method, telling)
    assert differ(ask, known, unknown)
