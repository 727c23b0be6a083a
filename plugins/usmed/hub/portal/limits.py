"""How often somebody may fail: counted by address, in memory, and bounded."""

import ipaddress
import threading
from collections import OrderedDict, deque
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)
MOST_FAILURES = 20
MOST_ADDRESSES = 10_000


class Failures:
    """Failures of the last minutes. Only they count: many patients may enrol behind one address of a hospital."""

    def __init__(
        self, window: timedelta = WINDOW, most: int = MOST_FAILURES, addresses: int = MOST_ADDRESSES
    ) -> None:
        self._window, self._most, self._addresses = window, most, addresses
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, deque[datetime]] = OrderedDict()

    def too_many(self, key: str, now: datetime) -> bool:
        """Tell whether somebody has to wait."""
        with self._lock:
            times = self._seen.get(key, deque())
            while times and now - times[0] >= self._window:
                times.popleft()
            return len(times) >= self._most

    def add(self, key: str, now: datetime) -> None:
        """Count one more."""
        with self._lock:
            self._seen.setdefault(key, deque(maxlen=self._most)).append(now)
            self._seen.move_to_end(key)
            while len(self._seen) > self._addresses:
                self._seen.popitem(last=False)


class Once:
    """What was said within the last minutes need not be said again; in memory, and bounded."""

    def __init__(self, window: timedelta = WINDOW, most: int = MOST_ADDRESSES) -> None:
        self._window, self._most = window, most
        self._lock = threading.Lock()
        self._said: OrderedDict[str, datetime] = OrderedDict()

    def first(self, key: str, now: datetime) -> bool:
        """Tell whether it was not said within the window; from now on it was."""
        with self._lock:
            said = self._said.get(key)
            if said is not None and now - said < self._window:
                return False
            self._said[key] = now
            self._said.move_to_end(key)
            while len(self._said) > self._most:
                self._said.popitem(last=False)
            return True


def network_of(address: str) -> str:
    """Return what stands for whoever is behind an address: of IPv6, one subscriber has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
