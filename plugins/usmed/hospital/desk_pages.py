"""Addresses of the desk: what one member of staff writes down and another confirms, and how far it has come."""

from typing import Any

from flask import Blueprint, Response, jsonify

from usmed.hospital.desk import Desk, Entry
from usmed.hospital.desk_store import Draft
from usmed.hospital.page_requests import json_body, staff, text


def create_desk_pages(desk: Desk) -> Blueprint:
    """Return the addresses; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("desk", __name__)

    @pages.post("")
    def write() -> Response:
        return jsonify(_draft(desk.write(json_body().get("Resource"), staff())))

    @pages.post("/numbers")
    def write_numbers() -> Response:
        return jsonify(_draft(desk.write_numbers(json_body().get("Patient"), staff())))

    @pages.get("")
    def waiting() -> Response:
        return jsonify([_draft(one) for one in desk.drafts()])

    @pages.get("/<id>")
    def show(id: str) -> Response:
        return jsonify(_entry(desk.entry(id)))

    @pages.post("/<consent_id>/withdrawal")
    def write_withdrawal(consent_id: str) -> Response:
        json_body()
        return jsonify(_draft(desk.write_withdrawal(consent_id, staff())))

    @pages.post("/<id>/confirmation")
    def confirm(id: str) -> Response:
        return jsonify(_entry(desk.confirm(id, text(json_body(), "Sha256"), staff())))

    return pages


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
    }


def _entry(entry: Entry) -> dict[str, Any]:
    shown: dict[str, Any] = {"Draft": _draft(entry.draft) if entry.draft is not None else None}
    if entry.attested is None or entry.progress is None:
        return shown | {"Attested": None}
    item, progress = entry.attested.item, entry.progress
    return shown | {
        "Attested": {
            "ID": item.id,
            "Version": item.version,
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
