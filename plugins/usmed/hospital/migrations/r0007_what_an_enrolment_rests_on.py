"""Of an enrolment for the portal: the number that a clerk typed."""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"


def upgrade() -> None:
    """Add the column."""
    op.add_column("portal_enrolment", sa.Column("typed", sa.Text, nullable=False, server_default=""))
