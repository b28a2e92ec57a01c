"""What a job function receives: which fire this is, and the transaction that completes it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import CursorResult, Update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from app.core.database import Database, current
from app.core.databases import Dialect
from app.core.scheduling.statements import completion, touch

if TYPE_CHECKING:
    from app.settings import Settings


class FenceLost(RuntimeError):
    """Somebody else has taken this run over: nothing it does may change anything any more."""


@dataclass
class Run:
    """One execution of a job. A plain object: a test makes one by hand.

    Without a `fence` there is no row in the ledger to complete, as in such a test.
    """

    settings: Settings
    job_id: str = "test"
    fire_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    attempt: int = 1
    fence: int | None = None
    """Only grows: hand it to a system that can refuse a smaller one than it has seen."""
    run_id: int = 0
    key: str | None = None
    """What the fire was claimed by: `job_id`, but for a job that was added at run time."""
    database: Database | None = field(default=None, repr=False)
    _opened: bool = field(default=False, init=False, repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same for each attempt at this fire: for effects outside the database."""
        return f"{self.key or self.job_id}@{self.fire_time.astimezone(UTC).isoformat()}"

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"job.{self.job_id}")

    def unit_of_work(self) -> Transaction:
        """Your writes and the run's completion: one transaction. Fetch first, write last.

        `async with` gives an `AsyncSession`, `with` a `Session`. Opens once. Raises `FenceLost`,
        and writes nothing, if the run was taken over meanwhile.
        """
        if self._opened:
            raise RuntimeError(
                f"{self.job_id}: unit_of_work() completes the run and opens once; for writes "
                "before that use run.transaction()"
            )
        self._opened = True
        return Transaction(self, completion)

    def transaction(self) -> Transaction:
        """Your writes alone, fenced like `unit_of_work()` but not completing the run."""
        return Transaction(self, touch)


class Transaction(AbstractAsyncContextManager[AsyncSession], AbstractContextManager[Session]):
    """A transaction that commits only if the run is still ours; its fenced statement comes last."""

    def __init__(self, run: Run, last_statement: Callable[[Dialect, int, float], Update]) -> None:
        self._run = run
        self._database = run.database or current()
        self._last_statement = last_statement

    async def __aenter__(self) -> AsyncSession:
        self._async = self._fenced()
        return await self._async.__aenter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._async.__aexit__(*error)

    def __enter__(self) -> Session:
        self._sync = self._fenced_sync()
        return self._sync.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._sync.__exit__(*error)

    @asynccontextmanager
    async def _fenced(self) -> AsyncIterator[AsyncSession]:
        async with self._database.unit_of_work() as session:
            yield session
            if self._run.fence is not None:
                await session.flush()
                self._check(await (await session.connection()).execute(self._statement))

    @contextmanager
    def _fenced_sync(self) -> Iterator[Session]:
        with self._database.unit_of_work_sync() as session:
            yield session
            if self._run.fence is not None:
                session.flush()
                self._check(session.connection().execute(self._statement))

    @property
    def _statement(self) -> Update:
        assert self._run.fence is not None
        lease = self._database.settings.lease_seconds
        return self._last_statement(self._database.dialect, self._run.fence, lease)

    def _check(self, result: CursorResult[Any]) -> None:
        if result.rowcount != 1:
            raise FenceLost(
                f"{self._run.idempotency_key}: taken over, or completed before; rolled back"
            )
