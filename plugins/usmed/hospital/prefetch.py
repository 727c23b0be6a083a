"""The studies of patients who come today, brought ahead: one arrival after another, in a thread of its own.

The queue is the table of arrivals, so a restart goes on where it stood. Pulls are asked for as what can wait: a study
that somebody waits for, or an emergency's, comes before them (`hospital/pulls.py`).
"""

import logging
import threading
from collections.abc import Callable, Collection
from datetime import date, datetime, timedelta

from usmed.domain.arrival import Prefetch, settled
from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.lookup import RemoteAnswers, Selector
from usmed.domain.pull import GIVEN_UP
from usmed.hospital.arrival_store import ArrivalStore, Entry
from usmed.hospital.fetch import Fetch
from usmed.hospital.pulls import Pulls

log = logging.getLogger(__name__)

AGENT = "arrival"
MAXIMUM_UNFINISHED = 200
"""How many pulls may be under way before the next arrival waits."""

MAXIMUM_ATTEMPTS = 10
AGAIN_S = (30, 120, 600, 1800, 7200)
"""When it is asked anew where there was no permission: the patient is here, and may give it at the desk or by phone.
The hub tells of changed consents only hospitals that have studies of the patient."""

MERGES_KEPT = timedelta(days=90)
_LOOK_S = 2.0
_SWEEP = timedelta(hours=1)


class Prefetcher:
    """Works arrivals off."""

    def __init__(
        self,
        *,
        store: ArrivalStore,
        fetch: Fetch,
        pulls: Pulls,
        clock: Callable[[], datetime],
        today: Callable[[], date],
        keep_days: int,
        on_click: bool,
    ) -> None:
        """`on_click`: this hospital brings studies only when somebody asks for one."""
        self._store = store
        self._fetch = fetch
        self._pulls = pulls
        self._clock = clock
        self._today = today
        self._keep_days = keep_days
        self._on_click = on_click
        self._wake = threading.Event()
        self._stopping = False
        self._swept: datetime | None = None
        self._thread = threading.Thread(target=self._run, name="arrivals-prefetch", daemon=True)

    def start(self) -> None:
        """Go on where an earlier process stood."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after what is being asked now."""
        self._stopping = True
        self._wake.set()

    def look(self) -> None:
        """Take notice that somebody has arrived. Returns at once."""
        self._wake.set()

    def consents_changed(self, patient: Collection[PatientIdentifier]) -> None:
        """Ask anew for a patient who comes today and of whom nothing was to be had."""
        try:
            if self._store.ask_again(patient, self._today()):
                self._wake.set()
        except UsmedError as error:
            log.error("an arrival is not asked for anew: %s", error)

    def _run(self) -> None:
        recovered = False
        while not self._stopping:
            try:
                if not recovered:
                    self._store.recover()
                    recovered = True
                self._sweep()
                self._settle()
                if self._work_off():
                    continue
            except UsmedError as error:
                log.error("arrivals cannot be worked off: %s", error)
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _work_off(self) -> bool:
        """Ask for the next arrival; return False if there is none, or others have to come first."""
        if self._stopping or self._pulls.unfinished >= MAXIMUM_UNFINISHED:
            return False
        today = self._today()
        # Yesterday's too: midnight ends no emergency.
        entry = self._store.next(today - timedelta(days=1), today, self._clock())
        if entry is None:
            return False
        try:
            answers = self._fetch.arrived(Selector(identifier=entry.arrival.identifier), AGENT)
            self._answered(entry, answers)
        except UsmedError as error:
            self._failed(entry, str(error))
        return True

    def _answered(self, entry: Entry, answers: RemoteAnswers) -> None:
        studies = [one.study_instance_uid for one in self._fetch.within_limits(answers.answers)]
        why = "; ".join(f"{peer}: {reason}" for peer, reason in sorted(answers.missing.items()))
        if answers.missing and not studies:
            self._failed(entry, why)
        elif self._on_click and studies:
            self._store.set(entry.arrival, Prefetch.FOUND, studies=studies, reason=why)
        elif studies:
            state, reason = self._state(studies)
            self._store.set(entry.arrival, state, studies=studies, reason=reason or why, attempts=0, due=0)
        else:
            state = Prefetch.NOTHING if answers.permitted else Prefetch.NOT_PERMITTED
            tries = 0 if entry.state is Prefetch.FAILED else entry.attempts
            again = tries < len(AGAIN_S) and state is Prefetch.NOT_PERMITTED
            due = int(self._clock().timestamp()) + AGAIN_S[tries] if again else 0
            self._store.set(entry.arrival, state, studies=[], reason="", attempts=tries + 1, due=due)

    def _failed(self, entry: Entry, reason: str) -> None:
        attempts = entry.attempts + 1 if entry.state is Prefetch.FAILED else 1
        due = self._clock() + timedelta(seconds=min(10 * 2**attempts, 1800))
        # The last try stays as it is: a lookup by a person asks again.
        again = int(due.timestamp()) if attempts < MAXIMUM_ATTEMPTS else 0
        self._store.set(entry.arrival, Prefetch.FAILED, reason=reason[:500], attempts=attempts, due=again)

    def _settle(self) -> None:
        """See how far the studies are that are on their way."""
        for entry in self._store.arriving(2 * MAXIMUM_UNFINISHED):
            state, reason = self._state(entry.studies)
            if state is not Prefetch.ARRIVING:
                self._store.set(entry.arrival, state, reason=reason)

    def _state(self, studies: Collection[str]) -> tuple[Prefetch, str]:
        pulls = self._pulls.standing(studies)
        states = [pulls[one][0] if one in pulls else None for one in studies]
        reasons = [reason for state, reason in pulls.values() if state in GIVEN_UP and reason]
        return settled(states), "; ".join(dict.fromkeys(reasons))[:500]

    def _sweep(self) -> None:
        now = self._clock()
        if self._swept is not None and self._swept > now - _SWEEP:
            return
        self._swept = now
        keep = timedelta(days=self._keep_days)
        self._store.forget(self._today() - keep, now - keep, now - MERGES_KEPT)
