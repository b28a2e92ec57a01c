"""Connections, sessions, transactions: one way to the database for routes, jobs, scheduler."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from time import monotonic
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.databases import Dialect
from app.core.settings import ServiceSettings

AWAY = (SQLAlchemyError, OSError, TimeoutError)
"""What is raised where the database does not answer, or not as it should."""

_TIMEOUT = 5.0
_BUSY = 0.1
_Engines = WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine]


class Base(DeclarativeBase):
    """Base of your models. Alembic's autogenerate sees every model under it."""


class WroteTooLong(RuntimeError):
    """A transaction kept every other writer of the service waiting for too long."""


class Database:
    """The engines of one process, opened on first use.

    An asynchronous connection belongs to the event loop that opened it, and jobs in threads have
    a loop of their own: so there are engines for each loop, and one for synchronous code. The
    scheduler's own connections are apart from yours: fifteen slow routes must not cost it a lease.
    """

    def __init__(self, settings: ServiceSettings, dialect: Dialect) -> None:
        self.settings = settings
        self.dialect = dialect
        self.url = make_url(settings.database_url.get_secret_value())
        self.busy_at = float("-inf")
        """`time.monotonic()` when somebody had kept all others from writing for a while."""
        self._yours: _Engines = WeakKeyDictionary()
        self._own: _Engines = WeakKeyDictionary()

    @cached_property
    def engine(self) -> Engine:
        """For synchronous code, in any thread."""
        url = self.url.set(drivername=self.dialect.sync_driver)
        engine = create_engine(url, **self.dialect.options(url, _TIMEOUT))
        self.dialect.prepare(engine)
        return engine

    @property
    def async_engine(self) -> AsyncEngine:
        """For coroutines of the running loop."""
        return self._of_loop(self._yours)

    def _of_loop(self, engines: _Engines) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if loop not in engines:
            url = self.url.set(drivername=self.dialect.async_driver)
            options = self.dialect.options(url, _TIMEOUT)
            if engines is self._own:  # what fails is tried again anyway, so spare it a round trip
                options["pool_pre_ping"] = False
            engine = create_async_engine(url, **options)
            lease = self.settings.lease_seconds if engines is self._own else None
            self.dialect.prepare(engine.sync_engine, lease)
            engines[loop] = engine
        return engines[loop]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Statements that read, each for itself, and wait for no writer."""
        engine = self._of_loop(self._own).execution_options(**self.dialect.reading)
        async with asyncio.timeout(_TIMEOUT), engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, alone: bool = False) -> AsyncIterator[AsyncConnection]:
        """A short transaction of the scheduler's own; `alone`: for one statement."""
        engine, asked = self._of_loop(self._own), monotonic()
        if alone:
            engine = engine.execution_options(**self.dialect.alone)
        try:
            async with asyncio.timeout(_TIMEOUT * 2), engine.begin() as connection:
                if monotonic() - asked > _BUSY and self.dialect.longest_write(1) is not None:
                    self.busy_at = monotonic()
                yield connection
        except OperationalError as error:
            if is_busy(error):
                self.busy_at = monotonic()
            raise

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads."""
        engine = self.async_engine.execution_options(writes=False)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def session_sync(self) -> Iterator[Session]:
        """The same for synchronous code."""
        engine = self.engine.execution_options(writes=False)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end, rolled back on any error."""
        session = AsyncSession(self.async_engine, expire_on_commit=False)
        async with session, session.begin():
            await session.connection()
            with self._in_time():
                yield session

    @contextmanager
    def unit_of_work_sync(self) -> Iterator[Session]:
        """The same for synchronous code."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection()
            with self._in_time():
                yield session

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Measure from the moment when the transaction holds its lock, to just before COMMIT."""
        started = monotonic()
        yield
        held = monotonic() - started
        longest = self.dialect.longest_write(self.settings.lease_seconds)
        if longest is not None and held > longest:
            raise WroteTooLong(
                f"the transaction was open for {held:.1f} s and is rolled back: nothing else in "
                f"the service could write meanwhile. Fetch first, write last; at most "
                f"{longest:.1f} s, a third of LEASE_SECONDS={self.settings.lease_seconds:g}"
            )

    async def close(self) -> None:
        """Close the running loop's connections, and those of synchronous code."""
        for engines in (self._yours, self._own):
            if engine := engines.pop(asyncio.get_running_loop(), None):
                await engine.dispose()
        if "engine" in self.__dict__:
            await asyncio.to_thread(self.engine.dispose)


def is_busy(error: BaseException) -> bool:
    """Did SQLite refuse because somebody else is writing? Then nobody else gets in either."""
    return isinstance(error, OperationalError) and "database is locked" in str(error)


_current: Database | None = None


def use(database: Database | None) -> None:
    """Make this the database of the process: the lifespan and each worker say so once."""
    global _current
    _current = database


def current() -> Database:
    """The database of this process. Raises `RuntimeError` where nothing has been started."""
    if _current is None:
        raise RuntimeError(
            "no database is open in this process: start the application, or use the `client` or "
            "`run` fixture of tests/conftest.py"
        )
    return _current
