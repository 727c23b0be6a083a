"""Who arrives, how far the studies from elsewhere have come, merges to look at, and which HL7 messages were taken."""

import sqlalchemy as sa
from alembic import op

revision = "r0011"
down_revision = "r0010"


def upgrade() -> None:
    """Make the tables. Days are YYYYMMDD; times are Unix times in seconds."""
    op.create_table(
        "arrival",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("numbers", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("birth_date", sa.Text, nullable=False),
        sa.Column("sex", sa.Text, nullable=False),
        sa.Column("time", sa.Text, nullable=False),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("studies", sa.Text, nullable=False, server_default="[]"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("arrival_order", "arrival", ["day", "time", "issuer", "value"])
    op.create_index("arrival_state", "arrival", ["state", "day", "due"])
    op.create_index("arrival_number", "arrival", ["issuer", "value"])
    op.create_table(
        "patient_merge",
        # SHA-256 over the numbers, hexadecimal: told twice, it is one.
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("surviving", sa.Text, nullable=False),
        sa.Column("prior", sa.Text, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("ended_by", sa.Text, nullable=False, server_default=""),
        sa.Column("outcome", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("patient_merge_open", "patient_merge", ["ended", "received"])
    op.create_table(
        "hl7_message",
        # SHA-256 of the message's bytes, hexadecimal; sender and control id are among them.
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("received", sa.BigInteger, nullable=False, index=True),
    )
