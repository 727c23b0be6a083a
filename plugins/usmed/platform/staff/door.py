"""The door of pages for staff: who comes in, by passkey, and what every request and every answer carries."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from fido2.webauthn import AttestedCredentialData
from flask import Flask, Response, g, redirect, render_template, request, url_for

from usmed.domain.errors import RefusedError
from usmed.platform.passkeys import Ceremonies
from usmed.platform.staff.access import LONGEST_NAME, SESSION_LIFE, Access, Door, Passkey
from usmed.platform.staff.pages import (
    brings_csrf,
    finished,
    json_answer,
    json_body,
    language_of,
    static_answer,
    text_of,
)

_OPEN = frozenset({"login", "login_options", "log_in", "register", "register_options", "registered", "static_file"})
"""Endpoints that need no session."""


def add_door(
    app: Flask,
    door: Door,
    access: Access,
    ceremonies: Ceremonies,
    *,
    site: Callable[[], str],
    languages: Sequence[str],
    package: str,
    files: Collection[str],
) -> None:
    """Add the guard of all pages, log-in, registration and log-out, and the files that pages need.

    The pages' own parts are the templates `login.html` and `register.html`, and the endpoint `door.home`. Every request
    has `g.language`, `g.token` (of the session, or empty) and `g.passkey` (whose it is, or None).

    Args:
        site: what a passkey is made for, as the device shows it beside the name.
        languages: that there are, the one for whom the browser says nothing first.
        package: in whose folder `static` the files are.
        files: their names.
    """
    _add_guard(app, door, access, ceremonies, languages)
    _add_log_in(app, door, access, ceremonies, site)

    @app.get("/static/<name>")
    def static_file(name: str) -> Response:
        return static_answer(name, package, files)


def _add_guard(app: Flask, door: Door, access: Access, ceremonies: Ceremonies, languages: Sequence[str]) -> None:
    @app.before_request
    def guard() -> Any:
        g.language = language_of(languages, languages[0])
        g.token = request.cookies.get(door.cookie, "")
        g.passkey = None
        if request.endpoint == "static_file":
            return None
        if request.method == "POST" and request.headers.get("Origin") != ceremonies.origin:
            raise RefusedError("forbidden", "another site has sent this")
        g.passkey = access.session(g.token) if g.token else None
        if request.endpoint in _OPEN or request.endpoint is None:
            return None
        if g.passkey is None:
            if request.method == "GET":
                return redirect(url_for("login"))
            raise RefusedError("no-session", "the session is over: log in again")
        if request.method == "POST" and not brings_csrf(g.token):
            raise RefusedError("forbidden", "this form is not from this session: load the page again")
        return None

    @app.after_request
    def headers(response: Response) -> Response:
        return finished(response, g.get("language", languages[0]), languages)


def _add_log_in(app: Flask, door: Door, access: Access, ceremonies: Ceremonies, site: Callable[[], str]) -> None:
    # Where a code carries no name, whoever registers types one.
    typed = set() if door.named else {"name"}

    @app.get("/login")
    def login() -> Any:
        return redirect(url_for(door.home)) if g.passkey else render_template("login.html")

    @app.post("/login/options")
    def login_options() -> Response:
        return json_answer(ceremonies.log_in())

    @app.post("/login")
    def log_in() -> Response:
        known = {one.credential.credential_id: one for one in access.passkeys()}

        def find(id: bytes) -> list[AttestedCredentialData]:
            return [known[id].credential] if id in known else []

        return session_of(known[ceremonies.logged_in(json_body({"response"})["response"], find).credential_id])

    @app.get("/register")
    def register() -> str:
        return render_template("register.html", longest=LONGEST_NAME)

    @app.post("/register/options")
    def register_options() -> Response:
        body = json_body({"code"} | typed)
        name = access.check_code(text_of(body, "code", 64)) or text_of(body, "name", LONGEST_NAME)
        known = [one.credential for one in access.passkeys()]
        return json_answer(ceremonies.registration(f"{name} ({site()})", name, known))

    @app.post("/register")
    def registered() -> Response:
        body = json_body({"code", "response"} | typed)
        name = text_of(body, "name", LONGEST_NAME) if typed else ""
        return session_of(access.register(text_of(body, "code", 64), name, ceremonies.registered(body["response"])))

    @app.post("/logout")
    def log_out() -> Any:
        access.log_out(g.token)
        response = redirect(url_for("login"))
        response.delete_cookie(door.cookie, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    def session_of(passkey: Passkey) -> Response:
        response = json_answer({"next": url_for(door.home)})
        response.set_cookie(
            door.cookie, access.log_in(passkey), max_age=int(SESSION_LIFE.total_seconds()), path="/", secure=True,
            httponly=True, samesite="Strict",
        )  # fmt: skip
        return response
