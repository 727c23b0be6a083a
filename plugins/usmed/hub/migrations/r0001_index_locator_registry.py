"""Patient index, study locator and consent registry."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None

# SQLite numbers rows by itself only where the key is declared INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables, and the one row that writers lock."""
    op.create_table(
        "chart",
        sa.Column("id", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("birth_date", sa.Text, nullable=False),
        sa.Column("sex", sa.Text, nullable=False),
        sa.Column("person", sa.BigInteger, nullable=False, index=True),
        # A number is never given out twice: the order of charts is the order in which they were first seen.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "chart_identifier",
        sa.Column("chart", sa.BigInteger, sa.ForeignKey("chart.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("linked", sa.Boolean, nullable=False),
    )
    op.create_index("chart_identifier_number", "chart_identifier", ["issuer", "value"])
    op.create_table(
        "study",
        sa.Column("hospital", sa.Text, primary_key=True),
        sa.Column("study_instance_uid", sa.Text, primary_key=True),
        sa.Column("chart", sa.BigInteger, sa.ForeignKey("chart.id"), nullable=False, index=True),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("accession_number", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("study_uid", "study", ["study_instance_uid"])
    op.create_index("study_bucket", "study", ["hospital", "bucket", "study_instance_uid"])
    op.create_table(
        "consent",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("current", sa.Boolean, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("recorded", sa.BigInteger, nullable=False),
    )
    op.create_index("consent_patient", "consent", ["issuer", "value", "current"])
    state = op.create_table(
        "hub_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(state, [{"id": 1, "cursor": 0}])
