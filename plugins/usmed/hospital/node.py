"""A node of a region: what it is made of, how it starts, and how it ends without losing anything."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask

from usmed.domain.identifiers import Naming
from usmed.hospital.access_feed import AccessFeed
from usmed.hospital.arrivals import Arrivals
from usmed.hospital.feed import Feed
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.outbound import Outbound
from usmed.hospital.oversight import Oversight
from usmed.hospital.pulls import Pulls
from usmed.hospital.retention import Retention
from usmed.hospital.settings import Settings
from usmed.hospital.staff.sessions import NodeLogIns
from usmed.hospital.tickets import Tickets
from usmed.hospital.wiring_arrivals import Intake
from usmed.hospital.withdrawals import Withdrawals
from usmed.platform.audit_log import AUDIT_THREAD, AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.listener import Listener
from usmed.platform.region_store import RegionStore
from usmed.platform.region_watch import RegionWatcher
from usmed.platform.signed_http import SignedClient
from usmed.platform.storage import Database

log = logging.getLogger(__name__)

LONGEST_END_S = 6.0
"""How long what is being stored or sent may take to end. Docker kills after ten seconds."""


@dataclass(frozen=True)
class Node:
    """A node of a region, put together but not started."""

    settings: Settings
    regions: RegionStore
    region_watcher: RegionWatcher
    naming: Naming
    database: Database
    audit: AuditLog
    lookup: FederatedLookup
    fetch: Fetch
    pulls: Pulls
    outbound: Outbound
    retention: Retention
    feed: Feed
    arrivals: Arrivals
    intake: Intake
    pages: Flask
    listener: Listener
    client: SignedClient
    tickets: Tickets
    deliveries: Deliveries
    accesses: AccessFeed
    withdrawals: Withdrawals
    oversight: Oversight
    refused: Callable[[str, str, str], None]
    log_ins: NodeLogIns | None

    def start(self) -> None:
        """Start what runs by itself. The listener's port has been taken before."""
        self.listener.start()
        self.pulls.start()
        self.retention.start()
        self.withdrawals.start()
        self.feed.start()
        self.fetch.start()
        self.arrivals.start()
        self.intake.start()
        self.deliveries.start()
        self.accesses.start()
        self.region_watcher.start()
        self.oversight.start()

    def stop(self) -> None:
        """Stop, losing nothing: what was begun is on disk. Nobody waits any more for another hospital."""
        self.pulls.stop()
        self.oversight.stop()
        self.deliveries.stop()
        self.accesses.stop()
        self.withdrawals.stop()
        self.region_watcher.stop()
        self.client.close()
        self.intake.stop()
        self.arrivals.stop()
        self.fetch.stop()
        self.feed.stop()
        self.listener.stop()
        self.retention.stop()
        self.lookup.close()
        self.tickets.close()
        _join_threads()
        self.audit.close()
        self.database.close()

    def hospital_name(self, hospital_id: str) -> str:
        """Return a hospital's name for people."""
        hospital = self.regions.current().hospitals.get(hospital_id)
        return hospital.name if hospital else hospital_id


def _join_threads() -> None:
    """Let every thread that was started here end: one that still runs when the interpreter ends can crash Orthanc."""
    end = time.monotonic() + LONGEST_END_S
    for thread in threading.enumerate():
        # Dummies are Orthanc's own threads; the audit log's comes last, because others write to it.
        if isinstance(thread, threading._DummyThread) or thread.name in ("MainThread", AUDIT_THREAD):
            continue
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.warning("the thread %r has not ended", thread.name)
