"""What is scheduled, and what its scheduler hears of each fire."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.core.scheduling.claims import Outcome
from app.core.scheduling.declaration import Job


@dataclass(frozen=True)
class Entry:
    """What is scheduled: a job with its arguments, under the key that it is claimed by."""

    key: str
    job: Job
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    executor: str

    @property
    def active_key(self) -> str | None:
        return self.key if self.job.overlap == "skip" else None

    @property
    def restarts(self) -> bool:
        """May another process run it again, after this one?"""
        return self.job.declared and self.job.on_crash == "retry"


class Settlement(NamedTuple):
    """What became of a submitted fire. `over`: it has an outcome, here or on another replica."""

    over: bool
    outcome: Outcome | None = None
    error: str | None = None


Settled = Callable[[Settlement], None]
