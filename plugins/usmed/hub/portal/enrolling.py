"""Enrolment on the patient's phone: the code of the clerk, the birth date, a passkey, and a number to compare.

The code leaves the address at once and waits in a cookie, so that it stands in no history and no page.
"""

from typing import Any

from flask import Flask, Response, g, redirect, request, url_for

from usmed.domain.enrolment import Credential, comparison_code
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.invitation import State
from usmed.hub.invitations import BAD_CODE, WRONG_BIRTH_DATE, Invitation
from usmed.hub.portal.choices import read_birth_date
from usmed.hub.portal.person import signing_number
from usmed.hub.portal.web import (
    Services,
    Sorry,
    check_failures,
    enter,
    failed,
    field_of,
    json_answer,
    json_body,
    not_there,
    page,
    session,
)
from usmed.hub.portal.words import mark_text
from usmed.platform.passkeys import public_key_of

INVITATION = "__Host-usmed-invitation"
MINUTES = 30
LONGEST_CODE = 86


def add(app: Flask, services: Services) -> None:
    """Add these pages."""
    _add_invitation(app, services)
    _add_passkey(app, services)


def _add_invitation(app: Flask, services: Services) -> None:
    @app.get("/enrol/<code>")
    def invited(code: str) -> Any:
        if request.headers.get("Sec-Fetch-Dest", "document") != "document":
            # Another site shows it as a picture, say, to have its visitors fail here.
            raise not_there()
        _open(services, code)
        return _remember(redirect(url_for("enrol")), code)

    @app.get("/enrol")
    def enrol() -> Response:
        return page("enrol.html", **_shown(services, _open(services, _remembered()[0])))

    @app.get("/enrol/birth-date")
    def birth_date() -> Response:
        shown = _shown(services, _open(services, _remembered()[0]))
        return page("birth-date.html", **shown, typed=("", "", ""), fault="")

    @app.post("/enrol/birth-date")
    def birth_date_told() -> Any:
        check_failures(services)
        code, _ = _remembered()
        invitation = _open(services, code)
        shown = _shown(services, invitation)
        typed = field_of("day", 20), field_of("month", 20), field_of("year", 20)
        born = read_birth_date(*typed, services.today())
        if born is None:
            return page("birth-date.html", 400, **shown, typed=typed, fault="birth-date-unclear", left=0)
        try:
            services.invitations.check_birth_date(code, f"{born:%Y%m%d}")
        except RefusedError as error:
            failed(services)
            if error.code != WRONG_BIRTH_DATE or invitation.tries <= 1:
                raise
            services.refused(error.code)
            left = invitation.tries - 1
            return page("birth-date.html", 403, **shown, typed=typed, fault="birth-date-wrong", left=left)
        return _remember(redirect(url_for("passkey")), code, f"{born:%Y%m%d}")


def _add_passkey(app: Flask, services: Services) -> None:
    ceremonies = services.ceremonies

    @app.get("/enrol/passkey")
    def passkey() -> Any:
        code, born = _remembered()
        if not born:
            return redirect(url_for("birth_date"))
        return page("passkey.html", **_shown(services, _open(services, code)))

    @app.post("/enrol/passkey/options")
    def passkey_options() -> Response:
        json_body(set())
        check_failures(services)
        code, born = _told()
        invitation = _open(services, code)
        try:
            # Anew: the cookie is the browser's, and the name that follows says part of a number.
            services.invitations.check_birth_date(code, born)
        except RefusedError:
            failed(services)
            raise
        hospital = _shown(services, invitation)["hospital"]
        number = signing_number(invitation.patient, services.region().national_number).value
        mark = mark_text(g.language, number, invitation.guardian, born)
        name = f"{mark}. {services.region().name}: {hospital}, {services.today():%d.%m.%Y}"
        return json_answer(ceremonies.registration(name, name))

    @app.post("/enrol/passkey")
    def passkey_made() -> Response:
        check_failures(services)
        response = json_body({"response"})["response"]
        code, born = _told()
        try:
            made = ceremonies.registered(response)
        except PeerDataError as error:
            failed(services)
            raise Sorry(400, "passkey-failed", reason=str(error)) from error
        credential = Credential(made.credential_id, public_key_of(made))
        invitation = services.invitations.answer(code, born, credential)
        answer = json_answer({"next": url_for("waiting")})
        answer.delete_cookie(INVITATION, path="/", secure=True, httponly=True, samesite="Lax")
        return enter(services, answer, credential, hospital=invitation.hospital, invitation=invitation.id)

    @app.get("/enrol/waiting")
    def waiting() -> Any:
        held = session()
        if g.person is not None:
            return redirect(url_for("enrolled"))
        hospital = services.region().hospitals.get(held.hospital)
        state = services.invitations.state(hospital, held.invitation).state if hospital else State.VOID
        return page(
            "waiting.html", code=comparison_code(held.credential), hospital=hospital.name if hospital else "",
            waits=state in (State.ANSWERED, State.ENROLLED),
        )  # fmt: skip

    @app.get("/enrol/done")
    def enrolled() -> Response:
        held = session()
        if held.invitation:
            services.sessions.settle(held)
            services.note("portal enrolment", passkey=held.credential.id.hex()[:32])
        return page("enrolled.html")


def _open(services: Services, code: str) -> Invitation:
    if not code:
        # A page that was kept in the browser for longer than the code. Nothing was guessed.
        raise Sorry(404, "refused-bad-code")
    check_failures(services)
    try:
        return services.invitations.open(code)
    except RefusedError as error:
        if error.code == BAD_CODE:
            failed(services)
        raise


def _shown(services: Services, invitation: Invitation) -> dict[str, Any]:
    return {"hospital": services.region().hospitals[invitation.hospital].name, "guardian": invitation.guardian}


def _told() -> tuple[str, str]:
    """Return the code and the birth date.

    Raises:
        Sorry: the birth date was not told.
    """
    code, born = _remembered()
    if not born:
        raise Sorry(403, "birth-date-first")
    return code, born


def _remember(response: Any, code: str, born: str = "") -> Any:
    response.set_cookie(
        INVITATION, f"{code}.{born}", max_age=60 * MINUTES, path="/", secure=True, httponly=True,
        # Whoever follows a link from elsewhere brings it, too.
        samesite="Lax",
    )  # fmt: skip
    return response


def _remembered() -> tuple[str, str]:
    """Return the code and, once it was told, the birth date (YYYYMMDD)."""
    code, _, born = request.cookies.get(INVITATION, "").partition(".")
    return code[:LONGEST_CODE], born
