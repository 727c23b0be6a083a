"""Bringing studies here: what a lookup, an arrival, a click, a C-MOVE or a WADO-RS request sets in motion."""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from datetime import date, datetime

from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import Naming
from usmed.domain.lookup import Level, Query, RemoteAnswer, RemoteAnswers, Selector
from usmed.domain.pull import State
from usmed.domain.study_record import is_date
from usmed.hospital.archive import Archive
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.pulls import Pulls, Wanted
from usmed.hospital.settings import AutomaticPull, PullSettings
from usmed.hospital.store import PullRow

log = logging.getLogger(__name__)


class Fetch:
    """Decides what is pulled, and waits for it where somebody waits."""

    def __init__(
        self,
        *,
        naming: Naming,
        lookup: FederatedLookup,
        pulls: Pulls,
        archive: Archive,
        settings: PullSettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._naming = naming
        self._lookup = lookup
        self._pulls = pulls
        self._archive = archive
        self._settings = settings
        self._clock = clock
        self._found: queue.SimpleQueue[tuple[RemoteAnswers, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        """Begin to take up what lookups found."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was not taken up is found by the next lookup."""
        self._found.put(None)

    def looked_up(self, answers: RemoteAnswers, agent: str) -> bool:
        """Start pulls after a lookup of one patient, if the hospital set it so. Returns at once: whether it did."""
        if not answers.answers or self._settings.Automatic is not AutomaticPull.LOOKUP:
            return False
        self._found.put((answers, agent))
        return True

    def arrived(self, selector: Selector, agent: str) -> RemoteAnswers:
        """The patient is here (an order, an admission, a first image): fetch the priors, unless only clicks do."""
        answers = self._studies(selector, agent)
        if self._settings.Automatic is not AutomaticPull.CLICK:
            self._prefetch(answers, agent)
        return answers

    def study(self, study_instance_uid: str, agent: str, *, wait_s: float | None = None) -> PullRow | None:
        """Bring one study here, and wait for it.

        Args:
            study_instance_uid: the study.
            agent: who asked (AE title or user).
            wait_s: how long at most; the setting `Pull.WaitSeconds` if None.

        Returns:
            The pull as it stands, or None when the study is here whole or nobody may give it.
        """
        row = self._request(study_instance_uid, agent)
        if row is None:
            return None
        return self._pulls.wait(study_instance_uid, self._settings.WaitSeconds if wait_s is None else wait_s)

    def begin(self, study_instance_uid: str, agent: str) -> PullRow | None:
        """As `study`, without waiting."""
        return self._request(study_instance_uid, agent)

    def _request(self, study_instance_uid: str, agent: str) -> PullRow | None:
        existing = self._pulls.row(study_instance_uid)
        if existing is not None and existing.state in (State.QUEUED, State.RUNNING, State.WAITING):
            wanted = Wanted(study_instance_uid, existing.source, existing.patient_id, existing.identifiers)
            return self._pulls.ask(wanted, requested_by=agent, urgent=True)
        if self._archive.study(study_instance_uid) and self._pulls.arriving(study_instance_uid) is None:
            return None
        answers = self._studies(Selector(study_instance_uid=study_instance_uid), agent)
        for answer in answers.answers:
            if answer.study_instance_uid == study_instance_uid:
                return self._pulls.ask(self._wanted(answers, answer), requested_by=agent, urgent=True)
        return existing if self._pulls.arriving(study_instance_uid) else None

    def _studies(self, selector: Selector, agent: str) -> RemoteAnswers:
        keys: dict[str, str] = {}
        if selector.identifier is not None:
            keys = {"PatientID": selector.identifier.value, "IssuerOfPatientID": selector.identifier.issuer}
        elif selector.study_instance_uid:
            keys = {"StudyInstanceUID": selector.study_instance_uid}
        return self._lookup.find(Query(Level.STUDY, keys), selector, agent)

    def _run(self) -> None:
        while (found := self._found.get()) is not None:
            try:
                self._prefetch(*found)
            except UsmedError as error:
                log.warning("studies were not fetched ahead: %s", error)

    def _prefetch(self, answers: RemoteAnswers, agent: str) -> None:
        wanted = self.within_limits(answers.answers)
        pulls = self._pulls.rows({one.study_instance_uid for one in wanted})
        for answer in wanted:
            row = pulls.get(answer.study_instance_uid)
            if row is None and self._archive.study(answer.study_instance_uid):
                continue
            if row is None or (row.state is State.COMPLETE and row.instances < answer.instances):
                self._pulls.ask(self._wanted(answers, answer), requested_by=agent, urgent=False)

    def within_limits(self, answers: Iterable[RemoteAnswer]) -> list[RemoteAnswer]:
        """Keep what the settings allow: modalities, age, the newest so many."""
        settings = self._settings
        kept = []
        for answer in answers:
            modalities = set(str(answer.tags.get("ModalitiesInStudy", "")).split("\\"))
            if settings.Modalities and not modalities & set(settings.Modalities):
                continue
            if settings.MaximumAgeYears and self._age_years(answer) > settings.MaximumAgeYears:
                continue
            kept.append(answer)
        kept.sort(key=lambda one: str(one.tags.get("StudyDate", "")), reverse=True)
        return kept[: settings.MaximumStudies]

    def _age_years(self, answer: RemoteAnswer) -> float:
        text = str(answer.tags.get("StudyDate", "")).strip(" ")
        if not is_date(text):
            return 0.0
        return (self._clock().date() - date.fromisoformat(text)).days / 365.25

    def _wanted(self, answers: RemoteAnswers, answer: RemoteAnswer) -> Wanted:
        identifiers = answers.identifiers | {answer.identifier}
        return Wanted(answer.study_instance_uid, answer.holder, self._naming.local_patient_id(identifiers), identifiers)
