"""The portal put together: who gets in, in which language, with which headers; and what is said when something fails.

Whatever changes something comes from the portal's own origin and, once somebody is logged in, with the session's CSRF
token. What is signed needs the person's passkey besides.
"""

import functools
import hmac
from datetime import datetime
from importlib.resources import files
from typing import Any

from flask import Flask, Response, g, redirect, request, url_for
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.hub.portal import consents, door, enrolling, home, notices, signing
from usmed.hub.portal.person import find_person, is_known
from usmed.hub.portal.web import LIMIT_BYTES, SESSION, Services, Sorry, csrf_of, failed, not_there, page, problem, whose
from usmed.hub.portal.words import LANGUAGES, WORDS, day_text, mark_text, moment_text, say
from usmed.platform.storage import StorageError

LANGUAGE = "__Host-usmed-language"
POLL = "X-Poll"
"""With this header a page asks whether something has changed: nobody has done anything."""

_STATIC = {
    "portal.css": "text/css; charset=utf-8",
    "portal.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
OPEN = frozenset({
    "login", "login_options", "log_in", "invited", "enrol", "birth_date", "birth_date_told", "passkey",
    "passkey_options", "passkey_made", "help", "static_file", "worker", "app_manifest",
})  # fmt: skip
"""Endpoints that need no session."""

WAITING = frozenset({"waiting", "log_out"})
"""Endpoints for whoever waits for a clerk."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; manifest-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: forms would then be sent with the origin "null" (Fetch, "append a request Origin header").
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    "Cache-Control": "no-store",
}


def create_portal(services: Services) -> Flask:
    """Build the WSGI application; it is mounted under `/portal`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_BYTES
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.add_template_filter(lambda moment: moment_text(g.language, moment, services.zone), "moment")
    app.add_template_filter(lambda day: day_text(g.language, day), "day")
    _add_guard(app, services)
    for part in (door, enrolling, home, consents, signing, notices):
        part.add(app, services)
    _add_static(app)
    _add_refusals(app, services)
    return app


def _add_guard(app: Flask, services: Services) -> None:
    @app.before_request
    def guard() -> Any:
        g.language, g.session, g.person, g.token = _language(), None, None, ""
        origin = services.region().portal
        if not origin:
            raise Sorry(404, "no-portal")
        if request.method == "POST" and request.headers.get("Origin") != origin:
            raise Sorry(403, "another-site")
        if request.endpoint is None or request.endpoint in ("static_file", "worker", "app_manifest"):
            return None
        _find_session(services)
        if request.endpoint in OPEN:
            return None
        if g.session is None:
            if request.method == "GET":
                return redirect(url_for("login"))
            raise Sorry(403, "session-over")
        given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
        if request.method == "POST" and not hmac.compare_digest(given.encode(), csrf_of(g.token).encode()):
            raise Sorry(403, "form-of-another-session")
        if g.person is None and request.endpoint not in WAITING:
            return redirect(url_for("waiting"))
        return None

    @app.context_processor
    def names() -> dict[str, Any]:
        return {
            "t": functools.partial(say, g.language),
            "language": g.language,
            "languages": LANGUAGES,
            "region": services.region().name,
            "person": g.person,
            "has_notices": bool(services.contacts.channels),
            "mark": _mark(services),
            "csrf": csrf_of(g.token) if g.session else "",
            "version": __version__,
            "now": services.clock(),
        }

    @app.after_request
    def headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.add("Vary", "Cookie, Accept-Language")
        if request.args.get("lang") in LANGUAGES:
            response.set_cookie(
                LANGUAGE, g.language, max_age=31_536_000, path="/", secure=True, httponly=True, samesite="Lax"
            )
        return response


def _mark(services: Services) -> str:
    """Return what tells the person from others who use the same phone."""
    if g.person is None:
        return ""
    number = g.person.signs_as(services.region().national_number).value
    return mark_text(g.language, number, g.person.guardian, g.person.born)


def _find_session(services: Services) -> None:
    """Find whose session it is. One of a passkey that does not count any more ends."""
    tokens = request.cookies.getlist(SESSION)
    # A browser has one. Where two come, somebody has put one beside it.
    token = tokens[0] if len(tokens) == 1 else ""
    found = services.sessions.find(token, used=POLL not in request.headers) if token else None
    if found is None:
        return
    now: datetime = services.clock()
    with services.database.read() as connection:
        person = find_person(connection, found.credential, services.region().national_number, now)
        was_enrolled = person is None and (not found.invitation or is_known(connection, found.credential))
    if was_enrolled:
        services.sessions.end(token)
        return
    g.session, g.person, g.token = found, person, token
    if person is not None and person.left_out and services.left_out.first(found.digest, now):
        services.note("portal left out charts that contradict this person", charts=str(person.left_out))


def _add_static(app: Flask) -> None:
    folder = files("usmed.hub.portal").joinpath("static")

    @app.get("/static/<name>")
    def static_file(name: str) -> Response:
        if name not in _STATIC:
            raise not_there()
        response = Response(folder.joinpath(name).read_bytes(), content_type=_STATIC[name])
        response.headers["Cache-Control"] = "public, max-age=300"
        return response

    @app.get("/worker.js")
    def worker() -> Response:
        # Here and not under static: it serves what is below its own path.
        return Response(folder.joinpath("worker.js").read_bytes(), content_type="text/javascript; charset=utf-8")

    @app.get("/app.webmanifest")
    def app_manifest() -> Response:
        response = page("app.webmanifest")
        response.content_type = "application/manifest+json"
        return response


def _add_refusals(app: Flask, services: Services) -> None:
    def sorry(error: Sorry) -> Response:
        # Whoever goes on and on fills no disk with it.
        again = error.status in (404, 429) and not services.said.first(f"{error.status} {whose()}", services.clock())
        # What is not there is nothing to write down, but where somebody is logged in: it may be another's.
        if not again and (error.status != 404 or g.session is not None):
            services.refused(f"{error.word}: {error}")
        return problem(error.status, error.word, say(g.language, error.word, **error.values))

    def refused(error: RefusedError) -> Response:
        services.refused(f"{error.code}: {error}")
        word = f"refused-{error.code}"
        return problem(403, error.code, say(g.language, word if word in WORDS else "refused"))

    def malformed(error: PeerDataError) -> Response:
        failed(services)
        services.refused(str(error))
        return problem(400, "bad-request", say(g.language, "not-understood"))

    def unavailable(_error: StorageError) -> Response:
        g.person = g.session = None
        return problem(503, "unavailable", say(g.language, "unavailable"))

    def other(error: HTTPException) -> Response:
        status = error.code or 500
        word = {404: "not-there", 405: "not-there", 413: "too-large"}.get(status, "not-understood")
        if status not in (404, 405):
            services.refused(f"{status} {error.name}")
        return problem(status, "http", say(g.language, word))

    app.register_error_handler(Sorry, sorry)
    app.register_error_handler(RefusedError, refused)
    app.register_error_handler(PeerDataError, malformed)
    app.register_error_handler(StorageError, unavailable)
    app.register_error_handler(HTTPException, other)


def _language() -> str:
    for one in (request.args.get("lang"), request.cookies.get(LANGUAGE)):
        if one in LANGUAGES:
            return str(one)
    return request.accept_languages.best_match(list(LANGUAGES)) or next(iter(LANGUAGES))
