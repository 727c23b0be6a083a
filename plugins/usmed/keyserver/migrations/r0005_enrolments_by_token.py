"""An enrolment is read from the token that its hospital signed, and kept nowhere else."""

from alembic import op

revision = "r0005"
down_revision = "r0004"


def upgrade() -> None:
    """Drop what said the same a second time."""
    op.drop_column("enrolment", "content")
