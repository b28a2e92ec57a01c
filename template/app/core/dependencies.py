"""What routes ask for: `CurrentSettings`, `Scheduler`, `UnitOfWork`, `Reading`."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import Database
from app.core.scheduling.scheduler import ServiceScheduler
from app.settings import Settings


async def settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


async def scheduler(request: Request) -> ServiceScheduler:
    found: ServiceScheduler = request.app.state.scheduler
    return found


async def unit_of_work(request: Request) -> AsyncIterator[AsyncSession]:
    """One transaction around the route: committed before it answers, rolled back on any error."""
    database: Database = request.app.state.database
    async with database.unit_of_work() as session:
        yield session


async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    """A session that only reads, and waits for no writer."""
    database: Database = request.app.state.database
    async with database.session() as session:
        yield session


CurrentSettings = Annotated[Settings, Depends(settings)]
Scheduler = Annotated[ServiceScheduler, Depends(scheduler)]
# FastAPI's default scope ends after the response has been sent: an answer before the commit.
UnitOfWork = Annotated[AsyncSession, Depends(unit_of_work, scope="function")]
Reading = Annotated[AsyncSession, Depends(reading, scope="function")]
