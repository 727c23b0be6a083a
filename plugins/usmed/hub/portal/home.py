"""What a person comes for: what has to be answered, what was allowed, who looked, and which studies there are."""

from typing import Any

from flask import Flask, Response, request

from usmed.hub.portal.notices import owner
from usmed.hub.portal.views import shown_accesses, shown_consents, shown_studies
from usmed.hub.portal.web import Services, page, person

LATELY = 5
PAGE = 50


def add(app: Flask, services: Services) -> None:
    """Add these pages."""

    @app.get("/")
    def home() -> Response:
        me, names = person(), services.hospital_names()
        accesses = services.accesses.of(me.numbers, limit=LATELY)
        asked = [(one, names.get(one.hospital, one.hospital)) for one in services.requests.open_for(me.numbers)]
        return page(
            "home.html", asked=asked, consents=[one for one in shown_consents(services, me) if one.speaks],
            accesses=shown_accesses(services, me, accesses), invite_notices=_invites(),
        )  # fmt: skip

    def _invites() -> bool:
        return bool(services.contacts.channels) and not services.contacts.of(owner())

    @app.get("/access")
    def access() -> Response:
        me = person()
        before = _number(request.args.get("before", ""))
        found = services.accesses.of(me.numbers, limit=PAGE + 1, before=before)
        more = found[PAGE - 1].id if len(found) > PAGE else None
        return page(
            "access.html", accesses=shown_accesses(services, me, found[:PAGE]), more=more, first=before is None
        )

    @app.get("/studies")
    def studies() -> Any:
        years: dict[int, list[Any]] = {}
        for one in shown_studies(services, person()):
            years.setdefault(one.day.year if one.day else 0, []).append(one)
        return page("studies.html", years=years)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
