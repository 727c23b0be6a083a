"""The hub's HTTP interface: what `openapi.yaml` describes. The signature guard stands in front of it."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from sqlalchemy import Connection
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import ProofKind
from usmed.domain.errors import ConfigurationError, PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital
from usmed.domain.study_record import parse_identifier
from usmed.hub import enrolments, fhir, patients
from usmed.hub.callers import NotAHospitalError, calling_hospital, calling_member
from usmed.hub.description import DESCRIPTION
from usmed.hub.locator import FeedResult
from usmed.hub.registry import Kept
from usmed.hub.resolve import Question
from usmed.hub.services import Services
from usmed.platform.openapi import InvalidRequestError
from usmed.platform.signed_http import REQUEST_KEY, error_body
from usmed.platform.storage import StorageError

PUBLISHED_BYTES = 4 << 20


class NotJsonError(PeerDataError):
    """The body is of another content type."""


def create_app(services: Services) -> Flask:
    """Build the WSGI application that serves verified requests."""
    app = Flask(__name__, static_folder=None)

    def post(path: str, schema: str, handler: Callable[[Services, Hospital, dict[str, Any]], Any]) -> None:
        def view() -> Response:
            hospital = calling_hospital(services.regions.current())
            return _json(200, handler(services, hospital, _checked(schema, services.limit_bytes)))

        app.add_url_rule(path, endpoint=path, view_func=view, methods=["POST"])

    post("/v1/studies/feed", "FeedRequest", _feed)
    post("/v1/studies/digest", "DigestRequest", _digest)
    post("/v1/studies/replace", "ReplaceRequest", _replace)
    post("/v1/resolve", "ResolveRequest", _resolve)
    post("/v1/consents/changes", "ChangesRequest", _consent_changes)
    post("/v1/consents/records", "RecordsRequest", _consent_records)
    for path, schema, operation in patients.OPERATIONS:
        post(path, schema, partial(_patients, operation))

    app.register_blueprint(fhir.create_fhir(services), url_prefix=fhir.PATH)
    publishing = threading.Lock()

    @app.post("/v1/region/publish")
    def publish() -> Response:
        body = _checked("PublishRequest", PUBLISHED_BYTES)
        # Anybody may call this, and signatures over a megabyte take time: one at once.
        if not publishing.acquire(blocking=False):
            return _error(429, "busy", "another region manifest is being checked; try again in a moment")
        try:
            services.regions.take(body["versions"], "published at the hub")
        except ConfigurationError as error:
            return _error(400, "bad-request", "the region manifest has faults", list(error.problems)[:50])
        finally:
            publishing.release()
        return _json(200, {"version": services.regions.current().version})

    @app.post("/v1/region/after")
    def after() -> Response:
        calling_member(services.regions.current())
        body = _checked("AfterRequest", services.limit_bytes)
        return _json(200, {"versions": services.regions.after(body["version"])})

    @app.get("/v1/openapi.yaml")
    def description() -> Response:
        return Response(DESCRIPTION.text(), content_type="application/yaml")

    @app.get("/health")
    def health() -> Response:
        services.audit.head()
        return _json(200, {"status": "ok", "version": __version__})

    app.register_error_handler(InvalidRequestError, lambda error: _error(400, "bad-request", str(error), error.faults))
    app.register_error_handler(NotJsonError, lambda error: _error(415, "not-json", str(error)))
    app.register_error_handler(NotAHospitalError, lambda error: _error(403, "forbidden", str(error)))
    app.register_error_handler(RefusedError, _refused)
    app.register_error_handler(PeerDataError, lambda error: _error(400, "bad-request", str(error)))
    app.register_error_handler(
        StorageError, lambda error: _error(503, "unavailable", "the database does not answer; try again later")
    )
    app.register_error_handler(HTTPException, _http_error)

    @app.after_request
    def audit_refusal(response: Response) -> Response:
        if 400 <= response.status_code < 500:
            verified = request.environ.get(REQUEST_KEY)
            services.audit.append(
                AuditEvent(
                    services.clock(),
                    AuditEventType.REFUSED,
                    verified.sender if verified else request.remote_addr or "",
                    outcome=Outcome.DENIED,
                    reason=f"{response.status_code} {request.method} {request.path} {g.get('code', '')}".rstrip(),
                )
            ).wait()
        return response

    return app


def _feed(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    return _feed_answer(services.locator.feed(hospital, body.get("upsert", []), body.get("delete", [])))


def _digest(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    return {"differ": services.locator.differing_buckets(hospital, body["buckets"])}


def _replace(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    return _feed_answer(services.locator.replace(hospital, body["bucket"], body["records"]))


def _resolve(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    question = Question(
        identifier=parse_identifier(body["identifier"]) if "identifier" in body else None,
        study_instance_uid=body.get("study_instance_uid", ""),
        accession_number=body.get("accession_number", "").strip(" "),
    )
    answer = services.resolver.resolve(hospital, question, Purpose(body["purpose"]))
    return {
        "identifiers": [_identifier(one) for one in answer.identifiers],
        "holders": [{"hospital": one, "studies": count} for one, count in answer.holders],
    }


def _consent_records(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    def pass_on(connection: Connection, kept: Kept) -> None:
        # The hospital brings it to the others, too; but a patient who looks is told only what the hub knows.
        if kept.new:
            needed = enrolments.of_numbers(connection, [kept.patient]) if kept.kind is ProofKind.PASSKEY else []
            services.deliveries.pass_on(connection, kept.record, kept.version, enrolments.as_sent(needed))

    return {"problems": services.registry.take(hospital.id, body["records"], body["enrolments"], pass_on)}


def _consent_changes(services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    numbers, cursor = services.registry.changes(hospital, body["since"])
    return {"changes": [{"identifiers": [_identifier(one)]} for one in numbers], "cursor": cursor}


def _patients(operation: patients.Operation, services: Services, hospital: Hospital, body: dict[str, Any]) -> Any:
    return operation(services.patients, hospital, body)


def _checked(schema: str, limit_bytes: int) -> dict[str, Any]:
    """Return the body of the request if it is what the schema says.

    Raises:
        NotJsonError, InvalidRequestError, PeerDataError: it is not.
    """
    if request.mimetype != "application/json":
        raise NotJsonError("the body must be application/json")
    body: dict[str, Any] = parse_json(request.get_data(cache=False), limit_bytes=limit_bytes)
    DESCRIPTION.check(schema, body)
    return body


def _feed_answer(result: FeedResult) -> Any:
    problems = [{"study_instance_uid": uid, "reason": reason} for uid, reason in result.problems]
    return {"accepted": result.accepted, "problems": problems}


def _identifier(one: PatientIdentifier) -> dict[str, str]:
    return {"issuer": one.issuer, "value": one.value}


def _json(status: int, document: Any) -> Response:
    return Response(canonical_json(document), status=status, content_type="application/json")


def _error(status: int, code: str, message: str, details: list[str] | None = None) -> Response:
    return Response(error_body(code, message, details or ()), status=status, content_type="application/json")


def _refused(error: RefusedError) -> Response:
    # For the audit record of it.
    g.code = error.code
    return _error(403, error.code, str(error))


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}.get(status, "internal")
    message = {
        404: "there is no such operation; GET /v1/openapi.yaml lists them",
        405: "this operation takes another method; GET /v1/openapi.yaml says which",
    }.get(status, error.name)
    return _error(status, code, message)
