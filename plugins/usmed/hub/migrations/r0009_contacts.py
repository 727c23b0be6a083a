"""Where people want to be told that something happened, and what has happened and was not told yet."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"

# SQLite numbers rows by itself only where the key is declared INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables. Times are Unix times in seconds, 0 for never; a day is counted from 1970 (UTC)."""
    op.create_table(
        "contact",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        # The passkey of whoever acts for the patient, hexadecimal; empty for the patient.
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        # Names of topics, with blanks between them.
        sa.Column("topics", sa.Text, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("confirmed", sa.BigInteger, nullable=False),
        # SHA-256 of the code that was sent last; empty where none is to be typed.
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("code_ends", sa.BigInteger, nullable=False),
        sa.Column("wrong", sa.Integer, nullable=False),
        # When the last notice could not be delivered; 0 if it was.
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("looked", sa.BigInteger, nullable=False),
        sa.Column("emergency", sa.BigInteger, nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("told", sa.Integer, nullable=False),
    )
    op.create_index("contact_address", "contact", ["channel", "address"])
    op.create_index("contact_unconfirmed", "contact", ["confirmed", "made"])
    op.create_table(
        "contact_number",
        sa.Column("contact", sa.Text, sa.ForeignKey("contact.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.create_index("contact_number_number", "contact_number", ["issuer", "value"])
    # What codes were sent to within a day, and for whom; digests, since the address may be gone before.
    op.create_table(
        "contact_code",
        sa.Column("id", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("person", sa.Text, nullable=False, index=True),
        sa.Column("address", sa.Text, nullable=False, index=True),
        sa.Column("sent", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "contact_cause",
        sa.Column("id", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
