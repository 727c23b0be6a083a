"""The key server wired together."""

from collections.abc import Callable
from datetime import datetime
from wsgiref.types import WSGIApplication

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.region import RegionManifest
from usmed.keyserver.app import Services, create_app
from usmed.keyserver.approvals import Approvals
from usmed.keyserver.settings import KeyServerSettings
from usmed.keyserver.store import RecordStore
from usmed.keyserver.tickets import KeyServer
from usmed.platform.audit_log import AuditLog
from usmed.platform.nonces import NonceStore
from usmed.platform.notices import Outbox
from usmed.platform.signed_http import Identity, SignedGuard
from usmed.platform.storage import Database

OPEN_PATHS = frozenset({"/health"})


def build(
    settings: KeyServerSettings,
    region: Callable[[], RegionManifest],
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
) -> WSGIApplication:
    """Put the key server together from its parts."""
    store, outbox = RecordStore(database), Outbox(database, wanted=settings.mail is not None)
    approvals = Approvals(server=settings.id, database=database, store=store, outbox=outbox, clock=clock)
    server = KeyServer(
        id=settings.id,
        key=settings.key,
        region=region,
        store=store,
        audit=audit,
        clock=clock,
        rates=settings.rates,
        relying_party=settings.relying_party,
        approvals=approvals,
        outbox=outbox,
    )

    def refused(remote: str, sender: str, reason: str) -> None:
        event = AuditEvent(clock(), AuditEventType.REFUSED, sender or remote, outcome=Outcome.DENIED, reason=reason)
        audit.append(event).wait()

    return SignedGuard(
        create_app(Services(server, approvals, audit, region, clock, settings.limit_bytes)),
        identity=Identity(settings.id, settings.key),
        region=region,
        clock=clock,
        nonces=NonceStore(database),
        limit_bytes=settings.limit_bytes,
        open_paths=OPEN_PATHS,
        refused=refused,
    )
