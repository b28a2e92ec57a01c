"""Contracts over HTTP: list them, and ask for a refresh."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict

from app.core.dependencies import CurrentSettings, Reading, Scheduler
from app.core.scheduling import RunRecord, last_run
from app.jobs.contracts import refresh_contracts
from app.services.contracts import ContractAggregation
from app.services.esi import EsiClient

_LARGEST = 2**63 - 1
router = APIRouter(prefix="/contracts", tags=["contracts"])


async def aggregation(settings: CurrentSettings) -> ContractAggregation:
    """Built as the job builds it: from the settings alone."""
    return ContractAggregation(settings, EsiClient(settings))


Aggregation = Annotated[ContractAggregation, Depends(aggregation)]


class ContractOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    contract_id: int
    region_id: int
    type: str
    title: str
    price: float
    date_expired: str


class Contracts(BaseModel):
    total: int
    contracts: list[ContractOut]


class Refresh(BaseModel):
    id: str


@router.get("")
async def list_contracts(
    session: Reading,
    service: Aggregation,
    region: Annotated[int | None, Query(ge=0, le=_LARGEST)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=_LARGEST)] = 0,
) -> Contracts:
    """The stored contracts, by id."""
    found = await service.stored(session, region, limit, offset)
    return Contracts(
        total=await service.count(session, region),
        contracts=[ContractOut.model_validate(contract) for contract in found],
    )


@router.post("/refresh", status_code=202)
async def refresh(scheduler: Scheduler, response: Response) -> Refresh:
    """Fetch once, as soon as possible. The job is in the job store before this answers."""
    job = await scheduler.add_job_async(refresh_contracts)
    response.headers["Location"] = f"/contracts/refresh/{job.id}"
    return Refresh(id=job.id)


@router.get("/refresh/{id}")
async def refreshed(id: str, session: Reading) -> RunRecord:
    """What became of a refresh; 404 until it has been claimed."""
    record = await last_run(session, id)
    if record is None:
        raise HTTPException(404, "not run yet, or never asked for")
    return record
