"""Jobs that do nothing, so that what is measured is the way to them."""

from __future__ import annotations

from app.core.scheduling import job


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
