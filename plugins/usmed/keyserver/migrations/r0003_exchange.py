"""In which order things came, so that other key servers can ask for what is new; and how far each of them was read."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"


def upgrade() -> None:
    """Make the tables, and give what is there its place."""
    op.create_table(
        "arrival",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("record_id", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_table(
        "peer_position",
        sa.Column("peer", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("region_version", sa.BigInteger, nullable=False),
        sa.Column("begun", sa.BigInteger, nullable=False),
    )
    # Enrolments first: a record may be proved by a passkey that one of them names.
    op.execute(
        "INSERT INTO arrival (position, record_id, digest)"
        " SELECT row_number() OVER (ORDER BY kind, received, record_id, digest), record_id, digest FROM ("
        " SELECT 1 AS kind, received, '' AS record_id, digest FROM enrolment"
        " UNION ALL SELECT 2, received, id, digest FROM consent_record) AS held"
    )
