"""Accesses that the hub could not take yet."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"


def upgrade() -> None:
    """Make the table. Times are Unix times in seconds."""
    op.create_table(
        "access_waiting",
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False, index=True),
    )
