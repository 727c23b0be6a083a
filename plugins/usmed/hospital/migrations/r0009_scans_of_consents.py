"""How what was written down at the desk ended, and the scans of consents on paper."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"


def upgrade() -> None:
    """Add the columns and make the table. Times are Unix times in seconds."""
    for name, default in (("state", "waiting"), ("ended_by", ""), ("reason", "")):
        op.add_column("consent_draft", sa.Column(name, sa.Text, nullable=False, server_default=default))
    op.add_column("consent_draft", sa.Column("ended", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("consent_draft_state", "consent_draft", ["state", "created"])
    op.create_table(
        "consent_scan",
        # SHA-256 of the content, hexadecimal: the consent names it by this.
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("consent", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
    )
    op.create_index("consent_scan_consent", "consent_scan", ["consent"])
