"""Audit records can be searched by patient."""

import json

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Add the column, and fill it from the records that are there."""
    op.add_column("audit_record", sa.Column("patient", sa.Text, nullable=False, server_default=""))
    record = sa.table("audit_record", sa.column("sequence"), sa.column("content"), sa.column("patient"))
    connection = op.get_bind()
    last = 0
    while rows := connection.execute(
        sa.select(record.c.sequence, record.c.content)
        .where(record.c.sequence > last)
        .order_by(record.c.sequence)
        .limit(1000)
    ).all():
        last = rows[-1].sequence
        for row in rows:
            patient = json.loads(row.content)["event"].get("patient", "")
            if patient:
                connection.execute(record.update().where(record.c.sequence == row.sequence).values(patient=patient))
    op.create_index("audit_record_patient", "audit_record", ["patient", "sequence"])
