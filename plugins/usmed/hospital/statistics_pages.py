"""The page *Statistics*, its table as CSV, and the same numbers for Prometheus."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo

from flask import Blueprint, Response, g, request
from markupsafe import Markup

from usmed.domain.errors import PeerDataError
from usmed.domain.statistics import FIRST_IMAGE_LIMITS_S, MORE, periods, storage_trend
from usmed.hospital.frame import Frame, dress, page
from usmed.hospital.oversight import Oversight
from usmed.hospital.plots import Series, bars, in_words, line
from usmed.hospital.words import WORDS, translate
from usmed.platform.metrics import CONTENT_TYPE, Metrics

PERMISSION = "statistics.read"
METRICS_PERMISSION = "metrics.read"
SPANS = (30, 90, 365)
MOST_SERIES = 6
WEEKLY_FROM_DAYS = 92

type Rows = Sequence[tuple[date, str, str, int]]


@dataclass(frozen=True, slots=True)
class StatisticsServices:
    """What the page needs; `zone` is the hospital's time."""

    oversight: Oversight
    frame: Frame
    zone: tzinfo
    hospital_names: Callable[[], Mapping[str, str]]
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with its legend and its table: names of the columns, and rows of a place and its values."""

    name: str
    svg: Markup
    legend: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def create_statistics_pages(services: StatisticsServices) -> Blueprint:
    """Return the page, and the numbers as files."""
    pages = Blueprint("statistics", __name__)
    store = services.oversight.statistician.store
    dress(pages, services.frame)

    def asked() -> tuple[date, date, int]:
        text = request.args.get("days", str(SPANS[0]))
        if text not in {str(one) for one in SPANS}:
            raise PeerDataError(f"days: one of {', '.join(map(str, SPANS))}")
        today = services.frame.clock().astimezone(services.zone).date()
        return today - timedelta(days=int(text) - 1), today, int(text)

    @pages.get("")
    def start() -> Response:
        first, last, days = asked()
        rows = store.between(first, last)
        plots = _Plots(rows, first, last, g.language, services.hospital_names())
        return page(
            "statistics/start.html", plots=plots.all(), tiles=_tiles(rows, g.language), days=days, spans=SPANS,
            trend=plots.trend, empty=not rows,
        )  # fmt: skip

    @pages.get("/statistics.csv")
    def table() -> Response:
        first, last, _ = asked()
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["day", "measure", "label", "value"])
        for day, measure, label, value in store.between(first, last):
            # A label may be a hospital's or a modality's own text; a spreadsheet must not take it for a formula.
            safe = f"'{label}" if label.startswith(("=", "+", "-", "@", "\t", "\r")) else label
            writer.writerow([day.isoformat(), measure, safe, value])
        response = Response(out.getvalue(), content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = f'attachment; filename="statistics-{first}-{last}.csv"'
        return response

    @pages.get("/metrics")
    def metrics() -> Response:
        return Response(services.metrics.text(), content_type=CONTENT_TYPE)

    return pages


class _Plots:
    """The plots of one page."""

    def __init__(self, rows: Rows, first: date, last: date, language: str, names: Mapping[str, str]) -> None:
        self._rows = rows
        self._language = language
        self._names = names
        self._periods = periods(first, last, 7 if (last - first).days >= WEEKLY_FROM_DAYS else 1)
        self._last = last
        sizes = [(day, value) for day, measure, _, value in rows if measure == "storage-bytes"]
        free = [value for _, measure, _, value in rows if measure == "storage-free"]
        self._sizes = sizes
        self.trend = storage_trend(sizes, free[-1]) if sizes and free else None

    def all(self) -> list[Plot]:
        """Return all of them, in their order on the page."""
        return [
            self._stacked("studies", "studies"),
            self._stacked("bytes", "bytes-of", unit="bytes", name_of=lambda one: self._names.get(one, one)),
            self._lookups(),
            self._stacked("pulls", "pulls", name_of=self._word("pull")),
            self._stacked("denied", "denied", name_of=self._word("event")),
            self._first_image(),
            self._storage(),
        ]

    def _say(self, name: str) -> str:
        return translate(self._language, name)

    def _word(self, beginning: str) -> Callable[[str], str]:
        return lambda one: self._say(f"{beginning}-{one}") if f"{beginning}-{one}" in WORDS else one

    def _places(self) -> list[str]:
        return [f"{begin:%d.%m.}" for begin, _ in self._periods]

    def _sums(self, measure: str) -> dict[str, list[float]]:
        """Return by label a number for each period."""
        starts = {}
        for n, (begin, end) in enumerate(self._periods):
            for further in range((end - begin).days + 1):
                starts[begin + timedelta(days=further)] = n
        found: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(self._periods))
        for day, name, label, value in self._rows:
            if name == measure:
                found[label][starts[day]] += value
        return found

    def _stacked(
        self, name: str, measure: str, *, unit: str = "", name_of: Callable[[str], str] = lambda one: one
    ) -> Plot:
        sums = self._sums(measure)
        order = sorted(sums, key=lambda one: (-sum(sums[one]), one))
        shown = order if len(order) <= MOST_SERIES else order[: MOST_SERIES - 1]
        series = [Series(name_of(one), sums[one]) for one in shown]
        if rest := order[len(shown) :]:
            together = [sum(sums[one][n] for one in rest) for n in range(len(self._periods))]
            series.append(Series(self._say("statistics-others"), together))
        return self._bars(name, self._places(), series, unit)

    def _lookups(self) -> Plot:
        by_outcome = self._sums("lookups").values()
        total = [sum(values[n] for values in by_outcome) for n in range(len(self._periods))]
        hits = self._sums("hits")[""]
        without = [max(0.0, a - b) for a, b in zip(total, hits, strict=True)]
        series = [Series(self._say("statistics-hit"), hits), Series(self._say("statistics-no-hit"), without)]
        return self._bars("lookups", self._places(), series if any(total) else [], "")

    def _first_image(self) -> Plot:
        sums = self._sums("first-image")
        groups = [*map(str, FIRST_IMAGE_LIMITS_S), MORE]
        places = [f"≤ {one} s" for one in groups[:-1]] + [f"> {groups[-2]} s"]
        values = [sum(sums[one]) if one in sums else 0.0 for one in groups]
        series = [Series(self._say("statistics-pulls"), values)] if any(values) else []
        return self._bars("first-image", places, series, "")

    def _bars(self, name: str, places: list[str], series: list[Series], unit: str) -> Plot:
        sums = [(one.name, sum(value or 0 for value in one.values)) for one in series]
        said = "; ".join(f"{label}: {in_words(value, unit)}" for label, value in sums)
        svg = bars(name, self._say(f"plot-{name}"), said or self._say("statistics-none"), places, series, unit)
        rows = [
            (place, [in_words(one.values[n] or 0, unit) for one in series])
            for n, place in enumerate(places)
            if any(one.values[n] for one in series)
        ]
        return Plot(name, Markup(svg), [one.name for one in series], rows)  # noqa: S704 - made of elements, escaped

    def _storage(self) -> Plot:
        sizes = dict(self._sizes)
        first, ahead = self._periods[0][0], 30 if self.trend else 0
        days = [first + timedelta(days=n) for n in range((self._last - first).days + 1 + ahead)]
        known: list[float | None] = [sizes.get(day) for day in days]
        going: list[float | None] = [None] * len(days)
        if self.trend:
            now = self._sizes[-1]
            for n, day in enumerate(days):
                if day >= now[0]:
                    going[n] = max(0.0, now[1] + self.trend.bytes_a_day * (day - now[0]).days)
        name = self._say("plot-storage")
        said = in_words(self._sizes[-1][1], "bytes") if self._sizes else self._say("statistics-none")
        places = [f"{day:%d.%m.}" for day in days]
        svg = line("storage", name, said, places, Series(name, known), going, "bytes")
        rows = [(f"{day:%d.%m.%Y}", [in_words(value, "bytes")]) for day, value in self._sizes]
        legend = [name] if self._sizes else []
        return Plot("storage", Markup(svg), legend, rows)  # noqa: S704 - made of elements, escaped


def _tiles(rows: Rows, language: str) -> list[tuple[str, str]]:
    """Return what stands above the plots: a figure and what it counts."""
    sums: dict[str, int] = defaultdict(int)
    for _, measure, label, value in rows:
        sums[measure] += value
        if measure == "pulls":
            sums[f"pulls-{label}"] += value
        if measure == "first-image":
            sums["first-image-all"] += value
    figures = [
        (in_words(sums["studies"]), "studies"),
        (in_words(sums["bytes"], "bytes"), "bytes"),
        (in_words(sums["lookups"]), "lookups"),
        (f"{100 * sums['hits'] / sums['lookups']:.0f} %" if sums["lookups"] else "–", "hits"),
        (in_words(sums["pulls-complete"]), "pulls"),
        (in_words(sums["denied"]), "denied"),
        (f"{sums['first-image-ms'] / sums['first-image-all'] / 1000:.1f} s" if sums["first-image-all"] else "–",
         "first-image"),
    ]  # fmt: skip
    return [(figure, translate(language, f"tile-{name}")) for figure, name in figures]
