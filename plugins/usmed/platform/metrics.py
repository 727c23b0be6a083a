"""Numbers about a running process, in Prometheus' text format (version 0.0.4).

Counters are added to where something happens, gauges are asked for when somebody looks. Labels are ids of members,
routes and codes: a fixed and small set, never a patient's number or a name.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROUTE_KEY = "usmed.route"
"""Where an application leaves the route of a request, in the WSGI environment."""

OTHER = "other"
"""Stands for every path that is no route: whoever tries paths must not make new lines."""

type Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the number."""


@dataclass(slots=True)
class Counter:
    """A number that only grows, for each combination of labels; see `Metrics.counter`."""

    labels: tuple[str, ...]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, *values: str) -> None:
        """Count one more with these values of the labels."""
        assert len(values) == len(self.labels)
        with self._lock:
            self._values[values] = self._values.get(values, 0) + 1

    def samples(self) -> list[Sample]:
        """Return what was counted."""
        with self._lock:
            return sorted(self._values.items())


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    help: str
    kind: str
    labels: tuple[str, ...]
    samples: Callable[[], Iterable[Sample]]


class Metrics:
    """What a process tells about itself."""

    def __init__(self) -> None:
        self._families: list[_Family] = []

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """Make a counter. `name` ends in `_total` (OpenMetrics naming); `help` is one line without backslashes."""
        counter = Counter(labels)
        self._families.append(_Family(name, help, "counter", labels, counter.samples))
        return counter

    def total(self, name: str, help: str, read: Callable[[], Mapping[tuple[str, ...], float]], *labels: str) -> None:
        """Make a counter that is kept elsewhere: `read` returns a number for each combination of the labels' values."""
        self._families.append(_Family(name, help, "counter", labels, lambda: sorted(read().items())))

    def gauge(self, name: str, help: str, read: Callable[[], Mapping[str, float] | float], label: str = "") -> None:
        """Make a gauge: `read` returns a number, or with a `label` one for each of its values."""

        def samples() -> list[Sample]:
            found = read()
            if isinstance(found, Mapping):
                return sorted(((value,), number) for value, number in found.items())
            return [((), found)]

        self._families.append(_Family(name, help, "gauge", (label,) if label else (), samples))

    def text(self) -> str:
        """Return everything, as Prometheus reads it."""
        lines = []
        for one in self._families:
            lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {one.kind}"]
            for values, number in one.samples():
                labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(one.labels, values, strict=True))
                lines.append(f"{one.name}{f'{{{labels}}}' if labels else ''} {number:.17g}")
        return "\n".join([*lines, ""])


def counting(application: WSGIApplication, routes: frozenset[str], requests: Counter) -> WSGIApplication:
    """Count the requests to an application by route and status, also those that are refused before they reach it.

    Args:
        application: leaves the route under `usmed.route` where the path is not one of `routes`.
        routes: paths that are routes.
        requests: a counter with the labels route and status.
    """

    def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")

        def answer(status: str, *rest: object) -> Callable[[bytes], object]:
            route = environ.get(ROUTE_KEY) or (path if path in routes else OTHER)
            requests.add(route, status[:3])
            return start_response(status, *rest)  # type: ignore[arg-type]

        return application(environ, answer)

    return counted


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
