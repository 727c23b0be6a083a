"""The patient is here: a first image, an order or an admission says so, and the priors are fetched ahead."""

import logging
import queue
import threading

from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import Naming
from usmed.domain.lookup import Selector
from usmed.hospital.archive import Archive
from usmed.hospital.fetch import Fetch

log = logging.getLogger(__name__)

AGENT = "arrival"


class Arrivals:
    """Takes up new studies of this hospital, one after another, in a thread of its own."""

    def __init__(self, *, naming: Naming, archive: Archive, fetch: Fetch) -> None:
        self._naming = naming
        self._archive = archive
        self._fetch = fetch
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was not taken up is found by the next lookup."""
        self._queue.put(None)

    def study_began(self, study_orthanc_id: str) -> None:
        """The first image of a study arrived (Orthanc's NEW_STUDY). Returns at once."""
        self._queue.put(study_orthanc_id)

    def _run(self) -> None:
        while (orthanc_id := self._queue.get()) is not None:
            try:
                study = self._archive.study_by_orthanc_id(orthanc_id)
                if study is not None:
                    self._fetch.arrived(Selector(identifier=study.identifier(self._naming)), AGENT)
            except UsmedError as error:
                log.warning("an arrival was not taken up: %s", error)
