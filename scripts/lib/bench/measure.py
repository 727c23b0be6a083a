"""Taking turns, medians of ratios, and the table. A figure is measured or absent."""

import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What a limit is about."""

    RATIO_AT_MOST = "≤"
    RATIO_AT_LEAST = "≥"
    MORE_AT_MOST = "≤ plain +"
    NONE = ""


@dataclass(frozen=True)
class Limit:
    """A limit, in the unit of its kind: a ratio, or the measure's own unit more than plain."""

    kind: Kind
    value: float = 0.0

    def text(self, unit: str) -> str:
        """Return it for the table."""
        match self.kind:
            case Kind.NONE:
                return "—"
            case Kind.MORE_AT_MOST:
                return f"{self.kind.value} {self.value:g} {unit}"
        return f"{self.kind.value} {self.value:.2f}"


AT_MOST_10_PERCENT_MORE = Limit(Kind.RATIO_AT_MOST, 1.10)
NO_LIMIT = Limit(Kind.NONE)


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        name: what was measured.
        unit: of `ours` and `plain`.
        ours, plain: one value for each round, measured in turns.
        limit: what must hold of the median.
        note: how, in a sentence; shown under the table.
    """

    name: str
    unit: str
    ours: Sequence[float]
    plain: Sequence[float]
    limit: Limit
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Return ours over plain, round by round."""
        return [ours / plain for ours, plain in zip(self.ours, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        """Return the median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def more(self) -> float:
        """Return the median of the differences."""
        return statistics.median(ours - plain for ours, plain in zip(self.ours, self.plain, strict=True))

    @property
    def met(self) -> bool | None:
        """Tell whether the limit holds; None where there is none."""
        match self.limit.kind:
            case Kind.RATIO_AT_MOST:
                return self.ratio <= self.limit.value
            case Kind.RATIO_AT_LEAST:
                return self.ratio >= self.limit.value
            case Kind.MORE_AT_MOST:
                return self.more <= self.limit.value
        return None

    def row(self) -> list[str]:
        """Return the texts of its row."""
        if self.limit.kind is Kind.MORE_AT_MOST:
            ratio = f"{self.more:+.1f} {self.unit}"
            differences = [ours - plain for ours, plain in zip(self.ours, self.plain, strict=True)]
            spread = f"{min(differences):+.1f} … {max(differences):+.1f}"
        else:
            ratio, spread = f"{self.ratio:.2f}", f"{min(self.ratios):.2f} … {max(self.ratios):.2f}"
        return [
            self.name,
            _number(statistics.median(self.ours), self.unit),
            _number(statistics.median(self.plain), self.unit),
            ratio,
            spread,
            str(len(self.ours)),
            self.limit.text(self.unit),
            {True: "yes", False: "NO", None: "—"}[self.met],
        ]


HEAD = ("measure", "ours", "plain", "ratio", "spread", "runs", "limit", "met")


@dataclass
class Report:
    """The rows so far, printed as they come and as a table at the end."""

    results: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add a row and say it."""
        self.results.append(result)
        name, ours, plain, ratio, spread, _, limit, met = result.row()
        say(f"  {name}: {ours} against {plain}, ratio {ratio} ({spread}), limit {limit}, met: {met}")

    def table(self) -> str:
        """Return all rows with their notes."""
        rows = [list(HEAD), *(result.row() for result in self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [f"{result.name}: {result.note}" for result in self.results if result.note]
        lines += ["", *(line for note in notes for line in textwrap.wrap(note, 120, subsequent_indent="    "))]
        return "\n".join(lines)

    @property
    def missed(self) -> list[str]:
        """Return the names of the measures whose limit does not hold."""
        return [result.name for result in self.results if result.met is False]


def _number(value: float, unit: str) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def in_turns(sides: Mapping[str, Callable[[int], float]], runs: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Measure each side once a round, in an order that changes with every round.

    Args:
        sides: name to a function that gets the round's number and returns what it measured.
        runs: rounds that count.
        warm_up: rounds before those, not counted; their numbers are negative.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(-warm_up, runs):
        # A B, B A, A B: what grows with time (an archive, a warm processor) meets each side alike.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = sides[name](number)
            if number >= 0:
                values[name].append(value)
    return values


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)
