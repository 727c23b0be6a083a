"""Audit records can be searched by person, event, outcome, study and time."""

import json

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"

ADDED = ("at", "event", "agent", "study_instance_uid", "outcome")


def upgrade() -> None:
    """Add the columns, and fill them from the records that are there, whose content nobody touches."""
    for name in ADDED:
        op.add_column("audit_record", sa.Column(name, sa.Text, nullable=False, server_default=""))
    record = sa.table("audit_record", *map(sa.column, ("sequence", "content", *ADDED)))
    fill = (
        sa.update(record)
        .where(record.c.sequence == sa.bindparam("of_sequence"))
        .values({name: sa.bindparam(f"of_{name}") for name in ADDED})
    )
    connection = op.get_bind()
    last = 0
    while rows := connection.execute(
        sa.select(record.c.sequence, record.c.content)
        .where(record.c.sequence > last)
        .order_by(record.c.sequence)
        .limit(1000)
    ).all():
        last = rows[-1].sequence
        connection.execute(fill, [_columns(row.sequence, json.loads(row.content)["event"]) for row in rows])
    op.create_index("audit_record_at", "audit_record", ["at"])
    op.create_index("audit_record_agent", "audit_record", ["agent", "sequence"])
    op.create_index("audit_record_event", "audit_record", ["event", "sequence"])


def _columns(sequence: int, event: dict[str, str]) -> dict[str, str | int]:
    return {"of_sequence": sequence, **{f"of_{name}": event.get(name, "").replace("\0", "\ufffd") for name in ADDED}}
