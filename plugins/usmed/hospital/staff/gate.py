"""The gate that every HTTP request passes: whoever asks has the permission that the address needs, or goes away."""

import threading
from collections.abc import Callable, Mapping

from usmed.domain.route_table import RouteTable
from usmed.domain.staff_role import Person

QUIET_S = 600.0
"""The same refusal is written down once in so many seconds, with how many there were since."""

MOST_KINDS = 256
"""Of which so many are told apart; beyond them a refusal is written down as one of all others."""


class Refusals:
    """Writes refusals down, but not each of thousands.

    Args:
        record: writes one down: from which address, who (nobody that is proved), and why.
        clock: monotonic, in seconds.
    """

    def __init__(self, record: Callable[[str, str, str], None], clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._lock = threading.Lock()
        # By kind: until when it is quiet, and how many there were meanwhile.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def add(self, address: str, who: str, what: str) -> None:
        """Take note of a refusal.

        Args:
            address: from which it came.
            who: whose it was, if that is proved; else empty.
            what: which permission was lacking: one kind of refusal of this person or address.
        """
        now, kind = self._clock(), (who or address, what)
        with self._lock:
            if kind not in self._seen and len(self._seen) >= MOST_KINDS:
                self._seen = {one: seen for one, seen in self._seen.items() if seen[0] > now}
                if len(self._seen) >= MOST_KINDS:
                    kind = ("", "")
                    address, who, what = "several", "", "further refusals of many kinds"
            until, count = self._seen.get(kind, (0.0, 0))
            if now < until:
                self._seen[kind] = (until, count + 1)
                return
            self._seen[kind] = (now + QUIET_S, 0)
        more = f" ({count} more since the last of these records)" if count else ""
        self._record(address, who, what + more)


class Gate:
    """Says yes or no to a request.

    Args:
        table: which permission an address needs.
        recognise: tells who asks, from the headers.
        refusals: takes note of a no.
    """

    def __init__(
        self, table: RouteTable, recognise: Callable[[Mapping[str, str]], Person], refusals: Refusals
    ) -> None:
        self._permission = table.permission
        self._recognise = recognise
        self._refusals = refusals

    def recognise(self, headers: Mapping[str, str]) -> Person:
        """Return who asks; header names are in lower case."""
        return self._recognise(headers)

    def admit(self, method: str, path: str, headers: Mapping[str, str], address: str) -> Person | None:
        """Return who asks, if they may; None to refuse."""
        person = self._recognise(headers)
        needed = self._permission(method, path)
        if needed in person.permissions:
            return person
        who = person.name if person.proved else ""
        # The path may hold what is a patient's; an address that is not listed anybody can make up.
        lacks = f"has not the permission {needed!r}" if needed else "asked for an address that is not listed"
        self._refusals.add(address, who, f"{lacks} (role {person.role or 'none'})")
        return None
