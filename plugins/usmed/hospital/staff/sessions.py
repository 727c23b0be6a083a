"""Who asks, where the node checks it itself: a session of the log-in page, a password, or the token of a program.

Asked for every request, so what was found is remembered for some seconds: an account that is disabled, a session that
is ended and a token that is revoked elsewhere (by a command) are noticed that much later.
"""

import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from usmed.domain.errors import RefusedError
from usmed.domain.staff_role import Person, Role
from usmed.hospital.staff.gate import SESSION
from usmed.hospital.staff.log_ins import NOBODY, basic_credentials
from usmed.hospital.staff.passwords import Attempts, fits
from usmed.hospital.staff.store import SESSION_LIFE, Account, Session, StaffStore, Token, digest
from usmed.platform.storage import StorageError

log = logging.getLogger(__name__)

COOKIE = "usmed-session"
FRESH_S = 3.0
"""How long accounts, sessions and tokens are believed without looking again."""

BASIC_S = 300.0
"""How long a password that was right is not hashed again: a program sends it with every request."""

NOTED_S = 60.0
"""How often it is written down that a session is in use."""

REMEMBERED = 1024
WRONG = "wrong-password"

BASIC, BEARER = "Basic", "Bearer"


@dataclass(slots=True)
class _Seen:
    """A session as it was last read, when that was (monotonic), and when its use was last written down."""

    session: Session | None
    read: float
    noted: float


class NodeLogIns:
    """Tells who asks, and lets people in and out.

    Args:
        roles: those in force.
        personal: permissions that no token has, whatever is written with it.
        store: accounts, sessions, tokens.
        registered: names and passwords of Orthanc's configuration; they go before accounts of the same name.
        registered_roles: the role of each; `other` for those who are not among them.
        idle: after so long without a request a session is over.
        monotonic: a clock in seconds.
        clock: aware UTC.
    """

    def __init__(
        self,
        *,
        roles: Mapping[str, Role],
        personal: frozenset[str],
        store: StaffStore,
        registered: Mapping[str, str],
        registered_roles: Mapping[str, str],
        other: str,
        idle: timedelta,
        monotonic: Callable[[], float],
        clock: Callable[[], datetime],
    ) -> None:
        self._roles = roles
        self._personal = personal
        self._store = store
        self._registered = registered
        self._registered_roles = registered_roles
        self._other = other
        self._idle = idle
        self._monotonic = monotonic
        self._clock = clock
        self._attempts = Attempts(monotonic)
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, Token] = {}
        self._looked = float("-inf")
        # By keyed hash of the header: who, against which password it was checked, until when.
        self._checked: dict[bytes, tuple[str, str, float]] = {}
        self._sessions: dict[str, _Seen] = {}

    # ---- who asks ----

    def person(self, headers: Mapping[str, str], address: str = "") -> Person:
        """Return who asks; whoever is not known is nobody."""
        authorization = headers.get("authorization", "")
        if authorization:
            scheme, _, value = authorization.partition(" ")
            return self._bearer(value) if scheme.lower() == "bearer" else self._basic(authorization, address)
        cookie = headers.get("cookie", "")
        if COOKIE not in cookie:
            return Person(NOBODY)
        return self._in_session(token_in(cookie))

    def _basic(self, authorization: str, address: str) -> Person:
        key = hmac.digest(self._secret, authorization.encode("utf-8", "surrogateescape"), hashlib.sha256)
        known = self._checked.get(key)
        if known is not None:
            name, password, until = known
            same = hmac.compare_digest(password.encode("utf-8"), self._password(name).encode("utf-8"))
            if self._monotonic() < until and same:
                return self._known(name, BASIC)
        credentials = basic_credentials(authorization)
        if credentials is None or not self._right(*credentials, address):
            return Person(NOBODY)
        if len(self._checked) >= REMEMBERED:
            self._checked.clear()
        self._checked[key] = (credentials[0], self._password(credentials[0]), self._monotonic() + BASIC_S)
        return self._known(credentials[0], BASIC)

    def _bearer(self, value: str) -> Person:
        self._look()
        token = self._tokens.get(digest(value.strip()))
        if token is None or token.expires <= self._clock():
            return Person(NOBODY)
        return Role(f"token {token.name}", "", token.permissions - self._personal).person(f"token:{token.name}", BEARER)

    def _in_session(self, token: str) -> Person:
        key, now = digest(token), self._monotonic()
        seen = self._sessions.get(key)
        if seen is None or now - seen.read > FRESH_S:
            try:
                session = self._store.session(key)
            except StorageError as error:
                log.error("a session cannot be looked up: %s", error)
                session = seen.session if seen else None
            if session is None:
                # Not remembered: with made-up ones anybody could have those of others forgotten.
                self._sessions.pop(key, None)
                return Person(NOBODY)
            if len(self._sessions) >= REMEMBERED:
                self._sessions.clear()
            seen = _Seen(session, now, seen.noted if seen else float("-inf"))
            self._sessions[key] = seen
        moment = self._clock()
        session = seen.session
        if session is None or moment - session.began >= SESSION_LIFE:
            return Person(NOBODY)
        # What was not written down yet counts as use, too.
        if moment - session.used >= self._idle + timedelta(seconds=NOTED_S):
            return Person(NOBODY)
        if now - seen.noted > NOTED_S:
            seen.noted = now
            try:
                self._store.used(key, moment)
                seen.session = Session(session.name, session.began, moment)
            except StorageError as error:
                log.error("the use of a session cannot be written down: %s", error)
        return self._known(session.name, SESSION)

    def _known(self, name: str, proved: str) -> Person:
        role = self._roles.get(self._role(name))
        return role.person(name, proved) if role else Person(NOBODY)

    def _role(self, name: str) -> str:
        if name in self._registered:
            return self._registered_roles.get(name, self._other)
        account = self._account(name)
        return account.role if account is not None and not account.disabled else ""

    def _password(self, name: str) -> str:
        """Return what a password of this name is checked against: a plain one of the configuration, or a hash."""
        if name in self._registered:
            return self._registered[name]
        account = self._account(name)
        return account.password if account is not None and not account.disabled else ""

    def _account(self, name: str) -> Account | None:
        self._look()
        return self._accounts.get(name)

    def _look(self) -> None:
        now = self._monotonic()
        if now - self._looked <= FRESH_S:
            return
        with self._lock:
            if now - self._looked <= FRESH_S:
                return
            try:
                self._accounts, self._tokens = self._store.accounts(), self._store.tokens()
            except StorageError as error:
                # Who was let in goes on working; nobody can have been disabled meanwhile either.
                log.error("the accounts of members of staff cannot be read: %s", error)
            self._looked = now

    # ---- in and out ----

    def _right(self, name: str, password: str, address: str) -> bool:
        if not self._attempts.allowed(name, address):
            return False
        known = self._password(name)
        # Of everybody the same work is done, so that the time does not tell who there is.
        if name in self._registered:
            fits(password, "")
            right = bool(known) and hmac.compare_digest(password.encode("utf-8"), known.encode("utf-8"))
        else:
            right = fits(password, known)
        if right:
            self._attempts.right(name, address)
        else:
            self._attempts.wrong(name, address)
        return right

    def log_in(self, name: str, password: str, address: str) -> str:
        """Begin a session; return the cookie's value.

        Raises:
            RefusedError: `wrong-password`, also if there is no such person, or it was tried too often.
        """
        if not self._right(name, password, address) or not self._known(name, SESSION).role:
            raise RefusedError(WRONG, "this name and password do not fit, or were tried too often: wait 15 minutes")
        return self._store.begin(name, self._clock(), self._idle)

    def log_out(self, token: str) -> None:
        """End a session."""
        self._store.end(digest(token))
        self._sessions.pop(digest(token), None)


def token_in(cookie: str) -> str:
    """Return the session's token in a Cookie header; empty if there is none."""
    for part in cookie.split(";"):
        name, _, value = part.partition("=")
        if name.strip() == COOKIE:
            return value.strip()
    return ""
