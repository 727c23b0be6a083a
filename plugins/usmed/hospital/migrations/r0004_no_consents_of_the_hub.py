"""The hub's word on consents is remembered no more: access tickets decide."""

from alembic import op

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    """Drop the table."""
    op.drop_table("consent_cache")
