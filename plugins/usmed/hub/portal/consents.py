"""What a person allows and forbids: the list, a new one, one of them, and what a hospital has asked for."""

from typing import Any
from uuid import uuid4

from flask import Flask, Response, redirect, request, url_for

from usmed.domain.consent import Purpose
from usmed.domain.consent_choices import Choices, consent_resource
from usmed.domain.consent_record import consent_document
from usmed.domain.study_kinds import KINDS
from usmed.hub.portal.choices import TERMS, months_later, read_choices
from usmed.hub.portal.views import ShownConsent, shown_consents, withdrawal_of
from usmed.hub.portal.web import Services, Sorry, form, not_there, page, person, session
from usmed.hub.requests import Request

FRESH = {"who": ["some"], "where": ["all"], "what": ["all"], "term": ["year"]}
FRESH_DENIAL = {**FRESH, "term": ["none"]}
GENERAL_DENIAL = {**FRESH_DENIAL, "who": ["all"]}


def add(app: Flask, services: Services) -> None:
    """Add these pages."""

    @app.get("/consents")
    def consents() -> Response:
        return page("consents.html", consents=shown_consents(services, person()))

    @app.get("/consents/new")
    def new_consent() -> Response:
        kind = request.args.get("kind", "")
        fresh = {"permit": FRESH, "deny": FRESH_DENIAL, "emergency": GENERAL_DENIAL}
        if kind not in fresh:
            return page("new-consent.html")
        return _form({**fresh[kind], "kind": [kind]}, {})

    @app.post("/consents/new")
    def consent_chosen() -> Any:
        given = form()
        choices, faults = read_choices(given, frozenset(services.region().hospitals), services.today())
        if choices is None:
            if "kind" in faults:
                return page("new-consent.html", 400)
            return _form(given, faults, 400)
        return _to_be_signed(choices)

    @app.get("/consents/<id>")
    def consent(id: str) -> Response:
        shown = shown_consents(services, person())
        one = _find(shown, id)
        limited = [each for each in shown if each.stored.id in one.limited]
        return page("consent.html", one=one, limited=limited, servers=len(services.region().key_servers),
                    threshold=services.region().threshold, names=services.hospital_names())  # fmt: skip

    @app.post("/consents/<id>/withdraw")
    def withdraw(id: str) -> Any:
        one = _find(shown_consents(services, person()), id)
        if not one.mine:
            raise Sorry(403, "not-mine")
        if not one.can_be_taken_back:
            return redirect(url_for("consent", id=id))
        return redirect(url_for("sign", id=services.sessions.keep(session(), withdrawal_of(services, one))))

    @app.get("/requests/<id>")
    def asked(id: str) -> Response:
        return page("request.html", **_asked(id))

    @app.post("/requests/<id>/yes")
    def permit(id: str) -> Any:
        one = _request(id)
        months = TERMS.get(request.form.get("term", ""), TERMS["year"])
        until = months_later(services.today(), months)
        treat = frozenset({Purpose.TREAT})
        return _to_be_signed(Choices(True, treat, frozenset({one.hospital}), until=until), one.id)

    @app.get("/requests/<id>/no")
    def not_permitted(id: str) -> Response:
        return page("request-no.html", **_asked(id))

    @app.post("/requests/<id>/no")
    def no_answer(id: str) -> Any:
        one = _request(id)
        if request.form.get("deny") == "yes":
            purposes = frozenset({Purpose.TREAT, Purpose.HRESCH})
            return _to_be_signed(Choices(False, purposes, frozenset({one.hospital})), one.id)
        services.requests.answer(one.id, person().numbers)
        return redirect(url_for("home"))

    def _form(given: dict[str, list[str]], faults: dict[str, str], status: int = 200) -> Response:
        return page(
            "consent-form.html", status, given=given, kind=given["kind"][0], faults=faults, terms=list(TERMS),
            kinds=list(KINDS), names=services.hospital_names(), today=services.today(),
        )  # fmt: skip

    def _to_be_signed(choices: Choices, request_id: str = "") -> Any:
        patient = person().signs_as(services.region().national_number)
        resource = consent_resource(choices, patient=patient, now=services.clock(), zone=services.zone)
        document = consent_document(resource, id=str(uuid4()), version=1)
        return redirect(url_for("sign", id=services.sessions.keep(session(), document, request_id)))

    def _request(id: str) -> Request:
        found = next((one for one in services.requests.open_for(person().numbers) if one.id == id), None)
        if found is None:
            raise Sorry(404, "request-over")
        return found

    def _asked(id: str) -> dict[str, Any]:
        one = _request(id)
        name = services.hospital_names().get(one.hospital, one.hospital)
        return {"asked": one, "hospital": name, "terms": list(TERMS)}


def _find(shown: list[ShownConsent], id: str) -> ShownConsent:
    found = next((one for one in shown if one.stored.id == id), None)
    if found is None:
        raise not_there()
    return found
