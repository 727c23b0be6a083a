"""The hub wired together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from wsgiref.types import WSGIApplication

from werkzeug.middleware.dispatcher import DispatcherMiddleware

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.contact import Channel
from usmed.domain.errors import TransportError
from usmed.domain.region import HUB
from usmed.hub.accesses import Accesses
from usmed.hub.app import create_app
from usmed.hub.causes import note_cause, tell_nobody
from usmed.hub.contacts import Contacts
from usmed.hub.finder import waiting_charts
from usmed.hub.invitations import Invitations
from usmed.hub.locator import Locator
from usmed.hub.patients import Patients
from usmed.hub.portal.app import create_portal
from usmed.hub.portal.limits import Counters, Failures
from usmed.hub.portal.mount import mounted
from usmed.hub.portal.sessions import Sessions
from usmed.hub.portal.web import Services as PortalServices
from usmed.hub.proxies import behind
from usmed.hub.registrar.app import DOOR, create_registrar
from usmed.hub.registrar.app import PATH as REGISTRAR
from usmed.hub.registrar.app import Services as RegistrarServices
from usmed.hub.registrar.origin import registrar_origin
from usmed.hub.registry import Registry
from usmed.hub.requests import Requests
from usmed.hub.resolve import Resolver
from usmed.hub.review import Review
from usmed.hub.services import Services
from usmed.hub.settings import HubSettings
from usmed.hub.telling import Herald
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import DeliveryStore
from usmed.platform.nonces import NonceStore
from usmed.platform.notices import Gateway, Outbox
from usmed.platform.passkeys import Ceremonies
from usmed.platform.region_store import RegionStore
from usmed.platform.signed_http import Identity, Post, SignedGuard
from usmed.platform.staff.access import Access
from usmed.platform.storage import Database
from usmed.platform.unavailable import while_storage_answers

OPEN_PATHS = frozenset({"/health", "/v1/openapi.yaml", "/v1/fhir/metadata"})
OPEN_POSTS = frozenset({"/v1/region/publish"})
"""What is published carries its own authorization: signatures of the region's administrators."""


@dataclass(frozen=True, slots=True)
class Wired:
    """A hub that is put together: what answers, and what brings to others."""

    application: WSGIApplication
    deliveries: Deliveries
    contacts: Contacts
    herald: Herald


def build(
    settings: HubSettings,
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
    regions: RegionStore,
) -> WSGIApplication:
    """Put a hub together that answers and brings nothing to anybody."""
    return wire(settings, database, audit, clock, regions, _nobody).application


def gateways(settings: HubSettings) -> dict[Channel, Gateway]:
    """Return the ways on which people can be told."""
    found: dict[Channel, Gateway | None] = {Channel.EMAIL: settings.mail, Channel.SMS: settings.sms}
    return {channel: gateway for channel, gateway in found.items() if gateway is not None}


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
    channels = gateways(settings).keys()
    outbox = Outbox(database, wanted=bool(channels))
    contacts = Contacts(database, outbox, clock, channels)
    tell = note_cause if channels else tell_nobody
    patients = Patients(
        Invitations(database, region, clock),
        Requests(database, region, clock, tell),
        Accesses(database, region, clock, settings.accesses_kept, tell=tell),
    )
    registry = Registry(database, region, clock, patients.invitations.enrolled, tell)
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
            contacts=contacts,
            registry=registry,
            deliveries=deliveries,
            sessions=Sessions(database, clock),
            ceremonies=Ceremonies(region().name, lambda: region().portal, nonces, clock, scope="portal"),
            failures=Failures(database),
            counters=Counters(database),
            audit=audit,
            clock=clock,
        )
    )
    registrar = create_registrar(
        RegistrarServices(
            region=region,
            review=Review(database, region, clock),
            waiting=waiting_charts(database),
            access=Access(database, clock, DOOR),
            ceremonies=Ceremonies(region().name, lambda: registrar_origin(region()), nonces, clock, scope="registrar"),
            audit=audit,
            clock=clock,
        )
    )
    pages = DispatcherMiddleware(mounted(guard, portal.wsgi_app, region), {REGISTRAR: registrar.wsgi_app})
    application = while_storage_answers(pages)
    herald = Herald(database, contacts, outbox, region, clock)
    return Wired(behind(application, settings.proxies), deliveries, contacts, herald)
