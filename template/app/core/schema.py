"""The tables of the scheduler. Instants are UTC microseconds: a zone got lost in SQLite's dates."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()
LONGEST_KEY = 300
# Byte order: so that PostgreSQL finds the runs of a job by the beginning of its key, too.
_Key = String(LONGEST_KEY).with_variant(String(LONGEST_KEY, collation="C"), "postgresql")
_Id = BigInteger().with_variant(Integer, "sqlite")

job_runs = Table(
    "job_runs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("job", _Key, nullable=False),
    Column("fire_time", BigInteger, nullable=False),
    # Only grows, over all jobs: whoever holds an older number may change nothing any more.
    # NULL where nothing ran.
    Column("fence", BigInteger, unique=True),
    Column("replica", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("attempts", Text),
    Column("outcome", String(20)),
    Column("error", Text),
    # Set while the function may still be running, outcome or not; NULL where overlap is allowed.
    Column("active_key", String(300), unique=True),
    Column("lease_until", BigInteger),
    # How often it was sent to the workers, while it waits for one.
    Column("sent", Integer),
    Column("claimed_at", BigInteger),
    Column("finished_at", BigInteger),
    # A stretch of missed fires is one row: from here to `fire_time`, `fires` of them.
    Column("first_fire_time", BigInteger),
    Column("fires", Integer, nullable=False, server_default="1"),
    UniqueConstraint("job", "fire_time", name="uq_job_runs_job_fire_time"),
)
OPEN = text("outcome IS NULL")
"""Of those few of job_runs the databases/ have an index: to name a dialect here would load it."""

job_schedules = Table(
    "job_schedules",
    metadata,
    Column("job", String(300), primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("trigger", Text),
    Column("since", BigInteger, nullable=False),
    Column("accounted_until", BigInteger, nullable=False),
    Column("paused_at", BigInteger),
    Column("paused_until", BigInteger),
    Column("paused_by", String(200)),
    Column("pause_reason", Text),
)

job_definitions = Table(
    "job_definitions",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("job", String(200), nullable=False),
    Column("kwargs", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    # Of a one-off job only: so that it is held in memory no earlier than it has to be.
    Column("fire_time", BigInteger, index=True),
    Column("paused", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
    Column("removed", Boolean, nullable=False),
)

job_locks = Table(
    "job_locks",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
)

job_counters = Table(
    "job_counters",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
