"""The desk's pages for clerks: enrol a patient for the region's portal. Rendered here; only a file needs a script.

The frame sees to log-ins, languages and forged forms (`frame`).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, request

from usmed.domain.enrolment import Basis
from usmed.domain.errors import RefusedError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import State
from usmed.domain.paper import LARGEST_SCAN_BYTES
from usmed.domain.study_record import is_date
from usmed.hospital.archive import Archive
from usmed.hospital.enrolments import MAJORITY, Enrolments, Standing, Wish
from usmed.hospital.frame import Frame, dress, fault, page, record_refusal, see, see_at, to
from usmed.hospital.page_requests import require
from usmed.hospital.patient_record import PatientRecord, age, birthday
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import Delivery

LARGER_FORMS = {"paper_written": LARGEST_SCAN_BYTES + 1}
"""By endpoint, what a form may bring besides its words: a scan, and a byte more, so that it is told what is wrong."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages need."""

    enrolments: Enrolments
    deliveries: Deliveries
    archive: Archive
    frame: Frame

    @property
    def clock(self) -> Callable[[], datetime]:
        """Return the clock."""
        return self.frame.clock


def create_enrolment_pages(services: Services) -> Blueprint:
    """Return the pages; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("desk_of_patients", __name__)
    _add_filters(pages, services)
    dress(pages, services.frame, larger_forms=LARGER_FORMS, shape="column")
    _add_pages(pages, services)
    _add_actions(pages, services)
    return pages


def _add_filters(pages: Blueprint, services: Services) -> None:
    def add(name: str, function: Callable[[Any], str]) -> None:
        pages.add_app_template_filter(function, name)

    add("written", written)
    add("day", lambda text: f"{text[6:8]}.{text[4:6]}.{text[:4]}")
    add("years", lambda text: str(age(text, services.clock().date())))
    add("day_before", lambda moment: f"{moment - timedelta(days=1):%d.%m.%Y}")


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
        return page("desk/start.html", possible=enrolments.possible, recent=enrolments.recent())

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


def _add_actions(pages: Blueprint, services: Services) -> None:
    enrolments = services.enrolments

    @pages.post("/enrolments")
    def invite() -> Response:
        record = _opened(enrolments)
        try:
            standing = enrolments.invite(_wish(record), require("patients.enrol"))
        except UsmedError as error:
            return _again(services, record, error)
        return see(f"desk/enrolments/{standing.enrolling.id}")

    @pages.post("/block")
    def block() -> Response:
        record = _opened(enrolments)
        try:
            standing = enrolments.block(replace(_wish(record), basis=None, until=None), require("patients.enrol"))
        except UsmedError as error:
            return _again(services, record, error)
        return see(f"desk/enrolments/{standing.enrolling.id}")

    @pages.post("/enrolments/<id>/confirmation")
    def confirm(id: str) -> Response:
        try:
            enrolments.confirm(id, request.form.get("digits", ""), require("patients.enrol"))
        except UsmedError as error:
            record_refusal(services.frame, error)
            return _standing_page(services, enrolments.look(id), fault(error))
        return see(f"desk/enrolments/{id}")

    @pages.post("/enrolments/<id>/cancellation")
    def cancel(id: str) -> Response:
        enrolments.cancel(id, require("patients.enrol"))
        return see(f"desk/enrolments/{id}")


# ---- pages -----------------------------------------------------------------------------------------------------------


def _patient_page(services: Services, record: PatientRecord, fault: str = "") -> Response:
    national = services.enrolments.national
    today = services.clock().date()
    child = bool(record.birth_date) and age(record.birth_date, today) < MAJORITY
    last = birthday(record.birth_date, MAJORITY) - timedelta(days=1) if child else None
    # A further number of the hospital's own stands in a study, perhaps by a slip: the clerk has to choose it.
    sure = {record.opened, *(one for one in record.numbers if national is not None and one.issuer == national.issuer)}
    return page(
        "desk/patient.html",
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
    name = {State.WAITING: "desk/waiting.html", State.ANSWERED: "desk/answered.html", State.ENROLLED: "desk/done.html"}
    return page(
        "desk/blocked.html" if one.only_blocks else name.get(one.state, "desk/over.html"),
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
    record_refusal(services.frame, error)
    return _patient_page(services, record, fault(error))


def _address_of(record: PatientRecord) -> str:
    return to(f"desk/patient?{urlencode({'PatientID': record.patient_id, 'IssuerOfPatientID': record.issuer})}")


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
