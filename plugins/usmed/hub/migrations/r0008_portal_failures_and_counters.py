"""Who failed on the portal of late, and how often each passkey says that it has signed."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"


def upgrade() -> None:
    """Make the tables. Who failed is held as SHA-256; times are Unix times in seconds."""
    op.create_table(
        "portal_failure",
        sa.Column("who", sa.Text, primary_key=True),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "portal_counter",
        sa.Column("passkey", sa.Text, primary_key=True),
        sa.Column("signatures", sa.BigInteger, nullable=False),
    )
