"""Work that takes longer than a page may: done once at a time in a thread, looked at while it runs and afterwards."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from usmed.domain.errors import UsmedError

log = logging.getLogger(__name__)

LONGEST_END_S = 5.0
"""How long a step may take."""


class StoppedError(UsmedError):
    """The process ends; nothing came of it."""


class Progress:
    """How far the work has come. It asks `step` now and then."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self._stop = threading.Event()

    def step(self, done: int) -> None:
        """Say how much is done.

        Raises:
            StoppedError: the process ends.
        """
        self.done = done
        # Not only to learn that the process ends: requests come first, and all threads share one interpreter.
        if self._stop.wait(0.001):
            raise StoppedError("stopped")

    def stop(self) -> None:
        """Have it end at its next step."""
        self._stop.set()


class Task[T]:
    """One kind of work.

    Attributes:
        result: of the last time it ended well; None before.
        ended: when that was, aware UTC.
        problem: why it ended badly since then; empty if it did not.

    Args:
        name: of the thread.
        work: what is done.
        clock: aware UTC.
    """

    def __init__(self, name: str, work: Callable[[Progress], T], clock: Callable[[], datetime]) -> None:
        self._name = name
        self._work = work
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.progress = Progress()
        self.result: T | None = None
        self.ended: datetime | None = None
        self.problem = ""

    @property
    def running(self) -> bool:
        """Tell whether it runs now."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, *, unless_within: timedelta = timedelta(0), wait_s: float = 0.0) -> None:
        """Begin, unless it runs, or ended well within a time; wait a little for its end."""
        with self._lock:
            recent = self.ended is not None and self._clock() - self.ended < unless_within
            if not self.running and not recent and not self.progress._stop.is_set():
                self.progress.done = self.progress.total = 0
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None and wait_s:
            thread.join(wait_s)

    def stop(self) -> None:
        """End it, for good: at its next step, which is not long. Then nothing of it uses the database any more."""
        self.progress.stop()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(LONGEST_END_S)

    def _run(self) -> None:
        try:
            self.result, self.problem = self._work(self.progress), ""
            self.ended = self._clock()
        except StoppedError:
            pass
        except UsmedError as error:
            self.problem = str(error)
            log.error("%s: %s", self._name, error)
