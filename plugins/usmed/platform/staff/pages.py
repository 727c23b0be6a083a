"""What every page for staff needs: headers, the session's token for forms, the language, bodies, files."""

import hmac
from collections.abc import Collection
from importlib.resources import files
from typing import Any

from flask import Response, abort, request

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError

LANGUAGE = "__Host-usmed-language"
LIMIT_BYTES = 65536

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: forms would then be sent with the origin "null" (Fetch, "append a request Origin header").
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    "Cache-Control": "no-store",
}

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_SHARED = frozenset({"staff.css", "staff.js"})


def static_answer(name: str, package: str, own: Collection[str]) -> Response:
    """Answer with a file: one that all pages for staff share, or one of these of a package's own folder `static`."""
    if name not in {*_SHARED, *own}:
        abort(404)
    folder = files("usmed.platform.staff" if name in _SHARED else package).joinpath("static")
    content_type = _TYPES[name.rpartition(".")[2]]
    response = Response(folder.joinpath(name).read_bytes(), content_type=content_type)
    response.headers["Cache-Control"] = "private, max-age=300"
    return response


def finished(response: Response, language: str, languages: Collection[str]) -> Response:
    """Put what every answer carries on it; remember a language that was chosen."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.args.get("lang") in languages:
        response.set_cookie(
            LANGUAGE, language, max_age=31_536_000, path="/", secure=True, httponly=True, samesite="Strict"
        )
    return response


def language_of(languages: Collection[str], otherwise: str) -> str:
    """Return the language of a request: chosen, remembered, or the browser's."""
    for one in (request.args.get("lang"), request.cookies.get(LANGUAGE)):
        if one in languages:
            return str(one)
    return request.accept_languages.best_match(list(languages)) or otherwise


def csrf_of(token: str) -> str:
    """Return what a form of this session has to bring."""
    return hmac.digest(token.encode(), b"csrf", "sha256").hex()


def brings_csrf(token: str) -> bool:
    """Tell whether the request brings it, in its form or as a script does."""
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
    return hmac.compare_digest(given.encode(), csrf_of(token).encode())


def json_body(members: set[str]) -> dict[str, Any]:
    """Return what a script sent.

    Raises:
        PeerDataError: not a JSON object with exactly these members.
    """
    if request.mimetype != "application/json":
        raise PeerDataError("the body must be application/json")
    body = parse_json(request.get_data(cache=False), limit_bytes=LIMIT_BYTES)
    if not isinstance(body, dict) or set(body) != members:
        raise PeerDataError(f"the body has exactly the members {', '.join(sorted(members))}")
    return body


def text_of(body: dict[str, Any], name: str, longest: int) -> str:
    """Return a text of a body.

    Raises:
        PeerDataError: it is empty, too long, or not printable.
    """
    value = body[name]
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= longest or not value.isprintable():
        raise PeerDataError(f"{name}: text of 1 to {longest} characters")
    return value.strip()


def json_answer(document: Any) -> Response:
    """Answer a script."""
    return Response(canonical_json(document), content_type="application/json")
