"""Addresses of requests to patients: ask one, see whether the answer has come; and what the region panel offers."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import Naming
from usmed.hospital.page_requests import is_staff, json_body, permitted, require, text
from usmed.hospital.patient_requests import PatientRequest, PatientRequests
from usmed.hospital.region_panel import Notice


def create_patient_request_pages(requests: PatientRequests, naming: Naming) -> Blueprint:
    """Return the addresses; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("requests", __name__)

    @pages.post("")
    def ask() -> Response:
        body = json_body()
        patient = naming.identify(text(body, "PatientID"), text(body, "IssuerOfPatientID"))
        return jsonify(_shown(requests.ask(patient, text(body, "Department"), require("patients.ask"))))

    @pages.get("")
    def last() -> Response:
        require("patients.ask")
        given = request.args
        patient = naming.identify(given.get("PatientID", ""), given.get("IssuerOfPatientID", ""))
        held = requests.look(patient)
        return jsonify(Request=_shown(held) if held is not None else None)

    return pages


def offered(
    panel: dict[str, Any], requests: PatientRequests, naming: Naming, patient_id: str, issuer: str
) -> dict[str, Any]:
    """Add to a region panel that shows nothing for want of consent what is needed to ask the patient, as `Ask`."""
    may_ask = is_staff() and permitted("patients.ask")
    if panel["notice"] != Notice.NO_PERMISSION or not may_ask or not requests.possible():
        return panel
    try:
        patient = naming.identify(patient_id, issuer)
    except PeerDataError:
        return panel
    held = requests.last(patient)
    named: Mapping[str, Any] = {"PatientID": patient.value, "IssuerOfPatientID": patient.issuer}
    return panel | {"ask": {**named, "Request": _shown(held) if held is not None else None}}


def _shown(one: PatientRequest) -> dict[str, str]:
    return {
        "ID": one.id,
        "PatientID": one.patient.value,
        "IssuerOfPatientID": one.patient.issuer,
        "Department": one.department,
        "AskedBy": one.staff,
        "AskedAt": one.asked.isoformat(timespec="seconds"),
        "State": one.state.value,
    }
