"""The store in memory: the guide's own way of adding a job works as it stands."""

from pathlib import Path

import pytest

from tests.core import sample_jobs
from tests.core.fixtures import Scheduling
from tests.core.waiting import succeeded

pytestmark = pytest.mark.anyio


async def test_a_method_of_a_service_runs_in_a_worker_process(
    scheduling: Scheduling, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    mine = sample_jobs.Service(str(file))
    async with scheduling() as service:
        for seconds in (300, 0.1):  # the second replaces the first
            service.scheduler.add_job(
                mine.run_public_contract_aggregation_job,
                "interval",
                seconds=seconds,
                id="aggregate",
                name="Aggregate public contracts",
                replace_existing=True,
                executor="processpool",
            )
        await succeeded(service.database, "aggregate")
    assert file.read_text()
