"""Enrolments that hospitals bring, and who proved each consent."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"


def upgrade() -> None:
    """Make the tables. The consents that are there were attested by staff; of which hospital was not kept."""
    op.create_table(
        "enrolment",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
    )
    op.create_table(
        "enrolment_number",
        sa.Column("digest", sa.Text, sa.ForeignKey("enrolment.digest"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.create_index("enrolment_number_number", "enrolment_number", ["issuer", "value"])
    op.create_table(
        "enrolment_passkey",
        sa.Column("digest", sa.Text, sa.ForeignKey("enrolment.digest"), primary_key=True),
        sa.Column("passkey", sa.Text, primary_key=True),
    )
    op.create_index("enrolment_passkey_passkey", "enrolment_passkey", ["passkey"])
    op.add_column("consent", sa.Column("kind", sa.Text, nullable=False, server_default="staff"))
    op.add_column("consent", sa.Column("proved_by", sa.Text, nullable=False, server_default=""))
