"""How a service hears that it is to end: SIGTERM, or Ctrl-C."""

import os
import signal


class EndSignals:
    """Takes note of the signals from the moment it is made, in the main thread.

    The kernel may hand a signal to any thread, and Python runs handlers in the main thread alone, when it next does
    something: one that waits for a lock or an event would not hear of it. So the signal is written to a pipe, by
    whichever thread got it (`signal.set_wakeup_fd`), and the main thread reads.
    """

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: None)

    def wait(self) -> None:
        """Return when one has come."""
        os.read(self._read, 1)
