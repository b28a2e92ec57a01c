"""Jobs on other machines, through Procrastinate: its queue is a table of the service's database."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ProcrastinateException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.types import JSONDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database import Database
from app.core.executors.engine import Engine, Handle, Message, message_id
from app.core.executors.procrastinate_connector import PatientConnector
from app.core.executors.procrastinate_tables import migrate, pending
from app.core.settings import ServiceSettings

__all__ = ["EngineSettings", "engine", "migrate", "pending"]
_log = logging.getLogger(__name__)
# Not the service's name: PostgreSQL refuses a NOTIFY to a channel of more than 63 bytes.
_QUEUE, _TASK = "runs", "run"
_RETRY = 1.0
_POLL = 2.0
_SELDOM = 86_400.0
# Longer than any outage that a worker sits out: its own row must still be there.
_DEAD_AFTER = 3_600.0
_RENEW = text(
    "UPDATE procrastinate_jobs SET args = jsonb_build_object('message', sent.value)"
    " FROM jsonb_each(CAST(:messages AS jsonb)) AS sent(id, value)"
    " WHERE queueing_lock = sent.id AND status = 'todo' RETURNING queueing_lock"
)


class EngineSettings(ServiceSettings):
    """It has none of its own: it queues in the database of DATABASE_URL."""


def engine(settings: ServiceSettings, database: Database) -> Engine:
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # below, it logs all arguments
    return _Procrastinate(database)


class _Procrastinate:
    name = "procrastinate"

    def __init__(self, database: Database) -> None:
        url = database.url.set(drivername="postgresql")
        self._url = url.render_as_string(hide_password=False)
        self._sending = JobManager(PsycopgConnector())

    async def open(self) -> None:
        """It sends through the connections of the service."""

    async def check(self) -> None:
        """Its queue is away when the database is."""

    async def close(self) -> None:
        """`serve` closes what it opens."""

    async def enqueue(self, connection: AsyncConnection, messages: Sequence[Message]) -> None:
        """What still waits in the queue keeps its place, and is brought up to date."""
        # As text: JSONB makes integers of large floats, and refuses NUL.
        sent = {message_id(message): json.dumps(dict(message)) for message in messages}
        waiting = await connection.scalars(_RENEW, {"messages": json.dumps(sent)})
        new = sent.keys() - set(waiting)
        jobs = [_job(id, sent[id]) for id in sent if id in new]
        if not jobs:
            return
        raw = (await connection.get_raw_connection()).driver_connection
        try:
            await self._sending.batch_defer_jobs_async(jobs, connection=raw)
        except ProcrastinateException as error:
            raise ConnectionError(f"Procrastinate: {error.__cause__ or error}") from error

    async def committed(self, messages: Sequence[Message]) -> None:
        """They were sent with the claim."""

    async def serve(self, slots: int, handle: Handle, stopping: asyncio.Event) -> None:
        connector = PatientConnector(stopping)
        app = App(connector=connector)

        @app.task(name=_TASK)
        async def run(message: str) -> None:
            await handle(json.loads(message))

        async with connector.connected(self._url):
            working = asyncio.create_task(_work(app, slots, stopping))
            try:
                await stopping.wait()
            finally:
                working.cancel()  # it fetches no more, and ends when its jobs have
                await asyncio.wait({working})


def _job(id: str, message: str) -> Job:
    kwargs: JSONDict = {"message": message}
    return Job(queue=_QUEUE, task_name=_TASK, lock=None, queueing_lock=id, task_kwargs=kwargs)


async def _work(app: App, slots: int, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            await _forget_the_dead(app.job_manager)
            await app.run_worker_async(
                queues=[_QUEUE],
                concurrency=slots,
                fetch_job_polling_interval=_POLL,
                abort_job_polling_interval=_SELDOM,
                stalled_worker_timeout=_DEAD_AFTER,
                delete_jobs="always",
                install_signal_handlers=False,
            )
        except Exception as error:
            _log.warning("Procrastinate's worker ended, and is started again: %r", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _RETRY)


async def _forget_the_dead(manager: JobManager) -> None:
    """Delete what killed workers had fetched: the ledger sees to it that it runs."""
    for job in await manager.get_stalled_jobs(queue=_QUEUE, seconds_since_heartbeat=_DEAD_AFTER):
        await manager.finish_job(job, Status.FAILED, delete_job=True)
