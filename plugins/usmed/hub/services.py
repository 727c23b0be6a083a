"""What the hub's addresses need, put together in `wsgi`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from usmed.hub.locator import Locator
from usmed.hub.patients import Patients
from usmed.hub.registry import Registry
from usmed.hub.resolve import Resolver
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.region_store import RegionStore
from usmed.platform.storage import Database


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases and what they stand on."""

    database: Database
    audit: AuditLog
    locator: Locator
    registry: Registry
    deliveries: Deliveries
    resolver: Resolver
    patients: Patients
    regions: RegionStore
    clock: Callable[[], datetime]
    limit_bytes: int
