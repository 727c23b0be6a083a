"""The key server's HTTP interface, for hospitals and other key servers. The signature guard stands in front of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import RefusedError
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
from usmed.platform.metrics import CONTENT_TYPE, Counter, Metrics
from usmed.platform.operations import JSON, Operations


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


def create_app(services: Services) -> Operations:
    """Build the WSGI application that serves verified requests."""
    app = Operations(DESCRIPTION, services.audit, services.clock, services.limit_bytes)
    region = services.region

    def post(path: str, handler: Handler, *, recorded: bool = False) -> None:
        app.serve(path, handler, lambda: region().hospitals, "hospitals", recorded=recorded)

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
    app.serve("/v1/records", take, lambda: {**region().hospitals, HUB: region().hub}, "hospitals and the hub")
    post("/v1/records/for", held)
    post("/v1/tickets", sign, recorded=True)
    post("/v1/approvals", lambda one, body: _propose(services, one, body["operation"]), recorded=True)
    post("/v1/approvals/state", lambda one, body: _state(services, one, body["nonce"]))
    _add_secrets(services, post)

    def exchange(peer: Member, body: dict[str, Any]) -> Any:
        return services.exchange.answer(peer.id, body)

    app.serve(EXCHANGE, exchange, lambda: region().key_servers, "key servers")
    app.show("/v1/openapi.yaml", lambda: ("application/yaml", DESCRIPTION.text()))
    app.show("/metrics", lambda: (CONTENT_TYPE, services.metrics.text().encode("utf-8")))
    app.show("/health", lambda: _health(services))
    return app


def _health(services: Services) -> tuple[str, bytes]:
    services.audit.head()
    # Degraded, and still at work: an alarm is a person's business, and no reason to refuse patients' care.
    reasons = describe(services.alarms())
    return JSON, canonical_json({"status": "degraded" if reasons else "ok", "version": __version__, "reasons": reasons})


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
