"""The desk's pages for clerks: enrol a patient for the region's portal. Rendered here; only a file needs a script.

A form carries a token of this process and of whoever is logged in: the browser sends the log-in by itself, also with
what a stranger's web page would have it send.
"""

import functools
import hmac
import io
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, current_app, g, jsonify, make_response, render_template, request

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.enrolment import Basis
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import State
from usmed.domain.paper import LARGEST_SCAN_BYTES
from usmed.domain.study_record import is_date
from usmed.hospital.archive import Archive
from usmed.hospital.enrolment_words import LANGUAGES, of_fault, translate
from usmed.hospital.enrolments import MAJORITY, Enrolments, Standing, Wish
from usmed.hospital.page_requests import LIMIT_BYTES, agent, staff
from usmed.hospital.patient_record import PatientRecord, age, birthday
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import Delivery

LANGUAGE = "usmed-desk-language"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LARGER_FORMS = {"paper_written": LARGEST_SCAN_BYTES + 1}
"""By endpoint, what a form may bring besides its words: a scan, and a byte more, so that it is told what is wrong."""

SCAN_FORM = "multipart/x-usmed-form"
"""How the desk's script calls a form with a file: Orthanc keeps what is called multipart/form-data for itself."""

_STATIC = {
    "desk.css": "text/css; charset=utf-8",
    "desk.js": "text/javascript; charset=utf-8",
    "phone.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages need."""

    enrolments: Enrolments
    deliveries: Deliveries
    archive: Archive
    audit: AuditLog
    clock: Callable[[], datetime]
    hospital_name: Callable[[], str]


def create_enrolment_pages(services: Services) -> Blueprint:
    """Return the pages; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("desk_of_patients", __name__)
    _add_filters(pages, services)
    _add_guard(pages, services)
    _add_pages(pages, services)
    _add_actions(pages, services)
    return pages


def _add_filters(pages: Blueprint, services: Services) -> None:
    def add(name: str, function: Callable[[Any], str]) -> None:
        pages.add_app_template_filter(function, name)

    add("written", written)
    add("day", lambda text: f"{text[6:8]}.{text[4:6]}.{text[:4]}")
    add("years", lambda text: str(age(text, services.clock().date())))
    add("moment", lambda moment: f"{moment:%d.%m.%Y %H:%M} UTC")
    add("day_before", lambda moment: f"{moment - timedelta(days=1):%d.%m.%Y}")


def _add_guard(pages: Blueprint, services: Services) -> None:
    secret = secrets.token_bytes(32)
    prepared = threading.Event()

    def csrf() -> str:
        return hmac.digest(secret, agent().encode("utf-8"), "sha256").hex()

    @pages.before_request
    def guard() -> None:
        if not prepared.is_set():
            _prepare(current_app.jinja_env)
            prepared.set()
        g.language = _language()
        given = request.environ.get("CONTENT_TYPE", "")
        if given.startswith(SCAN_FORM):
            request.environ["CONTENT_TYPE"] = f"multipart/form-data{given.removeprefix(SCAN_FORM)}"
        if request.endpoint == f"{pages.name}.static_file":
            return
        staff()
        if request.method != "POST":
            return
        larger = LARGER_FORMS.get((request.endpoint or "").rpartition(".")[2], 0)
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
            "in_language": lambda code: f"?{urlencode({**request.args, 'lang': code})}",
            "to": to,
            "explorer": to("../../app/explorer.html"),
            "hospital": services.hospital_name(),
            "user": agent(),
            "csrf": csrf(),
        }

    @pages.after_request
    def headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if request.args.get("lang") in LANGUAGES:
            response.set_cookie(LANGUAGE, g.language, max_age=31_536_000, httponly=True, samesite="Strict")
        return response

    @pages.errorhandler(UsmedError)
    def failed(error: UsmedError) -> Response:
        record_refusal(services, error)
        return page("problem.html", fault=fault(error))


def _add_pages(pages: Blueprint, services: Services) -> None:
    enrolments = services.enrolments

    @pages.get("")
    def entrance() -> Response:
        # Relative, as all: a proxy's prefix is not known here.
        return see_at("desk/start")

    @pages.get("/desk/start")
    def entrance_with_slash() -> Response:
        # Orthanc takes a slash away from an address's end before anybody sees it; the browser does not, and so takes
        # the address above for one below this.
        return see_at("../start")

    @pages.get("/start")
    def start() -> Response:
        return page("start.html", possible=enrolments.possible, recent=enrolments.recent())

    @pages.get("/patient")
    def patient() -> Response:
        number, issuer = request.args.get("PatientID", ""), request.args.get("IssuerOfPatientID", "")
        if opened := request.args.get("orthanc", ""):
            # From Orthanc Explorer, which knows its own identifier of the patient only.
            studies = services.archive.parent_studies([opened])
            own = next((one for one in studies if not one.is_guest), None)
            if own is None:
                raise RefusedError("no-patient", "no study of this hospital is filed under this number")
            number, issuer = own.patient_id, own.issuer
        return _patient_page(services, enrolments.record(number, issuer))

    @pages.get("/enrolments/<id>")
    def enrolment(id: str) -> Response:
        return _standing_page(services, enrolments.look(id))

    @pages.get("/enrolments/<id>/state")
    def state(id: str) -> Response:
        standing = enrolments.look(id)
        return jsonify(State=_mark(services, standing), Problem=bool(standing.problem))

    @pages.get("/static/<name>")
    def static_file(name: str) -> Response:
        if name not in _STATIC:
            abort(404)
        content = files("usmed.hospital").joinpath("static", name).read_bytes()
        response = Response(content, content_type=_STATIC[name])
        response.headers["Cache-Control"] = "private, max-age=300"
        return response


def _add_actions(pages: Blueprint, services: Services) -> None:
    enrolments = services.enrolments

    @pages.post("/enrolments")
    def invite() -> Response:
        record = _opened(enrolments)
        try:
            standing = enrolments.invite(_wish(record), staff())
        except UsmedError as error:
            return _again(services, record, error)
        return see(f"enrolments/{standing.enrolling.id}")

    @pages.post("/block")
    def block() -> Response:
        record = _opened(enrolments)
        try:
            standing = enrolments.block(replace(_wish(record), basis=None, until=None), staff())
        except UsmedError as error:
            return _again(services, record, error)
        return see(f"enrolments/{standing.enrolling.id}")

    @pages.post("/enrolments/<id>/confirmation")
    def confirm(id: str) -> Response:
        try:
            enrolments.confirm(id, request.form.get("digits", ""), staff())
        except UsmedError as error:
            record_refusal(services, error)
            return _standing_page(services, enrolments.look(id), fault(error))
        return see(f"enrolments/{id}")

    @pages.post("/enrolments/<id>/cancellation")
    def cancel(id: str) -> Response:
        enrolments.cancel(id, staff())
        return see(f"enrolments/{id}")


# ---- pages -----------------------------------------------------------------------------------------------------------


def _patient_page(services: Services, record: PatientRecord, fault: str = "") -> Response:
    national = services.enrolments.national
    today = services.clock().date()
    child = bool(record.birth_date) and age(record.birth_date, today) < MAJORITY
    last = birthday(record.birth_date, MAJORITY) - timedelta(days=1) if child else None
    # A further number of the hospital's own stands in a study, perhaps by a slip: the clerk has to choose it.
    sure = {record.opened, *(one for one in record.numbers if national is not None and one.issuer == national.issuer)}
    return page(
        "patient.html",
        record=record,
        fault=fault,
        given=request.form,
        ticked=[written(one) for one in sure],
        national=national,
        has_national=national is not None and any(one.issuer == national.issuer for one in record.numbers),
        chosen_basis=request.form.get("basis", "parent" if child else "patient"),
        until=last.isoformat() if last else "",
    )


def _standing_page(services: Services, standing: Standing, fault: str = "") -> Response:
    one = standing.enrolling
    # Raises if the archive contradicts itself by now: who it is about is not certain any more, and nobody goes on.
    record = services.enrolments.record(one.patient_id, one.issuer)
    name = {State.WAITING: "waiting.html", State.ANSWERED: "answered.html", State.ENROLLED: "done.html"}
    return page(
        "blocked.html" if one.only_blocks else name.get(one.state, "over.html"),
        # The archive's own, so that the page shows one patient; the document's only where the archive has none.
        record=replace(record, birth_date=record.birth_date or one.birth_date),
        standing=standing,
        fault=fault,
        qr=_qr(one.address + standing.code) if standing.code else "",
        spread=_spread(services, standing.deliveries) if standing.deliveries else None,
        mark=_mark(services, standing),
        again=_address_of(record),
    )


def _mark(services: Services, standing: Standing) -> str:
    """Return what changes when the page has something new to show."""
    if not standing.deliveries:
        return standing.enrolling.state.value
    return f"{standing.enrolling.state.value}-{_spread(services, standing.deliveries).holding}"


@dataclass(frozen=True, slots=True)
class _Spread:
    """How far all has come that was signed together: how many of the key servers have all of it; whether that is
    enough; and, by member, why some have not."""

    holding: int
    servers: int
    enough: bool
    problems: dict[str, str]


def _spread(services: Services, deliveries: Sequence[Delivery]) -> _Spread:
    progress = [services.deliveries.progress(one) for one in deliveries]
    holding = set.intersection(*(set(one.holding) for one in progress))
    servers = {each for one in progress for each in (*one.holding, *one.waiting_for_servers)}
    problems = {member: problem for one in deliveries for member, problem in sorted(one.problems.items())}
    return _Spread(len(holding), len(servers), all(one.certain_at for one in progress), problems)


def _again(services: Services, record: PatientRecord, error: UsmedError) -> Response:
    """Show the form anew, as it was filled in, with what was wrong."""
    record_refusal(services, error)
    return _patient_page(services, record, fault(error))


def page(name: str, **values: Any) -> Response:
    """Return a page."""
    # Always 200: whatever else Orthanc's HTTP server sends, it calls text.
    return make_response(render_template(name, **values))


def see(path: str) -> Response:
    """Send the browser on, so that loading the page again sends nothing twice."""
    return see_at(to(path))


def see_at(address: str) -> Response:
    response = Response(status=303)
    response.headers["Location"] = address
    response.autocorrect_location_header = False
    return response


def to(path: str) -> str:
    """Return the address of a page, relative to the one that is shown: Orthanc may stand behind a proxy's prefix."""
    return "../" * (request.path.count("/") - 2) + path


def _address_of(record: PatientRecord) -> str:
    return to(f"patient?{urlencode({'PatientID': record.patient_id, 'IssuerOfPatientID': record.issuer})}")


def _qr(address: str) -> str:
    """Return an SVG element. Level M: a scratched print or a reflection must not matter much. What is lacking of the
    quiet zone is the white around it."""
    import segno

    out = io.BytesIO()
    segno.make(address, error="m", micro=False).save(
        out,
        kind="svg",
        xmldecl=False,
        svgns=False,
        omitsize=True,
        border=2,
        dark="#000",
        light="#fff",
        svgclass=None,
        lineclass=None,
    )
    return out.getvalue().decode("utf-8")


def _prepare(jinja: Any) -> None:
    """Compile templates and import what draws, in a thread of Python's own: on one of Orthanc's Python 3.14 takes its
    stack for used up when it compiles ("Parser stack overflowed")."""

    def work() -> None:
        import segno  # noqa: F401

        for name in jinja.list_templates():
            jinja.get_template(name)

    thread = threading.Thread(target=work, name="templates")
    thread.start()
    thread.join()


# ---- what was sent ---------------------------------------------------------------------------------------------------


def _opened(enrolments: Enrolments) -> PatientRecord:
    return enrolments.record(request.form.get("PatientID", ""), request.form.get("IssuerOfPatientID", ""))


def _wish(record: PatientRecord) -> Wish:
    form = request.form
    # By issuer and value, never by place in the list: the archive may have changed since the page was shown.
    chosen = set(form.getlist("number"))
    basis = form.get("basis", "")
    birth_date = form.get("birth_date", "").replace("-", "")
    return Wish(
        patient_id=record.patient_id,
        issuer=record.issuer,
        numbers=frozenset(one for one in record.numbers if written(one) in chosen),
        national_number=form.get("national", "").strip(),
        birth_date=birth_date if is_date(birth_date) else "",
        document_seen=form.get("seen") == "yes",
        basis=Basis(basis) if basis in set(Basis) else None,
        until=_day(form.get("until", "")),
        lost_phone=form.get("lost") == "yes",
    )


def written(number: PatientIdentifier) -> str:
    """Return a number as a form carries it; neither part can hold a backslash (PS3.5 §6.2, LO)."""
    return f"{number.issuer}\\{number.value}"


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def _language() -> str:
    for one in (request.args.get("lang"), request.cookies.get(LANGUAGE)):
        if one in LANGUAGES:
            return str(one)
    return request.accept_languages.best_match(list(LANGUAGES)) or "ro"


def fault(error: UsmedError) -> str:
    """Return what went wrong, in the clerk's language."""
    if isinstance(error, RefusedError):
        return of_fault(g.language, error.code, str(error))
    return of_fault(g.language, "other" if isinstance(error, PeerDataError) else "away", str(error))


def record_refusal(services: Services, error: UsmedError) -> None:
    """Write down what was refused, durably."""
    if not isinstance(error, PeerDataError | RefusedError):
        return
    reason = f"{error.code}: {error}" if isinstance(error, RefusedError) else str(error)
    detail: Mapping[str, str] = {"what": f"{request.method} /desk/{(request.endpoint or '').rpartition('.')[2]}"}
    event = AuditEvent(
        services.clock(), AuditEventType.REFUSED, agent(), outcome=Outcome.DENIED, reason=reason, detail=detail
    )
    services.audit.append(event).wait()
