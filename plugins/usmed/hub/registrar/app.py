"""The registrars' pages and what they post. Rendered here, without a script but for the passkey at the door.

Whatever changes something needs a session, its CSRF token and the pages' own origin.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, Response, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import patient_identifier
from usmed.domain.region import RegionManifest
from usmed.hub.charts import LinkedChart
from usmed.hub.decisions import Kind, Side
from usmed.hub.registrar.words import LANGUAGES, WORDS, say
from usmed.hub.review import LONGEST_REASON, UNKNOWN, Comparison, Review
from usmed.platform.audit_log import AuditLog
from usmed.platform.passkeys import Ceremonies
from usmed.platform.signed_http import error_body
from usmed.platform.staff.access import Access, Door, Passkey
from usmed.platform.staff.door import add_door
from usmed.platform.staff.pages import (
    LIMIT_BYTES,
    csrf_of,
)
from usmed.platform.storage import StorageError

PATH = "/registrar"
DOOR = Door("registrar", "usmed registrar invite NAME", "__Host-usmed-registrar", "queue", named=True)


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages need."""

    region: Callable[[], RegionManifest]
    review: Review
    waiting: Callable[[], int]
    access: Access
    ceremonies: Ceremonies
    audit: AuditLog
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of two charts side by side: a word's name, both texts, and whether they differ (None: no matter)."""

    word: str
    one: list[str]
    other: list[str]
    differs: bool | None


def create_registrar(services: Services) -> Flask:
    """Build the WSGI application; it is mounted under PATH."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_BYTES
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.add_template_filter(lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC", "moment")
    app.add_template_filter(person_name, "person_name")
    app.add_template_filter(day, "day")
    add_door(
        app, DOOR, services.access, services.ceremonies, site=lambda: services.region().name, languages=list(LANGUAGES),
        package="usmed.hub.registrar", files=["registrar.css", "registrar.svg"],
    )  # fmt: skip
    _add_words(app, services)
    _add_pages(app, services)
    _add_decisions(app, services)
    _add_refusals(app, services)
    return app


def _add_words(app: Flask, services: Services) -> None:
    @app.context_processor
    def names() -> dict[str, Any]:
        return {
            "t": functools.partial(say, g.language),
            "language": g.language,
            "languages": LANGUAGES,
            "region": services.region(),
            "passkey": g.get("passkey"),
            "csrf": csrf_of(g.token) if g.get("passkey") else "",
            "longest": LONGEST_REASON,
            "version": __version__,
            "Side": Side,
        }


def _add_pages(app: Flask, services: Services) -> None:
    review = services.review

    def looked(charts: Sequence[LinkedChart]) -> None:
        """Write down whose chart was looked at, before it is shown."""
        by: Passkey = g.passkey
        receipts = [
            services.audit.append(
                AuditEvent(
                    services.clock(), AuditEventType.LOOKUP, by.name, patient=str(min(one.chart.identifiers)),
                    detail={"what": "registrar", "chart": one.chart.id},
                )
            )
            for one in charts
        ]  # fmt: skip
        for receipt in receipts:
            receipt.wait()

    @app.get("/")
    def queue() -> str:
        found, count = review.queue()
        return render_template("queue.html", found=found, count=count, waiting=services.waiting())

    @app.get("/pair/<int:one>/<int:other>")
    def pair(one: int, other: int) -> str:
        found = review.compare(one, other)
        looked([found.one, found.other])
        return render_template("pair.html", pair=found, rows=compared(found, services.region()))

    @app.get("/pair")
    def two_charts() -> Any:
        one, other = (request.args.get(name, "") for name in ("one", "other"))
        if not all(each.isascii() and each.isdigit() and len(each) < 16 for each in (one, other)):
            raise PeerDataError("one, other: numbers of charts")
        return redirect(url_for("pair", one=int(one), other=int(other)))

    @app.get("/person/<int:chart>")
    def person(chart: int) -> str:
        found = review.person(chart)
        looked(found)
        # Which of them both sides claim depends on what will be ticked: all that more than one chart claims.
        claimed = [number for one in found for number in one.chart.identifiers]
        shared = sorted({number for number in claimed if claimed.count(number) > 1})
        return render_template("person.html", found=found, shared=shared)

    @app.get("/find")
    def find() -> str:
        issuer, value = (request.args.get(name, "")[:64] for name in ("issuer", "value"))
        issuers = [each for one in services.region().hospitals.values() for each in one.issuers]
        if national := services.region().national_number:
            issuers.insert(0, national.issuer)
        found = review.named(patient_identifier(issuer, value)) if issuer and value else None
        looked(found or [])
        return render_template("find.html", issuers=issuers, issuer=issuer, value=value, found=found)

    @app.get("/history")
    def history() -> str:
        before = request.args.get("before", "")
        number = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
        return render_template("history.html", found=review.history(before=number))

    @app.get("/history/<int:id>")
    def decision(id: int) -> str:
        one = review.decision(id)
        sides = {side: [_described(each.described) for each in one.charts if each.side is side] for side in Side}
        tells = one.kind is not Kind.DIFFERENT
        return render_template(
            "decision.html", one=one, sides=sides, crossed=review.crossed(id) if tells else None,
            kept="kept" in request.args,
        )  # fmt: skip


def _add_decisions(app: Flask, services: Services) -> None:
    review = services.review

    def said() -> dict[str, str]:
        by: Passkey = g.passkey
        # Browsers write line breaks of a textarea as two characters.
        return {"by": f"{by.name} (passkey {by.id[:16]})", "reason": " ".join(request.form.get("reason", "").split())}

    def shown(id: int) -> Any:
        return redirect(url_for("decision", id=id, kept=1), 303)

    @app.post("/pair/<int:one>/<int:other>")
    def decide(one: int, other: int) -> Any:
        decisions = {Kind.LINK.value: review.link, Kind.DIFFERENT.value: review.different}
        chosen = decisions.get(request.form.get("decision", ""))
        if chosen is None:
            raise PeerDataError("decision: link or different")
        return shown(chosen(one, other, **said()).decision.id)

    @app.post("/person/<int:chart>")
    def part(chart: int) -> Any:
        charts, numbers = request.form.getlist("chart"), request.form.getlist("takes")
        if not charts or not all(one.isascii() and one.isdigit() and len(one) < 16 for one in charts):
            raise PeerDataError("chart: which leave")
        whole = {str(number): number for one in review.person(chart) for number in one.chart.identifiers}
        if unknown := set(numbers) - whole.keys():
            raise PeerDataError(f"{len(unknown)} numbers that are not this person's")
        leaving = {int(one) for one in charts}
        done = review.unlink(leaving, takes=[whole[one] for one in numbers], **said())
        return shown(done.decision.id)

    @app.post("/history/<int:id>")
    def undo(id: int) -> Any:
        return shown(review.undo(id, **said()).decision.id)


def _add_refusals(app: Flask, services: Services) -> None:
    def refused(error: Exception) -> Any:
        status, code = (403, error.code) if isinstance(error, RefusedError) else (400, "bad-request")
        status = 404 if code == UNKNOWN else status
        event = AuditEvent(
            services.clock(), AuditEventType.ADMINISTRATION, g.passkey.name if g.get("passkey") else _remote(),
            outcome=Outcome.DENIED, reason=f"{code}: registrar's pages",
            detail={"what": f"{request.method} {request.endpoint or 'no such page'}"},
        )  # fmt: skip
        services.audit.append(event).wait()
        word = {"no-session": "session-over", "forbidden": "session-over"}.get(code, f"refused-{code}")
        # The reason proper names what contradicts: it is for whoever may see the charts.
        detail = str(error) if g.get("passkey") and isinstance(error, RefusedError) else ""
        return _problem(status, code, word if word in WORDS else "not-understood", detail)

    def other(error: HTTPException) -> Response:
        word = "not-there" if error.code in (404, 405) else "not-understood"
        return _problem(error.code or 500, "http", word)

    app.register_error_handler(RefusedError, refused)
    app.register_error_handler(PeerDataError, refused)
    app.register_error_handler(StorageError, lambda error: _problem(503, "unavailable", "unavailable"))
    app.register_error_handler(HTTPException, other)


def compared(pair: Comparison, region: RegionManifest) -> list[Row]:
    """Return what two charts say, line by line."""

    def row(word: str, one: str, other: str) -> Row:
        return Row(word, [one] if one else [], [other] if other else [], one != other)

    def hospital(one: LinkedChart) -> str:
        known = region.hospitals.get(one.chart.hospital)
        return known.name if known else one.chart.hospital

    def numbers(one: LinkedChart) -> list[str]:
        return [str(each) for each in sorted(one.chart.identifiers)]

    one, other = pair.one, pair.other
    mine, theirs = (
        [f"{hospital(each)}: {', '.join(numbers(each))}" for each in side if each not in (one, other)]
        for side in pair.persons
    )
    return [
        row("name", person_name(one.chart.name), person_name(other.chart.name)),
        row("birth-date", day(one.chart.birth_date), day(other.chart.birth_date)),
        row("sex", one.chart.sex, other.chart.sex),
        Row("hospital", [hospital(one)], [hospital(other)], None),
        Row("numbers", numbers(one), numbers(other), None),
        Row("others", mine, theirs, None),
    ]


def person_name(name: str) -> str:
    """Return a PN as people read it: its groups one after the other, its components parted by spaces."""
    groups = (" ".join(group.replace("^", " ").split()) for group in name.split("="))
    return " · ".join(group for group in groups if group)


def day(text: str) -> str:
    """Return a DICOM DA as people read it without mistaking day and month: YYYY-MM-DD."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if text else ""


def _described(text: str) -> dict[str, Any]:
    hospital, numbers, birth_date, sex = json.loads(text)
    shown = [f"{issuer}:{value}" for issuer, value in numbers]
    return {"hospital": hospital, "numbers": shown, "birth_date": birth_date, "sex": sex}


def _remote() -> str:
    return request.remote_addr or ""


def _problem(status: int, code: str, word: str, detail: str = "") -> Response:
    """Answer scripts in JSON and people with a page."""
    if status == 503:
        g.passkey = None
    g.setdefault("language", next(iter(LANGUAGES)))
    g.setdefault("token", "")
    if request.method == "POST" and request.mimetype == "application/json":
        return Response(error_body(code, say(g.language, word)), status=status, content_type="application/json")
    page = render_template("problem.html", word=word, detail=detail)
    return Response(page, status=status, content_type="text/html; charset=utf-8")
