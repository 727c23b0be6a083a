"""The way in and out: log in with a passkey, log out, and help for whoever cannot."""

from contextlib import suppress
from typing import Any

from fido2.webauthn import AttestedCredentialData
from flask import Flask, Response, g, redirect, request, url_for

from usmed.domain.enrolment import Credential
from usmed.domain.errors import PeerDataError
from usmed.hub.portal.person import credentials_with, find_person
from usmed.hub.portal.web import (
    Services,
    Sorry,
    check_counter,
    check_failures,
    enter,
    failed,
    json_answer,
    json_body,
    leave,
    page,
)
from usmed.platform.passkeys import credential_of, public_key_of


def add(app: Flask, services: Services) -> None:
    """Add these pages."""
    ceremonies = services.ceremonies

    @app.get("/login")
    def login() -> Any:
        if g.session is not None:
            return redirect(url_for("home"))
        return page("login.html", out="out" in request.args)

    @app.post("/login/options")
    def login_options() -> Response:
        check_failures(services)
        return json_answer(ceremonies.log_in())

    @app.post("/login")
    def log_in() -> Response:
        check_failures(services)
        response = json_body({"response"})["response"]
        def find(id: bytes) -> list[AttestedCredentialData]:
            with services.database.read() as connection:
                held = credentials_with(connection, id)
            pending = services.invitations.answered_with(id)
            known = []
            for one in [*held, *([pending.credential] if pending and pending.credential else [])]:
                # A key that is none shuts nobody out: whoever enrolled it under this id.
                with suppress(PeerDataError):
                    known.append(credential_of(one.id, one.public_key))
            if not known:
                raise Sorry(403, "passkey-unknown")
            return known

        try:
            used = ceremonies.logged_in(response, find)
            check_counter(services, used.credential_id, response)
        except PeerDataError as error:
            raise _failed(str(error)) from error
        except Sorry:
            failed(services)
            raise
        credential = Credential(used.credential_id, public_key_of(used))
        national = services.region().national_number
        with services.database.read() as connection:
            g.person = find_person(connection, credential, national, services.clock())
        pending = services.invitations.answered_with(credential.id) if g.person is None else None
        if pending and pending.credential == credential:
            # Whose phone has not heard that the passkey was taken goes on from here: to the number to compare.
            answer = json_answer({"next": url_for("waiting")})
            return enter(services, answer, credential, hospital=pending.hospital, invitation=pending.id)
        if g.person is None:
            raise Sorry(403, "passkey-over")
        answer = enter(services, json_answer({"next": url_for("home")}), credential)
        services.note("portal log-in", passkey=credential.id.hex()[:32])
        return answer

    def _failed(reason: str) -> Sorry:
        failed(services)
        return Sorry(400, "login-failed", reason=reason)

    @app.post("/logout")
    def log_out() -> Any:
        services.note("portal log-out")
        return leave(services, redirect(url_for("login", out="")))

    @app.get("/help")
    def help() -> Response:
        return page("help.html")
