"""The auditor's pages: a search of this node's audit log, its chain, unusual patterns, a signed export."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, jsonify, request

from usmed.domain.audit import AuditEventType, Outcome
from usmed.domain.audit_patterns import Finding
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming
from usmed.hospital.auditor import LOOKED_BACK, MOST_EXPORTED, Auditor
from usmed.hospital.frame import Frame, dress, page, see, to
from usmed.hospital.page_requests import staff
from usmed.platform.audit_query import Question

LONGEST_TEXT = 256
CHECK_FRESH = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class AuditServices:
    """What the pages need; `zone` is the hospital's time."""

    auditor: Auditor
    frame: Frame
    naming: Naming
    zone: ZoneInfo
    hospital_names: Callable[[], Mapping[str, str]]


def create_audit_pages(services: AuditServices) -> Blueprint:
    """Return the pages."""
    pages = Blueprint("audit", __name__)
    auditor, zone = services.auditor, services.zone
    dress(pages, services.frame)

    def exactly(moment: str | datetime) -> str:
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return f"{at.astimezone(zone):%d.%m.%Y %H:%M:%S}"

    pages.add_app_template_filter(exactly, "exactly")

    @pages.get("")
    def start() -> Response:
        question = _question(request.args, services)
        before = _number(request.args.get("before", ""))
        found = auditor.search(question, before, staff())
        return page(
            "audit/start.html",
            found=found,
            given=request.args,
            asked=question.told(),
            events=list(AuditEventType),
            outcomes=list(Outcome),
            names=services.hospital_names(),
            older=f"?{urlencode({**request.args, 'before': found.older})}" if found.older else "",
            newest=f"?{urlencode({n: v for n, v in request.args.items() if n != 'before'})}" if before else "",
            chain=auditor.chain,
            zone=zone.key,
            most=MOST_EXPORTED,
        )

    @pages.post("/export")
    def export() -> Response:
        bundle = auditor.export(_question(request.form, services), staff())
        response = Response(bundle, content_type="application/zip")
        moment = services.frame.clock().astimezone(zone)
        response.headers["Content-Disposition"] = f'attachment; filename="audit-{moment:%Y%m%d-%H%M%S}.zip"'
        return response

    @pages.get("/chain")
    def chain() -> Response:
        auditor.chain.begin(unless_within=CHECK_FRESH, wait_s=0.1)
        return page("audit/chain.html", chain=auditor.chain, state=_state(), zone=zone.key)

    @pages.post("/chain")
    def check_again() -> Response:
        auditor.chain.begin()
        return see("audit/chain")

    @pages.get("/chain/state")
    def chain_state() -> Response:
        return jsonify(State=_state(), Problem=bool(auditor.chain.problem))

    @pages.get("/patterns")
    def patterns() -> Response:
        auditor.look_at_patterns(staff())
        findings = [(one, _behind(one)) for one in auditor.patterns.result or ()]
        return page(
            "audit/patterns.html", patterns=auditor.patterns, findings=findings, zone=zone.key, days=LOOKED_BACK.days
        )

    def _behind(one: Finding) -> str:
        """Return where the records behind a finding are."""
        asked = {
            "agent": one.agent,
            "patient": one.patient,
            "since": f"{one.first.astimezone(zone):%Y-%m-%dT%H:%M}",
            "until": f"{one.last.astimezone(zone):%Y-%m-%dT%H:%M}",
        }
        return to(f"audit?{urlencode({name: value for name, value in asked.items() if value})}")

    def _state() -> str:
        task = auditor.chain
        if task.running:
            return f"{100 * task.progress.done // max(1, task.progress.total)}"
        return "done" if task.result is not None else "none"

    return pages


def _question(given: Mapping[str, str], services: AuditServices) -> Question:
    """Read a search.

    Raises:
        PeerDataError: a member is too long, or no time.
    """
    asked = {name: given.get(name, "").strip() for name in ("patient", "agent", "event", "outcome", "study")}
    if any(len(value) > LONGEST_TEXT for value in asked.values()):
        raise PeerDataError(f"at most {LONGEST_TEXT} characters")
    if asked["patient"] and ":" not in asked["patient"]:
        # As people write it: a number of this hospital's own, or the national one.
        asked["patient"] = str(services.naming.identify(asked["patient"]))
    since = _moment(given.get("since", ""), services.zone)
    until = _moment(given.get("until", ""), services.zone)
    if until is not None:
        # The form's minute, to its end.
        until += timedelta(seconds=60, microseconds=-1)
    return Question(**asked, since=since, until=until)


def _moment(text: str, zone: ZoneInfo) -> datetime | None:
    if not text.strip():
        return None
    try:
        moment = datetime.strptime(text[:16], "%Y-%m-%dT%H:%M").replace(tzinfo=zone)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        # The first and the last days of the calendar are none in another zone.
        raise PeerDataError("a time is written as 2026-11-22T18:30") from error


def _number(text: str) -> int:
    if not text.strip():
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise PeerDataError("before: the number of a record")
    return int(text)
