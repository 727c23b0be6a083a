"""Starts the hub: checks everything, then serves over TLS in this process until SIGTERM."""

import os
from datetime import UTC, datetime
from pathlib import Path

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.errors import ConfigurationError
from usmed.domain.region import HUB
from usmed.hub.finder import Finder
from usmed.hub.settings import load_settings
from usmed.hub.tables import CHAIN
from usmed.hub.wsgi import gateways, wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.end_signals import EndSignals
from usmed.platform.environment import REGION_FILE
from usmed.platform.listener import Listener
from usmed.platform.notices import Postman
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher
from usmed.platform.signed_http import Identity, SignedClient
from usmed.platform.storage import open_database

CERTIFICATE_FILE = "USMED_TLS_CERTIFICATE_FILE"
TLS_KEY_FILE = "USMED_TLS_PRIVATE_KEY_FILE"
PORT = "USMED_HUB_PORT"
THREADS = "USMED_HUB_THREADS"
STOP_S = 3.0
REQUESTS_END_S = 10.0
"""How long requests that have come may take to end."""


def serve() -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigurationError: a setting, the key or the region manifest is wrong, or the port is taken; every fault is
            listed, and nothing was started.
        StorageError: the database cannot be used.
    """
    settings = load_settings(os.environ)
    problems = [
        f"{name} must name a file that can be read (make it with: usmed keys certificate)"
        for name in (CERTIFICATE_FILE, TLS_KEY_FILE)
        if not os.access(os.environ.get(name, ""), os.R_OK)
    ]
    port, threads = os.environ.get(PORT) or "8443", os.environ.get(THREADS) or "16"
    problems += [
        f"{name} must be a whole number, at least 1"
        for name, text in ((PORT, port), (THREADS, threads))
        if not (text.isascii() and text.isdigit()) or int(text) == 0
    ]
    if problems:
        raise ConfigurationError("settings of the hub", problems)
    end = EndSignals()
    database = open_database(settings.database_url, [CHAIN])
    audit = AuditLog(database)

    def clock() -> datetime:
        return datetime.now(UTC)

    def note(what: str) -> None:
        detail = {"what": what, "version": __version__}
        audit.append(AuditEvent(clock(), AuditEventType.APPLICATION, HUB, detail=detail)).wait()

    regions = RegionStore(database, audit, clock, agent=HUB, file=settings.region)
    finder = Finder(database, regions.current, clock)
    watcher = RegionWatcher(regions, Path(os.environ[REGION_FILE]), {})
    client = SignedClient(Identity(HUB, settings.key), regions.current, clock, connections_per_member=2)
    wired = wire(settings, database, audit, clock, regions, client.post)
    listener = Listener(
        wired.application,
        address="0.0.0.0",  # noqa: S104 - whom the port is open to, the container or the firewall says
        port=int(port),
        threads=int(threads),
        limit_bytes=settings.limit_bytes,
        certificate_file=os.environ[CERTIFICATE_FILE],
        key_file=os.environ[TLS_KEY_FILE],
        settings="settings of the hub",
    )
    listener.bind()
    note("started")
    listener.start()
    watcher.start()
    wired.deliveries.start()
    finder.start()
    postmen = [
        Postman(database, gateway, clock, settled=wired.contacts.settled(channel))
        for channel, gateway in gateways(settings).items()
    ]
    if postmen:
        wired.herald.start()
    end.wait()
    listener.stop(REQUESTS_END_S)
    # A delivery under way ends; it is on disk and goes on after the next start.
    client.close()
    wired.deliveries.stop(STOP_S)
    wired.herald.stop(STOP_S)
    finder.stop(STOP_S)
    for postman in postmen:
        postman.close()
    watcher.stop(STOP_S)
    note("stopped")
    audit.close()
    database.close()
