"""Statistics over the stored contracts: work for the processor, so in a worker process."""

from sqlalchemy import delete, select

from app.core.database import current
from app.core.scheduling import Run, cron, job
from app.services.models import Contract, PriceQuantile


@job(cron("15 * * * *"), kwargs={"quantiles": [0.1, 0.5, 0.9]}, executor="processpool")
def price_quantiles(run: Run, quantiles: list[float]) -> None:
    """Store what so many of all contracts cost at most; at a quarter past each hour."""
    with current().session_sync() as session:
        prices = sorted(session.scalars(select(Contract.price)))
    costs = {q: prices[int(q * (len(prices) - 1))] for q in quantiles if prices}
    with run.unit_of_work() as session:
        session.execute(delete(PriceQuantile))
        session.add_all(PriceQuantile(quantile=q, price=price) for q, price in costs.items())
