"""Heads of other servers' audit logs, countersigned heads of one's own, and alarms about a log that does not go on."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    """Make the tables. Of heads, the last of each hour is kept."""
    op.create_table(
        "log_head_seen",
        sa.Column("server", sa.Text, primary_key=True),
        sa.Column("after_alarm", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("signed", sa.Text, nullable=False),
    )
    op.create_table(
        "log_head_countersigned",
        sa.Column("witness", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("signed", sa.Text, nullable=False),
    )
    op.create_table(
        "log_alarm",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("noticed", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("presented", sa.Text, nullable=False),
        sa.Column("acknowledged", sa.BigInteger),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("acknowledged_why", sa.Text),
    )
    op.create_index(
        "log_alarm_open",
        "log_alarm",
        ["server"],
        unique=True,
        sqlite_where=sa.text("acknowledged IS NULL"),
        postgresql_where=sa.text("acknowledged IS NULL"),
    )
