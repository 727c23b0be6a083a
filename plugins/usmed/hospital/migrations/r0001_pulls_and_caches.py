"""The queue of pulls, and what the node remembers of the hub's answers."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "pull",
        sa.Column("study_instance_uid", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False, index=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("identifiers", sa.Text, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False, server_default=""),
        sa.Column("verified", sa.LargeBinary, nullable=False, server_default=sa.text("''")),
        sa.Column("instances", sa.Integer, nullable=False, server_default="0"),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("requested_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("finished", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "resolution_cache",
        sa.Column("selector", sa.Text, primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("as_of", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "consent_cache",
        sa.Column("identifier", sa.Text, primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("as_of", sa.BigInteger, nullable=False),
    )
