"""Contracts over HTTP: list them, and ask for a refresh."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from app.core.dependencies import Reading, Scheduler
from app.core.scheduling import RunRecord, last_run
from app.jobs.contracts import refresh_contracts
from app.services.contracts import count_contracts
from app.services.models import Contract

router = APIRouter(prefix="/contracts", tags=["contracts"])


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
    region: int | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Contracts:
    """The stored contracts, by id."""
    statement = select(Contract).order_by(Contract.contract_id).limit(limit).offset(offset)
    if region is not None:
        statement = statement.where(Contract.region_id == region)
    found = (await session.scalars(statement)).all()
    return Contracts(
        total=await count_contracts(session),
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
