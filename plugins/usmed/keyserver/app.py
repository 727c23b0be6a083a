"""The key server's HTTP interface, for hospitals and other key servers. The signature guard stands in front of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.region import HUB, Hospital, Member, RegionManifest
from usmed.domain.study_record import parse_identifier
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.description import DESCRIPTION
from usmed.keyserver.exchange import PATH as EXCHANGE
from usmed.keyserver.exchange import Exchange
from usmed.keyserver.secrets import SecretShares
from usmed.keyserver.tickets import KeyServer
from usmed.platform.audit_log import AuditLog
from usmed.platform.log_heads import LogAlarm, describe
from usmed.platform.metrics import CONTENT_TYPE, ROUTE_KEY, Counter, Metrics
from usmed.platform.openapi import InvalidRequestError
from usmed.platform.signed_http import REQUEST_KEY, error_body
from usmed.platform.storage import StorageError

OWN_RECORDS = frozenset({"/v1/tickets", "/v1/approvals"})


@dataclass(frozen=True, slots=True)
class Services:
    """What the interface needs."""

    server: KeyServer
    approvals: Approvals
    exchange: Exchange
    shares: SecretShares
    alarms: Callable[[], list[LogAlarm]]
    audit: AuditLog
    metrics: Metrics
    decisions: Counter
    region: Callable[[], RegionManifest]
    clock: Callable[[], datetime]
    limit_bytes: int


def create_app(services: Services) -> Flask:
    """Build the WSGI application that serves verified requests."""
    app = Flask(__name__, static_folder=None)

    def post(path: str, handler: Handler) -> None:
        serve(path, handler, lambda region: region.hospitals, "hospitals")

    def serve[M: Member](
        path: str,
        handler: Callable[[M, dict[str, Any]], Any],
        callers: Callable[[RegionManifest], Mapping[str, M]],
        kind: str,
    ) -> None:
        schema = DESCRIPTION.body_of(path)

        def view() -> Response:
            caller = callers(services.region()).get(request.environ[REQUEST_KEY].sender)
            if caller is None:
                if path in OWN_RECORDS:
                    _refused(services, f"403 {path}: not one of the {kind}")
                return _error(403, "forbidden", f"only {kind} of the region are served here")
            if request.mimetype != "application/json":
                return _error(415, "not-json", "the body must be application/json")
            body = parse_json(request.get_data(cache=False), limit_bytes=services.limit_bytes)
            DESCRIPTION.check(schema, body)
            return _json(200, handler(caller, body))

        app.add_url_rule(path, endpoint=path, view_func=view, methods=["POST"])

    def take(sender: Member, body: dict[str, Any]) -> Any:
        return {"problems": services.server.take(sender.id, body["records"], body["enrolments"])}

    def held(hospital: Hospital, body: dict[str, Any]) -> Any:
        identifiers = [parse_identifier(one) for one in body["identifiers"]]
        services.audit.append(
            AuditEvent(
                services.clock(),
                AuditEventType.CONSENT,
                hospital.id,
                patient=str(identifiers[0]),
                detail={"what": "asked for"},
            )
        ).wait()
        return services.server.held(identifiers)

    def sign(hospital: Hospital, body: dict[str, Any]) -> Any:
        problems = services.server.take(hospital.id, body["records"], body["enrolments"])
        try:
            signed = services.server.sign_ticket(hospital, body["wish"])
        except RefusedError as error:
            services.decisions.add(error.code)
            raise
        services.decisions.add("signed")
        return {**signed, "problems": problems}

    # The portal, where patients sign, is at the hub. It is believed nothing but the proofs, as hospitals are.
    serve("/v1/records", take, lambda region: {**region.hospitals, HUB: region.hub}, "hospitals and the hub")
    post("/v1/records/for", held)
    post("/v1/tickets", sign)
    post("/v1/approvals", lambda one, body: _propose(services, one, body["operation"]))
    post("/v1/approvals/state", lambda one, body: _state(services, one, body["nonce"]))
    _add_secrets(services, post)
    serve(
        EXCHANGE,
        lambda peer, body: services.exchange.answer(peer.id, body),
        lambda region: region.key_servers,
        "key servers",
    )

    _add_open_pages(app, services)
    _add_errors(app)

    @app.after_request
    def note_route(response: Response) -> Response:
        if request.url_rule is not None:
            request.environ[ROUTE_KEY] = request.url_rule.rule
        return response

    @app.after_request
    def audit_refusal(response: Response) -> Response:
        # A refused ticket and a refused operation have their own records.
        if response.status_code in (400, 403, 404, 405, 413, 415) and request.path not in OWN_RECORDS:
            _refused(services, f"{response.status_code} {request.method} {request.path}")
        elif response.status_code in (400, 415):
            _refused(services, f"{response.status_code} {request.path}: malformed")
        return response

    return app


def _add_open_pages(app: Flask, services: Services) -> None:
    @app.get("/v1/openapi.yaml")
    def description() -> Response:
        return Response(DESCRIPTION.text(), content_type="application/yaml")

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(services.metrics.text(), content_type=CONTENT_TYPE)

    @app.get("/health")
    def health() -> Response:
        services.audit.head()
        # Degraded, and still at work: an alarm is a person's business, and no reason to refuse patients' care.
        reasons = describe(services.alarms())
        return _json(200, {"status": "degraded" if reasons else "ok", "version": __version__, "reasons": reasons})


type Handler = Callable[[Hospital, dict[str, Any]], Any]


def _add_secrets(services: Services, post: Callable[[str, Handler], None]) -> None:
    def announce(_sender: Hospital, _body: dict[str, Any]) -> Any:
        return services.shares.announcement()

    def put(owner: Hospital, body: dict[str, Any]) -> Any:
        return services.shares.put(owner, body)

    def release(sender: Hospital, body: dict[str, Any]) -> Any:
        return services.shares.release(sender, body)

    def held(sender: Hospital, _body: dict[str, Any]) -> Any:
        return services.shares.held(sender)

    def settle(owner: Hospital, body: dict[str, Any]) -> Any:
        return services.shares.settle(owner, body)

    post("/v1/encryption-key", announce)
    post("/v1/secrets", put)
    post("/v1/secrets/shares", release)
    post("/v1/secrets/held", held)
    post("/v1/secrets/settle", settle)


def _propose(services: Services, hospital: Hospital, operation: Any) -> Any:
    return services.approvals.told(services.approvals.propose(hospital.id, operation))


def _state(services: Services, hospital: Hospital, nonce: Any) -> Any:
    return services.approvals.told(services.approvals.state(hospital.id, nonce))


def _add_errors(app: Flask) -> None:
    app.register_error_handler(RefusedError, lambda error: _error(403, error.code, str(error)))
    app.register_error_handler(InvalidRequestError, lambda error: _error(400, "bad-request", str(error), error.faults))
    app.register_error_handler(PeerDataError, lambda error: _error(400, "bad-request", str(error)))
    app.register_error_handler(
        StorageError, lambda error: _error(503, "unavailable", "the database does not answer; try again later")
    )
    app.register_error_handler(HTTPException, _http_error)


def _refused(services: Services, reason: str) -> None:
    verified = request.environ.get(REQUEST_KEY)
    agent = verified.sender if verified else request.remote_addr or ""
    event = AuditEvent(services.clock(), AuditEventType.REFUSED, agent, outcome=Outcome.DENIED, reason=reason)
    services.audit.append(event).wait()


def _json(status: int, document: Any) -> Response:
    return Response(canonical_json(document), status=status, content_type="application/json")


def _error(status: int, code: str, message: str, details: Sequence[str] = ()) -> Response:
    return Response(error_body(code, message, details), status=status, content_type="application/json")


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}.get(status, "internal")
    return _error(status, code, error.name)
