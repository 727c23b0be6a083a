"""What watches over the node, put together: the auditor, the log's way to a syslog server, counts."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from joserfc.jwk import OKPKey

from usmed.domain.region import RegionManifest
from usmed.hospital.archive import Archive
from usmed.hospital.auditor import Auditor
from usmed.hospital.settings import AuditSettings, SyslogSettings, SyslogTransport, pattern_rules
from usmed.hospital.statistician import Statistician
from usmed.hospital.syslog_feed import SyslogFeed
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database
from usmed.platform.syslog import DatagramSender, Sender, TlsFiles, TlsSender


@dataclass(frozen=True, slots=True)
class Oversight:
    """What reads the audit log by itself or for somebody."""

    auditor: Auditor
    syslog: SyslogFeed | None
    statistician: Statistician

    def start(self) -> None:
        """Start what runs by itself."""
        self.statistician.start()
        if self.syslog is not None:
            self.syslog.start()

    def stop(self) -> None:
        """Stop what runs."""
        self.auditor.stop()
        self.statistician.stop()
        if self.syslog is not None:
            self.syslog.stop()

    def status(self) -> dict[str, Any]:
        """Return what the node's status says."""
        if self.syslog is None:
            return {}
        state = self.syslog.state()
        return {"Syslog": {"Sent": state.sent, "Waiting": state.waiting, "Problem": state.problem or "none"}}


def create_oversight(
    *,
    settings: AuditSettings,
    hospital: str,
    key: OKPKey,
    region: Callable[[], RegionManifest],
    database: Database,
    audit: AuditLog,
    archive: Archive,
    source_of: Callable[[str], str],
    folder: Path,
    clock: Callable[[], datetime],
) -> Oversight:
    """Put it together.

    Args:
        hospital: this one's id.
        key: its private key.
        source_of: from which hospital a study was brought here, by its Study Instance UID; empty for our own.
        folder: where the archive stores.
        clock: aware UTC.
    """
    auditor = Auditor(
        hospital=hospital,
        key=key,
        database=database,
        audit=audit,
        rules=pattern_rules(settings.Patterns),
        systems=lambda: region().hospitals,
        clock=clock,
    )
    statistician = Statistician(
        hospital=hospital,
        database=database,
        archive=archive,
        source_of=source_of,
        free_bytes=lambda: shutil.disk_usage(folder).free,
        zone=ZoneInfo(settings.Patterns.Zone),
        clock=clock,
    )
    return Oversight(auditor, _syslog(settings.Syslog, hospital, database), statistician)


def _syslog(settings: SyslogSettings, hospital: str, database: Database) -> SyslogFeed | None:
    if not settings.Host:
        return None
    sender: Sender = DatagramSender(settings.Host, settings.Port)
    if settings.Transport is SyslogTransport.TLS:
        files = TlsFiles(settings.AuthorityFile, settings.CertificateFile, settings.PrivateKeyFile)
        sender = TlsSender(settings.Host, settings.Port, files)
    return SyslogFeed(hospital=hospital, database=database, sender=sender)
