"""This server's shares of secrets, encrypted as they came."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "secret_share",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("signed", sa.Text, nullable=False),
        sa.Column("share", sa.Text, nullable=False),
        sa.Column("key_thumbprint", sa.Text, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
