"""Contradictions for a person to look at, consent changes for the nodes to hear of, studies by accession number."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Make the tables; consents that are there already count as changed once."""
    op.create_index("study_accession_number", "study", ["accession_number"])
    op.create_table(
        "contradiction",
        sa.Column("chart", sa.BigInteger, sa.ForeignKey("chart.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("other", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("found", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "consent_change",
        sa.Column("cursor", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
    )
    op.execute("UPDATE hub_state SET cursor = cursor + 1")
    op.execute(
        "INSERT INTO consent_change (cursor, issuer, value)"
        " SELECT DISTINCT hub_state.cursor, consent.issuer, consent.value FROM consent, hub_state"
    )
