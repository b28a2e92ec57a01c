"""Locks in Redis or Valkey: named ones and claims, against the bare commands they are made of."""

from __future__ import annotations

import asyncio
import secrets
import time
from itertools import count
from pathlib import Path
from typing import cast

from benchmarks.figures import Times, Work, in_turn, plain, ratio, total
from benchmarks.rendered import measure, render, settings

DATABASES = ("postgresql", "sqlite")
CALLS, LEASE = 60, 600.0
_numbers = count(1)
_FREE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


def redis_locks(work: Path) -> None:
    for database in DATABASES:
        print(f"\n  lock_backend=redis, the ledger on {database}", flush=True)
        answers = {"database": database, "lock_backend": "redis", "executor": "asyncio"}
        measure("redis_locks", render(work / database, **answers))


async def main() -> None:
    from app.core import wiring
    from app.core.database import Database
    from app.core.scheduling import lock, named_lock
    from app.core.scheduling.answers import Fire, Taken, Won
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from benchmarks.inserts import Inserts

    def fire() -> Fire:
        key = f"job-{next(_numbers)}"
        return Fire(key, int(time.time() * 1e6), key, late=False)

    with settings() as given:
        database = Database(given, wiring.database.DIALECT)
        url = given.model_dump()["lock_url"].get_secret_value()
        shared, pinging = Redis.from_url(url), AsyncRedis.from_url(url)
        free = shared.register_script(_FREE)
        mine, theirs = (wiring.lock.ledger(given, database, name) for name in ("mine", "theirs"))
        locks = wiring.lock.named_locks(given, database)
        named_lock.use(locks)
        inserts = await Inserts.into(database)
        held: list[Won] = []
        taken = fire()
        assert isinstance((await theirs.claim([taken]))[0], Won)

        async def raw() -> None:
            token = secrets.token_hex(8)
            assert shared.set("raw", token, nx=True, px=int(LEASE * 1000))
            assert free(["raw"], [token]) == 1

        async def named() -> None:
            fence = locks.acquire("named", LEASE)
            assert fence is not None
            locks.release("named", fence)

        async def with_lock() -> None:
            with lock("with"):
                pass

        async def win() -> None:
            (answer,) = await mine.claim([fire()])
            assert isinstance(answer, Won)
            held.append(answer)

        async def finish() -> None:
            await mine.finish(held.pop().fence, "succeeded", attempt=1)

        async def lose() -> None:
            assert (await mine.claim([taken])) == [Taken(settled=False)]

        await win()  # so that there is always one to finish
        works: dict[str, Work] = {
            "ping": cast(Work, pinging.ping),
            "raw": raw,
            "named": named,
            "with": with_lock,
            "insert": inserts.one,
            "claim": win,
            "finish": finish,
            "lost": lose,
        }
        report(await in_turn(works, CALLS))
        locks.close()
        shared.close()
        await pinging.aclose()
        await mine.close()
        await theirs.close()
        await database.close()


def report(times: Times) -> None:
    plain("PING", times["ping"])
    plain("SET NX PX and a scripted release", times["raw"])
    plain("acquire and release of a named lock", times["named"])
    ratio("acquire and release / SET NX PX and release", times["named"], times["raw"], 1.3)
    plain("with lock(...), its heartbeat included", times["with"])
    plain("a committed INSERT into a plain table, one statement", times["insert"])
    plain("a won claim", times["claim"])
    both = total(times["named"], times["insert"])
    ratio("a won claim / (acquire and release + an INSERT)", times["claim"], both, 1)
    plain("its record (finish)", times["finish"])
    ratio("claim + finish / PING", total(times["claim"], times["finish"]), times["ping"])
    ratio("a lost claim / PING", times["lost"], times["ping"], "one round trip")


if __name__ == "__main__":
    asyncio.run(main())
