"""What is scheduled, and what its scheduler hears of each fire."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from app.core.scheduling.answers import Outcome
from app.core.scheduling.batch import storable
from app.core.scheduling.declaration import Job
from app.core.schema import LONGEST_KEY


@dataclass(frozen=True)
class Entry:
    """What is scheduled: a job with its arguments, under the key that it is claimed by."""

    key: str
    job: Job
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    executor: str
    origin: Literal["code", "store", "memory"]
    """Who else knows it: every replica, from the code or the store, or this process alone."""
    once: bool = False

    @property
    def active_key(self) -> str | None:
        return self.key if self.job.overlap == "skip" else None

    @property
    def restarts(self) -> bool:
        """May another process run it again, after this one?"""
        return self.origin != "memory" and self.job.on_crash == "retry"

    @property
    def is_owed(self) -> bool:
        """Does a cursor see to its fires that were not claimed in time?"""
        return self.origin != "memory" and not self.once


class Settlement(NamedTuple):
    """What became of a submitted fire. `over`: it has an outcome, here or on another replica."""

    over: bool
    outcome: Outcome | None = None
    error: str | None = None


Settled = Callable[[Settlement], None]


def check_key(key: str) -> None:
    """Raise `ValueError` for one that the ledger would refuse, with all that is claimed beside."""
    if len(key) > LONGEST_KEY or storable(key) != key:
        raise ValueError(f"id and generation: at most {LONGEST_KEY} characters, and no NUL")
