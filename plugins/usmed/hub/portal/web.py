"""What all pages of the portal need: what they work with, how they answer, and how they say that something is wrong."""

import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from flask import Response, g, render_template, request
from sqlalchemy import Connection
from werkzeug.wrappers import Response as BaseResponse

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.enrolment import Credential
from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.region import RegionManifest
from usmed.hub.accesses import Accesses
from usmed.hub.contacts import Contacts
from usmed.hub.invitations import PORTAL, Invitations
from usmed.hub.portal.limits import Counters, Failures, Once, network_of
from usmed.hub.portal.person import Person
from usmed.hub.portal.sessions import LONGEST, Session, Sessions
from usmed.hub.portal.words import say
from usmed.hub.registry import Registry
from usmed.hub.requests import Requests
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.passkeys import Ceremonies, counter_of
from usmed.platform.signed_http import error_body
from usmed.platform.storage import Database

SESSION = "__Host-usmed-portal"
LIMIT_BYTES = 65536
ZONE = ZoneInfo("Europe/Bucharest")
"""The clock of the patients."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the portal needs."""

    region: Callable[[], RegionManifest]
    database: Database
    invitations: Invitations
    requests: Requests
    accesses: Accesses
    contacts: Contacts
    registry: Registry
    deliveries: Deliveries
    sessions: Sessions
    ceremonies: Ceremonies
    failures: Failures
    counters: Counters
    audit: AuditLog
    clock: Callable[[], datetime]
    zone: tzinfo = ZONE
    left_out: Once = field(default_factory=lambda: Once(LONGEST))
    said: Once = field(default_factory=Once)

    def today(self) -> date:
        """Return the day that it is for patients."""
        return self.clock().astimezone(self.zone).date()

    def hospital_names(self) -> dict[str, str]:
        """Return what people call hospitals, by id; two never have the same name."""
        hospitals = sorted(self.region().hospitals.values(), key=lambda one: one.id)
        called = Counter(one.name for one in hospitals)
        return {one.id: one.name if called[one.name] == 1 else f"{one.name} ({one.id})" for one in hospitals}

    def note(self, what: str, **detail: str) -> None:
        """Write down what a person did, durably."""
        person = g.get("person")
        event = AuditEvent(
            self.clock(), AuditEventType.IDENTITY, agent(), patient=str(min(person.own)) if person else "",
            detail={"what": what, **detail},
        )  # fmt: skip
        self.audit.append(event).wait()

    def refused(self, reason: str) -> None:
        """Write down what was refused, durably. Never the path: it may hold an invitation's code."""
        event = AuditEvent(
            self.clock(), AuditEventType.REFUSED, agent(), outcome=Outcome.DENIED, reason=reason,
            detail={"what": f"portal: {request.method} {request.endpoint or 'no such page'}"},
        )  # fmt: skip
        self.audit.append(event).wait()


class Sorry(UsmedError):
    """Something cannot be done; said in the person's language.

    Args:
        status: of HTTP.
        word: the name of the text that says what happened and what to do now.
        values: what belongs into it; `reason` is for the audit log only.
    """

    def __init__(self, status: int, word: str, **values: object) -> None:
        reason = values.pop("reason", "")
        super().__init__(f"{say('en', word, **values)} {reason}".strip())
        self.status = status
        self.word = word
        self.values = values


def not_there() -> Sorry:
    """Return what is said of what does not exist, or is somebody else's: nobody is told which."""
    return Sorry(404, "not-there")


def agent() -> str:
    """Return who acts, for the audit log: a passkey or, before anybody is known, an address."""
    session = g.get("session")
    return f"{PORTAL} passkey {session.credential.id.hex()[:32]}" if session else f"{PORTAL} {remote()}"


def remote() -> str:
    """Return the browser's address."""
    return request.remote_addr or ""


def session() -> Session:
    """Return the session; the guard has seen to it that there is one."""
    found: Session = g.session
    return found


def person() -> Person:
    """Return who is logged in; the guard has seen to it that somebody is."""
    found: Person = g.person
    return found


def csrf_of(token: str) -> str:
    """Return what a form of this session has to bring."""
    return hmac.digest(token.encode("utf-8", "replace"), b"csrf", "sha256").hex()


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Answer with a page."""
    return Response(
        render_template(template, **values), status=status, content_type="text/html; charset=utf-8"
    )


def json_answer(document: Any) -> Response:
    """Answer a script."""
    return Response(canonical_json(document), content_type="application/json")


def json_body(members: set[str]) -> dict[str, Any]:
    """Return what a script sent.

    Raises:
        PeerDataError: something else than these members.
    """
    if request.mimetype != "application/json":
        raise PeerDataError("the body must be application/json")
    body = parse_json(request.get_data(cache=False), limit_bytes=LIMIT_BYTES)
    if not isinstance(body, dict) or set(body) != members:
        raise PeerDataError(f"the body has exactly the members {', '.join(sorted(members))}")
    return body


def problem(status: int, code: str, message: str) -> Response:
    """Say what is wrong: to scripts in JSON, to people on a page."""
    if request.method == "POST" and request.mimetype == "application/json":
        return Response(error_body(code, message), status=status, content_type="application/json")
    return page("problem.html", status, message=message)


def form() -> dict[str, list[str]]:
    """Return the fields of a form, with all their values."""
    return {name: values[:200] for name, values in request.form.lists()}


def field_of(name: str, longest: int = 64) -> str:
    """Return one field of a form, cut to a length."""
    return request.form.get(name, "")[:longest].strip()


def check_failures(services: Services) -> None:
    """Make sure that whoever this is has not failed too often of late.

    Raises:
        Sorry: they have.
    """
    if services.failures.too_many(whose(), services.clock()):
        raise Sorry(429, "too-many")


def failed(services: Services) -> None:
    """Count a failure."""
    services.failures.add(whose(), services.clock())


@contextmanager
def counting_failures(services: Services) -> Iterator[None]:
    """Count a failure where this ends with a `Sorry`."""
    try:
        yield
    except Sorry:
        failed(services)
        raise


def check_counter(
    services: Services, credential_id: bytes, response: Any, connection: Connection | None = None
) -> None:
    """Note the counter of a passkey whose signature was checked.

    Args:
        connection: whose transaction it is noted in; one of its own without it.

    Raises:
        Sorry: it counts backwards. The caller counts that as a failure.
    """
    count, counters = counter_of(response), services.counters
    if not (
        counters.accept_in(connection, credential_id, count) if connection else counters.accept(credential_id, count)
    ):
        raise Sorry(400, "passkey-copied", reason=f"its counter says {count}, which it was before")


def whose() -> str:
    """Return by what failures are counted: whoever has logged in, by the session; others by their network.

    Many share an address, and a stranger's failures must not keep a patient from taking something back.
    """
    return csrf_of(g.token) if g.get("session") else network_of(remote())


def enter(services: Services, response: Response, credential: Credential, **invitation: str) -> Response:
    """Begin a session, in place of the one that there may be; the browser gets its token with the response."""
    if g.token:
        services.sessions.end(g.token)
    token = services.sessions.begin(credential, **invitation)
    response.set_cookie(SESSION, token, path="/", secure=True, httponly=True, samesite="Strict")
    return response


def leave(services: Services, response: BaseResponse) -> BaseResponse:
    """End the session."""
    if g.token:
        services.sessions.end(g.token)
    response.delete_cookie(SESSION, path="/", secure=True, httponly=True, samesite="Strict")
    # The page that was kept for when there is no network goes, too.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response
