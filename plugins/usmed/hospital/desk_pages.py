"""Addresses of the desk: what one member of staff writes down and another confirms, and how far it has come."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from usmed.domain.errors import PeerDataError
from usmed.domain.paper import LARGEST_SCAN_BYTES, scan_digest
from usmed.hospital.desk import Desk, Entry
from usmed.hospital.desk_store import Draft
from usmed.hospital.page_requests import json_body, require, text

SCAN_HEADERS = {
    # Whatever a reader in a browser makes of it: it is nobody's page, and loads nothing.
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_desk_pages(desk: Desk) -> Blueprint:
    """Return the addresses; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("desk", __name__)

    @pages.post("")
    def write() -> Response:
        return jsonify(_draft(desk.write(json_body().get("Resource"), require("paper.write"))))

    @pages.post("/numbers")
    def write_numbers() -> Response:
        return jsonify(_draft(desk.write_numbers(json_body().get("Patient"), require("paper.write"))))

    @pages.get("")
    def waiting() -> Response:
        return jsonify([_draft(one) for one in desk.drafts()])

    @pages.get("/<id>")
    def show(id: str) -> Response:
        return jsonify(_entry(desk.entry(id)))

    @pages.post("/<consent_id>/withdrawal")
    def write_withdrawal(consent_id: str) -> Response:
        json_body()
        return jsonify(_draft(desk.write_withdrawal(consent_id, require("paper.write"))))

    @pages.post("/<id>/confirmation")
    def confirm(id: str) -> Response:
        return jsonify(_entry(desk.confirm(id, text(json_body(), "Sha256"), require("paper.confirm"))))

    @pages.put("/<id>/scan")
    def add_scan(id: str) -> Response:
        # No form can be sent as this from a stranger's web page.
        if request.mimetype != "application/pdf":
            raise PeerDataError("the body must be the scan: application/pdf")
        if (request.content_length or 0) > LARGEST_SCAN_BYTES:
            raise PeerDataError(f"the scan has more than {LARGEST_SCAN_BYTES >> 20} MB: scan it with fewer dots")
        return jsonify(_draft(desk.add_scan(id, request.get_data(cache=False), require("paper.write"))))

    @pages.get("/<id>/scan")
    def read_scan(id: str) -> Response:
        return scan_answer(desk.scan(id, require("paper.read")))

    @pages.post("/<id>/refusal")
    def refuse(id: str) -> Response:
        desk.refuse(id, text(json_body(), "Reason"), require("paper.confirm"))
        return jsonify(_entry(desk.entry(id)))

    @pages.post("/<id>/cancellation")
    def cancel(id: str) -> Response:
        json_body()
        desk.cancel(id, require("paper.write"))
        return jsonify(_entry(desk.entry(id)))

    return pages


def scan_answer(scan: bytes) -> Response:
    """Answer with a scan: to be kept as a file, and shown nowhere with anything of ours beside it."""
    response = Response(scan, content_type="application/pdf")
    response.headers["Content-Disposition"] = 'attachment; filename="consent.pdf"'
    response.headers.update(SCAN_HEADERS)
    return response


def _draft(draft: Draft) -> dict[str, Any]:
    document = draft.document
    said = {"Resource": document["resource"]} if "resource" in document else {"Patient": document["patient"]}
    return {
        "ID": draft.id,
        "Version": document["version"],
        **said,
        "Sha256": draft.digest,
        "WrittenBy": draft.staff,
        "WrittenAt": draft.created.isoformat(timespec="seconds"),
        "Scan": draft.scan or None,
    }


def _ended(draft: Draft) -> dict[str, Any]:
    return {
        "State": draft.state.value,
        "By": draft.ended_by or None,
        "Reason": draft.reason or None,
        "At": draft.ended.isoformat(timespec="seconds") if draft.ended else None,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    shown: dict[str, Any] = {"Draft": _draft(entry.draft) if entry.draft is not None else None}
    shown["Ended"] = _ended(entry.ended) if entry.ended is not None else None
    if entry.attested is None or entry.progress is None:
        return shown | {"Attested": None}
    item, progress = entry.attested.item, entry.progress
    return shown | {
        "Attested": {
            "ID": item.id,
            "Version": item.version,
            "Scan": scan_digest(item.resource or {}) or None,
            "Status": (item.resource or {"status": "active"})["status"],
            "At": entry.attested.created.isoformat(timespec="seconds"),
            "Done": progress.done,
            "CertainAt": progress.certain_at.isoformat(timespec="seconds") if progress.certain_at else None,
            "KeyServersNeeded": progress.needed,
            "KeyServers": list(progress.holding),
            "WaitingForKeyServers": list(progress.waiting_for_servers),
            "WaitingForHospitals": list(progress.waiting_for_hospitals),
            "Problems": entry.attested.problems,
        }
    }
