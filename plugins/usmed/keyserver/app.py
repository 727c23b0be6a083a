"""The key server's HTTP interface, for hospitals and other key servers. The signature guard stands in front of it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

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

_log = logging.getLogger(__name__)

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


class Interface:
    """The WSGI application: werkzeug's parts, because a framework around them takes as long as a signature."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.url_map = Map(merge_slashes=False)

    def add(self, method: str, path: str, view: Callable[[Request], Response]) -> None:
        """Serve a path."""
        self.url_map.add(Rule(path, methods=[method], endpoint=view))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            rule, _ = self.url_map.bind_to_environ(environ).match(return_rule=True)
            environ[ROUTE_KEY] = rule.rule
            response: Response = rule.endpoint(request)
        except Exception as error:  # noqa: BLE001 - the last line of defence
            response = _failed(error)
        self._audit_refusal(request, response.status_code)
        return response(environ, start_response)

    def _audit_refusal(self, request: Request, status: int) -> None:
        # A refused ticket and a refused operation have their own records.
        if status in (400, 403, 404, 405, 413, 415) and request.path not in OWN_RECORDS:
            _refused(self._services, request, f"{status} {request.method} {request.path}")
        elif status in (400, 415):
            _refused(self._services, request, f"{status} {request.path}: malformed")


def create_app(services: Services) -> Interface:
    """Build the WSGI application that serves verified requests."""
    app = Interface(services)

    def post(path: str, handler: Handler) -> None:
        serve(path, handler, lambda region: region.hospitals, "hospitals")

    def serve[M: Member](
        path: str,
        handler: Callable[[M, dict[str, Any]], Any],
        callers: Callable[[RegionManifest], Mapping[str, M]],
        kind: str,
    ) -> None:
        schema = DESCRIPTION.body_of(path)

        def view(request: Request) -> Response:
            caller = callers(services.region()).get(request.environ[REQUEST_KEY].sender)
            if caller is None:
                if path in OWN_RECORDS:
                    _refused(services, request, f"403 {path}: not one of the {kind}")
                return _error(403, "forbidden", f"only {kind} of the region are served here")
            if request.mimetype != "application/json":
                return _error(415, "not-json", "the body must be application/json")
            body = parse_json(request.get_data(cache=False), limit_bytes=services.limit_bytes)
            DESCRIPTION.check(schema, body)
            return _json(200, handler(caller, body))

        app.add("POST", path, view)

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
    return app


def _add_open_pages(app: Interface, services: Services) -> None:
    def description(_request: Request) -> Response:
        return Response(DESCRIPTION.text(), content_type="application/yaml")

    def metrics(_request: Request) -> Response:
        return Response(services.metrics.text(), content_type=CONTENT_TYPE)

    def health(_request: Request) -> Response:
        services.audit.head()
        # Degraded, and still at work: an alarm is a person's business, and no reason to refuse patients' care.
        reasons = describe(services.alarms())
        return _json(200, {"status": "degraded" if reasons else "ok", "version": __version__, "reasons": reasons})

    app.add("GET", "/v1/openapi.yaml", description)
    app.add("GET", "/metrics", metrics)
    app.add("GET", "/health", health)


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


def _failed(error: Exception) -> Response:
    match error:
        case RefusedError():
            return _error(403, error.code, str(error))
        case InvalidRequestError():
            return _error(400, "bad-request", str(error), error.faults)
        case PeerDataError():
            return _error(400, "bad-request", str(error))
        case StorageError():
            return _error(503, "unavailable", "the database does not answer; try again later")
        case HTTPException():
            return _http_error(error)
    _log.error("a request failed", exc_info=error)
    return _error(500, "internal", "Internal Server Error")


def _refused(services: Services, request: Request, reason: str) -> None:
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
