"""What happened that people may want to be told of: noted in the transaction of what happened, told later (`telling`).

Nobody can learn from how long an answer takes whether a patient has an address here: it is noted for every number in
the same way, and looked up afterwards.
"""

from collections.abc import Callable, Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.contact import Topic
from usmed.domain.identifiers import PatientIdentifier

cause = sa.table("contact_cause", *map(sa.column, ("id", "topic", "issuer", "value")))

type Tell = Callable[[Connection, Topic, Iterable[PatientIdentifier]], None]
"""Notes, in a transaction, that something happened to whoever these numbers name."""


def tell_nobody(_connection: Connection, _topic: Topic, _numbers: Iterable[PatientIdentifier]) -> None:
    """Take the place of `note_cause` where there is no gateway."""


def note_cause(connection: Connection, topic: Topic, numbers: Iterable[PatientIdentifier]) -> None:
    """Note that something happened, in the caller's transaction."""
    rows = [{"topic": topic.value, "issuer": one.issuer, "value": one.value} for one in sorted(set(numbers))]
    if rows:
        connection.execute(sa.insert(cause), rows)
