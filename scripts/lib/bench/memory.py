"""Memory at rest: what a node takes more than the Orthanc it runs in."""

import time
from pathlib import Path

from bench.measure import Kind, Limit, Report, Result, say
from bench.nodes import Http, node, running, upload
from bench.objects import Images, patient_id
from support.region import Hospital, eventually

LIMIT_MB = 80.0


def memory(folder: Path, report: Report, runs: int) -> None:
    """Resident and proportional memory after a start and some requests of each kind."""
    say(f"starting both Orthancs anew, {runs} times")
    values = {name: {"rss": [], "pss": []} for name in ("ours", "plain")}  # type: dict[str, dict[str, list[float]]]
    for number in range(runs):
        place = folder / str(number)
        sides = {"ours": node("ours", place), "plain": node("plain", place, plain=True)}
        with running(place, [sides["ours"]], [sides["plain"]]):
            upload(list(sides.values()), Images(128, 128), 1, 1, 20)
            ours = sides["ours"]
            eventually(lambda ours=ours: ours.get("/usmed/status").json()["Hub"] == "up", 20, "the hub")
            for one in sides.values():
                _use(one)
            time.sleep(5)
            for name, one in sides.items():
                assert one.process is not None
                rss, pss = _memory_mb(one.process.pid)
                values[name]["rss"].append(rss)
                values[name]["pss"].append(pss)
    limit = Limit(Kind.MORE_AT_MOST, LIMIT_MB)
    note = (
        "after a start, 20 stored images, and some lookups, QIDO-RS searches and pages; 5 s later."
        " RSS counts shared libraries whole, PSS counts them in shares."
    )
    for kind in ("rss", "pss"):
        report.add(
            Result(f"memory at rest, {kind.upper()}", "MB", values["ours"][kind], values["plain"][kind], limit, note)
        )
        note = ""


def _use(hospital: Hospital) -> None:
    connection = Http(hospital)
    for _ in range(10):
        connection.json(
            "POST", "/tools/find", {"Level": "Study", "Query": {"PatientID": patient_id(1)}, "Expand": True}
        )
        connection.call("GET", f"/dicom-web/studies?PatientID={patient_id(1)}")
        connection.call("GET", "/app/explorer.html")
        if not hospital.plain:
            connection.call("GET", f"/usmed/patients/{patient_id(1)}")
    connection.close()


def _memory_mb(pid: int) -> tuple[float, float]:
    """Return resident and proportional set size (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(fields["Rss"]) / 1024, int(fields["Pss"]) / 1024
