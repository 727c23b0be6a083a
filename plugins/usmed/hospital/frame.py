"""The frame of all pages for the hospital's staff: navigation, languages, colours, forms that nobody forges, refusals.

A page is a blueprint that `dress` has dressed, with templates that extend `base.html` and words in `words`. It joins
the navigation by the name of its first view (`ENTRIES`). Nothing here knows what a page is about.
"""

import functools
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, current_app, g, make_response, render_template, request
from jinja2 import TemplateAssertionError

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.hospital.page_requests import LIMIT_BYTES, REACHES, SHOWN, agent, is_staff, staff
from usmed.hospital.words import LANGUAGES, of_fault, translate
from usmed.platform.audit_log import AuditLog

ENTRIES = {
    "patient": "patient.start",
    "transfers": "transfers.start",
    "arrivals": "arrivals.start",
    "desk": "desk_of_patients.start",
    "audit": "audit.start",
    "statistics": "statistics.start",
    "region": "region.start",
    "settings": "settings.start",
}
"""The navigation, in its order, each with the endpoint it leads to; one without a page is not shown."""

LANGUAGE, LOOK = "usmed-language", "usmed-look"
LOOKS = ("auto", "light", "dark")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SCAN_FORM = "multipart/x-usmed-form"
"""How the pages' script calls a form with a file: Orthanc keeps what is called multipart/form-data for itself."""

_STATIC = {
    "dark.css": "text/css; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "pages.js": "text/javascript; charset=utf-8",
    "usmed.svg": "image/svg+xml",
}
_YEAR_S = 31_536_000


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page needs.

    Attributes:
        hospital_name: the hospital's name for people.
        audit: takes what is refused.
        secret: of this process, from which the tokens of forms are made.
    """

    hospital_name: Callable[[], str]
    audit: AuditLog
    clock: Callable[[], datetime]
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    prepared: threading.Event = field(default_factory=threading.Event, repr=False)


def dress(
    pages: Blueprint,
    frame: Frame,
    *,
    larger_forms: Mapping[str, int] | None = None,
    shape: str = "wide",
    for_all: bool = False,
) -> None:
    """Put the frame around a blueprint's pages: only members of staff see them, and forms come from these pages.

    A form carries a token of this process and of whoever is logged in: the browser sends the log-in by itself, also
    with what a stranger's web page would have it send.

    Args:
        larger_forms: by name of a view, how many bytes its form may bring besides its words.
        shape: `wide` for tables, `column` for a text or a form.
        for_all: also for who has not logged in; then no form of these pages carries a token.
    """

    def csrf() -> str:
        return hmac.digest(frame.secret, agent().encode("utf-8"), "sha256").hex()

    pages.add_app_template_filter(lambda moment: f"{moment:%d.%m.%Y %H:%M} UTC", "moment")

    @pages.before_request
    def guard() -> None:
        if not frame.prepared.is_set():
            _prepare(current_app.jinja_env)
            frame.prepared.set()
        g.language = _language()
        given = request.environ.get("CONTENT_TYPE", "")
        if given.startswith(SCAN_FORM):
            request.environ["CONTENT_TYPE"] = f"multipart/form-data{given.removeprefix(SCAN_FORM)}"
        if for_all:
            return
        staff()
        if request.method != "POST":
            return
        larger = (larger_forms or {}).get((request.endpoint or "").rpartition(".")[2], 0)
        if (request.content_length or 0) > LIMIT_BYTES + larger:
            raise PeerDataError("the form is too large")
        if not hmac.compare_digest(request.form.get("csrf", "").encode("utf-8"), csrf().encode("utf-8")):
            raise RefusedError("stale-form", "this form is not from this log-in")

    @pages.context_processor
    def names() -> dict[str, Any]:
        return {
            "t": functools.partial(translate, g.language),
            "language": g.language,
            "languages": LANGUAGES,
            "look": _look(),
            "looks": LOOKS,
            "with_": lambda **changes: f"?{urlencode({**request.args, **changes})}",
            "to": to,
            "entries": entries(),
            "entry": next((name for name, place in ENTRIES.items() if place.startswith(f"{pages.name}.")), ""),
            "explorer": to("../app/explorer.html"),
            "hospital": frame.hospital_name(),
            "user": agent() if is_staff() else "",
            "in_session": request.environ.get("AUTH_TYPE") == "Session",
            "csrf": csrf(),
            "shape": shape,
        }

    @pages.after_request
    def headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        # Orthanc's plugins set one header of a name: the last choice is kept, and nobody makes two at once.
        if request.args.get("lang") in LANGUAGES:
            response.set_cookie(LANGUAGE, g.language, max_age=_YEAR_S, httponly=True, samesite="Strict")
        elif request.args.get("look") in LOOKS:
            response.set_cookie(LOOK, request.args["look"], max_age=_YEAR_S, httponly=True, samesite="Strict")
        return response

    @pages.errorhandler(UsmedError)
    def failed(error: UsmedError) -> Response:
        record_refusal(frame, error)
        return page("problem.html", fault=fault(error))


def create_entrance() -> Blueprint:
    """Return what is at `/usmed/` itself, the way to the first page there is, and the files of all pages."""
    entrance = Blueprint("entrance", __name__)

    @entrance.get("/", strict_slashes=False)
    def bare() -> Response:
        # Relative, as all: a proxy's prefix is not known here. Orthanc takes a slash away from an address's end
        # before anybody sees it; the browser does not, and so takes this for one below `/usmed/`.
        return see_at("usmed/home")

    @entrance.get("/home")
    @entrance.get("/usmed/home")
    def home() -> Response:
        return see(next(iter(entries().values()), "../app/explorer.html"))

    @entrance.get("/static/<name>")
    def static_file(name: str) -> Response:
        if name not in _STATIC:
            abort(404)
        content = files("usmed.hospital").joinpath("static", name).read_bytes()
        response = Response(content, content_type=_STATIC[name])
        response.headers["Cache-Control"] = "private, max-age=300"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return entrance


def entries() -> dict[str, str]:
    """Return the navigation: the address, below `/usmed/`, of each entry that has a page which whoever asks may see."""
    reaches = request.environ.get(REACHES, lambda address: True)
    found: dict[str, str] = {}
    for name, endpoint in ENTRIES.items():
        if endpoint in current_app.view_functions:
            rule = next(current_app.url_map.iter_rules(endpoint)).rule
            if reaches(rule):
                found[name] = rule.removeprefix("/")
    return found


# ---- answers ---------------------------------------------------------------------------------------------------------


def page(name: str, **values: Any) -> Response:
    """Return a page."""
    # Always 200: whatever else Orthanc's HTTP server sends, it calls text.
    return make_response(render_template(name, **values))


def see(path: str) -> Response:
    """Send the browser on, so that loading the page again sends nothing twice."""
    return see_at(to(path))


def see_at(address: str) -> Response:
    """Send the browser on to an address as it stands."""
    response = Response(status=303)
    response.headers["Location"] = address
    response.autocorrect_location_header = False
    return response


def to(path: str) -> str:
    """Return the address of a page, given below `/usmed/`, relative to the one that is shown: Orthanc may stand behind
    a proxy's prefix."""
    shown: str = request.environ.get(SHOWN, request.path)
    return "../" * (shown.count("/") - 1) + path


def fault(error: UsmedError) -> str:
    """Return what went wrong, in the reader's language."""
    if isinstance(error, RefusedError):
        return of_fault(g.language, error.code, str(error))
    return of_fault(g.language, "other" if isinstance(error, PeerDataError) else "away", str(error))


def record_refusal(frame: Frame, error: UsmedError) -> None:
    """Write down what was refused, durably."""
    if not isinstance(error, PeerDataError | RefusedError):
        return
    reason = f"{error.code}: {error}" if isinstance(error, RefusedError) else str(error)
    detail = {"what": f"{request.method} {request.url_rule}"}
    event = AuditEvent(
        frame.clock(), AuditEventType.REFUSED, agent(), outcome=Outcome.DENIED, reason=reason, detail=detail
    )
    frame.audit.append(event).wait()


def _language() -> str:
    for one in (request.args.get("lang"), request.cookies.get(LANGUAGE)):
        if one in LANGUAGES:
            return str(one)
    return request.accept_languages.best_match(list(LANGUAGES)) or "ro"


def _look() -> str:
    chosen = request.args.get("look") or request.cookies.get(LOOK)
    return chosen if chosen in LOOKS else LOOKS[0]


def _prepare(jinja: Any) -> None:
    """Compile templates and import what draws, in a thread of Python's own: on one of Orthanc's Python 3.14 takes its
    stack for used up when it compiles ("Parser stack overflowed")."""

    def work() -> None:
        import segno  # noqa: F401

        for name in jinja.list_templates():
            # Of a page that this application does not have: the page would have brought the filter.
            with suppress(TemplateAssertionError):
                jinja.get_template(name)

    thread = threading.Thread(target=work, name="templates")
    thread.start()
    thread.join()
