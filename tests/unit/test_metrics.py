"""Metrics as Prometheus reads them."""

from usmed.platform.metrics import Metrics, counting


def test_counters_and_gauges_are_written_in_the_text_format() -> None:
    metrics = Metrics()
    counter = metrics.counter("things_total", 'What "happened".', "kind", "code")
    metrics.gauge("height", "How high.", lambda: 1.5)
    metrics.gauge("ages", "How old.", lambda: {"b": 2, 'a"\\\n': 1795255200.25}, "who")
    counter.add("y", "2")
    counter.add("x", "1")
    counter.add("x", "1")
    assert metrics.text() == (
        '# HELP things_total What "happened".\n'
        "# TYPE things_total counter\n"
        'things_total{kind="x",code="1"} 2\n'
        'things_total{kind="y",code="2"} 1\n'
        "# HELP height How high.\n"
        "# TYPE height gauge\n"
        "height 1.5\n"
        "# HELP ages How old.\n"
        "# TYPE ages gauge\n"
        'ages{who="a\\"\\\\\\n"} 1795255200.25\n'
        'ages{who="b"} 2\n'
    )


def test_whoever_tries_paths_makes_no_new_lines() -> None:
    counter = Metrics().counter("requests_total", "Requests.", "route", "status")

    def application(environ, start_response):  # type: ignore[no-untyped-def]
        start_response("404 Not Found", [])
        return [b""]

    counted = counting(application, frozenset({"/known"}), counter)
    for path in ("/known", "/1630615123457", "/2"):
        list(counted({"PATH_INFO": path}, lambda *_: lambda _: None))
    assert counter.samples() == [(("/known", "404"), 1), (("other", "404"), 2)]
