"""Starts the key server: checks everything, opens its key, then serves over TLS in this process until SIGTERM."""

import os
import threading
from datetime import UTC, datetime

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.keyserver.settings import load_listening, load_settings, path_of
from usmed.keyserver.store import CHAIN
from usmed.keyserver.wsgi import wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.end_signals import EndSignals
from usmed.platform.environment import REGION_FILE
from usmed.platform.listener import Listener
from usmed.platform.notices import Postman
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher, ask_hub
from usmed.platform.signed_http import Identity, SignedClient
from usmed.platform.storage import open_database

STOP_S = 3.0


def serve() -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigurationError: a setting is wrong, or the port is taken; nothing was started.
        StorageError: the database cannot be used.
    """
    settings, file, url = load_settings(os.environ)
    listening = load_listening(os.environ)
    end, stopping = EndSignals(), threading.Event()
    database = open_database(url, [CHAIN])
    audit = AuditLog(database)

    def clock() -> datetime:
        return datetime.now(UTC)

    def note(what: str) -> None:
        detail = {"what": what, "version": __version__}
        audit.append(AuditEvent(clock(), AuditEventType.APPLICATION, settings.id, detail=detail)).wait()

    regions = RegionStore(database, audit, clock, agent=settings.id, file=file)
    client = SignedClient(Identity(settings.id, settings.key), regions.current, clock, connections_per_member=2)
    wired = wire(settings, regions.current, database, audit, clock, client.post)
    listener = Listener(
        wired.application,
        address=listening.address,
        port=listening.port,
        threads=listening.threads,
        limit_bytes=settings.limit_bytes,
        certificate_file=listening.certificate_file,
        key_file=listening.key_file,
        settings="settings of the key server",
    )
    listener.bind()
    watcher = RegionWatcher(
        regions, path_of(os.environ, REGION_FILE), {"the hub": ask_hub(client)}, poll_s=settings.region_poll_s
    )
    asking = threading.Thread(
        target=wired.exchange.run, args=(stopping, settings.exchange_s), name="exchange", daemon=True
    )
    postman = Postman(database, settings.mail, clock) if settings.mail else None
    note("started")
    listener.start()
    watcher.start()
    asking.start()
    end.wait()
    stopping.set()
    listener.stop(STOP_S)
    if postman is not None:
        postman.close()
    client.close()
    watcher.stop(STOP_S)
    asking.join()
    note("stopped")
    audit.close()
    database.close()
