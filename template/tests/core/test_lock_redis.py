"""Locks in Redis or Valkey: what only they can show."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from redis.exceptions import MovedError
from sqlalchemy import update

from app.core import redis as core_redis
from app.core import wiring
from app.core.database import Database
from app.core.locks import redis_scripts as scripts
from app.core.locks.redis import RedisLedger, _run_key
from app.core.redis import RedisServer, RedisUnavailable
from app.core.scheduling import Job, Run, interval, lock
from app.core.scheduling.answers import Early, Fire, Refused, Taken, Won
from app.core.scheduling.execution import Execution
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.statements import EARLY, completion
from app.core.schema import job_runs
from app.settings import Settings
from tests.core.fixtures import BRIEF_LEASE, Scheduling, environment, servers, time_goes_by
from tests.core.servers.valkey import PREFIX, cluster, only_to_read
from tests.core.test_ledger import leased, now
from tests.core.waiting import outcomes, runs, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("never_busy")]


@pytest.fixture
def server(settings: Settings) -> Iterator[redis.Redis]:
    """The server behind the service's back."""
    url = environment(settings)["LOCK_URL"]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    opened = leased(database, "a", 30)
    yield opened
    await opened.close()


@pytest.fixture
async def brief(database: Database) -> AsyncIterator[Ledger]:
    """One whose leases end soon."""
    opened = leased(database, "b", 0.05)
    yield opened
    await opened.close()


async def test_a_lost_claim_costs_the_database_nothing(
    ledger: Ledger, settings: Settings, tmp_path: Path
) -> None:
    fire = Fire("job", await now(ledger), "job")
    (won,) = await ledger.claim([fire])
    assert isinstance(won, Won)
    gone = settings.model_copy(update={"database_url": SecretStr(servers.unreachable(tmp_path))})
    late = leased(Database(gone, wiring.database.DIALECT), "late", 30)
    assert await late.claim([fire]) == [Taken(settled=False)]
    await ledger.finish(won.fence, "succeeded", attempt=1)
    assert await late.claim([fire]) == [Taken(settled=True)]
    (early,) = await late.claim([Fire("job", fire.time + 3_600_000_000, "job")])
    assert isinstance(early, Early)
    await late.close()


async def test_a_server_that_loses_its_memory_costs_a_try_and_no_second_run(
    ledger: Ledger, brief: Ledger, server: redis.Redis
) -> None:
    at = await now(ledger)
    (first,) = await brief.claim([Fire("job", at, "job")])
    assert isinstance(first, Won)
    server.flushdb()
    assert await ledger.claim([Fire("job", at, "job")]) == [Taken(settled=False)]
    assert await ledger.claim([Fire("job", at + 1, "job")]) == [Refused("skipped")]
    (other,) = await ledger.claim([Fire("other", at, "other")])
    assert isinstance(other, Won)
    assert other.fence > first.fence


async def test_after_a_loss_of_memory_nobody_is_taken_for_dead_for_a_lease(
    ledger: Ledger, brief: Ledger, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (won,) = await brief.claim([Fire("job", await now(brief), "job")])
    assert isinstance(won, Won)
    await asyncio.sleep(0.1)
    assert [row.fence for row in await ledger.expired()] == [won.fence]
    server.flushdb()
    monkeypatch.setattr(brief, "_lease_ms", 60_000)  # what it writes now is there to be seen
    assert await ledger.expired() == []
    assert await brief.beat([won.fence]) == {won.fence}
    assert server.exists(f"{PREFIX}run:job:{(await runs(ledger.database))[0].fire_time}")


@pytest.mark.parametrize(
    "state", [{"server": "another's"}, {"since": str(5 * 10**15)}], ids=["older", "set back"]
)
async def test_nor_with_a_server_that_has_a_state_of_another_time(
    ledger: Ledger, brief: Ledger, server: redis.Redis, state: dict[str, str]
) -> None:
    (won,) = await brief.claim([Fire("job", await now(brief), "job")])
    assert isinstance(won, Won)
    await asyncio.sleep(0.1)
    assert [row.fence for row in await ledger.expired()] == [won.fence]
    for key, value in state.items():
        server.set(f"{PREFIX}{key}", value)
    assert await ledger.expired() == []
    assert await brief.beat([won.fence]) == {won.fence}
    await asyncio.sleep(0.1)
    assert [row.fence for row in await brief.expired()] == [won.fence]


async def test_a_server_that_only_reads_is_not_ready(
    database: Database, settings: Settings
) -> None:
    """Nor is one that is full; or that became a replica."""
    reader = only_to_read(environment(settings)["LOCK_URL"])
    chosen = settings.model_copy(update={"lock_url": SecretStr(reader)})
    ledger = wiring.lock.ledger(chosen, database, "a")
    with pytest.raises(RedisUnavailable, match="the server of LOCK_URL"):
        await ledger.check()
    await ledger.close()


async def test_a_loss_of_memory_long_before_a_death_delays_no_take_over(
    brief: Ledger, server: redis.Redis
) -> None:
    server.flushdb()
    (won,) = await brief.claim([Fire("job", await now(brief), "job")])
    assert isinstance(won, Won)
    await asyncio.sleep(0.1)
    assert [row.fence for row in await brief.expired()] == [won.fence]


async def test_all_keys_lie_in_one_slot_of_a_cluster(ledger: Ledger, server: redis.Redis) -> None:
    await ledger.claim([Fire("job", await now(ledger), "job")])
    async with lock("import"):
        keys = [str(key) for key in server.scan_iter()]
    assert len(keys) >= 4
    assert all(key.startswith(PREFIX) for key in keys)


async def test_a_claim_whose_answer_did_not_arrive_is_ours_when_it_is_asked_again(
    ledger: Ledger, server: redis.Redis
) -> None:
    fire = Fire("job", await now(ledger), "job")
    server.set(f"{PREFIX}run:job:{fire.time}", "7:a", px=30_000)
    (won,) = await ledger.claim([fire])
    assert won == Won(7, 1)
    assert await ledger.claim([fire]) == [Taken(settled=False)]
    assert await ledger.beat([7]) == {7}


@BRIEF_LEASE
async def test_a_replica_that_lost_its_lease_stops_its_run(
    scheduling: Scheduling, declare: Callable[..., Job], server: redis.Redis
) -> None:
    ended: list[str] = []

    async def wait(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with scheduling() as service:
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")

        async def active() -> list[Execution]:
            return [run for run in service.runner._running.values() if run._body is not None]

        (held,) = await until(active)
        server.set(f"{PREFIX}run:{held.entry.key}:{held.time}", "1:somebody else")
        await until(lambda: asyncio.sleep(0, ended == ["cancelled"]))
        assert [row.outcome for row in await runs(service.database)] == [None]


async def test_a_silent_holder_loses_a_named_lock(database: Database, server: redis.Redis) -> None:
    async with lock("import", lease=0.3) as held:
        server.delete(f"{PREFIX}lock:import")  # as if its lease had gone by
        async with lock("import") as other:
            assert other.fence > held.fence
            await until(lambda: asyncio.sleep(0, held.lost))


async def test_a_server_that_is_not_there_is_named(database: Database, settings: Settings) -> None:
    gone = settings.model_copy(update={"lock_url": SecretStr("redis://127.0.0.1:1/0")})
    ledger = wiring.lock.ledger(gone, database, "a")
    with pytest.raises(RedisUnavailable, match=r"the server of LOCK_URL: .*127\.0\.0\.1:1"):
        await ledger.check()
    await ledger.close()


async def test_a_run_that_has_its_outcome_is_not_given_back(
    ledger: Ledger, server: redis.Redis
) -> None:
    """Its job's next fire waits until it is recorded how it ended."""
    at = await now(ledger)
    (won,) = await ledger.claim([Fire("job", at, "job")])
    assert isinstance(won, Won)
    with ledger.database.engine.begin() as connection:
        connection.execute(completion(wiring.database.DIALECT, won.fence, 30))
    assert not await ledger.hand_over(won.fence, [])
    assert server.exists(f"{PREFIX}{_run_key('job', at)}")
    assert await ledger.finish(won.fence, "interrupted", attempt=1) == "succeeded"
    assert server.get(f"{PREFIX}{_run_key('job', at)}") == scripts.DONE


async def test_a_zombie_does_not_get_its_old_fence_back(
    ledger: Ledger, brief: Ledger, server: redis.Redis
) -> None:
    """Frozen for longer than its lease, it wakes, and is asked to run the same fire once more."""
    fire = Fire("job", await now(brief), "job")
    (won,) = await brief.claim([fire])
    assert isinstance(won, Won)
    await asyncio.sleep(0.1)
    (row,) = await ledger.expired()
    again = await ledger.take_over(row, "job", [])
    assert again
    server.delete(f"{PREFIX}run:job:{fire.time}")  # as after a fail-over
    assert await brief.beat([won.fence]) == set()
    async with ledger.database.writing() as connection:
        await connection.execute(update(job_runs).values(lease_until=1))
    (row,) = await brief.expired()
    third = await brief.take_over(row, "job", [])
    assert third
    assert third.fence > again.fence > won.fence


async def test_a_fire_whose_winner_dies_before_it_is_recorded_runs_elsewhere(
    scheduling: Scheduling,
    declare: Callable[..., Job],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In between there is an election in Redis, and nothing in the ledger to take over."""

    async def often() -> None: ...

    dead: list[Fire] = []
    armed: list[bool] = []
    whole = RedisLedger._answer

    async def answer(self: RedisLedger, asked: Any) -> Any:
        first, given = bool(armed) and not dead, asked.values()
        if first:
            dead.extend(given)
            keys = [_run_key(fire.job, fire.time) for fire in given]
            times = [fire.time for fire in given]
            ours = ("dead", self._lease_ms, EARLY, *times)
            await self._redis.run(scripts.ELECT, ["fence", "since", "server", *keys], *ours)
        answers = await whole(self, asked)
        if first:
            assert set(answers.values()) == {Taken(settled=False)}
        return answers

    monkeypatch.setattr(RedisLedger, "_answer", answer)
    job = declare(often, interval(seconds=0.5), executor="asyncio", overlap="allow")
    # Long enough that on a busy machine, too, it is asked for before it is late.
    longer = settings.model_copy(update={"lease_seconds": 2})
    async with scheduling(job, settings=longer) as service:
        await outcomes(service.database, "often")
        armed.append(True)
        await until(lambda: asyncio.sleep(0, dead))

        async def ran() -> bool:
            found = {row.fire_time: row.outcome for row in await runs(service.database, "often")}
            return all(found.get(fire.time) == "succeeded" for fire in dead)

        await until(ran)


async def test_many_who_live_do_not_hide_one_who_is_dead(ledger: Ledger) -> None:
    at = await now(ledger)
    await ledger.claim([Fire(f"job{n}", at, None) for n in range(5)])
    async with ledger.database.writing() as connection:
        await connection.execute(update(job_runs).values(lease_until=1))
        dead = job_runs.c.job == "job4"
        await connection.execute(update(job_runs).where(dead).values(lease_until=0))
    assert [row.job for row in await ledger.expired(limit=2)] == ["job4"]


async def test_a_node_of_a_cluster_is_enough(settings: Settings, database: Database) -> None:
    """The other one has the slot: its clients are told, and ask there."""
    for number, url in enumerate(cluster()):
        chosen = settings.model_copy(update={"lock_url": SecretStr(url)})
        locks = wiring.lock.named_locks(chosen, database)
        fence = await asyncio.to_thread(locks.acquire, "import", 30)
        assert fence
        assert await asyncio.to_thread(locks.acquire, "import", 30) is None
        await asyncio.to_thread(locks.release, "import", fence)
        await asyncio.to_thread(locks.close)
        ledger = wiring.lock.ledger(chosen, database, "a")
        at = await now(ledger)
        fires = [Fire(f"job{number}{other}", at, "x") for other in "ab"]
        won, lost = await ledger.claim(fires[:1]), await ledger.claim(fires[1:])
        assert isinstance(won[0], Won)
        assert lost == [Refused("skipped")]
        assert await ledger.beat([won[0].fence]) == {won[0].fence}
        assert await ledger.finish(won[0].fence, "succeeded", attempt=1) == "succeeded"
        await ledger.close()


async def patiently(call: Callable[[], Awaitable[bool]]) -> bool:
    """A busy machine takes longer than a brief time-out."""
    with suppress(RedisUnavailable):
        return await call()
    return False


async def test_a_frozen_node_of_a_cluster_is_named_soon_and_nothing_is_ready(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one answers all the same: it has none of our keys."""
    monkeypatch.setattr(core_redis, "_TIMEOUT", 0.5)
    owner, _, other = nodes()
    chosen = settings.model_copy(update={"lock_url": SecretStr(other)})
    locks = wiring.lock.named_locks(chosen, database)
    ledger = wiring.lock.ledger(chosen, database, "a")

    async def answers() -> bool:
        await ledger.check()
        return bool(await asyncio.to_thread(locks.acquire, f"lock-{next(numbers)}", 30))

    numbers = count()
    await until(lambda: patiently(answers))
    with frozen(owner):
        for call in (ledger.check(), asyncio.to_thread(locks.acquire, "meanwhile", 30)):
            async with asyncio.timeout(5):  # redis-py's own attempts take longer
                with pytest.raises(RedisUnavailable, match="the server of LOCK_URL"):
                    await call
    await until(lambda: patiently(answers))
    await asyncio.to_thread(locks.close)
    await ledger.close()


async def test_a_cluster_none_of_whose_nodes_answers_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_redis, "_TIMEOUT", 0.1)
    owner, other, url = nodes()
    opened = RedisServer("LOCK_URL", SecretStr(url), settings.service_name)
    script = "return redis.call('EXISTS', KEYS[1])"

    async def known() -> bool:
        await opened.run(script, ["fence"])
        await asyncio.to_thread(opened.run_sync, script, ["fence"])
        return True

    await until(lambda: patiently(known))
    with frozen(owner), frozen(other):
        for _ in range(2):  # what was known of the cluster is forgotten in between
            with pytest.raises(RedisUnavailable, match="the server of LOCK_URL"):
                await opened.run(script, ["fence"])
            with pytest.raises(RedisUnavailable, match="the server of LOCK_URL"):
                await asyncio.to_thread(opened.run_sync, script, ["fence"])
    opened.close_sync()
    await opened.close()


def nodes() -> tuple[int, int, str]:
    """The processes of the node that has our keys and of the other one, and the other's URL."""
    one, two = cluster()
    with redis.Redis.from_url(one) as client:
        try:
            client.exists(f"{PREFIX}fence")
        except MovedError:
            one, two = two, one
    return process(one), process(two), two


def process(url: str) -> int:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return int(client.info("server")["process_id"])


@contextmanager
def frozen(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_silent_server_holds_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert core_redis._TIMEOUT < 5  # readiness gives up at that age
    monkeypatch.setattr(core_redis, "_TIMEOUT", 0.05)
    leaving = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leaving.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1") as silent:
        port = silent.sockets[0].getsockname()[1]
        opened = RedisServer("LOCK_URL", SecretStr(f"redis://127.0.0.1:{port}/0"), "any")
        for call in (
            opened.run("return 1", []),
            asyncio.to_thread(opened.run_sync, "return 1", []),
        ):
            async with asyncio.timeout(3):  # redis-py's own time-out is 5 s
                with pytest.raises(RedisUnavailable, match=r"the server of LOCK_URL: .*imeout"):
                    await call
        opened.close_sync()
        await opened.close()
        leaving.set()


async def test_a_holder_that_beats_again_keeps_its_run_from_who_saw_it_dead(
    database: Database, settings: Settings
) -> None:
    slow, other = leased(database, "slow", 60), leased(database, "other", 60)
    (won,) = await slow.claim([Fire("job", await now(slow), "job")])
    assert isinstance(won, Won)
    time_goes_by(settings, database, 61)
    (seen,) = await other.expired()
    assert await slow.beat([won.fence]) == {won.fence}
    assert await other.take_over(seen, "job", []) is None
    assert await slow.beat([won.fence]) == {won.fence}
    await slow.close()
    await other.close()


async def test_a_take_over_that_fails_keeps_the_run_from_nobody(
    database: Database, settings: Settings
) -> None:
    dead, busy, third, fourth = (leased(database, name, 60) for name in "abcd")
    at = await now(dead)
    assert isinstance((await dead.claim([Fire("job", at, "job")]))[0], Won)
    time_goes_by(settings, database, 61)
    (runs_again,) = await busy.claim([Fire("job", at + 1, "job")])
    assert isinstance(runs_again, Won)
    (corpse,) = await third.expired()
    assert await third.take_over(corpse, "job", []) is None
    await busy.finish(runs_again.fence, "succeeded", attempt=1)
    assert await fourth.take_over(corpse, "job", [])
    for each in (dead, busy, third, fourth):
        await each.close()
