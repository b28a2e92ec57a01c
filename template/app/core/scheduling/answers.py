"""A fire, and what a claim for it is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
"""JSON for a worker: the claim's `key`, the `job`'s id, `kwargs`, `fire_time`, `fence`.

`stored`: the job has a definition in the job store, that may be removed meanwhile.
"""

Outcome = Literal[
    "succeeded", "failed", "timed_out", "cancelled", "interrupted", "skipped", "missed", "lost"
]


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire time of one job. `active_key` is None where runs may overlap.

    Unless it may be `late`, it is claimed within a lease of its time, or left to the cursor.
    `fence` is given where it does not come with the claim; with a `message` it is not run here
    but waits for a worker, who is sent that.
    """

    job: str
    time: int
    active_key: str | None
    late: bool = True
    fence: int | None = None
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Won:
    """Run it: nobody else will, as long as the lease is kept."""

    fence: int
    run_id: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """Somebody has it; `settled` when it has an outcome.

    Not yet `recorded`: elected by the lock backend, and perhaps without a row in the ledger.
    """

    settled: bool
    recorded: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Early:
    """Ask again after so many seconds: by the store's clock it is not due, or nobody knows yet."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stale:
    """Nobody claimed it in time. What becomes of it is decided with all that was missed."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The job is paused; nothing is recorded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not run, and that is recorded: `skipped` (overlap) or `missed` (too old)."""

    outcome: Outcome


Claim = Won | Taken | Early | Stale | Paused | Refused
