"""`python3 -m bench`: what `scripts/bench` runs inside the test image."""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench import dicom, federation, hub, memory, patients, tickets
from bench.measure import Report, say
from bench.nodes import BenchError

MEASURES = {
    "intake": dicom.intake,
    "find": dicom.find,
    "move": dicom.move,
    "lookup": federation.lookup,
    "pull": federation.pull,
    "small": federation.small,
    "tickets": tickets.tickets,
    "patients": patients.patients,
    "memory": memory.memory,
}
ASKED_FOR = ["hub"]
"""What is measured only when it is named: it takes half an hour and 40 GB of disk."""
RUNS = {
    "hub": 3, "intake": 5, "find": 7, "move": 5, "lookup": 5, "pull": 3, "small": 1, "tickets": 5, "patients": 1,
    "memory": 3,
}  # fmt: skip
"""Rounds when none are asked for: all of it in a quarter of an hour on two cores."""


def main() -> int:
    """Measure, print the table, return 1 if a limit is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("measures", nargs="*", metavar="MEASURE", choices=[*MEASURES, *ASKED_FOR, "all", []])
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--patients", type=int, default=patients.PATIENTS)
    parser.add_argument("--nodes", type=int, default=patients.NODES)
    parser.add_argument("--window", type=float, default=patients.WINDOW_S, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--size", type=int, default=hub.PATIENTS)
    parser.add_argument("--data", type=Path, default=None)
    options = parser.parse_args()
    patients.PATIENTS, patients.NODES, patients.WINDOW_S = options.patients, options.nodes, options.window
    measures = {**MEASURES, "hub": partial(hub.hub, patients=options.size, kept=options.data)}
    chosen = [*MEASURES] if not options.measures or "all" in options.measures else list(dict.fromkeys(options.measures))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-"))
    report = Report()
    say(f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} before it begins")
    started = time.monotonic()
    try:
        for name in chosen:
            at = time.monotonic()
            say(f"\n== {name}")
            measures[name](folder / name, report, options.runs or RUNS[name])
            say(f"  ({time.monotonic() - at:.0f} s)")
            shutil.rmtree(folder / name, ignore_errors=True)
    except BenchError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 2
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    say(f"\n{report.table()}\n")
    load = os.getloadavg()[0]
    say(
        f"{time.monotonic() - started:.0f} s; load {load:.1f} at the end. Ratio: median over the rounds;"
        " spread: lowest … highest."
    )
    if report.missed:
        say(f"MISSED: {'; '.join(report.missed)}")
        return 1
    say("Every limit is met.")
    return 0


sys.exit(main())
