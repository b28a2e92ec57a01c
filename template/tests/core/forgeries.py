"""Entries that a job store may be made to hold, and of which nothing may be executed."""

import json
import pickle
import random
from pathlib import Path
from typing import Any, NamedTuple

from app.core.scheduling import Job
from tests.core.fixtures import Scheduling
from tests.core.waiting import runs, succeeded


class Forgery(NamedTuple):
    """The texts of an entry, at least one of which is not what the service would write."""

    job: str
    kwargs: str
    trigger: str


class Planted:
    """Unpickled, it leaves a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


def forgeries(proof: Path) -> dict[str, Forgery]:
    """A thousand, by id. Whatever of them is executed makes the file `proof`."""
    pickled = pickle.dumps(Planted(proof), protocol=0).decode("latin-1").replace("\0", "")
    shell = f"touch {proof}"
    good = Forgery("note", json.dumps({"file": str(proof)}), every(100_000))
    jobs = [
        "os:system",
        "os.system",
        "posix:system",
        "subprocess:getoutput",
        "builtins:eval",
        "app.core.migrate:main",
        "tests.core.sample_jobs:note",
        "app.jobs.note",
        f"__import__('os').system({shell!r})",
        "",
        " note",
        "NOTE",
        "n" * 200,
        pickled[:200],
    ]
    kwargs = [
        "",
        "{",
        "null",
        "[]",
        "3",
        pickled,
        "[" * 20_000,
        json.dumps({"command": shell}),
        json.dumps({"file": str(proof), "more": 1}),
        json.dumps({"run": None, "file": str(proof)}),
        json.dumps({"x" * 50_000: 1}),
        json.dumps([str(proof)]),
        json.dumps({}),
    ]
    triggers = [
        "",
        "null",
        "[]",
        pickled,
        "{" * 20_000,
        json.dumps({"type": "never"}),
        json.dumps({"type": ["interval"]}),
        json.dumps({"type": "interval", "step": "1", "offset": 0}),
        json.dumps({"type": "interval", "step": 100_000}),
        every(0),
        every(-100_000),
        every(10**30),
        json.dumps({"type": "cron", "expression": shell, "zone": None}),
        json.dumps({"type": "cron", "expression": "* * * * *", "zone": "../../../etc/passwd"}),
        json.dumps({"type": "cron", "expression": "* * * * *", "zone": 5}),
        json.dumps({"type": "date", "at": "tomorrow"}),
        json.dumps({"type": "date", "at": 0}),
    ]
    each = [
        *(good._replace(job=job) for job in jobs),
        *(good._replace(kwargs=text) for text in kwargs),
        *(good._replace(trigger=text) for text in triggers),
    ]
    several = [
        Forgery(job, text, trigger)
        for job in (good.job, *jobs)
        for text in (good.kwargs, *kwargs)
        for trigger in (good.trigger, *triggers)
        if sum((job != good.job, text != good.kwargs, trigger != good.trigger)) > 1
    ]
    drawn = random.Random(0).sample(several, 1000 - len(each))
    return {f"forged{number}": forgery for number, forgery in enumerate([*each, *drawn])}


def every(microseconds: int) -> str:
    return json.dumps({"type": "interval", "step": microseconds, "offset": 0})


async def none_runs(scheduling: Scheduling, note: Job, proof: Path, ids: set[str]) -> None:
    """They are shown for what they are, and hinder nothing that is in order."""
    async with scheduling() as service:
        added = await service.scheduler.add_job_async(
            note, "interval", seconds=0.1, kwargs={"file": f"{proof}-of-the-good"}
        )
        await succeeded(service.database, added.id)
        assert service.scheduler.orphans == ids
        assert [job.id for job in service.scheduler.get_jobs()] == [added.id]
        assert [job.id async for job in service.scheduler.get_jobs_async()] == [added.id]
        assert {row.job.split(":")[0] for row in await runs(service.database)} == {added.id}
    assert not proof.exists()
