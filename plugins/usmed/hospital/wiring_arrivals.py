"""Puts together what tells of patients who come, and what is done about it ahead: HL7 messages, worklists, prefetch."""

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

from usmed.domain.adt import Authorities
from usmed.domain.errors import ConfigurationError
from usmed.domain.identifiers import Naming
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.fetch import Fetch
from usmed.hospital.hl7_feed import Hl7Feed, Senders
from usmed.hospital.mllp_listener import MllpListener
from usmed.hospital.prefetch import Prefetcher
from usmed.hospital.pulls import Pulls
from usmed.hospital.settings import SECTION, AutomaticPull, Hl7Settings, Settings
from usmed.hospital.worklist_files import WorklistFiles
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database


@dataclass(frozen=True)
class Intake:
    """The sources of arrivals, those that are set, the prefetch, and the hospital's day."""

    today: Callable[[], date]
    store: ArrivalStore
    prefetcher: Prefetcher
    listener: MllpListener | None
    worklists: WorklistFiles | None

    def bind(self) -> None:
        """Take the port for HL7 messages, if there is one.

        Raises:
            ConfigurationError: it cannot be used.
        """
        if self.listener is not None:
            self.listener.bind()

    def start(self) -> None:
        """Begin to take arrivals."""
        self.prefetcher.start()
        if self.worklists is not None:
            self.worklists.start()
        if self.listener is not None:
            self.listener.start()

    def stop(self) -> None:
        """Take no more; what was taken is on disk."""
        if self.listener is not None:
            self.listener.stop()
        if self.worklists is not None:
            self.worklists.stop()
        self.prefetcher.stop()


def create_intake(
    settings: Settings,
    *,
    naming: Naming,
    database: Database,
    audit: AuditLog,
    fetch: Fetch,
    pulls: Pulls,
    clock: Callable[[], datetime],
) -> Intake:
    """Put the sources and the prefetch together.

    Raises:
        ConfigurationError: the certificate for HL7 messages cannot be used.
    """
    store = ArrivalStore(database)

    def today() -> date:
        # The hospital's day, as its clock on the wall has it (the environment's TZ).
        return clock().astimezone().date()

    prefetcher = Prefetcher(
        store=store,
        fetch=fetch,
        pulls=pulls,
        clock=clock,
        today=today,
        keep_days=settings.Arrivals.KeepDays,
        on_click=settings.Pull.Automatic is AutomaticPull.CLICK,
    )
    listener, worklists = None, None
    if settings.Hl7.Port:
        feed = Hl7Feed(
            senders=Senders({one: ipaddress.ip_network(net) for one, net in settings.Hl7.Senders.items()}),
            authorities=Authorities(naming, settings.Hl7.Issuers, settings.Hl7.IssuerWithoutAuthority),
            processing_id=settings.Hl7.ProcessingId.value,
            character_set=settings.Hl7.CharacterSet,
            database=database,
            store=store,
            audit=audit,
            clock=clock,
            today=today,
            arrived=prefetcher.look,
        )
        listener = MllpListener(
            feed,
            address=settings.Hl7.ListenAddress,
            port=settings.Hl7.Port,
            limit_bytes=settings.Hl7.MaximumMessageBytes,
            idle_s=settings.Hl7.IdleSeconds,
            context=tls_context(settings.Hl7),
        )
    if settings.Arrivals.WorklistFolder:
        worklists = WorklistFiles(
            folder=settings.Arrivals.WorklistFolder,
            every_s=settings.Arrivals.WorklistSeconds,
            naming=naming,
            database=database,
            store=store,
            audit=audit,
            clock=clock,
            today=today,
            arrived=prefetcher.look,
        )
    return Intake(today, store, prefetcher, listener, worklists)


def tls_context(settings: Hl7Settings) -> ssl.SSLContext | None:
    """Return how the port for HL7 messages speaks TLS; None for plain TCP.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    if not settings.TlsCertificateFile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.TlsCertificateFile, settings.TlsPrivateKeyFile)
        if settings.TlsClientAuthoritiesFile:
            context.load_verify_locations(settings.TlsClientAuthoritiesFile)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{SECTION}.Hl7", [f"the certificate or its key cannot be used: {error}"]) from error
    return context
