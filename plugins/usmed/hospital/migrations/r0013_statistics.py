"""What is counted of a node by day, how far the audit log has been counted, and which studies were counted lately."""

import sqlalchemy as sa
from alembic import op

revision = "r0013"
down_revision = "r0012"


def upgrade() -> None:
    """Make the tables. Days are those of the hospital's time, as `2026-11-22`."""
    op.create_table(
        "statistic",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("measure", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "statistic_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "statistic_study",
        sa.Column("study_instance_uid", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, nullable=False, index=True),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
