"""Contracts over HTTP: list them, and ask for a refresh."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.core.dependencies import CurrentSettings, Reading, Scheduler
from app.core.scheduling import RunRecord, last_run
from app.jobs.contracts import refresh_contracts
from app.services.contracts import ContractAggregation
from app.services.esi import EsiClient, EsiContract
from app.services.models import Contract

router = APIRouter(prefix="/contracts", tags=["contracts"])


async def aggregation(settings: CurrentSettings) -> ContractAggregation:
    """Built as the job builds it: from the settings alone."""
    return ContractAggregation(settings, EsiClient(settings))


@router.get("", response_model=list[EsiContract])
async def list_contracts(
    session: Reading,
    service: Annotated[ContractAggregation, Depends(aggregation)],
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[Contract]:
    """The stored contracts, by id: for the next page, those after the last id of this one."""
    return await service.stored(session, after, limit)


@router.post("/refresh", status_code=202)
async def refresh(scheduler: Scheduler, response: Response) -> dict[str, str]:
    """Fetch once, as soon as possible. The job is in the job store before this answers."""
    job = await scheduler.add_job_async(refresh_contracts)
    response.headers["Location"] = f"/contracts/refresh/{job.id}"
    return {"id": job.id}


@router.get("/refresh/{id}")
async def refreshed(id: str, session: Reading) -> RunRecord:
    """What became of a refresh; 404 until it has been claimed."""
    if record := await last_run(session, id):
        return record
    raise HTTPException(404, "not run yet, or never asked for")
