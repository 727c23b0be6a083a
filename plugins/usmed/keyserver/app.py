"""The key server's HTTP interface, for hospitals and other key servers. The signature guard stands in front of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.region import Hospital, Member, RegionManifest
from usmed.domain.study_record import parse_identifier
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.description import description_bytes
from usmed.keyserver.exchange import PATH as EXCHANGE
from usmed.keyserver.exchange import Exchange
from usmed.keyserver.secrets import SecretShares
from usmed.keyserver.tickets import KeyServer
from usmed.platform.audit_log import AuditLog
from usmed.platform.log_heads import LogAlarm, describe
from usmed.platform.metrics import CONTENT_TYPE, ROUTE_KEY, Counter, Metrics
from usmed.platform.signed_http import REQUEST_KEY, error_body
from usmed.platform.storage import StorageError

MAXIMUM_IDENTIFIERS = 50
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

    def post(path: str, members: set[str], handler: Handler, may_have: frozenset[str] = frozenset()) -> None:
        serve(path, members, handler, lambda region: region.hospitals, "hospitals", may_have)

    def serve[M: Member](
        path: str,
        members: set[str],
        handler: Callable[[M, dict[str, Any]], Any],
        callers: Callable[[RegionManifest], Mapping[str, M]],
        kind: str,
        may_have: frozenset[str] = frozenset(),
    ) -> None:
        def view() -> Response:
            caller = callers(services.region()).get(request.environ[REQUEST_KEY].sender)
            if caller is None:
                if path in OWN_RECORDS:
                    _refused(services, f"403 {path}: not one of the {kind}")
                return _error(403, "forbidden", f"only {kind} of the region are served here")
            if request.mimetype != "application/json":
                return _error(415, "not-json", "the body must be application/json")
            body = parse_json(request.get_data(cache=False), limit_bytes=services.limit_bytes)
            if not isinstance(body, dict) or set(body) - may_have != members:
                raise PeerDataError(f"the body has exactly the members {', '.join(sorted(members))}")
            return _json(200, handler(caller, body))

        app.add_url_rule(path, endpoint=path, view_func=view, methods=["POST"])

    def take(hospital: Hospital, body: dict[str, Any]) -> Any:
        return {"problems": services.server.take(hospital.id, _list(body, "records"), _list(body, "enrolments"))}

    def held(hospital: Hospital, body: dict[str, Any]) -> Any:
        named = _list(body, "identifiers")
        if not 1 <= len(named) <= MAXIMUM_IDENTIFIERS:
            raise PeerDataError(f"identifiers: 1 to {MAXIMUM_IDENTIFIERS}")
        identifiers = [parse_identifier(one) for one in named]
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
        problems = services.server.take(hospital.id, _list(body, "records"), _list(body, "enrolments"))
        try:
            signed = services.server.sign_ticket(hospital, body["wish"])
        except RefusedError as error:
            services.decisions.add(error.code)
            raise
        services.decisions.add("signed")
        return {**signed, "problems": problems}

    post("/v1/records", {"records", "enrolments"}, take)
    post("/v1/records/for", {"identifiers"}, held)
    post("/v1/tickets", {"wish", "records", "enrolments"}, sign)
    post("/v1/approvals", {"operation"}, lambda one, body: _propose(services, one, body["operation"]))
    post("/v1/approvals/state", {"nonce"}, lambda one, body: _state(services, one, body["nonce"]))
    _add_secrets(services, post)
    serve(
        EXCHANGE,
        {"since", "seen"},
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
        return Response(description_bytes(), content_type="application/yaml")

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


def _add_secrets(services: Services, post: Callable[..., None]) -> None:
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

    post("/v1/encryption-key", set(), announce)
    post("/v1/secrets", {"secret", "share"}, put)
    post("/v1/secrets/shares", {"id", "to"}, release, frozenset({"approval"}))
    post("/v1/secrets/held", set(), held)
    post("/v1/secrets/settle", {"receipts"}, settle)


def _propose(services: Services, hospital: Hospital, operation: Any) -> Any:
    return services.approvals.told(services.approvals.propose(hospital.id, operation))


def _state(services: Services, hospital: Hospital, nonce: Any) -> Any:
    return services.approvals.told(services.approvals.state(hospital.id, nonce))


def _add_errors(app: Flask) -> None:
    app.register_error_handler(RefusedError, lambda error: _error(403, error.code, str(error)))
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


def _list(body: dict[str, Any], name: str) -> list[Any]:
    value = body[name]
    if not isinstance(value, list):
        raise PeerDataError(f"{name}: must be a list")
    return value


def _json(status: int, document: Any) -> Response:
    return Response(canonical_json(document), status=status, content_type="application/json")


def _error(status: int, code: str, message: str) -> Response:
    return Response(error_body(code, message), status=status, content_type="application/json")


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}.get(status, "internal")
    return _error(status, code, error.name)
