"""Clocks that are wrong by two seconds: the store's says when it is time."""

from collections import Counter
from contextlib import AsyncExitStack
from datetime import datetime

import pytest

from app.core.scheduling import Run, interval
from app.core.scheduling.triggers import microseconds
from app.settings import Settings
from tests.core.fixtures import Declare, Scheduling
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio
STEP = 200_000


@pytest.mark.parametrize("clocks", [(-2, 0, 2), (2, 2)], ids=["some are wrong", "all are ahead"])
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
            return len(began) >= 30

        await until(enough, 120)
        rows = await runs(service.database, "watched")
    assert set(Counter(began).values()) == {1}
    assert all(row.claimed_at >= row.fire_time - 250_000 for row in rows if row.claimed_at)
    # What the clock of a replica had passed when it started is not its to submit.
    submitted = [row for row in rows if row.fire_time > microseconds(began[10])]
    assert {row.outcome for row in submitted} <= {"succeeded", None}
    fires = [row.fire_time for row in submitted]
    assert fires == list(range(fires[0], fires[-1] + 1, STEP))
