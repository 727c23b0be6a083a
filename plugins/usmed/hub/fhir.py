"""FHIR R4 (4.0.1) at the hub, to read: a patient's consents, who a patient is elsewhere, and who had which study.

For the hospitals of the region, over the same signed requests as the rest, and no wider: a hospital reads of patients
whom it has announced itself: consents that concern it (`concerns`), and accesses in which it was one of the two. The
decision stays with the key servers.
Terms of consents: IHE ITI Privacy Consent on FHIR (PCF). `GET /v1/fhir/metadata` says what is there.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import ProofKind
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import HOSPITAL_SYSTEM, ISSUER_SYSTEM, MODALITY_SYSTEM, identifier_from_fhir
from usmed.domain.identifiers import PatientIdentifier, patient_identifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hub import charts, consents
from usmed.hub.accesses import Access
from usmed.hub.consents import StoredConsent
from usmed.hub.resolve import Question
from usmed.hub.services import Services
from usmed.platform.signed_http import REQUEST_KEY
from usmed.platform.storage import StorageError

PATH = "/v1/fhir"
CONTENT_TYPE = "application/fhir+json"
VERSION = "4.0.1"
MOST_IDENTIFIERS = 20
"""How many identifiers one `$match` may name."""

MOST_EVENTS = 500
"""How many AuditEvents one search returns, the newest."""

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_STATUSES = ("active", "inactive")


class NotAHospitalError(PeerDataError):
    """The request is properly signed, by a member of the region that has no business here."""


def create_fhir(services: Services) -> Flask:
    """Return the facade, which answers at PATH; the signature guard stands in front of it."""
    pages = Flask(__name__, static_folder=None)
    pages.register_error_handler(NotAHospitalError, lambda error: outcome(403, "forbidden", str(error)))
    pages.register_error_handler(HTTPException, _http_error)
    pages.register_error_handler(PeerDataError, lambda error: outcome(400, "invalid", str(error)))
    pages.register_error_handler(
        StorageError, lambda error: outcome(503, "transient", "the database does not answer; try again later")
    )

    def bundle(entries: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> Response:
        base = f"{services.regions.current().hub.address}{PATH}"
        listed = [
            {"fullUrl": f"{base}/{one['resourceType']}/{one['id']}", "resource": one, "search": search}
            for one, search in entries
        ]
        document = {"resourceType": "Bundle", "type": "searchset", "total": len(listed)}
        # FHIR has no empty lists.
        return _fhir(document | ({"entry": listed} if listed else {}))

    @pages.get(f"{PATH}/metadata")
    def metadata() -> Response:
        return _fhir(capability_statement())

    @pages.get(f"{PATH}/AuditEvent")
    def accesses() -> Response:
        hospital, patient = _calling(services.regions.current()), _patient_of_query()
        numbers = _numbers(services, hospital, patient)
        found = services.patients.accesses.of(numbers, MOST_EVENTS) if numbers else []
        listed = [one for one in found if one.study_instance_uid and hospital.id in (one.source, one.recipient)]
        _note(services, hospital, patient, {"what": "accesses read", "count": len(listed)})
        return bundle((audit_event(one), {"mode": "match"}) for one in listed)

    @pages.get(f"{PATH}/Consent")
    def search() -> Response:
        hospital = _calling(services.regions.current())
        patient, status = _patient_of_query("status"), request.args.get("status")
        if status is not None and status not in _STATUSES:
            raise PeerDataError(f"status: one of {', '.join(_STATUSES)}")
        found = [one for one in _consents(services, hospital, patient) if status in (None, one.status)]
        return bundle((consent_resource(one), {"mode": "match"}) for one in found)

    @pages.get(f"{PATH}/Consent/<id>")
    def read(id: str) -> Response:
        hospital = _calling(services.regions.current())
        one = _consent(services, hospital, id)
        if one is None:
            return outcome(404, "not-found", "there is no such consent of a patient of yours that concerns you")
        answer = _fhir(consent_resource(one))
        answer.headers["ETag"] = f'W/"{one.version}"'
        return answer

    @pages.post(f"{PATH}/Patient/$match")
    def match() -> Response:
        hospital = _calling(services.regions.current())
        found: dict[str, dict[str, Any]] = {}
        for identifier in _identifiers_of_match(services.limit_bytes):
            answer = services.resolver.resolve(hospital, Question(identifier), Purpose.TREAT)
            if answer.identifiers:
                resource = patient_resource(answer.identifiers)
                found[resource["id"]] = resource
        certain = {
            "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/match-grade", "valueCode": "certain"}],
            "mode": "match",
            "score": 1,
        }
        return bundle((one, certain) for one in found.values())

    return pages


def capability_statement() -> dict[str, Any]:
    """Return what this facade can do, as FHIR R4 has it."""
    described = "its identifier, with the modifier: patient:identifier=urn:usmed:issuer:<issuer>|<value>"
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-22",
        "kind": "instance",
        "software": {"name": "USMED regional hub", "version": __version__},
        "implementation": {"description": "The consents of a region's patients, and who they are at other hospitals"},
        "fhirVersion": VERSION,
        "format": [CONTENT_TYPE],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Requests and answers are signed: see the hub's OpenAPI description."},
                "resource": [
                    {
                        "type": "AuditEvent",
                        "interaction": [{"code": "search-type"}],
                        "searchParam": [{"name": "patient", "type": "reference", "documentation": described}],
                    },
                    {
                        "type": "Consent",
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "versioning": "versioned",
                        "searchParam": [
                            {"name": "patient", "type": "reference", "documentation": described},
                            {"name": "status", "type": "token"},
                        ],
                    },
                    {
                        "type": "Patient",
                        "operation": [
                            {
                                "name": "match",
                                "definition": "http://hl7.org/fhir/OperationDefinition/Patient-match",
                                "documentation": "By identifiers alone, and certain matches alone.",
                            }
                        ],
                    },
                ],
            }
        ],
    }


def concerns(one: StoredConsent, hospital: str) -> bool:
    """Tell whether a consent is this hospital's to read: it is named, or everybody is, or it attested the consent.

    Whoever announces an invented study must not learn by it what a patient lets, or denies, others.
    """
    if one.kind is ProofKind.STAFF and one.proved_by == hospital:
        return True
    rules = one.to_domain().provisions
    return any(not rule.recipients or hospital in rule.recipients | rule.sources for rule in rules)


def consent_resource(one: StoredConsent) -> dict[str, Any]:
    """Return a consent as a FHIR resource: what was proved, its id and its version."""
    recorded = datetime.fromtimestamp(one.recorded, UTC)
    meta = {"versionId": str(one.version), "lastUpdated": recorded.isoformat(timespec="seconds")}
    return {**one.resource, "id": one.id, "meta": meta}


def patient_resource(identifiers: Sequence[PatientIdentifier]) -> dict[str, Any]:
    """Return a person as a FHIR Patient: the numbers, and no more.

    The id is made of the numbers: the hub has no number of its own for anybody.
    """
    listed = [{"system": f"{ISSUER_SYSTEM}{one.issuer}", "value": one.value} for one in sorted(identifiers)]
    return {"resourceType": "Patient", "id": sha256_hex(canonical_json(listed)), "identifier": listed}


def audit_event(one: Access) -> dict[str, Any]:
    """Return an access as a FHIR AuditEvent: instances that one hospital gave to another (DICOM PS3.15 A.5.3.7)."""

    def hospital(id: str) -> dict[str, Any]:
        return {"identifier": {"system": HOSPITAL_SYSTEM, "value": id}}

    def entity(what: dict[str, Any], kind: str, role: str) -> dict[str, Any]:
        return {
            "what": what,
            "type": {"system": f"{_TERMINOLOGY}/audit-entity-type", "code": kind},
            "role": {"system": f"{_TERMINOLOGY}/object-role", "code": role},
        }

    patient = {"system": f"{ISSUER_SYSTEM}{one.patient.issuer}", "value": one.patient.value}
    study = {"system": "urn:dicom:uid", "value": f"urn:oid:{one.study_instance_uid}"}
    return {
        "resourceType": "AuditEvent",
        "id": str(one.id),
        "type": {"system": MODALITY_SYSTEM, "code": "110104", "display": "DICOM Instances Transferred"},
        "action": "R",
        "recorded": one.at.isoformat(timespec="seconds"),
        "outcome": "0",
        "purposeOfEvent": [{"coding": [{"system": f"{_TERMINOLOGY}/v3-ActReason", "code": one.purpose.value}]}],
        "agent": [
            {"who": hospital(one.recipient), "requestor": True} | ({"role": [{"text": one.role}]} if one.role else {}),
            {"who": hospital(one.source), "requestor": False},
        ],
        "source": {"observer": hospital(one.source)},
        "entity": [
            # A person who is a patient; a system object that is a report; and one that is security's.
            entity({"identifier": patient}, "1", "1"),
            entity({"identifier": study}, "2", "3"),
            *(entity({"reference": f"Consent/{id}"}, "2", "13") for id in one.consents),
        ],
    }


def outcome(status: int, code: str, message: str) -> Response:
    """Return an error as FHIR has it: an OperationOutcome."""
    document = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": message}],
    }
    return Response(canonical_json(document), status=status, content_type=CONTENT_TYPE)


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = {404: "not-found", 405: "not-supported"}.get(status, "exception")
    return outcome(status, code, f"{error.name}: GET {PATH}/metadata says what there is")


def _calling(region: RegionManifest) -> Hospital:
    hospital = region.hospitals.get(request.environ[REQUEST_KEY].sender)
    if hospital is None:
        raise NotAHospitalError("only hospitals of the region are served")
    return hospital


def _consents(services: Services, hospital: Hospital, patient: PatientIdentifier) -> list[StoredConsent]:
    numbers = _numbers(services, hospital, patient)
    with services.database.read() as connection:
        held = consents.of_numbers(connection, numbers) if numbers else []
    found = [one for one in held if concerns(one, hospital.id)]
    _note(services, hospital, patient, _read_consents(found))
    return found


def _numbers(services: Services, hospital: Hospital, patient: PatientIdentifier) -> set[PatientIdentifier]:
    """Return the numbers of a person; none if the hospital has not announced a patient who is that person."""
    with services.database.read() as connection:
        person = charts.of_number(connection, patient)
    if not any(one.chart.hospital == hospital.id for one in person):
        return set()
    return {patient, *(number for one in person for number in one.linked)}


def _consent(services: Services, hospital: Hospital, id: str) -> StoredConsent | None:
    if not _ID.fullmatch(id):
        raise PeerDataError("a consent's id has 1 to 64 letters, digits, hyphens and points")
    with services.database.read() as connection:
        one = consents.current(connection, id)
        person = charts.of_number(connection, one.patient) if one is not None else []
    if one is None or not concerns(one, hospital.id) or not any(each.chart.hospital == hospital.id for each in person):
        return None
    _note(services, hospital, one.patient, _read_consents([one]))
    return one


def _read_consents(found: Iterable[StoredConsent]) -> dict[str, Any]:
    return {"what": "consents read", "consents": [one.id for one in found]}


def _note(services: Services, hospital: Hospital, patient: PatientIdentifier, detail: dict[str, Any]) -> None:
    event = AuditEvent(services.clock(), AuditEventType.CONSENT, hospital.id, patient=str(patient), detail=detail)
    services.audit.append(event).wait()


def _patient_of_query(*others: str) -> PatientIdentifier:
    """Read the search parameter `patient`, by identifier (FHIR R4 §3.1.1.4.17: a reference by its identifier)."""
    unknown = sorted(set(request.args) - {"patient:identifier", "patient.identifier", *others})
    if unknown:
        raise PeerDataError(f"these search parameters are not known here: {', '.join(unknown)[:200]}")
    given = [*request.args.getlist("patient:identifier"), *request.args.getlist("patient.identifier")]
    if len(given) != 1:
        raise PeerDataError("say once of whom: patient:identifier=urn:usmed:issuer:<issuer>|<value>")
    system, bar, value = given[0].partition("|")
    if not bar or not system.startswith(ISSUER_SYSTEM):
        raise PeerDataError("patient:identifier: must be urn:usmed:issuer:<issuer>|<value>")
    return patient_identifier(system.removeprefix(ISSUER_SYSTEM), value)


def _identifiers_of_match(limit_bytes: int) -> list[PatientIdentifier]:
    """Read the identifiers of the Patient in the Parameters of `$match`."""
    if request.mimetype not in (CONTENT_TYPE, "application/json"):
        raise PeerDataError(f"the body must be {CONTENT_TYPE}")
    body = parse_json(request.get_data(cache=False), limit_bytes=limit_bytes)
    try:
        parameters = body["parameter"] if body["resourceType"] == "Parameters" else []
        (patient,) = (one["resource"] for one in parameters if one["name"] == "resource")
        listed = patient["identifier"] if patient["resourceType"] == "Patient" else []
        identifiers = sorted({identifier_from_fhir({"system": one["system"], "value": one["value"]}) for one in listed})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PeerDataError("the body must be Parameters with one Patient that has identifiers") from error
    if not 1 <= len(identifiers) <= MOST_IDENTIFIERS:
        raise PeerDataError(f"the Patient must have 1 to {MOST_IDENTIFIERS} identifiers")
    return identifiers


def _fhir(document: dict[str, Any]) -> Response:
    return Response(canonical_json(document), content_type=f"{CONTENT_TYPE}; fhirVersion=4.0")
