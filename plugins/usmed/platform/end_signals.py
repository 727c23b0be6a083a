"""How a service hears that it is to end: SIGTERM, or Ctrl-C."""

import signal
from queue import SimpleQueue


class EndSignals:
    """Takes note of the signals from the moment it is made, in the main thread.

    Not by a `threading.Event`: a handler runs between two steps of the main thread, and if that is inside `wait`, `set`
    waits for ever for the lock that `wait` holds. `SimpleQueue.put` may be called from anywhere.
    """

    def __init__(self) -> None:
        self._came: SimpleQueue[int] = SimpleQueue()
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda number, _frame: self._came.put(number))

    def wait(self) -> None:
        """Return when one has come."""
        self._came.get()
