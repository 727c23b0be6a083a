"""Guest copies are kept by the age of their last use."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Add the column; a copy that is there counts as used when it came."""
    op.add_column("pull", sa.Column("last_used", sa.BigInteger, nullable=False, server_default="0"))
    pull = sa.table("pull", sa.column("last_used"), sa.column("finished"))
    op.get_bind().execute(pull.update().values(last_used=pull.c.finished))
    op.create_index("pull_last_used", "pull", ["state", "last_used"])
