"""The hub's tables as the queries see them, and the one way to change them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from usmed.domain.identifiers import PatientIdentifier
from usmed.platform.storage import Database, Statement

CHAIN = "usmed.hub.migrations"
SLICE = 500
"""How many values go into one IN list."""


def _table(name: str, *columns: str | sa.ColumnClause[bool]) -> sa.TableClause:
    return sa.table(name, *(sa.column(one) if isinstance(one, str) else one for one in columns))


chart = _table("chart", "id", "hospital", "key", "birth_date", "sex", "name", "person")
number = _table("chart_identifier", "chart", "issuer", "value", sa.column("linked", sa.Boolean))
contradiction = _table("contradiction", "chart", "issuer", "value", "other", "reason", "found")
study = _table(
    "study",
    *("hospital", "study_instance_uid", "chart", "bucket", "accession_number", "study_date", "modalities", "digest"),
)
bucket = _table("bucket", "hospital", "bucket", "studies", "digest")
consent = _table(
    "consent",
    *("id", "version", "status", "issuer", "value", "resource", "recorded", "kind", "proved_by"),
    sa.column("current", sa.Boolean),
)
change = _table("consent_change", "cursor", "issuer", "value")
enrolment = _table("enrolment", "digest", "hospital", "token")
enrolment_number = _table("enrolment_number", "digest", "issuer", "value")
enrolment_passkey = _table("enrolment_passkey", "digest", "passkey")
state = _table("hub_state", "id", "cursor")


_TURN = Statement(sa.select(state.c.id).with_for_update())


@contextmanager
def changing(database: Database) -> Iterator[Connection]:
    """Give a connection that may change the hub's tables: one at a time.

    Two feeds that link the same charts side by side would each miss what the other adds; and a consent's place in
    the list of changes has to be final when a later one is seen.
    """
    with database.write() as connection:
        _TURN.run(connection)
        yield connection


def insert(connection: Connection, table: sa.TableClause) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT of the engine's own kind, which knows ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def names(table: sa.TableClause, numbers: Iterable[PatientIdentifier]) -> sa.ColumnElement[bool]:
    """Return the condition that a row's issuer and value are one of these, character by character."""
    return sa.tuple_(table.c.issuer, table.c.value).in_([(one.issuer, one.value) for one in numbers])
