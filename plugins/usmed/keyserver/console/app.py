"""The console's pages and what they post. Rendered here; one script only talks to the browser's WebAuthn.

Whatever changes something needs a session, its CSRF token and the console's own origin. A decision needs a fresh
signature of a passkey over the operation besides.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, Response, g, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.approval import RATES, Change, State, decision_challenge
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import thumbprint
from usmed.keyserver.approvals import UNKNOWN, Approvals
from usmed.keyserver.console.words import LANGUAGES, translate
from usmed.keyserver.store import RecordStore
from usmed.platform.audit_log import AuditLog
from usmed.platform.audit_search import search
from usmed.platform.keys import public_key_text
from usmed.platform.notices import Outbox
from usmed.platform.passkeys import Ceremonies
from usmed.platform.signed_http import error_body
from usmed.platform.staff.access import Access, Door
from usmed.platform.staff.door import add_door
from usmed.platform.staff.pages import (
    LIMIT_BYTES,
    csrf_of,
    json_answer,
    json_body,
)
from usmed.platform.storage import Database, StorageError

DOOR = Door("console", "usmed keyserver console-code", "__Host-usmed-console", "overview")


@dataclass(frozen=True, slots=True)
class Services:
    """What the console needs."""

    server: str
    region: Callable[[], RegionManifest]
    database: Database
    store: RecordStore
    approvals: Approvals
    access: Access
    ceremonies: Ceremonies
    outbox: Outbox
    audit: AuditLog
    clock: Callable[[], datetime]


def create_console(services: Services) -> Flask:
    """Build the WSGI application; it is mounted under `/console`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_BYTES
    app.add_template_filter(lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC", "moment")
    add_door(
        app, DOOR, services.access, services.ceremonies, site=lambda: services.server, languages=list(LANGUAGES),
        package="usmed.keyserver.console", files=["key.svg"],
    )  # fmt: skip
    _add_words(app, services)
    _add_pages(app, services)
    _add_decisions(app, services)
    _add_refusals(app, services)
    return app


def _add_words(app: Flask, services: Services) -> None:
    @app.context_processor
    def names() -> dict[str, Any]:
        now = services.clock()
        return {
            "t": functools.partial(translate, g.language),
            "language": g.language,
            "languages": LANGUAGES,
            "server": services.server,
            "passkey": g.get("passkey"),
            "csrf": csrf_of(g.token) if g.get("passkey") else "",
            "now": now,
            "badge": services.approvals.counts()[State.PENDING] if g.get("passkey") else 0,
            "version": __version__,
        }


def _add_pages(app: Flask, services: Services) -> None:
    access, approvals = services.access, services.approvals

    @app.get("/")
    def overview() -> str:
        manifest = services.region()
        own = manifest.key_servers[services.server]
        head = services.audit.head()
        waiting, failure = services.outbox.waiting()
        return render_template(
            "overview.html", manifest=manifest, own=own, public_key=public_key_text(own.key),
            thumbprint=thumbprint(own.key), counts=services.store.counts(), states=approvals.counts(), head=head,
            mail=services.outbox.wanted, waiting=waiting, failure=failure, passkeys=access.passkeys(),
        )  # fmt: skip

    @app.get("/approvals")
    def listed() -> str:
        everything = approvals.listed()
        return render_template(
            "approvals.html",
            pending=[one for one in everything if one.state is State.PENDING],
            decided=[one for one in everything if one.state is not State.PENDING],
        )

    @app.get("/approvals/<digest>")
    def operation(digest: str) -> str:
        held = approvals.find(digest)
        return render_template(
            "operation.html", held=held, operation=held.operation, rate=held.operation.kind in RATES,
            manifest=services.region(), changes=Change,
        )  # fmt: skip

    @app.get("/log")
    def log() -> str:
        given = {name: request.args.get(name, "")[:200] for name in ("text", "event", "outcome")}
        before = request.args.get("before", "")
        number = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else 0
        found = search(
            services.database, text=given["text"], event=given["event"], outcome=given["outcome"], before=number
        )
        return render_template("log.html", found=found, given=given, events=AuditEventType, outcomes=Outcome)


def _add_decisions(app: Flask, services: Services) -> None:
    access, ceremonies, approvals = services.access, services.ceremonies, services.approvals

    @app.post("/approvals/<digest>/options")
    def decision_options(digest: str) -> Response:
        challenge = _challenge(digest, _change(json_body({"decision"})))
        return json_answer(ceremonies.signing(challenge, [one.credential for one in access.passkeys()]))

    @app.post("/approvals/<digest>")
    def decide(digest: str) -> Response:
        body = json_body({"decision", "response"})
        change = _change(body)
        known = {one.credential.credential_id: one for one in access.passkeys()}
        credentials = [one.credential for one in known.values()]
        used = known[ceremonies.signed(_challenge(digest, change), body["response"], credentials).credential_id]
        proof = canonical_json(body["response"]).decode("utf-8")
        approvals.decide(digest, change, by=f"{used.name} (passkey {used.id[:16]})", proof=proof)
        return json_answer({"next": url_for("operation", digest=digest)})

    def _challenge(digest: str, change: Change) -> bytes:
        return decision_challenge(server=services.server, digest=approvals.find(digest).digest, change=change)


def _add_refusals(app: Flask, services: Services) -> None:
    def refused(error: Exception) -> Any:
        status, code = (403, error.code) if isinstance(error, RefusedError) else (400, "bad-request")
        status = 404 if code == UNKNOWN else status
        event = AuditEvent(
            services.clock(), AuditEventType.ADMINISTRATION, g.passkey.name if g.get("passkey") else _remote(),
            outcome=Outcome.DENIED, reason=f"{code}: {error}",
            detail={"what": f"{request.method} {request.path}"[:200]},
        )  # fmt: skip
        services.audit.append(event).wait()
        return _problem(status, code, str(error))

    app.register_error_handler(RefusedError, refused)
    app.register_error_handler(PeerDataError, refused)
    app.register_error_handler(
        StorageError, lambda error: _problem(503, "unavailable", "the database does not answer; try again later")
    )
    app.register_error_handler(HTTPException, lambda error: _problem(error.code or 500, "http", error.name))


def _remote() -> str:
    return request.remote_addr or ""


def _change(body: dict[str, Any]) -> Change:
    if body["decision"] not in (Change.APPROVE.value, Change.REFUSE.value):
        raise PeerDataError("decision: approve or refuse")
    return Change(body["decision"])


def _problem(status: int, code: str, message: str) -> Response:
    """Answer scripts in JSON and people with a page."""
    if status == 503:
        g.passkey = None  # The page's head would ask the database again.
    if request.method == "POST" and request.mimetype == "application/json":
        return Response(error_body(code, message), status=status, content_type="application/json")
    g.setdefault("language", "en")
    g.setdefault("token", "")
    page = render_template("problem.html", status=status, message=message)
    return Response(page, status=status, content_type="text/html; charset=utf-8")
