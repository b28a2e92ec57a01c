"""Statistics over the stored contracts: work for the processor, so in a worker process."""

from app.core.database import current
from app.core.scheduling import Run, cron, job
from app.services.contracts import PriceStatistics


@job(cron("15 * * * *"), kwargs={"quantiles": [0.1, 0.5, 0.9]}, executor="processpool")
def price_quantiles(run: Run, quantiles: list[float]) -> None:
    """At a quarter past each hour."""
    statistics = PriceStatistics()
    with current().session_sync() as session:
        computed = statistics.compute(session, quantiles)
    with run.unit_of_work() as session:
        statistics.store(session, computed)
