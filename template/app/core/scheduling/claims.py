"""Claims: of all replicas, one gets to run a fire. One row of the ledger for each."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import cached_property
from time import monotonic
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Subquery,
    case,
    exists,
    literal,
    null,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from app.core.database import Database
from app.core.logging import in_words
from app.core.scheduling.answers import (
    Claim,
    Early,
    Fire,
    Message,
    Outcome,
    Paused,
    Refused,
    Stale,
    Taken,
    Won,
)
from app.core.scheduling.batch import COLUMNS, as_json
from app.core.scheduling.statements import EARLY, freeing, is_paused, looking, plainly_free
from app.core.schema import job_runs, job_schedules

_log = logging.getLogger(__name__)
_ROUNDS = 5
_PAUSE = 0.5
_run = job_runs.c
Asked = dict[int, Fire]
Outbox = Callable[[AsyncConnection, Sequence[Message]], Awaitable[None]]


class Claims:
    """The claims of one replica.

    `lease` in seconds is how long a claim outlives the replica's silence; None is for ever.
    After `patience` seconds a fire is late; older than `window`, it is not claimed any more.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        lease: float | None,
        window: float,
        patience: float = 30,
    ) -> None:
        self.database = database
        self.replica = replica
        self.lease = lease
        self.window = int(max(window, patience) * 1e6)
        self.patience = int(patience * 1e6)
        self._lease = int(lease * 1e6) if lease else 100 * 365 * 86_400 * 1_000_000
        self.suspended = False
        """Set while it is not certain that this process may make claims."""
        self.running: Collection[int] = ()
        """The fences of the runs that this process has, told by who runs them."""
        self.outbox: Outbox | None = None
        """Where there are workers: sends to them, within the transaction that claims a fire."""
        self._now = database.dialect.now()
        self._insert = database.dialect.insert(job_runs)

    async def claim(self, fires: Sequence[Fire]) -> list[Claim]:
        """Answer each fire in one read and, if any can be won, one short transaction.

        Or in one statement for both, where the database can.
        An expired holder is settled first: an old corpse must not turn a daily run into `skipped`.
        """
        if self.suspended:
            raise RuntimeError("suspended: another process may be making claims")
        answers = await self._answer(dict(enumerate(fires)))
        return [answers[position] for position in range(len(fires))]

    async def _answer(self, asked: Asked) -> dict[int, Claim]:
        answers: dict[int, Claim] = {}
        try:
            for _ in range(_ROUNDS):
                if not asked:
                    return answers
                await self._ask(asked, answers)
                # Who lost the race in between looks again: it is taken now, or overlaps.
                asked = {p: fire for p, fire in asked.items() if p not in answers}
            raise RuntimeError(f"{len(asked)} fires were neither won nor taken")
        except Exception as error:
            return self._again(asked, answers, error)

    def _again(
        self, asked: Asked, answers: Mapping[int, Claim], error: Exception
    ) -> dict[int, Claim]:
        """What was won is run, whatever has become of the others; raises if nothing is known."""
        if not answers:
            raise error
        _log.warning("claims wait: %s", in_words(error))
        return {**dict.fromkeys(asked, Early(_PAUSE)), **answers}

    async def _ask(self, asked: Asked, answers: dict[int, Claim]) -> None:
        """One round: what is answered goes to the answers, even if the rest fails."""
        rows = await self._look(asked)
        answers.update((row.position, Won(row.won, row.won_id)) for row in rows if row.won)
        holders = [row for row in rows if row.fence is not None and row.id is None]
        alive = await self._alive(holders) if holders else set()
        # What runs here is alive, and what waits for a worker has no holder yet who could die.
        alive |= {row.fence for row in holders if row.fence in self.running or row.sent is not None}
        inserts: dict[int, tuple[Fire, Outcome | None]] = {}
        corpses: dict[int, int] = {}
        for row in rows:
            fire = asked[row.position]
            if row.won:
                continue
            if row.id is not None:
                answers[row.position] = Taken(settled=row.outcome is not None)
            elif row.accounted:  # missed, in a stretch of them; or before the job's time
                answers[row.position] = Taken(settled=True)
            elif fire.time > row.now + EARLY:
                answers[row.position] = Early((fire.time - row.now) / 1e6)
            elif row.paused:
                answers[row.position] = Paused()
            elif not fire.late and fire.time < row.now - self.patience:
                answers[row.position] = Stale()
            elif fire.time < row.now - self.window:
                inserts[row.position] = fire, "missed"
            elif row.fence in alive:
                inserts[row.position] = fire, "skipped"
            else:
                inserts[row.position] = fire, None
                if row.fence is not None:
                    corpses[row.position] = row.fence
        if inserts:
            answers.update(await self._record(inserts, corpses))

    async def _look(self, asked: Asked) -> Sequence[Row[Any]]:
        """What the ledger has on each fire, and on the run that holds its key (`fence`, ...)."""
        async with self.database.reading() as connection:
            found = await connection.execute(self._asking, {"batch": as_json(asked.items())})
            rows: Sequence[Row[Any]] = found.all()
        return rows

    async def _record(
        self,
        inserts: Mapping[int, tuple[Fire, Outcome | None]],
        corpses: Mapping[int, int] = MappingProxyType({}),
    ) -> dict[int, Claim]:
        """Insert a row for each; no answer for those that somebody else was faster with.

        `corpses`: whose run has to be put out of the way first.
        """
        answers: dict[int, Claim] = {}
        dead = [(fence, await self.spare_fence()) for fence in sorted(set(corpses.values()))]
        queued = any(fire.message and not outcome for fire, outcome in inserts.values())
        async with self.database.writing(alone=not (dead or queued)) as connection:
            if dead and self._was_busy():
                dead, answers = [], dict.fromkeys(corpses, Early((self.lease or 0) / 3))
            for fence, spare in dead:
                await connection.execute(freeing(self._now, fence, spare))
            given = [(p, *insert) for p, insert in inserts.items() if p not in answers]
            done = (await connection.execute(self._recording, {"batch": as_json(given)})).all()
            rows = {(row.job, row.fire_time): row for row in done}
            messages = [
                {**fire.message, "fence": row.fence}
                for _, fire, outcome in given
                if fire.message and not outcome and (row := rows.get((fire.job, fire.time)))
            ]
            if messages and self.outbox:
                await self.outbox(connection, messages)
        for position, fire, outcome in given:
            if row := rows.get((fire.job, fire.time)):
                answers[position] = Refused(outcome) if outcome else Won(row.fence, row.id)
        return answers

    def _was_busy(self) -> bool:
        """A holder that could not write because nobody could is not dead: give it a heartbeat."""
        return monotonic() - self.database.busy_at < (self.lease or 0) / 3

    # Built once: building them for each claim took longer than the server does.
    @cached_property
    def _asking(self) -> Select[Any]:
        """Looks and, where that is one statement, wins what is plainly free."""
        dialect = self.database.dialect
        return dialect.asking(
            looking(dialect),
            lambda looked: self._inserting(plainly_free(looked, self.window, self.patience)),
        )

    @cached_property
    def _recording(self) -> ReturningInsert[Any]:
        return self._inserting(self.database.dialect.rows("batch", COLUMNS))

    def _inserting(self, batch: Subquery) -> ReturningInsert[Any]:
        running = batch.c.outcome.is_(None)
        values = {
            "job": batch.c.job,
            "fire_time": batch.c.fire_time,
            "fence": case((running, self._fence(batch))),
            "replica": literal(self.replica),
            "attempt": case((running, 1), else_=0),
            "outcome": batch.c.outcome,
            "active_key": case((running, batch.c.active_key)),
            "lease_until": case((running, self._now + self._lease)),
            "sent": batch.c.sent,
            "claimed_at": case((running, self._now)),
            "finished_at": case((running, null()), else_=self._now),
        }
        cursor = job_schedules.c
        # It may have been paused, or the fire recorded as missed, since it was looked at.
        over = or_(is_paused(self._now), cursor.accounted_until >= batch.c.fire_time)
        closed = exists().where(cursor.job == batch.c.job, over)
        return (
            self._insert.from_select(
                list(values),
                select(*values.values()).where(~closed).order_by(batch.c.job, batch.c.fire_time),
                include_defaults=False,
            )
            .on_conflict_do_nothing()
            .returning(_run.job, _run.fire_time, _run.fence, _run.id)
        )

    def _fence(self, batch: Subquery) -> ColumnElement[int]:
        """The fence of a new claim."""
        return self.database.dialect.next_fence(batch.c.position)

    async def spare_fence(self) -> ColumnElement[int] | int:
        """A fence that nobody holds: it ends the right of whoever held the one before."""
        return self.database.dialect.next_fence()

    async def _alive(self, rows: Sequence[Row[Any]]) -> set[int]:
        """The fences of those runs whose holder has not been silent for a lease."""
        return {row.fence for row in rows if row.lease_until >= row.now}
