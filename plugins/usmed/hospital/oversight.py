"""What watches over the node, put together: the auditor. Started and stopped with the node."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from joserfc.jwk import OKPKey

from usmed.domain.region import RegionManifest
from usmed.hospital.auditor import Auditor
from usmed.hospital.settings import AuditSettings, pattern_rules
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database


@dataclass(frozen=True, slots=True)
class Oversight:
    """What reads the audit log by itself or for somebody."""

    auditor: Auditor

    def start(self) -> None:
        """Start what runs by itself."""

    def stop(self) -> None:
        """Stop what runs."""
        self.auditor.stop()


def create_oversight(
    *,
    settings: AuditSettings,
    hospital: str,
    key: OKPKey,
    region: Callable[[], RegionManifest],
    database: Database,
    audit: AuditLog,
    clock: Callable[[], datetime],
) -> Oversight:
    """Put it together; `hospital` is this one's id, `key` its private key."""
    auditor = Auditor(
        hospital=hospital,
        key=key,
        database=database,
        audit=audit,
        rules=pattern_rules(settings.Patterns),
        systems=lambda: region().hospitals,
        clock=clock,
    )
    return Oversight(auditor)
