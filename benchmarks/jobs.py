"""Jobs that do nothing, so that what is measured is the way to them."""

from __future__ import annotations

import time

from app.core.database import current
from app.core.scheduling import job
from sqlalchemy import text


def nothing() -> None:
    """As a bare pool runs it."""


async def nothing_async() -> None:
    """As a bare task runs it."""


@job(id="plain")
def plain_job() -> None:
    nothing()


@job(id="coroutine")
async def coroutine_job() -> None:
    await nothing_async()


@job(id="sleeping")
def sleeping_job() -> None:
    time.sleep(0.2)


@job(id="selecting")
async def selecting_job() -> None:
    async with current().session() as session:
        await session.execute(text("SELECT 1"))
