"""Consents with their proofs, enrolments, and who asked for tickets of how many patients."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and the one row that writers lock."""
    op.create_table(
        "consent_record",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("current", sa.Boolean, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("proved_by", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "consent_patient",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.create_index("consent_patient_number", "consent_patient", ["issuer", "value"])
    op.create_table(
        "enrolment",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "enrolment_patient",
        sa.Column("digest", sa.Text, sa.ForeignKey("enrolment.digest"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.create_index("enrolment_patient_number", "enrolment_patient", ["issuer", "value"])
    op.create_table(
        "patient_asked_for",
        sa.Column("requester", sa.Text, primary_key=True),
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
    )
    state = op.create_table("keyserver_state", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    op.bulk_insert(state, [{"id": 1}])
