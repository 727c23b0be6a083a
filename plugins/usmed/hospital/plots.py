"""Plots as SVG, drawn here: stacked bars, and a line.

Their colours are classes of the pages' stylesheet, so that they are right in light and dark; for those who do not see
them each has a title, a description and a table beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 76, 8, 14, 28
LABELS_APART = 84
"""Least distance between two labels below the plot."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind, one for each place on the axis; None where nothing is known."""

    name: str
    values: Sequence[float | None]


def bars(id: str, title: str, description: str, places: Sequence[str], series: Sequence[Series], unit: str = "") -> str:
    """Return stacked bars.

    Args:
        id: of the element; two plots of a page have different ones.
        title, description: what it shows, and what it says, for those who do not see it.
        places: below the bars.
        series: from the bottom up; as many values as places. At most six can be told apart.
        unit: `bytes` writes values as MB, GB and so on.
    """
    tops = [sum(one.values[n] or 0 for one in series) for n in range(len(places))]
    svg, top = _frame(id, title, description, max(tops, default=0), unit)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(places))
    width = max(1.0, step * 0.72)
    for n in range(len(places)):
        base = 0.0
        for number, one in enumerate(series):
            value = one.values[n] or 0
            if value:
                y, bottom = _y(base + value, top), _y(base, top)
                _add(
                    svg, "rect", x=LEFT + n * step + (step - width) / 2, y=y, width=width, height=bottom - y,
                    **{"class": f"s{number % 6}"},
                )  # fmt: skip
            base += value
    _below(svg, places, step, step / 2)
    return ET.tostring(svg, encoding="unicode")


def line(
    id: str, title: str, description: str, places: Sequence[str], series: Series, trend: Sequence[float | None],
    unit: str = "",
) -> str:  # fmt: skip
    """Return a line, and a broken one that goes on with it; arguments as for `bars`."""
    known = [value for value in [*series.values, *trend] if value is not None]
    svg, top = _frame(id, title, description, max(known, default=0), unit)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(places) - 1)
    for values, name in ((series.values, "line"), (trend, "line trend")):
        points = [(LEFT + n * step, _y(value, top)) for n, value in enumerate(values) if value is not None]
        if points:
            path = " ".join(f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y) in enumerate(points))
            _add(svg, "path", d=path, **{"class": name})
    _below(svg, places, step, 0)
    return ET.tostring(svg, encoding="unicode")


def scale(largest: float) -> float:
    """Return the top of an axis: the next of 1, 2, 4 and 8 times a power of ten; at least 4: its quarters are whole."""
    if largest <= 4:
        return 4
    power = float(10 ** math.floor(math.log10(largest)))
    return next(power * factor for factor in (1, 2, 4, 8, 20) if power * factor >= largest)


def in_words(value: float, unit: str = "") -> str:
    """Write a number for people."""
    if unit != "bytes":
        return f"{value:,.0f}".replace(",", "\u202f") if value == int(value) else f"{value:.1f}"
    for name in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or name == "TB":
            return f"{value:.0f} {name}" if value == int(value) or abs(value) >= 100 else f"{value:.1f} {name}"
        value /= 1000
    raise AssertionError


def _frame(id: str, title: str, description: str, largest: float, unit: str) -> tuple[ET.Element, float]:
    top = scale(largest)
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "plot",
            "aria-labelledby": f"{id}-title {id}-desc",
        },
    )  # fmt: skip
    _add(svg, "title", id=f"{id}-title").text = title
    _add(svg, "desc", id=f"{id}-desc").text = description
    for quarter in range(5):
        value = top * quarter / 4
        y = _y(value, top)
        _add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, **{"class": "grid" if quarter else "axis"})
        _add(svg, "text", x=LEFT - 6, y=y + 4, **{"class": "left"}).text = in_words(value, unit)
    return svg, top


def _below(svg: ET.Element, places: Sequence[str], step: float, offset: float) -> None:
    every = max(1, math.ceil(LABELS_APART / step))
    for n in range(0, len(places), every):
        x = LEFT + n * step + offset
        anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
        _add(svg, "text", x=x, y=HEIGHT - 8, **{"text-anchor": anchor}).text = places[n]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _add(parent: ET.Element, name: str, **attributes: str | float) -> ET.Element:
    written = {key: one if isinstance(one, str) else f"{one:.1f}" for key, one in attributes.items()}
    return ET.SubElement(parent, name, written)
