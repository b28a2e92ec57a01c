"""The cursor: up to when a job's fires are accounted for. The last word on what is owed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database import Database
from app.core.scheduling.statements import is_paused
from app.core.schema import job_runs, job_schedules

_cursor = job_schedules.c


class Stretch(NamedTuple):
    """Fires that were missed, one after the other: one row of the ledger."""

    first: int
    last: int
    fires: int


class Cursors:
    """One row for each recurring job, shared by all replicas. Instants are UTC microseconds."""

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica
        self._now = database.dialect.now()

    async def register(self, fingerprints: Mapping[str, str]) -> None:
        """Begin a cursor for each new or changed schedule: it owes nothing for the past."""
        known = {job: row.fingerprint for job, row in (await self.all()).items()}
        new = {job: f for job, f in fingerprints.items() if known.get(job) != f}
        if not new:
            return
        begin = {"since": self._now, "accounted_until": self._now, "trigger": None}
        insert = self._database.dialect.insert(job_schedules).values(
            job=bindparam("key"), fingerprint=bindparam("schedule"), **begin
        )
        changed = {"fingerprint": insert.excluded.fingerprint, **begin}
        statement = insert.on_conflict_do_update(index_elements=["job"], set_=changed)
        rows = [{"key": job, "schedule": fingerprint} for job, fingerprint in sorted(new.items())]
        async with self._database.writing() as connection:
            await connection.execute(statement, rows)

    async def now(self) -> int:
        """What the database's clock says."""
        async with self._database.reading() as connection:
            return int((await connection.execute(select(self._now))).scalar_one())

    async def all(self) -> dict[str, Row[Any]]:
        """Every cursor, each with `now` and whether it is `paused`."""
        paused = is_paused(self._now).label("paused")
        statement = select(job_schedules, paused, self._now.label("now"))
        async with self._database.reading() as connection:
            return {row.job: row for row in await connection.execute(statement)}

    async def recorded(self, job: str, after: int, until: int) -> Sequence[tuple[int, int]]:
        """What the ledger has between the two: the first and last fire time of each row."""
        async with self._database.reading() as connection:
            return await self._recorded(connection, job, after, until)

    async def _recorded(
        self, connection: AsyncConnection, job: str, after: int, until: int
    ) -> list[tuple[int, int]]:
        run = job_runs.c
        statement = (
            select(run.first_fire_time, run.fire_time)
            .where(run.job == job, run.fire_time > after)
            .where(or_(run.first_fire_time <= until, run.fire_time <= until))
            .order_by(run.fire_time)
        )
        rows = (await connection.execute(statement)).all()
        return [(last if first is None else first, last) for first, last in rows]

    async def account(
        self,
        job: str,
        old: int,
        new: int,
        missed: Iterable[Stretch],
        recorded: Sequence[tuple[int, int]],
    ) -> bool:
        """Record what was missed and move the cursor.

        False, and nothing written, if another replica has, or if there is more between the two
        by now than what was `recorded` when it was asked.
        """
        moved = update(job_schedules).where(_cursor.job == job, _cursor.accounted_until == old)
        async with self._database.writing() as connection:
            if (await connection.execute(moved.values(accounted_until=new))).rowcount != 1:
                return False
            if await self._recorded(connection, job, old, new) != list(recorded):
                await connection.rollback()
                return False
            for stretch in missed:
                row = {
                    "job": job,
                    "fire_time": stretch.last,
                    "first_fire_time": stretch.first,
                    "fires": stretch.fires,
                    "replica": self._replica,
                    "attempt": 0,
                    "outcome": "missed",
                    "finished_at": self._now,
                }
                insert = self._database.dialect.insert(job_runs).values(row)
                recording = insert.on_conflict_do_nothing().returning(job_runs.c.id)
                if (await connection.execute(recording)).first() is None:
                    await connection.rollback()  # it has just been claimed
                    return False
        return True

    async def pause(self, job: str, *, by: str, reason: str, until: int | None) -> bool:
        """Stop the job on all replicas, or change why and until when; False if it has no cursor."""
        since = case((is_paused(self._now), _cursor.paused_at), else_=self._now)
        values = {"paused_at": since, "paused_by": by, "pause_reason": reason}
        return await self._set(job, values | {"paused_until": until})

    async def resume(self, job: str, ended: Row[Any] | None = None) -> bool:
        """Let it run again. What it missed while paused is not owed; False if it was not paused.

        As from now, or from the end of the pause that had `ended` when it was read.
        """
        paused = ("paused_at", "paused_by", "pause_reason", "paused_until")
        until: ColumnElement[int] | int = self._now
        same: ColumnElement[bool] = _cursor.paused_at.is_not(None)
        if ended is not None:  # it may be paused anew
            until = max(ended.paused_at, ended.paused_until)
            same = and_(*(_cursor[name] == getattr(ended, name) for name in paused[::3]))
        values = {**dict.fromkeys(paused), "accounted_until": until, "since": until}
        return await self._set(job, values, same)

    async def reschedule(self, job: str, trigger: str) -> bool:
        """Give a declared job another trigger on all replicas, until its declaration changes."""
        owes_nothing = {"accounted_until": self._now, "since": self._now}
        return await self._set(job, owes_nothing | {"trigger": trigger})

    async def forget(self, job: str) -> None:
        async with self._database.writing() as connection:
            await connection.execute(delete(job_schedules).where(_cursor.job == job))

    async def _set(
        self, job: str, values: Mapping[str, Any], also: ColumnElement[bool] | None = None
    ) -> bool:
        which = _cursor.job == job if also is None else and_(_cursor.job == job, also)
        statement = update(job_schedules).where(which).values(**values)
        async with self._database.writing() as connection:
            return (await connection.execute(statement)).rowcount == 1
