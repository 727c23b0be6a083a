"""The gate that every HTTP request passes: whoever asks has the permission that the address needs, or goes away."""

import threading
from collections.abc import Callable, Mapping

from usmed.domain.route_table import RouteTable
from usmed.domain.staff_role import Person

SESSION = "Session"
"""How somebody is known who has logged in on our page; a browser sends it by itself."""

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


LOG_IN, NO_PERMISSION = "log-in", "no-permission"
"""Why somebody is turned away: nobody is logged in, or whoever is may not do this."""


class Gate:
    """Says yes or no to a request.

    Args:
        table: which permission an address needs.
        recognise: tells who asks, from the headers and the address.
        refusals: takes note of a no.
    """

    def __init__(
        self, table: RouteTable, recognise: Callable[[Mapping[str, str], str], Person], refusals: Refusals
    ) -> None:
        self._permission = table.permission
        self._recognise = recognise
        self._refusals = refusals

    def recognise(self, headers: Mapping[str, str], address: str) -> Person:
        """Return who asks; header names are in lower case."""
        return self._recognise(headers, address)

    def permission(self, method: str, path: str) -> str | None:
        """Return the permission that an address needs; None if it is not listed."""
        return self._permission(method, path)

    def decide(self, method: str, path: str, headers: Mapping[str, str], address: str) -> tuple[Person, str]:
        """Return who asks, and why they are turned away, LOG_IN or NO_PERMISSION; empty if they may go on."""
        person = self._recognise(headers, address)
        needed = self._permission(method, path)
        from_here = method == "GET" or _from_here(headers, must_say=person.proved == SESSION)
        if from_here and needed in person.permissions:
            return person, ""
        lacks = f"has not the permission {needed!r}" if needed else "asked for an address that is not listed"
        who = person.name if person.proved else ""
        # Never the path: it may hold what is a patient's.
        self._refusals.add(
            address, who, f"{lacks if from_here else 'sent this from another site'} (role {person.role or 'none'})"
        )
        # What a stranger's page has sent must not be kept until after a log-in.
        return person, LOG_IN if from_here and not who else NO_PERMISSION


def is_disguised(arguments: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    """Tell whether a request asks Orthanc to take it for one of another method: a link could then delete a study."""
    return "_method" in arguments or "x-http-method-override" in headers


def _from_here(headers: Mapping[str, str], *, must_say: bool) -> bool:
    """Tell whether a request that changes something comes from a page of this node, or from no page at all.

    A browser sends cookies and passwords by itself, also with what a stranger's page has it send; but it says from
    which page: in Sec-Fetch-Site (W3C Fetch Metadata) where the connection is safe, and always in Origin (RFC 6454 §7).

    Args:
        must_say: whether who says nothing is refused: a session is a browser's, a password may be a program's.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        # "none" is a link from outside any page, and a link changes nothing.
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is None:
        return not must_say
    # Behind a proxy the browser's address is in the second one. No stranger's page can set either.
    return origin.partition("://")[2] in (headers.get("host"), headers.get("x-forwarded-host"))
