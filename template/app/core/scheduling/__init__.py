"""Jobs: everything that your own code imports from the scheduler."""

from app.core.scheduling.declaration import Job, job
from app.core.scheduling.history import Audit, RunRecord, audit, last_run
from app.core.scheduling.named_lock import LockNotAcquired, lock
from app.core.scheduling.run import FenceLost, Run
from app.core.scheduling.triggers import Trigger, cron, date, interval

__all__ = [
    "Audit",
    "FenceLost",
    "Job",
    "LockNotAcquired",
    "Run",
    "RunRecord",
    "Trigger",
    "audit",
    "cron",
    "date",
    "interval",
    "job",
    "last_run",
    "lock",
]
