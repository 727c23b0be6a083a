"""Remembers who did not answer, so that the next lookup does not wait for them again."""

import threading
from collections.abc import Callable


class Circuit:
    """One switch for each peer: a failure opens it for a while, then a single try decides.

    Args:
        open_s: how long a peer is left alone after a failure.
        monotonic: a clock that only goes forward, in seconds.
    """

    def __init__(self, open_s: float, monotonic: Callable[[], float]) -> None:
        self._open_s = open_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open_until: dict[str, float] = {}
        self._reasons: dict[str, str] = {}

    def is_closed(self, peer: str) -> bool:
        """Tell whether the peer is worth waiting for: it answered the last time, or was never asked.

        One that is not may still be admitted for a try; nobody should have to wait for that.
        """
        with self._lock:
            return peer not in self._open_until

    def admits(self, peer: str) -> bool:
        """Tell whether to ask the peer. After its time is over exactly one caller is let through to try."""
        with self._lock:
            until = self._open_until.get(peer)
            if until is None:
                return True
            if self._monotonic() < until:
                return False
            # Others keep away until this try has told.
            self._open_until[peer] = self._monotonic() + self._open_s
            return True

    def succeeded(self, peer: str) -> None:
        """The peer answered."""
        with self._lock:
            self._open_until.pop(peer, None)
            self._reasons.pop(peer, None)

    def failed(self, peer: str, reason: str) -> None:
        """The peer did not answer, or with something unusable."""
        with self._lock:
            self._open_until[peer] = self._monotonic() + self._open_s
            self._reasons[peer] = reason

    def reason(self, peer: str) -> str:
        """Return why the peer is left alone, or an empty text."""
        with self._lock:
            return self._reasons.get(peer, "") if peer in self._open_until else ""
