"""A worker for the tests, as a process: `python -m tests.core.serving`, with FILE for notes."""

import asyncio
import os
from pathlib import Path

from app.core import wiring
from app.core.database import Database
from app.core.executors.engine import Message
from app.settings import Settings
from tests.core.engine_fixtures import engines


async def handle(message: Message) -> None:
    """Notes that it began, and is in no hurry to end."""
    Path(os.environ["FILE"]).write_text(message["key"])
    await asyncio.sleep(60)


async def main() -> None:
    settings = Settings.load()
    engine = engines.engine(settings, Database(settings, wiring.database.DIALECT))
    await engine.open()
    await engine.serve(1, handle, asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
