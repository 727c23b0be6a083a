"""Members of staff who log in here: accounts, sessions and tokens of programs."""

import sqlalchemy as sa
from alembic import op

revision = "r0012"
down_revision = "r0011"


def upgrade() -> None:
    """Make the tables. Times are Unix times in seconds."""
    op.create_table(
        "staff_account",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        # Argon2id (RFC 9106), in the form that names its parameters.
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("disabled", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "staff_session",
        # SHA-256 of the cookie's value, hexadecimal.
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("began", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
    )
    op.create_index("staff_session_used", "staff_session", ["used"])
    op.create_index("staff_session_name", "staff_session", ["name"])
    op.create_table(
        "staff_token",
        # SHA-256 of the token, hexadecimal.
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        # A JSON list.
        sa.Column("permissions", sa.Text, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_index("staff_token_name", "staff_token", ["name"], unique=True)
