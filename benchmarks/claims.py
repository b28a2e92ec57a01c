"""A claim and its record, against a committed INSERT and the bare round trip of the server."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path

from benchmarks.figures import Times, in_turn, plain, ratio, total
from benchmarks.rendered import measure, render, settings

VARIANTS = (("postgresql", "database"), ("sqlite", "database"), ("sqlite", "memory"))
CALLS, MANY = 60, 1_000
_numbers = count(1)


def claims(work: Path) -> None:
    for database, lock in VARIANTS:
        print(f"\n  lock_backend={lock} on {database}", flush=True)
        folder = work / f"{database}-{lock}"
        answers = {"database": database, "lock_backend": lock, "executor": "asyncio"}
        measure("claims", render(folder, **answers))


async def main() -> None:
    from app.core import wiring
    from app.core.database import Database
    from app.core.scheduling.answers import Fire, Taken, Won

    from benchmarks.inserts import Inserts

    def fire() -> Fire:
        key = f"job-{next(_numbers)}"
        return Fire(key, int(time.time() * 1e6), key, late=False)

    with settings() as given:
        database = Database(given, wiring.database.DIALECT)
        mine, theirs = (wiring.lock.ledger(given, database, name) for name in ("mine", "theirs"))
        inserts = await Inserts.into(database)
        held: list[Won] = []
        taken = fire()
        assert isinstance((await theirs.claim([taken]))[0], Won)

        async def win() -> None:
            (answer,) = await mine.claim([fire()])
            assert isinstance(answer, Won)
            held.append(answer)

        async def lose() -> None:
            assert (await mine.claim([taken])) == [Taken(settled=False)]

        async def finish() -> None:
            await mine.finish(held.pop().fence, "succeeded", attempt=1)

        await win()  # so that there is always one to finish
        # SQLite has no server to go to: what it costs is a commit.
        on_file = wiring.DATABASE == "sqlite"
        single = {
            "select": inserts.select,
            "trip": inserts.in_a_transaction if on_file else inserts.select_in_a_transaction,
            "insert": inserts.one,
            "transaction": inserts.in_a_transaction,
            "claim": win,
            "finish": finish,
            "lost": lose,
        }
        report(await in_turn(single, CALLS))
        batches = [[fire() for _ in range(MANY)] for _ in range(100)]

        async def win_many() -> None:
            answers = await mine.claim(batches.pop())
            assert all(isinstance(answer, Won) for answer in answers)

        times = await in_turn({"claim": win, "many": win_many}, 5)
        plain("one fire, in turn with the next", times["claim"])
        plain(f"{MANY:,} fires due together", times["many"])
        ratio(f"{MANY:,} fires due together / one", times["many"], times["claim"], 5)
        await mine.close()
        await theirs.close()
        await database.close()


def report(times: Times) -> None:
    plain("SELECT 1", times["select"])
    plain("bare round trip: SELECT 1 in a transaction; of SQLite a commit", times["trip"])
    plain("a committed INSERT into a plain table, one statement", times["insert"])
    plain("the same between BEGIN and COMMIT", times["transaction"])
    plain("a won claim", times["claim"])
    ratio("a won claim / a committed INSERT", times["claim"], times["insert"], 1.5)
    ratio("a won claim / an INSERT between BEGIN and COMMIT", times["claim"], times["transaction"])
    plain("its record (finish)", times["finish"])

    ratio(
        "claim + finish / a bare round trip", total(times["claim"], times["finish"]), times["trip"]
    )
    ratio("a lost claim / SELECT 1", times["lost"], times["select"], "one round trip")


if __name__ == "__main__":
    asyncio.run(main())
