"""The ledger's answers: who may run what."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from app.core import wiring
from app.core.database import Database
from app.core.scheduling.answers import Early, Fire, Paused, Refused, Stale, Taken, Won
from app.core.scheduling.claims import Asked
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.statements import completion
from app.core.schema import job_runs
from app.settings import Settings
from tests.core.fixtures import time_goes_by
from tests.core.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("never_busy")]


def leased(database: Database, replica: str, lease: float) -> Ledger:
    """The chosen lock backend, with a lease; the memory lock's never ends."""
    assert isinstance(database.settings, Settings)
    settings = database.settings.model_copy(
        update={"lease_seconds": lease, "catch_up_seconds": 3600}
    )
    chosen = wiring.lock.ledger(settings, database, replica)
    return chosen if chosen.lease else Ledger(database, replica, lease, window=3600)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return leased(database, "a", 30)


@pytest.fixture
def other(database: Database) -> Ledger:
    return leased(database, "b", 30)


async def now(ledger: Ledger) -> int:
    async with ledger.database.reading() as connection:
        statement = select(wiring.database.DIALECT.now())
        return int((await connection.execute(statement)).scalar_one())


async def test_what_was_won_is_told_whatever_becomes_of_the_others(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, at = ledger._look, await now(ledger)

    async def look(asked: Asked) -> Sequence[Row[Any]]:
        if len(asked) < 3:  # those that another one was faster with
            raise OSError("the session has ended")
        return await whole(asked)

    monkeypatch.setattr(ledger, "_look", look)
    fires = [Fire("a", at, "a"), Fire("b", at, "b"), Fire("a", at + 1, "a")]
    first, second, overlapping = await ledger.claim(fires)
    assert isinstance(first, Won)
    assert isinstance(second, Won)
    assert isinstance(overlapping, Early)
    assert {first.fence, second.fence} == await ledger.beat([first.fence, second.fence])
    monkeypatch.undo()
    assert await ledger.claim(fires[2:]) == [Refused("skipped")]


async def test_a_fire_is_won_once(ledger: Ledger, other: Ledger) -> None:
    fire = Fire("job", await now(ledger), "job")
    (won,) = await ledger.claim([fire])
    assert isinstance(won, Won)
    assert await other.claim([fire]) == [Taken(settled=False)]
    assert await ledger.finish(won.fence, "succeeded", attempt=1) == "succeeded"
    assert await other.claim([fire]) == [Taken(settled=True)]


async def test_of_many_at_once_one_wins(ledger: Ledger) -> None:
    at = await now(ledger)
    fires = [Fire(f"job{n}", at, f"job{n}") for n in range(20)]
    rivals = [leased(ledger.database, f"r{n}", 30) for n in range(4)]
    answers = await asyncio.gather(*(rival.claim(fires) for rival in rivals))
    for of_one in zip(*answers, strict=True):
        assert sorted(type(answer).__name__ for answer in of_one) == ["Taken"] * 3 + ["Won"]
    fences = [
        answer.fence for of_rival in answers for answer in of_rival if hasattr(answer, "fence")
    ]
    assert len(set(fences)) == len(fires)


async def test_a_job_that_still_runs_lets_the_next_fire_pass(ledger: Ledger, other: Ledger) -> None:
    at = await now(ledger)
    await ledger.claim([Fire("job", at, "job")])
    assert await other.claim([Fire("job", at + 1, "job")]) == [Refused("skipped")]
    assert isinstance((await other.claim([Fire("job", at + 2, None)]))[0], Won)
    answers = await other.claim([Fire("new", at, "new"), Fire("new", at + 1, "new")])
    assert [type(answer) for answer in answers] == [Won, Refused]


async def test_a_fire_is_not_claimed_before_its_time_nor_long_after(ledger: Ledger) -> None:
    at = await now(ledger)
    (early,) = await ledger.claim([Fire("job", at + 600_000_000, "job")])
    assert isinstance(early, Early)
    assert 500 < early.seconds <= 600
    assert isinstance((await ledger.claim([Fire("job", at + 100_000, "job")]))[0], Won)
    assert await ledger.claim([Fire("old", at - 3601 * 10**6, "old")]) == [Refused("missed")]


async def test_a_fire_that_nobody_claimed_in_time_is_left_to_the_cursor(ledger: Ledger) -> None:
    at = await now(ledger) - 31_000_000
    assert await ledger.claim([Fire("job", at, "job", late=False)]) == [Stale()]
    assert isinstance((await ledger.claim([Fire("job", at, "job")]))[0], Won)


async def test_what_is_accounted_for_is_not_won_any_more(ledger: Ledger, other: Ledger) -> None:
    """It is in a stretch of missed fires; a row of its own would be a second outcome."""
    cursors = Cursors(ledger.database, "a")
    await cursors.register({"job": "its schedule"})
    until = (await cursors.all())["job"].accounted_until
    late = [Fire("job", until - 40_000_000 - n, None) for n in range(2)]
    assert await ledger.claim(late) == [Taken(settled=True)] * 2
    # Nor by who had looked at it before it was accounted for.
    assert await ledger._record({n: (fire, None) for n, fire in enumerate(late)}) == {}
    assert isinstance((await other.claim([Fire("job", until + 1, "job")]))[0], Won)


async def test_a_paused_job_is_not_claimed_and_nothing_is_recorded(ledger: Ledger) -> None:
    cursors = Cursors(ledger.database, "a")
    await cursors.register({"job": "f"})
    await cursors.pause("job", by="me", reason="holiday", until=None)
    fire = Fire("job", await now(ledger), "job")
    assert await ledger.claim([fire]) == [Paused()]
    await cursors.resume("job")
    fire = Fire("job", await now(ledger) + 100_000, "job")  # what was due before is not owed
    assert isinstance((await ledger.claim([fire]))[0], Won)


async def test_the_fence_only_grows(ledger: Ledger) -> None:
    at = await now(ledger)
    fences = []
    for n in range(5):
        (won,) = await ledger.claim([Fire("job", at + n, None)])
        assert isinstance(won, Won)
        fences.append(won.fence)
    assert fences == sorted(set(fences))


async def test_an_expired_run_is_taken_over_and_its_zombie_refused(
    database: Database, other: Ledger
) -> None:
    short = leased(database, "a", 0.03)
    fire = Fire("job", await now(short), "job")
    (won,) = await short.claim([fire])
    assert isinstance(won, Won)
    await asyncio.sleep(0.06)
    (row,) = await other.expired()
    assert (row.job, row.fire_time, row.attempt) == ("job", fire.time, 1)
    again = await other.take_over(row, "job", [{"attempt": 1, "outcome": "lost"}])
    assert again
    assert again.fence > won.fence
    assert again.attempt == 2
    assert await short.beat([won.fence]) == set()
    assert await short.finish(won.fence, "succeeded", attempt=1) is None
    assert await short.take_over(row, "job", []) is None
    assert await other.beat([again.fence]) == {again.fence}


async def test_a_silent_holder_may_come_back_if_nobody_took_over(database: Database) -> None:
    short = leased(database, "a", 0.03)
    (won,) = await short.claim([Fire("job", await now(short), "job")])
    assert isinstance(won, Won)
    await asyncio.sleep(0.06)
    assert await short.beat([won.fence]) == {won.fence}


async def test_a_dead_holder_does_not_turn_the_next_fire_into_skipped(
    database: Database, other: Ledger
) -> None:
    short = leased(database, "a", 0.03)
    at = await now(short)
    (corpse,) = await short.claim([Fire("job", at, "job")])
    assert isinstance(corpse, Won)
    await asyncio.sleep(0.06)
    (won,) = await other.claim([Fire("job", at + 1, "job")])
    assert isinstance(won, Won)
    # Its own fire is still owed, but not while the job runs.
    (row,) = await other.expired()
    assert row.fire_time == at
    assert await other.take_over(row, "job", []) is None
    await other.finish(won.fence, "succeeded", attempt=1)
    assert await until(lambda: other.take_over(row, "job", []))  # later, after a busy spell
    assert await short.beat([corpse.fence]) == set()


async def test_a_run_can_be_given_back_or_given_up(ledger: Ledger, other: Ledger) -> None:
    (won,) = await ledger.claim([Fire("job", await now(ledger), "job")])
    assert isinstance(won, Won)
    assert await ledger.hand_over(won.fence, [{"attempt": 1, "outcome": "interrupted"}])
    (row,) = await other.expired()
    assert await other.give_up(row.fence, "nobody knows it")
    assert await other.expired() == []
    assert not await ledger.hand_over(won.fence, [])


async def test_what_waited_for_workers_is_run_where_there_are_none_any_more(
    ledger: Ledger, other: Ledger
) -> None:
    """As after `copier update` to another executor: nobody would run it, and its key was held."""
    at = await now(ledger)
    (sent,) = await ledger.claim([Fire("job", at, "job", message={"key": "job"})])
    assert isinstance(sent, Won)
    assert await other.expired() == []
    async with ledger.database.writing() as connection:
        await connection.execute(update(job_runs).values(lease_until=0))
    (row,) = await other.expired()
    assert row.sent == 1
    taken = await other.take_over(row, "job", [])
    assert taken
    assert (taken.attempt, taken.fence > sent.fence) == (1, True)
    assert await other.finish(taken.fence, "succeeded", attempt=1) == "succeeded"


async def lapsed(ledger: Ledger, settings: Settings) -> tuple[int, Won]:
    """A claim whose lease has ended since, and when its fire was due."""
    at = await now(ledger)
    (won,) = await ledger.claim([Fire("job", at, "job")])
    assert isinstance(won, Won)
    time_goes_by(settings, ledger.database, 31)
    return at, won


async def test_who_could_not_write_because_nobody_could_keeps_the_run(
    ledger: Ledger, other: Ledger, database: Database, settings: Settings
) -> None:
    """A claim of its job's next fire takes it for dead as little as who looks for the dead."""
    at, won = await lapsed(ledger, settings)
    (row,) = await other.expired()
    database.busy_at = monotonic()
    following = [Fire("job", at + 1, "job"), Fire("another", at, "another")]
    early, free = await other.claim(following)
    assert isinstance(early, Early)
    assert isinstance(free, Won)
    assert await other.take_over(row, "job", []) is None
    assert not await other.give_up(won.fence, "its process died")
    assert await ledger.beat([won.fence]) == {won.fence}
    assert await other.claim(following[:1]) == [Refused("skipped")]


async def test_a_replica_does_not_take_itself_for_dead(
    ledger: Ledger, other: Ledger, database: Database, settings: Settings
) -> None:
    at, won = await lapsed(ledger, settings)
    ledger.running = [won.fence]
    assert await ledger.claim([Fire("job", at + 1, "job")]) == [Refused("skipped")]
    assert await ledger.beat([won.fence]) == {won.fence}
    time_goes_by(settings, database, 31)
    (again,) = await other.claim([Fire("job", at + 2, "job")])
    assert isinstance(again, Won)
    assert await ledger.beat([won.fence]) == set()


@pytest.mark.parametrize("completed", [True, False])
async def test_what_a_replica_has_lost_sight_of_holds_its_job_for_a_lease_at_most(
    ledger: Ledger, database: Database, settings: Settings, completed: bool
) -> None:
    at, won = await lapsed(ledger, settings)
    if completed:
        async with database.writing() as connection:
            await connection.execute(completion(database.dialect, won.fence, 30))
    (following,) = await ledger.claim([Fire("job", at + 1, "job")])
    assert isinstance(following, Won)
