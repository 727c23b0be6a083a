"""Of a study only what is asked for, with a digest; buckets with theirs; each number once in the list of changes."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"

PAGE = 1000
MODALITY_SEPARATOR = "\\"


def upgrade() -> None:
    """Make the tables anew, and take over what is there."""
    op.create_table(
        "study_now",
        # First the UID: then one index finds a study, wherever it is, and a hospital's own.
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("hospital", sa.Text, nullable=False),
        sa.Column("chart", sa.BigInteger, sa.ForeignKey("chart.id"), nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("accession_number", sa.Text, nullable=False),
        sa.Column("study_date", sa.Text, nullable=False),
        sa.Column("modalities", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "hospital", name="study_key"),
    )
    op.create_table(
        "bucket",
        sa.Column("hospital", sa.Text, primary_key=True),
        sa.Column("bucket", sa.Text, primary_key=True),
        sa.Column("studies", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    _take_over()
    op.drop_table("study")
    op.rename_table("study_now", "study")
    op.create_index(
        "study_chart",
        "study",
        ["chart"],
        # All that a lookup asks of a study: a patient's studies came years apart, and lie in as many places on disk.
        postgresql_include=["study_instance_uid", "hospital", "study_date", "modalities"],
    )
    op.create_index("study_in_bucket", "study", ["hospital", "bucket"])
    op.create_index("study_accession_number", "study", ["accession_number"])
    op.create_table(
        "consent_change_now",
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "value", name="consent_change_key"),
    )
    op.execute(
        "INSERT INTO consent_change_now (issuer, value, cursor)"
        " SELECT issuer, value, max(cursor) FROM consent_change GROUP BY issuer, value"
    )
    op.drop_table("consent_change")
    op.rename_table("consent_change_now", "consent_change")
    op.create_index("consent_change_cursor", "consent_change", ["cursor"])


def _take_over() -> None:
    before = sa.table(
        "study",
        *map(sa.column, ("hospital", "study_instance_uid", "chart", "bucket", "accession_number", "record")),
    )
    columns = "hospital study_instance_uid chart bucket accession_number study_date modalities digest"
    now = sa.table("study_now", *map(sa.column, columns.split()))
    bucket = sa.table("bucket", *map(sa.column, ("hospital", "bucket", "studies", "digest")))
    connection = op.get_bind()
    place = sa.tuple_(before.c.hospital, before.c.study_instance_uid)
    last = ("", "")
    buckets: dict[tuple[str, str], list[int]] = {}
    while rows := connection.execute(
        sa.select(before).where(place > sa.tuple_(*map(sa.literal, last))).order_by(*place).limit(PAGE)
    ).all():
        last = (rows[-1].hospital, rows[-1].study_instance_uid)
        taken = []
        for row in rows:
            record, digest = json.loads(row.record), hashlib.sha256(row.record.encode("utf-8")).digest()
            taken.append(
                {
                    **{name: getattr(row, name) for name in columns.split()[:5]},
                    "study_date": record["study_date"],
                    "modalities": MODALITY_SEPARATOR.join(record["modalities"]),
                    "digest": digest,
                }
            )
            held = buckets.setdefault((row.hospital, row.bucket), [0, 0])
            held[0] += 1
            held[1] ^= int.from_bytes(digest)
        connection.execute(sa.insert(now), taken)
    if buckets:
        connection.execute(
            sa.insert(bucket),
            [
                {"hospital": key[0], "bucket": key[1], "studies": count, "digest": f"{digest:064x}"}
                for key, (count, digest) in buckets.items()
            ],
        )
