"""Queries on the consents that were recorded, all their versions, and the list of changes."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.consent import Consent
from usmed.domain.consent_record import ConsentRecord, ProofKind
from usmed.domain.fhir_consent import kept_consent
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.tables import change, consent, number, state
from usmed.hub.tables import chart as chart_table
from usmed.platform.storage import Statement

_COLUMNS = ("id", "version", "status", "issuer", "value", "resource", "recorded", "kind", "proved_by")


@dataclass(frozen=True, slots=True)
class StoredConsent:
    """One version of a consent.

    Attributes:
        id, version: what identifies it; versions count from 1.
        status: FHIR R4 Consent.status.
        patient: the number it was given under.
        text: the FHIR R4 Consent, canonical JSON.
        recorded: Unix time in seconds.
        kind, proved_by: who proved it (`consent_record.ConsentRecord`).
    """

    id: str
    version: int
    status: str
    patient: PatientIdentifier
    text: str
    recorded: int
    kind: ProofKind
    proved_by: str

    @property
    def resource(self) -> dict[str, Any]:
        """Return the FHIR R4 Consent."""
        resource: dict[str, Any] = json.loads(self.text)
        return resource

    def to_domain(self) -> Consent:
        """Return it as the types that decide."""
        return to_domain(self.id, self.version, self.text)

    def to_record(self) -> ConsentRecord:
        """Return it as what another version has to follow; the hub keeps no digests, so it equals no other."""
        return ConsentRecord(self.to_domain(), "", self.kind, self.proved_by)


@lru_cache(maxsize=4096)
def to_domain(consent_id: str, version: int, text: str) -> Consent:
    """Return a stored version as the types that decide; `text` is the FHIR R4 Consent."""
    # It was checked when it came in, and a version never changes.
    return kept_consent(json.loads(text), id=consent_id, version=version)


def _select(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(*(consent.c[name] for name in _COLUMNS)).where(condition, consent.c.current)


_BY_ID = Statement(_select(consent.c.id == sa.bindparam("wanted")))
_OF_NUMBER = Statement(
    _select(sa.and_(consent.c.issuer == sa.bindparam("of_issuer"), consent.c.value == sa.bindparam("of_value")))
)
_NOT_CURRENT = Statement(
    sa.update(consent).where(consent.c.id == sa.bindparam("wanted")).values(current=sa.bindparam("no"))
)
_SAVE = Statement(sa.insert(consent))
_ADVANCE = Statement(sa.text("UPDATE hub_state SET cursor = cursor + 1 RETURNING cursor"))
# Each number once: who has not read this far hears of it from its last place just as well.
_CHANGED = Statement(
    sa.text(
        "INSERT INTO consent_change (cursor, issuer, value) VALUES (:cursor, :issuer, :value)"
        " ON CONFLICT (issuer, value) DO UPDATE SET cursor = excluded.cursor"
    )
)


def current(connection: Connection, consent_id: str) -> StoredConsent | None:
    """Return the last version of a consent."""
    rows = _BY_ID.run(connection, {"wanted": consent_id})
    return _read(rows[0]) if rows else None


def of_numbers(connection: Connection, numbers: Iterable[PatientIdentifier]) -> list[StoredConsent]:
    """Return the last versions of all consents that were given under one of these numbers."""
    found = [
        _read(row)
        for one in set(numbers)
        for row in _OF_NUMBER.run(connection, {"of_issuer": one.issuer, "of_value": one.value})
    ]
    return sorted(found, key=lambda one: (one.recorded, one.id))


def all_current(connection: Connection) -> list[StoredConsent]:
    """Return the last versions of all consents."""
    rows = connection.execute(_select(sa.true()).order_by(consent.c.recorded, consent.c.id))
    return [_read(tuple(row)) for row in rows]


def save(connection: Connection, one: StoredConsent) -> None:
    """Store a version; it becomes the current one."""
    _NOT_CURRENT.run(connection, {"wanted": one.id, "no": False})
    _SAVE.run(
        connection,
        {
            "id": one.id,
            "version": one.version,
            "status": one.status,
            "issuer": one.patient.issuer,
            "value": one.patient.value,
            "resource": one.text,
            "recorded": one.recorded,
            "kind": one.kind.value,
            "proved_by": one.proved_by,
            "current": True,
        },
    )


def note_change(connection: Connection, numbers: Collection[PatientIdentifier]) -> None:
    """Put into the list of changes that other consents may now apply to whoever these numbers name."""
    if not numbers:
        return
    ((cursor,),) = _ADVANCE.run(connection)
    rows = [{"cursor": cursor, "issuer": one.issuer, "value": one.value} for one in set(numbers)]
    _CHANGED.run_each(connection, rows)


def changes_since(
    connection: Connection, cursor: int, hospital: str, limit: int
) -> tuple[list[PatientIdentifier], int]:
    """Return which of the numbers that a hospital announced are in the list after `cursor`, and the new cursor."""
    last = connection.scalars(sa.select(state.c.cursor)).one()
    query = sa.select(change.c.cursor).where(change.c.cursor > cursor).distinct().order_by(change.c.cursor)
    steps = connection.scalars(query.limit(limit)).all()
    reached = steps[-1] if len(steps) == limit else last
    own = (
        sa.exists()
        .where(number.c.issuer == change.c.issuer, number.c.value == change.c.value)
        .where(number.c.chart == chart_table.c.id, chart_table.c.hospital == hospital)
    )
    rows = connection.execute(
        sa.select(change.c.issuer, change.c.value)
        .where(change.c.cursor > cursor, change.c.cursor <= reached, own)
    )
    return sorted(PatientIdentifier(*row) for row in rows), reached


def _read(row: tuple[Any, ...]) -> StoredConsent:
    id, version, status, issuer, value, resource, recorded, kind, proved_by = row
    return StoredConsent(
        id, version, status, PatientIdentifier(issuer, value), resource, recorded, ProofKind(kind), proved_by
    )
