"""Which copies may have gone to the wrong patient because of a link: from what hospitals told they gave away.

A recipient files a study under its own number of the patient (ADR 3). So a study of one side of a link that went to a
hospital which knows the other side lies there, perhaps, under another person's number. It is what hospitals tell the
portal of a region (`accesses`): a region without a portal knows nothing of it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.hub.charts import LinkedChart
from usmed.hub.tables import study

MOST = 500

_access = sa.table("patient_access", *map(sa.column, ("at", "source", "recipient", "study_instance_uid")))


@dataclass(frozen=True, slots=True, order=True)
class Crossed:
    """One release of a study whose copy has to be looked at.

    Attributes:
        at: aware UTC.
        source, recipient: hospitals.
        study_instance_uid: the study, of the source's.
        likely: the recipient knows the patient of the other side only: there is no other number to file it under.
            Else it knows both or neither, and has to look.
    """

    at: datetime
    source: str
    recipient: str
    study_instance_uid: str
    likely: bool


def crossed(
    connection: Connection,
    sides: Sequence[Collection[LinkedChart]],
    since: datetime | None,
    until: datetime,
) -> list[Crossed]:
    """Return the releases to look at, MOST at most: the likely ones first, then the oldest.

    Args:
        sides: the charts of the two persons.
        since: when they were joined; None if that is not known: then everything that is kept.
        until: when they were parted.
    """
    mine, theirs = sides
    found = [*_of(connection, mine, theirs, since, until), *_of(connection, theirs, mine, since, until)]
    return sorted(found, key=lambda one: (not one.likely, one))[:MOST]


def _of(
    connection: Connection,
    whose: Collection[LinkedChart],
    others: Collection[LinkedChart],
    since: datetime | None,
    until: datetime,
) -> list[Crossed]:
    known, wrong = ({one.chart.hospital for one in side} for side in (whose, others))
    query = (
        sa.select(_access)
        .join_from(
            _access,
            study,
            sa.and_(
                study.c.hospital == _access.c.source, study.c.study_instance_uid == _access.c.study_instance_uid
            ),
        )
        .where(study.c.chart.in_([one.chart.id for one in whose]), _access.c.at <= int(until.timestamp()))
        .where(_access.c.at >= (int(since.timestamp()) if since else 0))
        # Where the patient is known, and the other one is not, it was filed under the right number.
        .where(_access.c.recipient.not_in(known - wrong))
        .order_by(_access.c.at)
        .limit(MOST)
    )
    return [
        Crossed(
            datetime.fromtimestamp(row.at, UTC),
            row.source,
            row.recipient,
            row.study_instance_uid,
            row.recipient in wrong - known,
        )
        for row in connection.execute(query)
    ]
