"""Telling people that something happened: a thread finds out who wants to know of what was noted (`causes`)."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.contact import Topic
from usmed.domain.enrolment import one_person_fault, valid_credentials
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.hub import charts, enrolments
from usmed.hub.causes import cause as _cause
from usmed.hub.contacts import Contacts, Owner
from usmed.hub.notice_words import notice
from usmed.hub.portal.mount import PATH
from usmed.hub.portal.person import charts_of
from usmed.hub.tables import changing
from usmed.platform.notices import Outbox
from usmed.platform.storage import Database, StorageError

_log = logging.getLogger(__name__)

POLL_S = 2.0
BATCH = 100
TIDIED_EVERY = timedelta(hours=1)


class Herald:
    """Makes notices of what happened.

    Args:
        poll_s: how often the thread looks.
    """

    def __init__(
        self,
        database: Database,
        contacts: Contacts,
        outbox: Outbox,
        region: Callable[[], RegionManifest],
        clock: Callable[[], datetime],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._database = database
        self._contacts = contacts
        self._outbox = outbox
        self._region = region
        self._clock = clock
        self._poll_s = poll_s
        self._tidied: datetime | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="herald", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; what was not told yet is on disk."""
        self._stop.set()
        with suppress(RuntimeError):
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                while self.tell() and not self._stop.is_set():
                    pass
                now = self._clock()
                if self._tidied is None or abs(now - self._tidied) > TIDIED_EVERY:
                    self._tidied = now
                    self._contacts.tidy()
            except StorageError as error:
                _log.warning("people are not told: %s", error)

    def tell(self) -> int:
        """Make notices of some of what happened; return of how much. With its notices each cause goes."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_cause).order_by(_cause.c.id).limit(BATCH)).all()
            found = [(row, self._concerned(connection, row)) for row in rows]
        if not rows:
            return 0
        now, portal = self._clock(), f"{self._region().portal}{PATH}/"
        with changing(self._database) as connection:
            mine = _cause.c.id.in_([row.id for row in rows])
            # What somebody else has told meanwhile is not told again.
            untold = set(connection.scalars(sa.select(_cause.c.id).where(mine)))
            connection.execute(sa.delete(_cause).where(mine))
            for row, (concerned, lapsed) in found:
                if row.id not in untold:
                    continue
                for id in lapsed:
                    self._contacts.lapse(connection, id)
                for id in concerned:
                    told = self._contacts.tell(connection, id, Topic(row.topic), now)
                    if told:
                        self._outbox.put_in(connection, notice(*told, Topic(row.topic), portal), now)
        return len(rows)

    def _concerned(self, connection: Connection, row: Any) -> tuple[list[str], list[str]]:
        """Return the addresses that are to be told, and those whose owners act for the patient no more."""
        number = PatientIdentifier(row.issuer, row.value)
        linked = charts.of_number(connection, number)
        numbers = {number}.union(*(one.linked for one in linked))
        numbers.update(*(one.enrolment.patient for one in enrolments.of_numbers(connection, numbers)))
        concerned, lapsed = [], []
        for id, owner in self._contacts.candidates(connection, numbers):
            known, acts = self._known(connection, owner)
            if not acts:
                lapsed.append(id)
            elif number in known:
                concerned.append(id)
        return concerned, lapsed

    def _known(self, connection: Connection, owner: Owner) -> tuple[frozenset[PatientIdentifier], bool]:
        """Return the numbers that the portal would show as this patient's, and whether the owner may see them still."""
        national = self._region().national_number
        held = [one.enrolment for one in enrolments.of_numbers(connection, owner.numbers)]
        own = owner.numbers.union(*(one.patient for one in held))
        if one_person_fault(own, national):
            return frozenset(), True
        counting = {one.id.hex() for one in valid_credentials(held, self._clock())}
        acts = not owner.holder or owner.holder in counting
        known, _ = charts_of(connection, own, national)
        return own.union(*(one.linked for one in known)), acts
