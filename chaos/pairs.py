"""What is put under chaos: a set of backends, with the faults that can befall it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PROCESSES = ("kill", "kill all", "freeze", "stop")
POSTGRESQL = ("cut off", "end sessions", "crash database", "freeze database")
REDIS = ("restart redis", "freeze redis")
SQLITE = ("hold database",)


@dataclass(frozen=True)
class Pair:
    """`answers` of the template; `edits` is what the owner writes otherwise in his jobs."""

    name: str
    faults: tuple[str, ...]
    answers: Mapping[str, str] = field(default_factory=dict)
    edits: Mapping[str, str] = field(default_factory=dict)
    workers: bool = False
    processes: int = 4
    control: str = ""
    """Why it must lose fires or run them twice."""
    guide: bool = False

    @property
    def on_sqlite(self) -> bool:
        return self.answers.get("database") == "sqlite"

    @property
    def has_redis(self) -> bool:
        return self.guide or bool(set(self.faults) & set(REDIS))

    @property
    def keeps_jobs_in_redis(self) -> bool:
        return self.answers.get("job_store") == "redis"

    @property
    def claims_in_redis(self) -> bool:
        return self.answers.get("lock_backend") == "redis"


_ON_WORKERS = {'executor="asyncio", ': "", 'executor="processpool", ': ""}
_APART = {
    "async with run.unit_of_work()": "async with current().unit_of_work()",
    "    with run.unit_of_work()": "    with current().unit_of_work_sync()",
}

PAIRS = (
    Pair(
        "postgresql-database",
        (*PROCESSES, *POSTGRESQL),
        {"database": "postgresql", "lock_backend": "database"},
    ),
    Pair(
        "postgresql-redis",
        (*PROCESSES, *POSTGRESQL, *REDIS),
        {"database": "postgresql", "lock_backend": "redis"},
    ),
    Pair(
        "replicas-redis",
        (*PROCESSES, *POSTGRESQL, *REDIS),
        {"database": "postgresql", "lock_backend": "redis", "job_store": "redis"},
    ),
    Pair(
        "sqlite-database",
        (*PROCESSES, *SQLITE),
        {"database": "sqlite", "lock_backend": "database"},
    ),
    Pair(
        "procrastinate",
        (*PROCESSES, *POSTGRESQL),
        {"database": "postgresql", "lock_backend": "database", "executor": "procrastinate"},
        _ON_WORKERS,
        workers=True,
    ),
    Pair(
        "taskiq",
        (*PROCESSES, *POSTGRESQL, *REDIS),
        {"database": "postgresql", "lock_backend": "database", "executor": "taskiq"},
        _ON_WORKERS,
        workers=True,
    ),
    # Nobody is there who makes up for what it forgets.
    Pair(
        "alone-on-postgresql",
        ("kill all", "end sessions", "crash database", "freeze database"),
        {"database": "postgresql", "lock_backend": "database"},
        processes=1,
    ),
    Pair(
        "alone-on-sqlite",
        ("kill all", *SQLITE),
        {"database": "sqlite", "lock_backend": "database"},
        processes=1,
    ),
)
CONTROLS = (
    Pair(
        "control-separate-finish",
        PROCESSES,
        {"database": "postgresql", "lock_backend": "database"},
        _APART,
        control="the effect and the run's completion are two transactions",
    ),
    Pair(
        "control-guide",
        PROCESSES,
        guide=True,
        control="a lock around the job claims no fire time",
    ),
)


def named(names: str) -> list[Pair]:
    """Those that are named, with commas between; else all, and the controls.

    Raises `ValueError` for a name that is none.
    """
    every = {pair.name: pair for pair in (*PAIRS, *CONTROLS)}
    if not names:
        return list(every.values())
    unknown = [name for name in names.split(",") if name not in every]
    if unknown:
        raise ValueError(f"PAIRS={names}: {unknown[0]!r} is none of {', '.join(every)}")
    return [every[name] for name in names.split(",")]
