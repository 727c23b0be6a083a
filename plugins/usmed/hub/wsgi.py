"""The hub wired together: `gunicorn 'usmed.hub.wsgi:create_application()'` with one worker and threads."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import TransportError
from usmed.domain.region import HUB
from usmed.hub.accesses import Accesses
from usmed.hub.app import create_app
from usmed.hub.invitations import Invitations
from usmed.hub.locator import Locator
from usmed.hub.patients import Patients
from usmed.hub.portal.app import create_portal
from usmed.hub.portal.limits import Failures
from usmed.hub.portal.mount import mounted
from usmed.hub.portal.sessions import Sessions
from usmed.hub.portal.web import Services as PortalServices
from usmed.hub.proxies import behind
from usmed.hub.registry import Registry
from usmed.hub.requests import Requests
from usmed.hub.resolve import Resolver
from usmed.hub.services import Services
from usmed.hub.settings import HubSettings, load_settings
from usmed.hub.tables import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import DeliveryStore
from usmed.platform.environment import REGION_FILE
from usmed.platform.nonces import NonceStore
from usmed.platform.passkeys import Ceremonies
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher
from usmed.platform.signed_http import Identity, Post, SignedClient, SignedGuard
from usmed.platform.storage import Database, open_database
from usmed.platform.unavailable import while_storage_answers

OPEN_PATHS = frozenset({"/health", "/v1/openapi.yaml", "/v1/fhir/metadata"})
OPEN_POSTS = frozenset({"/v1/region/publish"})
"""What is published carries its own authorization: signatures of the region's administrators."""

STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Wired:
    """A hub that is put together: what answers, and what brings to others."""

    application: WSGIApplication
    deliveries: Deliveries


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
    client = SignedClient(Identity(HUB, settings.key), regions.current, clock, connections_per_member=2)
    wired = wire(settings, database, audit, clock, regions, client.post)

    def stop() -> None:
        # First, so that a delivery under way ends; it is on disk and goes on after the next start.
        client.close()
        wired.deliveries.stop(STOP_S)
        watcher.stop(STOP_S)
        _note(audit, clock(), "stopped")
        audit.close()
        database.close()

    _note(audit, clock(), "started")
    watcher.start()
    wired.deliveries.start()
    atexit.register(stop)
    return wired.application


def build(
    settings: HubSettings,
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
    regions: RegionStore,
) -> WSGIApplication:
    """Put a hub together that answers and brings nothing to anybody."""
    return wire(settings, database, audit, clock, regions, _nobody).application


def _nobody(member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
    raise TransportError(f"{member_id} is not asked")


def wire(
    settings: HubSettings,
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
    regions: RegionStore,
    post: Post,
) -> Wired:
    """Put the hub together from its parts; `post` is how it reaches the others."""
    region = regions.current
    deliveries = Deliveries(own=HUB, region=region, store=DeliveryStore(database), post=post, clock=clock)
    patients = Patients(
        Invitations(database, region, clock),
        Requests(database, region, clock),
        Accesses(database, region, clock),
    )
    registry = Registry(database, region, clock, patients.invitations.enrolled)
    nonces = NonceStore(database)
    app = create_app(
        Services(
            database=database,
            audit=audit,
            locator=Locator(database, region, clock),
            registry=registry,
            deliveries=deliveries,
            resolver=Resolver(database, audit, region, clock),
            patients=patients,
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
        nonces=nonces,
        limit_bytes=settings.limit_bytes,
        open_paths=OPEN_PATHS,
        open_posts=OPEN_POSTS,
        refused=refused,
    )
    portal = create_portal(
        PortalServices(
            region=region,
            database=database,
            invitations=patients.invitations,
            requests=patients.requests,
            accesses=patients.accesses,
            registry=registry,
            deliveries=deliveries,
            sessions=Sessions(database, clock),
            ceremonies=Ceremonies(region().name, lambda: region().portal, nonces, clock, scope="portal"),
            failures=Failures(),
            audit=audit,
            clock=clock,
        )
    )
    application = while_storage_answers(mounted(guard, portal.wsgi_app, region))
    return Wired(behind(application, settings.proxies), deliveries)


def _note(audit: AuditLog, now: datetime, what: str) -> None:
    audit.append(AuditEvent(now, AuditEventType.APPLICATION, HUB, detail={"what": what, "version": __version__})).wait()
