"""Modality worklist files as another source of arrivals: a folder of `.wl` files, looked at again and again.

Each is a DICOM file with the attributes of PS3.4 K.6.1.2: Patient ID, Issuer of Patient ID, names, and the Scheduled
Procedure Step Sequence. It is what Orthanc's own worklist plugin serves, so the same folder may be given to both.
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from usmed.domain.arrival import LONGEST_AHEAD, Arrival, Source, united
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.identifiers import Naming, is_text
from usmed.domain.study_record import is_date
from usmed.hospital.arrival_store import ArrivalStore
from usmed.platform.audit_log import AuditLog, append_in
from usmed.platform.storage import Database

log = logging.getLogger(__name__)

AGENT = "worklist"
SUFFIX = ".wl"
MAXIMUM_FILES = 20_000
LARGEST_FILE_BYTES = 1 << 20
LARGEST_NAME = 64

type _Version = tuple[int, int]
"""Time of the last change in nanoseconds, and size in bytes: a file that has both as before is not read again."""


class WorklistFiles:
    """Watches the folder. `start` reads everything that is there: it is known already, or it is new."""

    def __init__(
        self,
        *,
        folder: str,
        every_s: float,
        naming: Naming,
        database: Database,
        store: ArrivalStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        today: Callable[[], date],
        arrived: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._every_s = every_s
        self._naming = naming
        self._database = database
        self._store = store
        self._audit = audit
        self._clock = clock
        self._today = today
        self._arrived = arrived
        self._seen: dict[str, _Version] = {}
        self._read: dict[str, _Version] = {}
        self._said = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worklists", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the file that is being read."""
        self._ended.set()

    def look(self) -> None:
        """Read the files that have changed, and stay as they are since the last look: none is read half written."""
        try:
            now = dict(self._files())
        except OSError as error:
            self._say(f"the folder of worklists cannot be read: {error.strerror}")
            return
        if len(now) > MAXIMUM_FILES:
            self._say(f"the folder of worklists has more than {MAXIMUM_FILES} files: nothing is read until some go")
            return
        self._said = ""
        settled = [name for name, version in now.items() if self._seen.get(name) == version != self._read.get(name)]
        new = False
        for name in settled:
            if self._ended.is_set():
                return
            new = self._take(name) or new
            self._read[name] = now[name]
        self._seen = now
        self._read = {name: version for name, version in self._read.items() if name in now}
        if new:
            self._arrived()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except UsmedError as error:
                # Files that were not taken are read at the next look.
                log.error("worklists: %s", error)
            except Exception:
                log.exception("worklists")
            self._ended.wait(self._every_s)

    def _files(self) -> Iterator[tuple[str, _Version]]:
        with os.scandir(self._folder) as entries:
            for count, one in enumerate(one for one in entries if one.name.endswith(SUFFIX)):
                if count > MAXIMUM_FILES:
                    return
                try:
                    if one.is_file():
                        known = one.stat()
                        yield one.name, (known.st_mtime_ns, known.st_size)
                except FileNotFoundError:
                    # The step is over: its file was removed just now.
                    continue

    def _take(self, name: str) -> bool:
        """Read one file; return whether somebody is new. One that is broken is said once, and the others go on."""
        try:
            arrivals = self._arrivals(name)
        except FileNotFoundError:
            return False
        except (OSError, PeerDataError) as error:
            self._refused(f"the worklist file {_shown(name)} is not taken: {error}")
            return False
        if not arrivals:
            return False
        with self._database.write() as connection:
            new = [one for one in arrivals if self._store.arrive(connection, one)]
            append_in(
                connection,
                [
                    AuditEvent(
                        self._clock(),
                        AuditEventType.FEED,
                        AGENT,
                        patient=str(one.identifier),
                        detail={"what": "worklist", "file": _shown(name), "day": f"{one.day}"},
                    )
                    for one in new
                ],
            )
        return bool(new)

    def _arrivals(self, name: str) -> list[Arrival]:
        with open(os.path.join(self._folder, name), "rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise PeerDataError(f"it has more than {LARGEST_FILE_BYTES >> 20} MB")
        # Not a patient of the past: the folder may keep what is done.
        today = self._today()
        days = (today - timedelta(days=1), today + LONGEST_AHEAD)
        return [one for one in read_worklist(content, self._naming) if days[0] <= one.day <= days[1]]

    def _refused(self, reason: str) -> None:
        log.warning("%s", reason)
        said = {"what": "worklist"}
        event = AuditEvent(
            self._clock(), AuditEventType.REFUSED, AGENT, outcome=Outcome.DENIED, reason=reason, detail=said
        )
        self._audit.append(event)

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            self._refused(problem)


def read_worklist(content: bytes, naming: Naming) -> list[Arrival]:
    """Return whom a worklist file announces: one arrival for each day of its steps.

    Args:
        content: a DICOM file.
        naming: how its Patient ID is read.

    Raises:
        PeerDataError: it is none, or says not who comes when.
    """
    try:
        with warnings.catch_warnings():
            # They repeat values.
            warnings.simplefilter("ignore")
            dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
            return _read(dataset, naming)
    except InvalidDicomError as error:
        raise PeerDataError("it is no DICOM file") from error
    except PeerDataError:
        raise
    except Exception as error:
        # The library raises what it likes over broken elements; its messages repeat values.
        raise PeerDataError(f"it is damaged ({type(error).__name__})") from error


def _read(dataset: Dataset, naming: Naming) -> list[Arrival]:
    birth_date, sex = _text(dataset, "PatientBirthDate"), _text(dataset, "PatientSex")
    birth_date = birth_date if is_date(birth_date) else ""
    sex = sex if sex in ("M", "F", "O") else ""
    number = naming.identify(_text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID"), birth_date, sex)
    steps = list(dataset.get("ScheduledProcedureStepSequence") or [])
    days: dict[date, Arrival] = {}
    for step in steps:
        day, time = _text(step, "ScheduledProcedureStepStartDate"), _text(step, "ScheduledProcedureStepStartTime")
        if not is_date(day):
            raise PeerDataError("a Scheduled Procedure Step Start Date is missing, or no date")
        one = Arrival(
            date.fromisoformat(day),
            number,
            frozenset({number}),
            _text(dataset, "PatientName"),
            birth_date,
            sex,
            time[:4] if time[:4].isdigit() and len(time) >= 4 else "",
            _text(step, "Modality")[:16],
            _text(step, "ScheduledStationAETitle")[:16],
            Source.WORKLIST,
        )
        before = days.get(one.day)
        days[one.day] = one if before is None else _together(before, one)
    if not days:
        raise PeerDataError("it has no Scheduled Procedure Step")
    return list(days.values())


def _together(first: Arrival, second: Arrival) -> Arrival:
    early, late = sorted((first, second), key=lambda one: one.time or "9999")
    return Arrival(
        early.day, early.identifier, early.identifiers, early.name, early.birth_date, early.sex, early.time,
        united(early.modality, late.modality), early.place, Source.WORKLIST,
    )  # fmt: skip


def _text(dataset: Dataset, keyword: str) -> str:
    value: Any = dataset.get(keyword)
    text = "".join(one for one in str(value if value is not None else "") if is_text(one) and one != "\\").strip(" ")
    return text.partition("=")[0][:LARGEST_NAME] if keyword == "PatientName" else text


def _shown(name: str) -> str:
    """A file's name may be anything; in a log it is short, and one line."""
    return "".join(one if is_text(one) else "?" for one in name[:64])
