"""What hospitals send for their patients' sake: invitations to enrol, requests for consent, and who had what.

Each operation takes what `openapi.yaml` says and returns the JSON of its answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from usmed.domain.consent import Purpose
from usmed.domain.enrolment import Basis, Guardian
from usmed.domain.region import Hospital
from usmed.domain.study_record import parse_identifier
from usmed.hub.accesses import Accesses
from usmed.hub.invitations import Invitations
from usmed.hub.requests import Requests


@dataclass(frozen=True, slots=True)
class Patients:
    """The use cases of patients who act for themselves."""

    invitations: Invitations
    requests: Requests
    accesses: Accesses


def invite(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Begin an enrolment."""
    guardian = body["guardian"]
    address, expires = patients.invitations.invite(
        hospital,
        id=body["id"],
        code_sha256=body["code_sha256"],
        patient=[parse_identifier(one) for one in body["patient"]],
        birth_date=body["birth_date"],
        guardian=(
            Guardian(Basis(guardian["basis"]), datetime.fromtimestamp(guardian["until"], UTC)) if guardian else None
        ),
    )
    return {"address": address, "expires": int(expires.timestamp())}


def invitation_state(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Tell how an invitation stands, and the passkey that answered it."""
    held = patients.invitations.state(hospital, body["id"])
    made = held.credential
    credential = {"id": made.id.hex(), "public_key": made.public_key.hex()} if made else None
    return {"state": held.state.value, "credential": credential}


def cancel_invitation(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Void an invitation."""
    patients.invitations.cancel(hospital, body["id"])
    return {}


def ask(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Ask a patient for consent. The answer is the same for everybody and nobody."""
    patients.requests.ask(
        hospital,
        id=body["id"],
        patient=parse_identifier(body["identifier"]),
        purpose=Purpose(body["purpose"]),
        department=body["department"],
        role=body["role"],
    )
    return {"state": "open"}


def request_states(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Tell how requests stand."""
    states = patients.requests.states(hospital, body["ids"])
    return {"states": {id: state.value for id, state in states.items()}}


def take_accesses(patients: Patients, hospital: Hospital, body: dict[str, Any]) -> Any:
    """Keep what this hospital has given away."""
    problems = patients.accesses.take(hospital, body["accesses"])
    return {
        "taken": len(body["accesses"]) - len(problems),
        "problems": [{"place": one.place, "reason": one.reason, "again": one.again} for one in problems],
    }


type Operation = Callable[[Patients, Hospital, dict[str, Any]], Any]

OPERATIONS: tuple[tuple[str, Operation], ...] = (
    ("/v1/enrolments/invite", invite),
    ("/v1/enrolments/state", invitation_state),
    ("/v1/enrolments/cancel", cancel_invitation),
    ("/v1/requests", ask),
    ("/v1/requests/state", request_states),
    ("/v1/accesses", take_accesses),
)
"""Path, and what is done."""
