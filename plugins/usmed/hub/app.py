"""The hub's HTTP interface: what `openapi.yaml` describes. The signature guard stands in front of it."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection

from usmed import __version__
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import ProofKind
from usmed.domain.errors import ConfigurationError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB, Hospital, Member
from usmed.domain.study_record import parse_identifier
from usmed.hub import enrolments, fhir, patients
from usmed.hub.description import DESCRIPTION
from usmed.hub.locator import FeedResult
from usmed.hub.registry import Kept
from usmed.hub.resolve import Question
from usmed.hub.services import Services
from usmed.platform.operations import JSON, NotServedError, Operations

PUBLISHED_BYTES = 4 << 20

type Handler = Callable[[Services, Hospital, dict[str, Any]], Any]


def create_app(services: Services) -> Operations:
    """Build the WSGI application that serves verified requests."""
    app = Operations(DESCRIPTION, services.audit, services.clock, services.limit_bytes)
    region = services.regions.current

    def post(path: str, handler: Handler) -> None:
        app.serve(path, partial(handler, services), lambda: region().hospitals, "hospitals")

    post("/v1/studies/feed", _feed)
    post("/v1/studies/digest", _digest)
    post("/v1/studies/replace", _replace)
    post("/v1/resolve", _resolve)
    post("/v1/consents/changes", _consent_changes)
    post("/v1/consents/records", _consent_records)
    for path, operation in patients.OPERATIONS:
        post(path, partial(_patients, operation))
    app.mount(f"{fhir.PATH}/", fhir.create_fhir(services))

    def after(_member: Member, body: dict[str, Any]) -> Any:
        return {"versions": services.regions.after(body["version"])}

    def members() -> dict[str, Member]:
        return {HUB: region().hub, **region().hospitals, **region().key_servers}

    app.serve("/v1/region/after", after, members, "members")
    app.serve_anybody("/v1/region/publish", _publishing(services), PUBLISHED_BYTES)
    app.show("/v1/openapi.yaml", lambda: ("application/yaml", DESCRIPTION.text()))
    app.show("/health", partial(_health, services))
    return app


def _health(services: Services) -> tuple[str, bytes]:
    services.audit.head()
    return JSON, canonical_json({"status": "ok", "version": __version__})


def _publishing(services: Services) -> Callable[[dict[str, Any]], Any]:
    one_at_once = threading.Lock()

    def publish(body: dict[str, Any]) -> Any:
        # Anybody may call this, and signatures over a megabyte take time.
        if not one_at_once.acquire(blocking=False):
            raise NotServedError(429, "busy", "another region manifest is being checked; try again in a moment")
        try:
            services.regions.take(body["versions"], "published at the hub")
        except ConfigurationError as error:
            problems = list(error.problems)[:50]
            raise NotServedError(400, "bad-request", "the region manifest has faults", problems) from error
        finally:
            one_at_once.release()
        return {"version": services.regions.current().version}

    return publish


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


def _feed_answer(result: FeedResult) -> Any:
    problems = [{"study_instance_uid": uid, "reason": reason} for uid, reason in result.problems]
    return {"accepted": result.accepted, "problems": problems}


def _identifier(one: PatientIdentifier) -> dict[str, str]:
    return {"issuer": one.issuer, "value": one.value}
