"""Names of patients, who may be the same person by them, what registrars decided, and who the registrars are."""

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables. Names come with what hospitals announce next: every digest differs now."""
    op.add_column("chart", sa.Column("name", sa.Text, nullable=False, server_default=""))
    op.create_table("chart_to_compare", _chart("chart", primary_key=True))
    op.create_table("chart_block", sa.Column("block", sa.Text, primary_key=True), _chart("chart", primary_key=True))
    op.create_index("chart_block_chart", "chart_block", ["chart"])
    op.create_table(
        "candidate",
        _chart("one", primary_key=True),
        _chart("other", primary_key=True),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("found", sa.BigInteger, nullable=False),
    )
    op.create_index("candidate_other", "candidate", ["other"])
    op.create_index("candidate_queue", "candidate", ["state", "score"])
    op.create_table(
        "link_decision",
        sa.Column("id", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        # Rows are only ever added: what is undone is named by another row, one at most.
        sa.Column("undoes", sa.BigInteger, sa.ForeignKey("link_decision.id"), unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "link_decision_chart",
        _decision(),
        # Not the chart's row, which goes with its last study and may come back.
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("named", sa.Boolean, nullable=False),
        sa.Column("described", sa.Text, nullable=False),
    )
    op.create_index("link_decision_chart_key", "link_decision_chart", ["key"])
    op.create_table(
        "link_decision_number",
        _decision(),
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("side", sa.Text, nullable=False),
    )
    # Which copies went where because of a link.
    op.create_index("patient_access_study", "patient_access", ["study_instance_uid", "source"])
    op.create_table(
        "registrar_passkey",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("registered", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "registrar_code",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "registrar_session",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("passkey", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )


def _chart(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger, sa.ForeignKey("chart.id", ondelete="CASCADE"), primary_key=primary_key, autoincrement=False
    )


def _decision() -> sa.Column[int]:
    return sa.Column(
        "decision", sa.BigInteger, sa.ForeignKey("link_decision.id"), primary_key=True, autoincrement=False
    )
