"""Worklist files as a source of arrivals: changed ones are read once, a broken one stops nobody else."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from usmed.domain.arrival import Prefetch, Source
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.hospital import worklist_files
from usmed.hospital.arrival_store import ArrivalStore, Entry
from usmed.hospital.store import CHAIN
from usmed.hospital.worklist_files import WorklistFiles, read_worklist
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

NAMING = Naming("SPIRIDON", NationalNumber("RO-CNP"))
DAY, NOW = date(2026, 11, 22), datetime(2026, 11, 22, 9, tzinfo=UTC)


def worklist(
    number: str = "1042",
    *steps: tuple[str, str, str],
    name: str = "Țîrlea^Ștefan",
    charset: str = "ISO_IR 192",
    **more: Any,
) -> bytes:
    """Return a worklist file; a step is date, time, modality."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = charset
    dataset.PatientID, dataset.PatientName = number, name
    dataset.PatientBirthDate, dataset.PatientSex = "19800101", "M"
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    items = []
    for day, time, modality in steps or (("20261122", "1130", "CT"),):
        item = Dataset()
        item.ScheduledProcedureStepStartDate, item.ScheduledProcedureStepStartTime = day, time
        item.Modality, item.ScheduledStationAETitle = modality, "CT1"
        items.append(item)
    dataset.ScheduledProcedureStepSequence = Sequence(items)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


class Watch:
    """A folder that is watched, one look at a time."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        folder.mkdir()
        self.audit, self.store, self.arrived, self.database = AuditLog(database), ArrivalStore(database), 0, database
        self.files = self.new()

    def new(self) -> WorklistFiles:
        def arrived() -> None:
            self.arrived += 1

        return WorklistFiles(
            folder=str(self.folder),
            every_s=60,
            naming=NAMING,
            database=self.database,
            store=self.store,
            audit=self.audit,
            clock=lambda: NOW,
            today=lambda: DAY,
            arrived=arrived,
        )

    def put(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def look(self, times: int = 2) -> list[Entry]:
        for _ in range(times):
            self.files.look()
        return self.store.entries(DAY, None, offset=0, limit=100)

    def refusals(self) -> list[str]:
        # Written when the log is closed, at the latest.
        self.audit.append(worklist_files.AuditEvent(NOW, worklist_files.AuditEventType.FEED, "test")).wait()
        return [one["reason"] for one in self.audit.tail(100) if one["event"] == "refused"]


@pytest.fixture
def watch(database_url: str, tmp_path: Path) -> Iterator[Watch]:
    database = open_database(database_url, [CHAIN])
    watched = Watch(tmp_path / "worklists", database)
    yield watched
    watched.audit.close()
    database.close()


def test_a_worklist_file_is_an_arrival_of_its_day(watch: Watch) -> None:
    watch.put("a.wl", worklist())
    watch.put("b.wl", worklist("7", ("20261123", "0900", "MR"), IssuerOfPatientID="SPIRIDON"))
    watch.put("c.txt", worklist("8"))
    (entry,) = watch.look()
    assert entry.arrival.identifier == PatientIdentifier("SPIRIDON", "1042")
    assert (entry.arrival.name, entry.arrival.time, entry.arrival.modality) == ("Țîrlea^Ștefan", "1130", "CT")
    assert (entry.arrival.source, entry.state, watch.arrived) == (Source.WORKLIST, Prefetch.WAITING, 1)
    assert len(watch.store.entries(date(2026, 11, 23), None, offset=0, limit=10)) == 1


def test_only_what_has_changed_is_read_and_not_before_it_is_written(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = worklist_files.read_worklist
    monkeypatch.setattr(
        worklist_files, "read_worklist", lambda content, naming: read.append(len(content)) or real(content, naming)
    )
    watch.put("a.wl", worklist()[:100])
    assert watch.look(1) == []
    watch.put("a.wl", worklist())
    assert watch.look(1) == []
    assert read == []
    assert len(watch.look(5)) == 1
    assert len(read) == 1
    watch.put("a.wl", worklist(name="Pop^Ion^Radu"))
    (entry,) = watch.look()
    assert (entry.arrival.name, len(read), watch.arrived) == ("Pop^Ion^Radu", 2, 1)
    assert watch.refusals() == []


def test_a_broken_file_is_said_once_and_the_others_go_on(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklist_files, "LARGEST_FILE_BYTES", 4000)
    watch.put("a.wl", b"nothing of DICOM")
    watch.put("b.wl", worklist()[:-30])
    watch.put("c.wl", worklist("", ("20261122", "1130", "CT")))
    watch.put("d.wl", worklist("9", ("", "1130", "CT")))
    watch.put("e.wl", worklist("9", PatientComments="x" * 5000))
    watch.put("f.wl", worklist("5"))
    (watch.folder / "g.wl").mkdir()
    entries = watch.look(6)
    assert [one.arrival.identifier.value for one in entries] == ["5"]
    refusals = watch.refusals()
    assert sorted(one.split(":")[0] for one in refusals) == [
        f"the worklist file {name}.wl is not taken" for name in "abcde"
    ]
    assert not [one for one in refusals if "Țîrlea" in one or "irlea" in one]


def test_a_restart_reads_everything_again_and_disturbs_nothing(watch: Watch) -> None:
    watch.put("a.wl", worklist())
    (entry,) = watch.look()
    watch.store.set(entry.arrival, Prefetch.HERE)
    watch.files = watch.new()
    (entry,) = watch.look()
    assert (entry.state, watch.arrived) == (Prefetch.HERE, 1)


def test_a_folder_that_is_away_or_too_full_is_said_once(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklist_files, "MAXIMUM_FILES", 3)
    for n in range(5):
        watch.put(f"{n}.wl", worklist(str(n + 1)))
    assert watch.look(4) == []
    (watch.folder / "0.wl").unlink()
    (watch.folder / "1.wl").unlink()
    assert len(watch.look()) == 3
    watch.folder.rename(watch.folder.with_name("away"))
    watch.look(3)
    assert [one.split(":")[0] for one in watch.refusals()] == [
        "the folder of worklists has more than 3 files", "the folder of worklists cannot be read",
    ]  # fmt: skip


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 101"])
def test_names_come_in_the_files_character_set(charset: str) -> None:
    name = "Ţîrlea^Ştefan"
    (arrival,) = read_worklist(worklist(name=name, charset=charset), NAMING)
    assert arrival.name == name


def test_several_steps_are_one_arrival_for_each_day() -> None:
    steps = (("20261122", "1130", "MR"), ("20261122", "0930", "CT"), ("20261123", "", "CT"))
    found = read_worklist(worklist("1800101221144", *steps), NAMING)
    assert [(one.day.day, one.time, one.modality) for one in found] == [(22, "0930", "CT\\MR"), (23, "", "CT")]
    assert found[0].identifier == PatientIdentifier("RO-CNP", "1800101221144")


@pytest.mark.parametrize("size", range(0, 700, 37))
def test_a_file_that_was_cut_off_is_an_error_of_ours_or_a_whole_arrival(size: int) -> None:
    with suppress(PeerDataError):
        assert read_worklist(worklist()[:size], NAMING)
