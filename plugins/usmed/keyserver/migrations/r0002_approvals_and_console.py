"""Emergencies counted, operations that administrators approve, and the passkeys and sessions of their console."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "emergency_asked_for",
        sa.Column("requester", sa.Text, primary_key=True),
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
    )
    op.create_table(
        "approval",
        sa.Column("requester", sa.Text, primary_key=True),
        sa.Column("nonce", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("decided", sa.BigInteger),
        sa.Column("decided_by", sa.Text, nullable=False, server_default=""),
        sa.Column("proof", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("approval_state", "approval", ["state", "expires"])
    op.create_table(
        "approval_use",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("patient", sa.Text, primary_key=True),
    )
    op.create_table(
        "console_passkey",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("registered", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "console_code",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "console_session",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("passkey", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
