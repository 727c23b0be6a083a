"""The log-in page and the way out, and what somebody sees whom the gate has turned away."""

import json
import time
from typing import Any
from urllib.parse import unquote, urlencode

from flask import Blueprint, Response, jsonify, request

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.hospital.frame import Frame, dress, fault, page, see_at, to
from usmed.hospital.page_requests import LIMIT_BYTES, REFUSED, SHOWN, agent, is_staff
from usmed.hospital.staff.gate import LOG_IN, Refusals
from usmed.hospital.staff.sessions import COOKIE, NodeLogIns, token_in

LONGEST_NEXT = 500
EXPLORER = "app/explorer.html"


def create_log_in_pages(frame: Frame, log_ins: NodeLogIns | None) -> Blueprint:
    """Return the pages.

    Args:
        log_ins: of this node; None where Orthanc asks for the passwords: then there is no log-in page.
    """
    pages = Blueprint("door", __name__)
    dress(pages, frame, shape="column", for_all=True)

    @pages.get("/session")
    def session() -> Response:
        return jsonify(User=agent() if is_staff() else None, LoggedIn=is_staff(), Page=log_ins is not None)

    @pages.route("/refused", methods=["GET", "POST", "PUT", "DELETE"])
    def refused() -> Any:
        """Answer what the gate has turned away; it comes here whatever address was asked for."""
        why = RefusedError(request.environ.get(REFUSED, LOG_IN), "this needs a log-in, or a permission")
        if "text/html" not in request.headers.get("Accept", ""):
            return jsonify(error=why.code, message=fault(why)), 403
        wanted = _wanted("usmed" + request.environ.get(SHOWN, "/"))
        if why.code != LOG_IN or log_ins is None:
            return page("problem.html", fault=fault(why))
        if request.method == "GET":
            query = request.query_string.decode("ascii", "replace")
            return see_at(to(f"log-in?{_query(wanted + (f'?{query}' if query else ''))}"))
        kept = _form() if wanted.startswith("usmed/") else ""
        return _log_in_page(wanted, fault(RefusedError("session-over", "")), kept=kept)

    if log_ins is not None:
        _add_door(pages, frame, log_ins)
    return pages


def _add_door(pages: Blueprint, frame: Frame, log_ins: NodeLogIns) -> None:
    def record(address: str, _who: str, reason: str) -> None:
        frame.audit.append(
            AuditEvent(
                frame.clock(), AuditEventType.REFUSED, address, outcome=Outcome.DENIED, reason=reason,
                detail={"what": "log-in"},
            )
        ).wait()  # fmt: skip

    refusals = Refusals(record, time.monotonic)

    @pages.get("/log-in")
    def log_in_page() -> Response:
        wanted = _wanted(request.args.get("next", ""))
        return see_at(f"../{wanted}") if is_staff() else _log_in_page(wanted)

    @pages.post("/log-in")
    def log_in() -> Response:
        name, wanted = request.form.get("name", "").strip(), _wanted(request.form.get("next", ""))
        kept = request.form.get("kept", "")
        try:
            token = log_ins.log_in(name, request.form.get("password", ""), request.environ.get("REMOTE_ADDR", ""))
        except RefusedError as error:
            # Neither what was typed as a name, which may be a password, nor each of thousands.
            refusals.add(request.environ.get("REMOTE_ADDR", ""), "", f"{error.code} on the log-in page")
            return _log_in_page(wanted, fault(error), name=name, kept=kept)
        fields = [one for one in _fields(kept) if wanted.startswith("usmed/")]
        response = page("log-in/go-on.html", wanted=wanted, kept=fields) if fields else see_at(f"../{wanted}")
        secure = request.scheme == "https"
        response.set_cookie(COOKIE, token, path="/", secure=secure, httponly=True, samesite="Strict")
        return response

    @pages.post("/log-out")
    def log_out() -> Response:
        log_ins.log_out(token_in(request.headers.get("Cookie", "")))
        response = see_at("log-in")
        secure = request.scheme == "https"
        response.delete_cookie(COOKIE, path="/", secure=secure, httponly=True, samesite="Strict")
        return response


def _log_in_page(wanted: str, wrong: str = "", *, name: str = "", kept: str = "") -> Response:
    return page("log-in/log-in.html", wanted=wanted, fault=wrong, who=name, kept=kept)


def _wanted(address: str) -> str:
    """Return where to go after the log-in, below Orthanc's root; Orthanc Explorer if that is nothing sensible."""
    address = address.lstrip("/")
    path, _, query = address.partition("?")
    good = address.isascii() and address.isprintable() and "\\" not in address and len(address) <= LONGEST_NEXT
    # A browser takes %2e for a dot, and Orthanc an argument for a method.
    dots = {".", ".."} & set(unquote(unquote(path)).split("/"))
    return address if path and good and not dots and "_method" not in query else EXPLORER


def _query(wanted: str) -> str:
    return urlencode({"next": _wanted(wanted)})


def _form() -> str:
    """Return the form that came too late, so that it can be sent again; empty if it cannot be kept: one with a file."""
    if request.mimetype != "application/x-www-form-urlencoded" or (request.content_length or 0) > LIMIT_BYTES:
        return ""
    return json.dumps(list(request.form.items(multi=True)))


def _fields(kept: str) -> list[tuple[str, str]]:
    """Return the fields of a form that was kept.

    Raises:
        PeerDataError: it is none of ours.
    """
    if not kept:
        return []
    document = parse_json(kept.encode("utf-8"), limit_bytes=4 * LIMIT_BYTES)
    if not isinstance(document, list):
        raise PeerDataError("this is no form that was kept")
    fields = [tuple(one) for one in document if isinstance(one, list) and len(one) == 2]
    if len(fields) != len(document) or not all(isinstance(text, str) for one in fields for text in one):
        raise PeerDataError("this is no form that was kept")
    return fields
