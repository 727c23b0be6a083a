"""Who is logged in on the portal, and what they are about to sign."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Make the tables. Tokens of sessions are held as SHA-256."""
    op.create_table(
        "portal_session",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("credential", sa.Text, nullable=False, index=True),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("invitation", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "portal_draft",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column(
            "session", sa.Text, sa.ForeignKey("portal_session.digest", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
