"""Notices to one person, by e-mail or SMS, each with its next try and its end; and how many went out in a day."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Add the columns. Times are Unix times in seconds; a day is counted from 1970 (UTC)."""
    for column in (
        sa.Column("channel", sa.Text, nullable=False, server_default="email"),
        # Empty for those whom the gateway's settings name.
        sa.Column("recipient", sa.Text, nullable=False, server_default=""),
        sa.Column("due", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("ends", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("notice", column)
    op.execute("UPDATE notice SET ends = queued + 604800")
    op.create_index("notice_channel", "notice", ["channel", "due"])
    op.create_index("notice_recipient", "notice", ["recipient"])
    op.create_table(
        "notice_day",
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("tried", sa.Integer, nullable=False),
    )
