"""Keep the public contracts of the configured regions up to date."""

from app.core.scheduling import Run, interval, job, lock
from app.services.contracts import ContractAggregation
from app.services.esi import EsiClient


@job(
    lambda settings: interval(minutes=settings.aggregation_interval_minutes),
    executor="asyncio",
    timeout=240,
    retries=2,
)
async def aggregate_public_contracts(run: Run) -> None:
    """Store every public contract that appeared since the last run."""
    service = ContractAggregation(run.settings, EsiClient(run.settings))
    # The lock is for the refresh below; two runs of this job never overlap anyway.
    async with lock("contracts", wait=60):
        pages = await service.fetch()
        # The work and the run's completion: one transaction.
        async with run.unit_of_work() as session:
            stored = await service.store(session, pages)
    run.log.info("stored contracts", extra={"contracts": stored})


@job(executor="asyncio", timeout=240)
async def refresh_contracts(run: Run) -> None:
    """The same, once, when somebody asks for it: see app/api/contracts.py."""
    await aggregate_public_contracts(run)
