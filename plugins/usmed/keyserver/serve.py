"""Starts the key server: checks everything, opens its key, then serves over TLS in this process."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from wsgiref.types import WSGIApplication

from gunicorn.app.base import BaseApplication

from usmed import __version__
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.keyserver.settings import KeyServerSettings, Listening, load_listening, load_settings, path_of
from usmed.keyserver.store import CHAIN
from usmed.keyserver.wsgi import wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.environment import REGION_FILE
from usmed.platform.notices import Postman
from usmed.platform.region_file import RegionFile
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher, ask_hub
from usmed.platform.signed_http import Identity, SignedClient
from usmed.platform.storage import open_database

STOP_S = 3.0


def serve() -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigurationError: a setting is wrong; nothing was started.
        StorageError: the database cannot be used.
    """
    settings, file, url = load_settings(os.environ)
    listening = load_listening(os.environ)
    # Here once, so that a database that cannot be used is told before anything listens.
    open_database(url, [CHAIN]).close()
    _Gunicorn(listening, lambda server: _application(settings, file, url, server)).run()


class _Stops:
    """What has to be ended when the worker does."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []


def _application(settings: KeyServerSettings, file: RegionFile, url: str, stops: _Stops) -> WSGIApplication:
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
    watcher = RegionWatcher(
        regions, path_of(os.environ, REGION_FILE), {"the hub": ask_hub(client)}, poll_s=settings.region_poll_s
    )
    stopping = threading.Event()
    asking = threading.Thread(target=wired.exchange.run, args=(stopping, settings.exchange_s), name="exchange")
    asking.daemon = True

    def stop_asking() -> None:
        stopping.set()
        client.close()
        watcher.stop(STOP_S)
        asking.join()

    if settings.mail:
        stops.actions.append(Postman(database, settings.mail, clock).close)
    stops.actions += [stop_asking, lambda: note("stopped"), audit.close, database.close]
    note("started")
    watcher.start()
    asking.start()
    return wired.application


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn, not started as a program of its own: the opened key is in this process's memory and nowhere else."""

    def __init__(self, listening: Listening, make: Callable[[_Stops], WSGIApplication]) -> None:
        self._listening = listening
        self._make = make
        self._stops = _Stops()
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"{self._listening.address}:{self._listening.port}",
            # One process: its audit records share their commits. Threads serve requests side by side.
            "worker_class": "gthread",
            "workers": 1,
            "threads": self._listening.threads,
            "certfile": self._listening.certificate_file,
            "keyfile": self._listening.key_file,
            "keepalive": 75,
            "worker_tmp_dir": "/dev/shm",  # noqa: S108 - gunicorn's heartbeat
            # gunicorn waits that long for connections that are kept without a request, too, and hospitals keep theirs.
            "graceful_timeout": 3,
            "timeout": 60,
            "loglevel": "warning",
            "worker_exit": lambda _server, _worker: self._stop(),
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        # In the worker: threads of the audit log would not live through a fork.
        return self._make(self._stops)

    def _stop(self) -> None:
        for action in self._stops.actions:
            action()
