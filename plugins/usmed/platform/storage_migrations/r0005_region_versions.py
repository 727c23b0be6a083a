"""The signed region manifests that were believed, oldest to newest."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "region_version",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("signed", sa.Text, nullable=False),
        sa.Column("believed", sa.BigInteger, nullable=False),
    )
