"""A file for each test, copied from one that was migrated once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from app.core import wiring
from app.core.database import Database
from app.core.migrate import migrate
from app.settings import Settings


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


def empty(folder: Path) -> str:
    return f"sqlite:///{folder / 'empty.db'}"


def unreachable(folder: Path) -> str:
    """A URL that is well formed, and that nothing can be opened at."""
    return f"sqlite:///{folder}"
