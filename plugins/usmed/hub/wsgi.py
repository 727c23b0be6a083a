"""The hub wired together: `gunicorn 'usmed.hub.wsgi:create_application()'` with one worker and threads."""

import atexit
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from wsgiref.types import WSGIApplication

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.region import HUB
from usmed.hub.app import create_app
from usmed.hub.locator import Locator
from usmed.hub.registry import Registry
from usmed.hub.resolve import Resolver
from usmed.hub.services import Services
from usmed.hub.settings import HubSettings, load_settings
from usmed.hub.tables import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.environment import REGION_FILE
from usmed.platform.nonces import NonceStore
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher
from usmed.platform.signed_http import Identity, SignedGuard
from usmed.platform.storage import Database, open_database
from usmed.platform.unavailable import while_storage_answers

OPEN_PATHS = frozenset({"/health", "/v1/openapi.yaml", "/v1/fhir/metadata"})
OPEN_POSTS = frozenset({"/v1/region/publish"})
"""What is published carries its own authorization: signatures of the region's administrators."""

STOP_S = 3.0


def create_application() -> WSGIApplication:
    """Build the hub from the environment of this process.

    Raises:
        ConfigurationError: a setting, the key or the region manifest is wrong; every fault is listed.
        StorageError: the database cannot be used.
    """
    settings = load_settings(os.environ)
    database = open_database(settings.database_url, [CHAIN])
    audit = AuditLog(database)

    def clock() -> datetime:
        return datetime.now(UTC)

    regions = RegionStore(database, audit, clock, agent=HUB, file=settings.region)
    watcher = RegionWatcher(regions, Path(os.environ[REGION_FILE]), {})

    def stop() -> None:
        watcher.stop(STOP_S)
        _note(audit, clock(), "stopped")
        audit.close()
        database.close()

    application = build(settings, database, audit, clock, regions)
    _note(audit, clock(), "started")
    watcher.start()
    atexit.register(stop)
    return application


def build(
    settings: HubSettings,
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
    regions: RegionStore,
) -> WSGIApplication:
    """Put the hub together from its parts."""
    region = regions.current
    app = create_app(
        Services(
            database=database,
            audit=audit,
            locator=Locator(database, region, clock),
            registry=Registry(database, region, clock),
            resolver=Resolver(database, audit, region, clock),
            regions=regions,
            clock=clock,
            limit_bytes=settings.limit_bytes,
        )
    )

    def refused(remote: str, sender: str, reason: str) -> None:
        event = AuditEvent(clock(), AuditEventType.REFUSED, sender or remote, outcome=Outcome.DENIED, reason=reason)
        audit.append(event).wait()

    guard = SignedGuard(
        app,
        identity=Identity(HUB, settings.key),
        region=region,
        clock=clock,
        nonces=NonceStore(database),
        limit_bytes=settings.limit_bytes,
        open_paths=OPEN_PATHS,
        open_posts=OPEN_POSTS,
        refused=refused,
    )
    return while_storage_answers(guard)


def _note(audit: AuditLog, now: datetime, what: str) -> None:
    audit.append(AuditEvent(now, AuditEventType.APPLICATION, HUB, detail={"what": what, "version": __version__})).wait()
