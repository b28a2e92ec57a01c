"""A file for each test, copied from one that was migrated once."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, make_url

from app.core import wiring
from app.core.database import Database
from app.core.migrate import migrate
from app.settings import Settings

Outage = Callable[[], AbstractContextManager[None]]
_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def databases(folder: Path) -> Iterator[tuple[Callable[[], str], Callable[[str], None]]]:
    """Gives two functions: one returns the URL of an empty database, one ends its use."""
    original = folder / "migrated.db"
    database = Database(
        Settings(database_url=SecretStr(f"sqlite:///{original}")), wiring.database.DIALECT
    )
    migrate(database)
    database.engine.dispose()
    count = 0

    def new() -> str:
        nonlocal count
        count += 1
        return f"sqlite:///{shutil.copy(original, folder / f'test{count}.db')}"

    yield new, lambda url: None


@contextmanager
def apart(folder: Path) -> Iterator[tuple[str, list[Outage]]]:
    """A migrated database, and what keeps everybody from writing to it for a while."""
    file = folder / "apart.db"

    @contextmanager
    def held() -> Iterator[None]:
        command = [sys.executable, "-c", _HOLD, str(file)]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            try:
                yield
            finally:
                process.kill()

    with databases(folder) as (new, _):
        shutil.copy(make_url(new()).database or "", file)
        yield f"sqlite:///{file}", [held]


def protected(url: str, secret: str) -> str:
    """The same database, at a URL that holds a secret: here, in the path of the file."""
    file = Path(make_url(url).database or "")
    (file.parent / secret).mkdir(exist_ok=True)
    return f"sqlite:///{file.rename(file.parent / secret / file.name)}"


def empty(folder: Path) -> str:
    return f"sqlite:///{folder / 'empty.db'}"


def goes_through(connection: Connection, table: str, statement: str, parameters: Any) -> bool:
    """Would it read the table, or an index of all its rows, from end to end?"""
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    steps = [str(step) for *_, step in plan if str(step).startswith(f"SCAN {table}")]
    return any("_open" not in step for step in steps)


def unreachable(folder: Path) -> str:
    """A URL that is well formed, and that nothing can be opened at."""
    return f"sqlite:///{folder}"
