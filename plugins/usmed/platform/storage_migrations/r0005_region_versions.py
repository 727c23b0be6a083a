"""The signed region manifests that were believed, oldest to newest."""

import sqlalchemy as sa
from alembic import op

<<<<<<<< HEAD:plugins/usmed/platform/storage_migrations/r0005_region_versions.py
revision = "r0005"
========
revision = "r0003"
>>>>>>>> 6779a9e (A wrong key of a hub is told with all other faults; one publication is checked at a time, tested):plugins/usmed/platform/storage_migrations/r0003_region_versions.py
down_revision = "r0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "region_version",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("signed", sa.Text, nullable=False),
        sa.Column("believed", sa.BigInteger, nullable=False),
    )
