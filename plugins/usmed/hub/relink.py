"""Joins charts anew after charts or decisions changed: the one way in which persons change."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.domain.region import HUB
from usmed.hub import candidate_store, charts, consents, decisions
from usmed.hub.charts import LinkedChart
from usmed.hub.decisions import Decision
from usmed.hub.index import Links, link


def relink(
    connection: Connection,
    national: NationalNumber | None,
    now: datetime,
    numbers: Iterable[PatientIdentifier],
    ids: Iterable[int] = (),
) -> list[AuditEvent]:
    """Join anew all charts that have to do with these numbers or charts; note whose consents that may concern.

    Returns:
        What there is to say about numbers that are contradicted.
    """
    connected = charts.connected(connection, numbers, ids)
    links = linked(connection, connected, national)
    changed = charts.save_links(connection, connected, links.persons, links.contradictions, int(now.timestamp()))
    consents.note_change(connection, _under_consent(connection, connected, links.persons, changed))
    moved = set(changed) & {one.chart.id for one in connected if one.person}
    candidate_store.refresh(connection, moved)
    return [
        AuditEvent(
            now,
            AuditEventType.IDENTITY,
            HUB,
            patient=str(one.identifier),
            outcome=Outcome.DENIED,
            # The reason proper holds birth dates: it is for `usmed patients contradictions`.
            reason="kept apart: the number is contradicted",
        )
        for one in links.contradictions
        if one.chart in changed
    ]


def linked(
    connection: Connection,
    connected: Sequence[LinkedChart],
    national: NationalNumber | None,
    further: Sequence[Decision] = (),
) -> Links:
    """Return how these charts are joined by their numbers and by what was decided.

    Args:
        connected: as `charts.connected` returns them.
        further: decisions that are not kept, to see what they would do.
    """
    by_key = {one.key: (one.chart.id, one.chart.identifiers) for one in connected}
    held = [*decisions.about(connection, by_key.keys()), *further]
    return link((one.chart for one in connected), national, decisions.as_decided(held, by_key))


def _under_consent(
    connection: Connection, connected: Sequence[LinkedChart], persons: Mapping[int, int], changed: Sequence[int]
) -> set[PatientIdentifier]:
    """Return the numbers of the changed charts whose person, before or after, has given a consent."""
    touched = {persons[key] for key in changed}
    touched |= {one.person for one in connected if one.chart.id in changed}
    around = {
        number
        for one in connected
        if persons[one.chart.id] in touched or one.person in touched
        for number in one.chart.identifiers
    }
    if not consents.of_numbers(connection, around):
        return set()
    return {number for one in connected if one.chart.id in changed for number in one.chart.identifiers}
