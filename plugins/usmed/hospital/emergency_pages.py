"""Addresses of emergencies: ask for access, agree as the second member of staff, see what is open."""

from typing import Any

from flask import Blueprint, Response, jsonify

from usmed.domain.identifiers import Naming
from usmed.hospital.emergencies import Emergencies, Emergency
from usmed.hospital.page_requests import json_body, require, text


def create_emergency_pages(emergencies: Emergencies, naming: Naming) -> Blueprint:
    """Return the addresses; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("emergencies", __name__)

    @pages.post("")
    def ask() -> Response:
        body = json_body()
        patient = naming.identify(text(body, "PatientID"), text(body, "IssuerOfPatientID"))
        return jsonify(_shown(emergencies.ask(patient, text(body, "Reason"), require("emergencies.ask"))))

    @pages.get("")
    def known() -> Response:
        return jsonify([_shown(one) for one in emergencies.all()])

    @pages.post("/<emergency_id>/confirmation")
    def confirm(emergency_id: str) -> Response:
        json_body()
        return jsonify(_shown(emergencies.confirm(emergency_id, require("emergencies.confirm"))))

    return pages


def _shown(one: Emergency) -> dict[str, Any]:
    return {
        "ID": one.id,
        "PatientID": one.patient.value,
        "IssuerOfPatientID": one.patient.issuer,
        "Reason": one.reason,
        "AskedBy": one.asked_by,
        "AskedAt": one.asked.isoformat(timespec="seconds"),
        "ConfirmedBy": one.confirmed_by,
        "Until": one.until.isoformat(timespec="seconds"),
        "Ticket": one.ticket_id,
    }
