"""The scheduler's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_key = sa.String(300).with_variant(sa.String(300, collation="C"), "postgresql")
_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_runs",
        sa.Column("id", _id, primary_key=True, autoincrement=True),
        sa.Column("job", _key, nullable=False),
        sa.Column("fire_time", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, unique=True),
        sa.Column("replica", sa.String(200), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Text),
        sa.Column("outcome", sa.String(20)),
        sa.Column("error", sa.Text),
        sa.Column("active_key", sa.String(300), unique=True),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("sent", sa.Integer),
        sa.Column("claimed_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("first_fire_time", sa.BigInteger),
        sa.Column("fires", sa.Integer, nullable=False, server_default="1"),
        sa.UniqueConstraint("job", "fire_time", name="uq_job_runs_job_fire_time"),
    )
    op.create_index(
        "ix_job_runs_open",
        "job_runs",
        ["lease_until"],
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )
    if op.get_bind().dialect.supports_sequences:
        op.execute(sa.schema.CreateSequence(sa.Sequence("job_fences")))
    op.create_table(
        "job_schedules",
        sa.Column("job", sa.String(300), primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("accounted_until", sa.BigInteger, nullable=False),
        sa.Column("paused_at", sa.BigInteger),
        sa.Column("paused_until", sa.BigInteger),
        sa.Column("paused_by", sa.String(200)),
        sa.Column("pause_reason", sa.Text),
    )
    op.create_table(
        "job_definitions",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("job", sa.String(200), nullable=False),
        sa.Column("kwargs", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("fire_time", sa.BigInteger, index=True),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, index=True),
        sa.Column("removed", sa.Boolean, nullable=False),
    )
    op.create_table(
        "job_locks",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )
    counters = op.create_table(
        "job_counters",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "definitions", "value": 1}])


def downgrade() -> None:
    for table in ("job_counters", "job_locks", "job_definitions", "job_schedules", "job_runs"):
        op.drop_table(table)
    if op.get_bind().dialect.supports_sequences:
        op.execute(sa.schema.DropSequence(sa.Sequence("job_fences")))
