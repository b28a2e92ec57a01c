"""`/health/live` and `/health/ready`: what the service says about itself."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text

from app.core.database import Database
from app.core.logging import in_words
from app.core.migrate import pending
from app.core.problems import problem
from app.core.service import Service

router = APIRouter(prefix="/health", tags=["health"])
_TIMEOUT = 2.0
_OLDEST = 5.0
"""Seconds since the last good pass, or the last answer of the store; both happen each second."""


@router.get("/live")
async def live() -> dict[str, str]:
    """The event loop runs. A store that is down is no reason for a restart."""
    return {"status": "alive"}


@router.get("/ready", responses={503: {"description": "A check failed, and which."}})
async def ready(request: Request) -> JSONResponse:
    """The database answers, its schema is this version's, and the scheduler makes its passes."""
    state = request.app.state
    checks = {
        "database": await _database(state.database),
        "scheduler": await _scheduler(state.service, state.settings.scheduler_enabled),
    }
    if state.service.starting is not None:
        checks["start"] = state.service.starting
    failed = {name: why for name, why in checks.items() if why not in ("ok", "disabled")}
    if failed:
        return problem(503, "; ".join(f"{n}: {w}" for n, w in failed.items()), checks=checks)
    body: dict[str, Any] = {"status": "ready", "checks": checks}
    if orphans := len(state.service.scheduler.orphans):
        body["orphans"] = orphans
    return JSONResponse(body)


async def _database(database: Database) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT), database.reading() as connection:
            await connection.execute(text("SELECT 1"))
            behind = await connection.run_sync(pending)
    except Exception as error:
        return f"does not answer: {type(error).__name__}"
    return f"the schema is behind ({', '.join(behind)}): run `make migrate`" if behind else "ok"


async def _scheduler(service: Service, enabled: bool) -> str:
    """Not `.running`: that stays true when the passes have stopped."""
    if not enabled:
        return await _store(service) or "disabled"
    checks = {"claimed": service.ledger.check, "sent to workers": service.engine.check}
    for what, check in checks.items():
        try:
            async with asyncio.timeout(_TIMEOUT):
                await check()
        except (OSError, TimeoutError) as error:
            return f"nothing can be {what}: {in_words(error)}"
    scheduler = service.scheduler
    if scheduler.store_error:
        return f"the job store does not answer: {scheduler.store_error}"
    stamps: dict[str, Any] = {"pass": scheduler.last_pass, "answer": scheduler.last_poll}
    for what, stamp in stamps.items():
        if stamp is None:
            return f"no {what} yet"
        if (age := time.monotonic() - stamp) > _OLDEST:
            return f"the last good {what} was {age:.0f} s ago"
    return "ok"


async def _store(service: Service) -> str | None:
    """What keeps this replica from adding jobs; one that schedules asks the store each second."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            if service.definitions:
                await service.definitions.get("")
    except Exception as error:
        return f"the job store does not answer: {in_words(error)}"
    return None
