"""What goes on inside one hospital: storing, looking up and moving what is here. None of it may get slower."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydicom.dataset import Dataset

from bench.measure import (
    AT_MOST_10_PERCENT_MORE,
    Kind,
    Limit,
    Report,
    Result,
    in_turns,
    say,
    seconds,
)
from bench.nodes import CLIENT_AET, SINK_AET, Http, Sink, delete_study, instances_of, node, run_tool, running, upload
from bench.objects import Images, patient_id, study_uid
from support.region import Hospital, Region, eventually

STUDIES = 120
"""Studies in the archive that is searched: one for each patient."""

FIRST_STUDY, SECOND_STUDY, INTAKE_STUDY = 1, 1001, 2001

HUB_ALLOWANCE_MS = 15.0
"""What a lookup may cost beyond the slowest answer it waits for."""


def intake(folder: Path, report: Report, runs: int) -> None:
    """C-STORE of CT images by DCMTK's storescu: throughput."""
    with _pair(folder) as pair:
        for name, images, count in (
            ("C-STORE of 200 CT images of 512 KB", Images(512, 512), 200),
            ("C-STORE of 500 CT images of 32 KB", Images(128, 128), 500),
        ):
            say(f"{name}: {runs} rounds")
            files = folder / "files"

            def prepare(number: int, images: Images = images, count: int = count, files: Path = files) -> int:
                study = INTAKE_STUDY + number
                shutil.rmtree(files, ignore_errors=True)
                files.mkdir()
                for index, dicom in enumerate(images.study(study, study, count)):
                    (files / f"{index:04d}.dcm").write_bytes(dicom)
                return study

            prepared: dict[int, int] = {}

            def store(
                number: int,
                hospital: Hospital,
                count: int = count,
                prepared: dict[int, int] = prepared,
                prepare: Callable[[int], int] = prepare,
                files: Path = files,
            ) -> float:
                if number not in prepared:
                    prepared[number] = prepare(number)
                study = study_uid(prepared[number])
                command = (
                    *("storescu", "--scan-directories", "--aetitle", CLIENT_AET, "--call", hospital.aet),
                    *(hospital.address, str(hospital.dicom_port), str(files)),
                )
                took = seconds(lambda: run_tool(*command))
                connection = pair.http[hospital.id]
                assert instances_of(connection, study) == count
                delete_study(connection, study)
                # Announcing the deletion is not intake.
                time.sleep(0.3)
                return count / took

            values = in_turns(pair.sides(store), runs)
            report.add(
                Result(
                    name,
                    "images/s",
                    values["ours"],
                    values["plain"],
                    Limit(Kind.RATIO_AT_LEAST, 0.97),
                    "DCMTK storescu, one association, files from disk; every round a new study, deleted afterwards.",
                )
            )
            shutil.rmtree(files, ignore_errors=True)


def find(folder: Path, report: Report, runs: int) -> None:
    """C-FIND and `/tools/find` of what is here, while nobody else in the region holds anything of it."""
    with _pair(folder) as pair:
        _fill(pair)
        _c_find(folder, pair, report, runs)
        _tools_find(pair, report, runs)


def move(folder: Path, report: Report, runs: int) -> None:
    """C-MOVE of a study that is here to a storescp."""
    sink = Sink(folder / "sink")
    try:
        with _pair(folder, sink.port) as pair:
            for name, images, count, study in (
                ("C-MOVE of 100 CT images of 512 KB", Images(512, 512), 100, FIRST_STUDY),
                ("C-MOVE of 200 CT images of 32 KB", Images(128, 128), 200, SECOND_STUDY),
            ):
                say(f"{name}: {runs} rounds")
                upload(pair.both, images, study, study, count)
                pair.settle()

                def moved(number: int, hospital: Hospital, study: int = study) -> float:
                    del number
                    command = (
                        *("movescu", "--aetitle", CLIENT_AET, "--call", hospital.aet, "--move", SINK_AET, "--no-port"),
                        *("--key", "QueryRetrieveLevel=STUDY", "--key", f"StudyInstanceUID={study_uid(study)}"),
                        *(hospital.address, str(hospital.dicom_port)),
                    )
                    return seconds(lambda: run_tool(*command))

                values = in_turns(pair.sides(moved), runs)
                report.add(
                    Result(
                        name,
                        "s",
                        values["ours"],
                        values["plain"],
                        AT_MOST_10_PERCENT_MORE,
                        "DCMTK movescu, to DCMTK storescp --ignore, both on this machine.",
                    )
                )
    finally:
        sink.stop()


class _Pair:
    """A node of a region in which nobody else is, and a plain Orthanc, with the same content."""

    def __init__(self, folder: Path, sink_port: int) -> None:
        self.ours = node("ours", folder, sink_port=sink_port)
        self.plain = node("plain", folder, plain=True, sink_port=sink_port)
        self.both = [self.ours, self.plain]
        self._running = running(folder, [self.ours], [self.plain])
        self.http: dict[str, Http] = {}

    def __enter__(self) -> "_Pair":
        self.region: Region = self._running.__enter__()
        self.http = {one.id: Http(one) for one in self.both}
        return self

    def __exit__(self, *details: object) -> None:
        for one in self.http.values():
            one.close()
        self._running.__exit__(None, None, None)

    def sides(self, measured: Callable[[int, Hospital], float]) -> Mapping[str, Callable[[int], float]]:
        """Return the two sides for `in_turns`."""
        return {
            "ours": lambda number: measured(number, self.ours),
            "plain": lambda number: measured(number, self.plain),
        }

    def settle(self) -> None:
        """Wait until what was stored is stable and announced."""
        eventually(lambda: self.ours.get("/usmed/status").json()["Hub"] == "up", 20, "the hub knows this hospital")
        time.sleep(3)


def _pair(folder: Path, sink_port: int = 104) -> _Pair:
    return _Pair(folder, sink_port)


def _fill(pair: _Pair) -> None:
    say(f"storing {STUDIES} studies of one image, each of another patient, at both")
    images = Images(128, 128)
    for number in range(STUDIES):
        upload(pair.both, images, number, number, 1)
    pair.settle()


def _c_find(folder: Path, pair: _Pair, report: Report, runs: int) -> None:
    one = {"PatientID": patient_id(7), "StudyInstanceUID": "", "PatientName": "", "StudyDate": "",
           "AccessionNumber": "", "StudyDescription": "", "ModalitiesInStudy": ""}  # fmt: skip
    every = {**one, "PatientID": "", "PatientName": "*"}
    queries = folder / "queries"
    queries.mkdir(exist_ok=True)
    for number in range(STUDIES):
        _write_query(queries / f"{number:03d}.dcm", {**one, "PatientID": patient_id(number)})

    def findscu(keys: Mapping[str, str], repeat: int) -> Callable[[int, Hospital], float]:
        def measured(number: int, hospital: Hospital) -> float:
            del number
            options = [text for name, value in keys.items() for text in ("--key", f"{name}={value}")]
            command = [*_findscu(hospital), "--repeat", str(repeat), "--key", "QueryRetrieveLevel=STUDY", *options]
            return seconds(lambda: run_tool(*command)) * 1000 / repeat

        return measured

    def first(number: int, hospital: Hospital) -> float:
        del number
        # What the hub does not know is believed for 3 s: then it is asked again.
        time.sleep(3.1)
        files = sorted(str(file) for file in queries.iterdir())[:40]
        return seconds(lambda: run_tool(*_findscu(hospital), *files)) * 1000 / len(files)

    _add(
        report,
        pair,
        "C-FIND of one patient, repeated",
        findscu(one, 200),
        runs,
        "DCMTK findscu, 200 on one association.",
    )
    note = f"DCMTK findscu, 10 on one association, {STUDIES} answers each."
    _add(report, pair, f"C-FIND that lists {STUDIES} studies", findscu(every, 10), runs, note)
    note = (
        "DCMTK findscu, 40 patients on one association, each for the first time: the hub is asked whether somebody"
        " else holds something. Nobody does."
    )
    allowance = Limit(Kind.MORE_AT_MOST, HUB_ALLOWANCE_MS)
    _add(report, pair, "C-FIND of one patient, first time", first, max(3, runs // 2), note, allowance)


def _tools_find(pair: _Pair, report: Report, runs: int) -> None:
    def body(patient: str) -> dict[str, object]:
        return {"Level": "Study", "Query": {"PatientID": patient}, "Expand": True}

    def repeated(document: Mapping[str, object], repeat: int) -> Callable[[int, Hospital], float]:
        def measured(number: int, hospital: Hospital) -> float:
            del number
            connection = pair.http[hospital.id]
            return (
                seconds(lambda: [connection.json("POST", "/tools/find", document) for _ in range(repeat)])
                * 1000
                / repeat
            )

        return measured

    def first(number: int, hospital: Hospital) -> float:
        del number
        time.sleep(3.1)
        connection = pair.http[hospital.id]
        patients = [patient_id(one) for one in range(40)]
        return seconds(lambda: [connection.json("POST", "/tools/find", body(one)) for one in patients]) * 1000 / 40

    keep_alive = "keep-alive HTTP connection"
    name = "/tools/find of one patient, repeated"
    _add(report, pair, name, repeated(body(patient_id(7)), 300), runs, f"{keep_alive}, 300 times.")
    every = {"Level": "Study", "Query": {"PatientID": "*"}, "Expand": True}
    name = f"/tools/find that lists {STUDIES} studies"
    _add(report, pair, name, repeated(every, 30), runs, f"{keep_alive}, 30 times.")
    name = "/tools/find of one patient, first time"
    note = f"{keep_alive}, 40 patients, each for the first time: the hub is asked, and nobody else holds anything."
    _add(report, pair, name, first, max(3, runs // 2), note, Limit(Kind.MORE_AT_MOST, HUB_ALLOWANCE_MS))


def _add(
    report: Report,
    pair: _Pair,
    name: str,
    measured: Callable[[int, Hospital], float],
    runs: int,
    note: str,
    limit: Limit = AT_MOST_10_PERCENT_MORE,
) -> None:
    values = in_turns(pair.sides(measured), runs)
    report.add(Result(name, "ms", values["ours"], values["plain"], limit, note))


def _findscu(hospital: Hospital) -> list[str]:
    return [
        *("findscu", "--study", "--aetitle", CLIENT_AET, "--call", hospital.aet),
        *(hospital.address, str(hospital.dicom_port)),
    ]


def _write_query(path: Path, keys: Mapping[str, str]) -> None:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = "STUDY"
    for name, value in keys.items():
        setattr(dataset, name, value)
    dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
