"""What guest copies rest on and which instances they brought; what has to be checked after a withdrawal."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "guest_basis",
        sa.Column("study_instance_uid", sa.Text, primary_key=True),
        sa.Column("emergency", sa.Integer, nullable=False),
        sa.Column("consents", sa.Text, nullable=False),
        sa.Column("known_by", sa.Text, nullable=False),
        sa.Column("numbers", sa.Text, nullable=False),
        sa.Column("modalities", sa.Text, nullable=False, server_default="[]"),
        sa.Column("study_date", sa.Text, nullable=False, server_default=""),
        sa.Column("withdrawn", sa.Text, nullable=False, server_default="[]"),
    )
    op.create_table(
        "guest_instances",
        sa.Column("study_instance_uid", sa.Text, primary_key=True),
        sa.Column("patient_id", sa.Text, primary_key=True),
        sa.Column("sop_instance_uids", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "copy_check",
        sa.Column("consent", sa.Text, primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("told", sa.Integer, nullable=False, server_default="1"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due", sa.BigInteger, nullable=False, index=True),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "hub_cursor",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("cursor", sa.BigInteger, nullable=False),
    )
