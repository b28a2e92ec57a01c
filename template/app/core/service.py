"""One replica: what it consists of, and in which order that starts and stops."""

import asyncio
import importlib
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

from app.core import database, wiring
from app.core.databases import AlreadyScheduling
from app.core.executors.local import local_executors
from app.core.migrate import migrate, pending
from app.core.scheduling import named_lock
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.declaration import Job
from app.core.scheduling.runner import Runner
from app.core.scheduling.scheduler import ServiceScheduler
from app.core.tasks import end
from app.settings import Settings

_log = logging.getLogger(__name__)
_PATIENCE = 10.0
_RETRY = 1.0
_runners = importlib.import_module(f"app.core.scheduling.{wiring.RUNNER}")


class Service:
    """The live resources of one replica, from its start to its stop."""

    def __init__(self, settings: Settings, jobs: Mapping[str, Job]) -> None:
        self.settings = settings
        self.database = database.Database(settings, wiring.database.DIALECT)
        database.use(self.database)
        self._named_locks = wiring.lock.named_locks(settings, self.database)
        named_lock.use(self._named_locks)
        replica = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.ledger = wiring.lock.ledger(settings, self.database, replica)
        self._executors = local_executors(settings, self.database)
        self.engine = wiring.engine.engine(settings, self.database)
        self.runner: Runner = _runners.make_runner(self.ledger, self._executors, self.engine)
        self.definitions = wiring.store.definitions(settings, self.database)
        self.scheduler = ServiceScheduler(
            settings,
            self.runner,
            Cursors(self.database, replica),
            self.definitions,
            jobs,
            wiring.DEFAULT_EXECUTOR,
        )
        self._claiming = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self.starting: str | None = "starting"
        """What the start waits for; None once it is through."""
        self._stopped = False

    async def start(self) -> None:
        """Start, or go on trying in the background: the web part serves without the database.

        Raises `AlreadyScheduling` where a second scheduling process is not allowed.
        """
        self._starting = asyncio.create_task(self._start(), name="start")
        first_try = asyncio.create_task(self._tried.wait())
        await asyncio.wait(
            {self._starting, first_try}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        first_try.cancel()
        if self._starting.done():
            self._starting.result()

    async def _start(self) -> None:
        while True:
            try:
                self.starting = await self._try_to_start()
            except database.AWAY as error:
                await self._claiming.aclose()
                self.starting = f"the database does not answer: {type(error).__name__}"
                if isinstance(error, ConnectionError):  # it says which server, and where
                    self.starting = str(error)
                _log.debug("start", exc_info=error)
            except AlreadyScheduling as error:
                if not self._tried.is_set():
                    raise
                self.starting = str(error)
            except Exception as error:
                await self._claiming.aclose()
                if not self._tried.is_set():
                    raise
                self.starting = f"an error, in the log: {error!r}"
                _log.exception("the start failed; the next attempt follows")
            if self.starting is None:
                return
            _log.warning("not started yet: %s", self.starting)
            self._tried.set()
            await asyncio.sleep(_RETRY)

    async def _try_to_start(self) -> str | None:
        """Everything that needs the database. Returns what is missing, None if nothing is."""
        if self._migrates:
            await asyncio.to_thread(migrate, self.database)
        else:
            async with self.database.reading() as connection:
                if behind := await connection.run_sync(pending):
                    return f"the schema is behind ({', '.join(behind)}): run `make migrate`"
        await self.begin()
        return None

    async def begin(self) -> None:
        """Start what needs the database: to schedule, unless SCHEDULER_ENABLED is false."""
        if self.settings.scheduler_enabled:
            await self._claiming.enter_async_context(wiring.lock.claiming(self.ledger))
            await self.scheduler.prepare()
            self.runner.start()
            self.scheduler.start()
            _log.info("scheduling", extra={"jobs": len(self.scheduler.get_jobs())})

    async def finish(self) -> None:
        """After the drain, before the connections are closed."""

    @property
    def _migrates(self) -> bool:
        asked = self.settings.migrate_on_start
        by_default = self.settings.local or wiring.database.DIALECT.migrates_on_start
        return by_default if asked is None else asked

    async def stop(self) -> None:
        """Drain, and close everything; also what a failed start had opened."""
        if self._stopped:
            return
        self._stopped = True
        await end(self._starting)
        await self.scheduler.stop()
        await self.runner.drain(self.settings.shutdown_grace_seconds)
        await self.finish()
        await asyncio.gather(*(executor.close() for executor in self._executors.values()))
        await self._claiming.aclose()
        named_lock.use(None)
        await asyncio.to_thread(self._named_locks.close)
        await self.ledger.close()
        await self.runner.close()
        if self.definitions:
            await self.definitions.close()
        database.use(None)
        await self.database.close()
