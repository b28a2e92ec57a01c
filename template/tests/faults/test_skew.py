"""Clocks that are wrong: the store's says when it is time."""

from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from app.core.scheduling import Run, interval
from app.core.scheduling.cursors import Cursors
from app.settings import Settings
from tests.core.fixtures import Declare, Scheduling
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio
STEP = 2_500_000
"""Microseconds: more than the loop that all replicas share here stands still."""


@pytest.mark.parametrize(
    "clocks",
    [(-2, 0, 2), (2, 2), (-2, -2)],
    ids=["some are wrong", "all are ahead", "all are behind"],
)
async def test_each_fire_runs_once_never_early_and_none_is_missed(
    scheduling: Scheduling, settings: Settings, declare: Declare, clocks: tuple[float, ...]
) -> None:
    patient = settings.model_copy(update={"lease_seconds": 10})
    began: list[datetime] = []

    async def watched(run: Run) -> None:
        began.append(run.fire_time)

    job = declare(watched, interval(seconds=STEP / 1e6), executor="asyncio", overlap="allow")
    async with AsyncExitStack() as replicas:
        for ahead in clocks:
            replica = scheduling(job, settings=patient, ahead=ahead)
            service = await replicas.enter_async_context(replica)

        async def enough() -> bool:
            return len(began) >= 3

        await until(enough, 120)
        rows = await runs(service.database, "watched")
        since = (await Cursors(service.database, "").all())["watched"].since
    assert set(Counter(began).values()) == {1}
    assert all(row.claimed_at >= row.fire_time - 250_000 for row in rows if row.claimed_at)
    assert {row.outcome for row in rows} <= {"succeeded", None}
    fires = [row.fire_time for row in rows]
    assert fires == list(range(since // STEP * STEP + STEP, fires[-1] + 1, STEP))


async def test_a_clock_that_is_set_forward_makes_it_miss_nothing(
    scheduling: Scheduling, settings: Settings, declare: Declare
) -> None:
    patient = settings.model_copy(update={"lease_seconds": 30})
    began: list[datetime] = []

    async def watched(run: Run) -> None:
        began.append(run.fire_time)

    job = declare(watched, interval(seconds=STEP / 1e6), executor="asyncio", overlap="allow")
    async with scheduling(job, settings=patient) as service:
        for count in (1, 4):

            async def enough(count: int = count) -> bool:
                return len(began) >= count

            await until(enough, 25)
            service.scheduler.clock = lambda: datetime.now(UTC) + timedelta(seconds=60)
            service.scheduler.wakeup()  # before it has heard of the store's
        found = await runs(service.database, "watched")
    assert sorted(began)[-1] - sorted(began)[0] == timedelta(microseconds=STEP * (len(began) - 1))
    assert {row.outcome for row in found} <= {"succeeded", None}
