"""Passwords: argon2id hashes, and how often they may be tried."""

import threading
from collections.abc import Callable
from typing import Final

from argon2 import PasswordHasher, profiles
from argon2.exceptions import InvalidHashError, VerificationError

from usmed.domain.errors import PeerDataError

SHORTEST, LONGEST = 10, 256
AT_ONCE = 2
"""How many passwords are hashed at the same time: each takes 64 MiB."""

WAIT_S = 10.0

WINDOW_S = 900.0
TRIES = 5
"""Wrong passwords for one account from one address within the window."""

TRIES_OF_ACCOUNT = 50
TRIES_OF_ADDRESS = 100
"""Behind a proxy all addresses are one."""

MOST_KEPT = 4096

_HASHER: Final = PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)
_turns = threading.BoundedSemaphore(AT_ONCE)
_NOBODYS: Final = _HASHER.hash("nobody's password")


def hashed(password: str) -> str:
    """Return the argon2id hash of a new password.

    Raises:
        PeerDataError: it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise PeerDataError(f"a password has {SHORTEST} to {LONGEST} characters")
    return _HASHER.hash(password)


def fits(password: str, password_hash: str) -> bool:
    """Tell whether a password is the one that was hashed; "" as hash fits nothing, and takes as long.

    A machine whose turns are all taken for WAIT_S answers no.
    """
    if len(password) > LONGEST or not _turns.acquire(timeout=WAIT_S):
        return False
    try:
        return _HASHER.verify(password_hash or _NOBODYS, password) and bool(password_hash)
    except (VerificationError, InvalidHashError):
        return False
    finally:
        _turns.release()


class Attempts:
    """Counts wrong passwords, per account and address, and says when it is enough.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[tuple[str, str], list[float]] = {}

    def allowed(self, name: str, address: str) -> bool:
        """Tell whether this account may be tried from this address now."""
        with self._lock:
            return all(len(self._recent(key)) < most for key, most in _keys(name, address))

    def wrong(self, name: str, address: str) -> None:
        """Take note of a wrong password."""
        now = self._clock()
        with self._lock:
            if len(self._failed) > MOST_KEPT:
                self._failed = {key: recent for key in list(self._failed) if (recent := self._recent(key))}
                # An attack from everywhere at once: forget the older half, so that this is not done for each of them.
                for key in list(self._failed)[: max(0, len(self._failed) - MOST_KEPT // 2)]:
                    del self._failed[key]
            for key, most in _keys(name, address):
                self._failed[key] = [*self._recent(key), now][-most:]

    def right(self, name: str, address: str) -> None:
        """Forget what somebody who knows the password has mistyped."""
        with self._lock:
            self._failed.pop((name, address), None)

    def _recent(self, key: tuple[str, str]) -> list[float]:
        since = self._clock() - WINDOW_S
        return [one for one in self._failed.get(key, ()) if one > since]


def _keys(name: str, address: str) -> tuple[tuple[tuple[str, str], int], ...]:
    name = name[:LONGEST]
    return ((name, address), TRIES), ((name, ""), TRIES_OF_ACCOUNT), (("", address), TRIES_OF_ADDRESS)
