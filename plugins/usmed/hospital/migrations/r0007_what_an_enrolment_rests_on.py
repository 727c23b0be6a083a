"""Of an enrolment for the portal: the number that a clerk typed, and a digest of what the archive said."""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("portal_enrolment", sa.Column("typed", sa.Text, nullable=False, server_default=""))
    op.add_column("portal_enrolment", sa.Column("record_sha256", sa.Text, nullable=False, server_default=""))
