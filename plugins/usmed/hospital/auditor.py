"""What an auditor asks of this node's own audit log: a search, the chain, unusual patterns, a signed export.

Whoever looks is written down as well.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from joserfc.jwk import OKPKey

from usmed.domain.audit import (
    SEARCHED,
    AuditEvent,
    AuditEventType,
    AuditRecord,
    ChainReport,
    Detail,
    Outcome,
    verify_chain,
)
from usmed.domain.audit_patterns import Access, Finding, Rules, find_patterns
from usmed.domain.errors import RefusedError
from usmed.hospital.background import Progress, Task
from usmed.platform.audit_export import pack
from usmed.platform.audit_log import PAGE, AuditLog
from usmed.platform.audit_query import Page, Question, as_text, ask, last_sequence, records
from usmed.platform.storage import Database

MOST_EXPORTED = 50_000
ROWS = 50
LOOKED_BACK = timedelta(days=7)
"""How far back unusual patterns are looked for."""

MOST_ACCESSES = 200_000
FRESH = timedelta(minutes=1)
KINDS = (AuditEventType.LOOKUP, AuditEventType.PULL, AuditEventType.RELEASE, AuditEventType.EMERGENCY)
"""Events by which somebody gets to a patient's data."""

_record = sa.table("audit_record", *map(sa.column, ("sequence", "hash", "content", *SEARCHED)))


class Auditor:
    """The use cases of the audit pages.

    Args:
        hospital: this one's id.
        key: signs what is exported.
        rules: what is unusual.
        systems: further agents that are no persons, such as the region's hospitals.
    """

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        database: Database,
        audit: AuditLog,
        rules: Rules,
        systems: Callable[[], Collection[str]],
        clock: Callable[[], datetime],
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._database = database
        self._audit = audit
        self._rules = rules
        self._systems = systems
        self._clock = clock
        self.chain = Task("audit chain", self._check, clock)
        self.patterns = Task("audit patterns", self._find, clock)

    def search(self, question: Question, before: int, by: str) -> Page:
        """Return the newest records that fit.

        Args:
            before: only those with a smaller sequence number; 0 for all.
            by: who asks, and is written down.
        """
        page = ask(self._database, question, before=before, limit=ROWS)
        self._note(by, "search", question, {"answers": len(page.events)})
        return page

    def look_at_patterns(self, by: str) -> None:
        """Have the patterns looked for, if that is not fresh."""
        self.patterns.begin(unless_within=FRESH, wait_s=0.15)
        self._note(by, "patterns", Question(), {})

    def export(self, question: Question, by: str) -> bytes:
        """Return a signed bundle of all records that fit.

        Raises:
            RefusedError: they are too many.
        """
        head = self._audit.head()
        found = list(records(self._database, question, limit=MOST_EXPORTED + 1))
        if len(found) > MOST_EXPORTED:
            raise RefusedError(
                "export-too-large", f"more than {MOST_EXPORTED} records fit: choose a shorter time or one person"
            )
        about = {"asked": question.told(), "by": by, "log": {"records": head.count, "hash": head.hash}}
        bundle = pack(found, key=self._key, hospital=self._hospital, at=self._clock(), about=about)
        self._note(by, "export", question, {"records": len(found)})
        return bundle

    def stop(self) -> None:
        """End what runs."""
        self.chain.stop()
        self.patterns.stop()

    def _check(self, progress: Progress) -> ChainReport:
        """Verify the chain as it is now, in short transactions: what is in it does not change honestly."""
        # In this order: what is appended between the two is below the head, and no fault.
        last = last_sequence(self._database)
        head = self._audit.head()
        progress.total = max(head.count, last)
        report = verify_chain(self._until(max(head.count, last), progress), head)
        if not report.unbroken:
            self._audit.append(
                AuditEvent(
                    self._clock(),
                    AuditEventType.ALARM,
                    "usmed",
                    outcome=Outcome.FAILURE,
                    reason=report.problem,
                    detail={"what": "chain broken", "record": report.bad_sequence},
                )
            )
        return report

    def _until(self, end: int, progress: Progress) -> Iterator[AuditRecord]:
        last = -1
        while True:
            query = sa.select(_record).where(_record.c.sequence > last, _record.c.sequence <= end)
            with self._database.read() as connection:
                rows = connection.execute(query.order_by(_record.c.sequence).limit(PAGE)).all()
            if not rows:
                return
            for row in rows:
                columns = {name: getattr(row, name) for name in SEARCHED}
                yield AuditRecord(row.sequence, row.hash, columns, row.content.encode("utf-8"))
            last = rows[-1].sequence
            progress.step(last)

    def _find(self, progress: Progress) -> list[Finding]:
        query = (
            sa.select(_record.c.sequence, _record.c.at, _record.c.agent, _record.c.patient)
            .where(
                _record.c.event.in_(KINDS),
                _record.c.patient != "",
                _record.c.at >= as_text(self._clock() - LOOKED_BACK),
            )
            .order_by(_record.c.sequence.desc())
            .limit(MOST_ACCESSES)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        progress.step(len(rows))
        seen = [Access(row.sequence, datetime.fromisoformat(row.at), row.agent, row.patient) for row in rows]
        return find_patterns(seen, replace(self._rules, systems=self._rules.systems | {"usmed", *self._systems()}))

    def _note(self, by: str, what: str, question: Question, detail: dict[str, Detail]) -> None:
        event = AuditEvent(
            self._clock(),
            AuditEventType.AUDIT,
            by,
            patient=question.patient,
            detail={"what": what, **({"asked": question.told()} if question.told() else {}), **detail},
        )
        # Nobody looks unseen.
        self._audit.append(event).wait()
