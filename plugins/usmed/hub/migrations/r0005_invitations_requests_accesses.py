"""The patient's side: invitations to enrol, hospitals' requests for consent, and who had what."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"

# SQLite numbers rows by itself only where the key is declared INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables. Times are Unix times in seconds."""
    op.create_table(
        "invitation",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hospital", sa.Text, nullable=False),
        # SHA-256 of the code, hexadecimal; the code itself is never kept.
        sa.Column("code", sa.Text, nullable=False, unique=True),
        # Empty as soon as it is not needed any more.
        sa.Column("birth_date", sa.Text, nullable=False),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("basis_until", sa.BigInteger),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("wrong", sa.Integer, nullable=False),
        sa.Column("invited", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("credential", sa.Text, nullable=False, index=True),
        sa.Column("public_key", sa.Text, nullable=False),
    )
    op.create_index("invitation_hospital", "invitation", ["hospital", "invited"])
    op.create_index("invitation_state", "invitation", ["state", "expires"])
    op.create_table(
        "invitation_number",
        sa.Column("invitation", sa.Text, sa.ForeignKey("invitation.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.create_index("invitation_number_number", "invitation_number", ["issuer", "value"])
    op.create_table(
        "patient_request",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("department", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_index("patient_request_hospital", "patient_request", ["hospital", "asked"])
    op.create_index("patient_request_number", "patient_request", ["issuer", "value"])
    op.create_table(
        "patient_access",
        sa.Column("id", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("consents", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("patient_access_sent", "patient_access", ["source", "sequence", "sha256"], unique=True)
    op.create_index("patient_access_number", "patient_access", ["issuer", "value", "at"])
    op.create_index("patient_access_at", "patient_access", ["at"])
