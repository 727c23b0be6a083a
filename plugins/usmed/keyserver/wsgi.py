"""The key server wired together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from wsgiref.types import WSGIApplication

from werkzeug.middleware.dispatcher import DispatcherMiddleware

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import TransportError
from usmed.domain.region import RegionManifest
from usmed.keyserver.app import Services, create_app
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.console.app import DOOR, create_console
from usmed.keyserver.console.app import Services as ConsoleServices
from usmed.keyserver.exchange import Exchange
from usmed.keyserver.metrics import describe_server
from usmed.keyserver.secrets import SecretShares
from usmed.keyserver.settings import KeyServerSettings
from usmed.keyserver.store import RecordStore
from usmed.keyserver.tickets import KeyServer
from usmed.platform.audit_log import AuditLog
from usmed.platform.log_heads import HeadStore
from usmed.platform.metrics import Metrics, counting
from usmed.platform.nonces import NonceStore
from usmed.platform.notices import Outbox
from usmed.platform.passkeys import Ceremonies, origin_of
from usmed.platform.signed_http import Identity, Post, SignedGuard
from usmed.platform.staff.access import Access
from usmed.platform.storage import Database
from usmed.platform.unavailable import while_storage_answers

OPEN_PATHS = frozenset({"/health", "/metrics", "/v1/openapi.yaml"})


@dataclass(frozen=True, slots=True)
class Wired:
    """A key server that is put together: what answers, and what asks the others."""

    application: WSGIApplication
    exchange: Exchange


def build(
    settings: KeyServerSettings,
    region: Callable[[], RegionManifest],
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
) -> WSGIApplication:
    """Put a key server together that answers and asks nobody."""
    return wire(settings, region, database, audit, clock, _nobody).application


def _nobody(member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
    raise TransportError(f"{member_id} is not asked")


def wire(
    settings: KeyServerSettings,
    region: Callable[[], RegionManifest],
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
    post: Post,
) -> Wired:
    """Put the key server together from its parts; `post` is how it reaches the others."""
    store, heads = RecordStore(database), HeadStore(database)
    outbox = Outbox(database, wanted=settings.mail is not None)
    nonces, address = NonceStore(database), settings.console or region().key_servers[settings.id].address
    approvals = Approvals(
        server=settings.id, database=database, store=store, outbox=outbox, clock=clock, console=f"{address}/console",
        key=settings.key,
    )  # fmt: skip
    server = KeyServer(
        id=settings.id,
        key=settings.key,
        region=region,
        store=store,
        clock=clock,
        rates=settings.rates,
        approvals=approvals,
        outbox=outbox,
    )

    exchange = Exchange(
        id=settings.id,
        key=settings.key,
        region=region,
        server=server,
        store=store,
        heads=heads,
        audit=audit,
        clock=clock,
        post=post,
    )
    metrics = Metrics()
    requests, decisions = describe_server(metrics, exchange=exchange, alarms=heads.alarms, audit=audit)
    shares = SecretShares(
        id=settings.id,
        key=settings.key,
        encryption_key=settings.encryption_key,
        region=region,
        approvals=approvals,
        database=database,
        clock=clock,
    )
    services = Services(
        server,
        approvals,
        exchange,
        shares,
        heads.alarms,
        audit,
        metrics,
        decisions,
        region,
        clock,
        settings.limit_bytes,
    )
    app = create_app(services)
    routes = frozenset(path for path, _ in app.routes)

    def refused(remote: str, sender: str, reason: str) -> None:
        event = AuditEvent(clock(), AuditEventType.REFUSED, sender or remote, outcome=Outcome.DENIED, reason=reason)
        audit.append(event).wait()

    guard = SignedGuard(
        app,
        identity=Identity(settings.id, settings.key),
        region=region,
        clock=clock,
        nonces=nonces,
        limit_bytes=settings.limit_bytes,
        open_paths=OPEN_PATHS,
        refused=refused,
    )
    console = create_console(
        ConsoleServices(
            server=settings.id,
            region=region,
            database=database,
            store=store,
            approvals=approvals,
            access=Access(database, clock, DOOR),
            ceremonies=Ceremonies(f"USMED {settings.id}", lambda: origin_of(address), nonces, clock, scope="console"),
            outbox=outbox,
            audit=audit,
            clock=clock,
        )
    )
    both = DispatcherMiddleware(guard, {"/console": console.wsgi_app})
    return Wired(counting(while_storage_answers(both), routes, requests), exchange)
