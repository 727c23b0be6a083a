"""What a person chose, on the portal or on paper, and the FHIR Consent that says exactly that."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from usmed.domain.consent import ProvisionType, Purpose
from usmed.domain.fhir_consent import HOSPITAL_SYSTEM, ISSUER_SYSTEM, MODALITY_SYSTEM
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.study_kinds import COMPANIONS

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"

PURPOSES: Mapping[str, frozenset[Purpose]] = {
    "permit": frozenset({Purpose.TREAT}),
    "deny": frozenset({Purpose.TREAT, Purpose.HRESCH}),
    "emergency": frozenset({Purpose.ETREAT}),
}
"""What forms offer: a permit, a denial, and a denial for emergencies."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a consent is to say. An empty set, or a missing date, sets no bound.

    Attributes:
        permits: a permit; otherwise a denial.
        purposes: what for.
        recipients: hospitals that may see, or may not.
        sources: hospitals whose images are meant.
        modalities: DICOM modalities.
        study_from, study_to: days on which the studies were made, both included.
        until: the last day on which it holds.
    """

    permits: bool
    purposes: frozenset[Purpose] = frozenset()
    recipients: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    modalities: frozenset[str] = frozenset()
    study_from: date | None = None
    study_to: date | None = None
    until: date | None = None


def consent_resource(choices: Choices, *, patient: PatientIdentifier, now: datetime, zone: tzinfo) -> dict[str, Any]:
    """Return the FHIR R4 Consent of the strict profile (`domain.fhir_consent`) that says what was chosen.

    Args:
        choices: what it says.
        patient: the number that it is given under.
        now: aware UTC.
        zone: the patient's clock: the last day ends when it ends there.
    """
    provision: dict[str, Any] = {"type": (ProvisionType.PERMIT if choices.permits else ProvisionType.DENY).value}
    if choices.until is not None:
        after = datetime.combine(choices.until + timedelta(days=1), time(0), zone).astimezone(UTC)
        provision["period"] = {"end": f"{after:%Y-%m-%dT%H:%M:%SZ}"}
    bounds = {"start": choices.study_from, "end": choices.study_to}
    if any(bounds.values()):
        provision["dataPeriod"] = {name: day.isoformat() for name, day in bounds.items() if day}
    actors = [("IRCP", one) for one in sorted(choices.recipients)] + [("CST", one) for one in sorted(choices.sources)]
    if actors:
        provision["actor"] = [_actor(role, hospital) for role, hospital in actors]
    if choices.purposes:
        system = f"{TERMINOLOGY}/v3-ActReason"
        provision["purpose"] = [{"system": system, "code": one.value} for one in sorted(choices.purposes)]
    if choices.modalities:
        # A permit for CT scans means the notes that belong to them, too; a denial of CT scans does not deny all notes.
        codes = choices.modalities | (COMPANIONS if choices.permits else frozenset())
        provision["code"] = [_concept(MODALITY_SYSTEM, code) for code in sorted(codes)]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": _concept(f"{TERMINOLOGY}/consentscope", "patient-privacy"),
        "category": [_concept("http://loinc.org", "59284-0")],
        "patient": {"identifier": {"system": f"{ISSUER_SYSTEM}{patient.issuer}", "value": patient.value}},
        "dateTime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "provision": provision,
    }


def taken_back(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return a consent as it says that it is taken back."""
    return {**resource, "status": "inactive"}


def _actor(role: str, hospital: str) -> dict[str, Any]:
    return {
        "role": _concept(f"{TERMINOLOGY}/v3-ParticipationType", role),
        "reference": {"identifier": {"system": HOSPITAL_SYSTEM, "value": hospital}},
    }


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}
