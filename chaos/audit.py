"""The ledger against the effects: each fire has one outcome, and it is what the job did.

Apart from the oracle, which does not believe the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Engine, text

from chaos.effects import Note
from chaos.oracle import Story, fires

_ROWS = text(
    "SELECT job, coalesce(first_fire_time, fire_time), fire_time, outcome, attempts FROM job_runs"
    " WHERE job IN ('chaos.fast', 'chaos.slow', 'chaos.heavy')"
)
Row = tuple[str, float, float, str | None, str | None]
"""A job, the first and the last fire time of a row, their outcome, and the attempts before it."""


def ledger(engine: Engine) -> list[Row]:
    with engine.connect() as connection:
        rows = connection.execute(_ROWS).all()
    return [
        (job.removeprefix("chaos."), first / 1e6, last / 1e6, outcome, attempts)
        for job, first, last, outcome, attempts in rows
    ]


def audit(rows: Iterable[Row], notes: Sequence[Note], story: Story) -> list[str]:
    """What does not agree, a line each."""
    outcomes: dict[tuple[str, float], list[str | None]] = {fire: [] for fire in fires(story)}
    before: dict[tuple[str, float], str | None] = {}
    for name, first, last, outcome, attempts in rows:
        before[name, last] = attempts
        for second in range(int(first), int(last) + 1):
            if (name, second) in outcomes:
                outcomes[name, second].append(outcome)
    done = Counter((note.name, note.fire_time) for note in notes if note.what == "effect")
    wrong = []
    for (name, due), found in outcomes.items():
        expected = ["succeeded"] if done[name, due] else ["missed"]
        if found != expected:
            wrong.append(f"{name} of {due:.0f}: {found}, not {expected}; {before.get((name, due))}")
    return wrong
