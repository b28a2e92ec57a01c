"""Locks in Redis or Valkey: who may try, and whose lease lives. What ran, the ledger says.

A server that loses its memory costs a second try, never a second effect: a run starts only with
its row in the ledger, and ends only by that row's fence.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any

from pydantic import SecretStr, field_validator
from sqlalchemy import ColumnElement, Row, Subquery

from app.core.database import Database
from app.core.locks import redis_scripts as scripts
from app.core.locks.redis_named import RedisLocks
from app.core.redis import RedisServer, RedisUnavailable, redis_url
from app.core.scheduling.answers import Claim, Early, Outcome, Refused, Taken, Won
from app.core.scheduling.claims import Asked
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.named_lock import NamedLocks
from app.core.scheduling.statements import EARLY
from app.core.scheduling.together import Together
from app.core.settings import ServiceSettings, on_this_machine

_log = logging.getLogger(__name__)
_REMEMBERED = 60.0
"""Seconds for which a replica that comes late hears that a fire is done without the database."""


class LockSettings(ServiceSettings):
    lock_url: SecretStr = on_this_machine("redis://127.0.0.1:6379/1")

    @field_validator("lock_url")
    @classmethod
    def _lock_is_redis(cls, value: SecretStr) -> SecretStr:
        return redis_url("LOCK_URL", value)


def ledger(settings: LockSettings, database: Database, replica: str) -> Ledger:
    """Claims under a lease: any number of replicas."""
    return RedisLedger(settings, database, replica)


def claiming(ledger: Ledger) -> AbstractAsyncContextManager[None]:
    """What to hold while claims are made: nothing."""
    return nullcontext()


def named_locks(settings: LockSettings, database: Database) -> NamedLocks:
    return RedisLocks(RedisServer("LOCK_URL", settings.lock_url, settings.service_name), settings)


class RedisLedger(Ledger):
    """The ledger, with elections and leases in Redis: a lost claim costs one round trip there."""

    def __init__(self, settings: LockSettings, database: Database, replica: str) -> None:
        lease = settings.lease_seconds
        super().__init__(database, replica, lease, settings.catch_up_seconds, patience=lease)
        self._redis = RedisServer("LOCK_URL", settings.lock_url, settings.service_name)
        self._lease_ms = int(lease * 1000)
        self._held: dict[int, str] = {}
        self._seized: dict[str, int] = {}
        self._freeing = Together(self._free)

    async def check(self) -> None:
        # With a key of ours: else any node of a cluster answers, and not the one that is asked.
        await self._redis.run(scripts.CHECK, ["check"], self._lease_ms)

    async def close(self) -> None:
        await self._redis.close()

    async def _answer(self, asked: Asked) -> dict[int, Claim]:
        keys = [_run_key(fire.job, fire.time) for fire in asked.values()]
        times = [fire.time for fire in asked.values()]
        arguments = (self.replica, self._lease_ms, EARLY, *times)
        now, *claims = await self._redis.run(
            scripts.ELECT, ["fence", "since", "server", *keys], *arguments
        )
        answers: dict[int, Claim] = {}
        elected: Asked = {}
        for (position, fire), claim in zip(asked.items(), claims, strict=True):
            fence, _, owner = (claim or "").partition(":")
            if not claim:
                answers[position] = Early((fire.time - int(now)) / 1e6)
            elif owner == self.replica and int(fence) not in self._held:
                elected[position] = replace(fire, fence=int(fence))
            else:
                done = claim == scripts.DONE
                answers[position] = Taken(settled=done, recorded=done)
        return answers | await self._confirm(elected, int(now))

    async def _confirm(self, elected: Asked, now: int) -> dict[int, Claim]:
        """Write what was won in Redis into the ledger, whose word counts."""
        fresh = {p: (fire, None) for p, fire in elected.items() if fire.time > now - self.patience}
        answers = await self._record(fresh) if fresh else {}
        others = {p: fire for p, fire in elected.items() if p not in answers}
        try:
            answers |= await super()._answer(others)
        except Exception as error:
            answers = self._again(others, answers, error)
        free: list[tuple[str, int, str]] = []
        for position, fire in elected.items():
            assert fire.fence is not None
            key = _run_key(fire.job, fire.time)
            match answers[position]:
                case Won():
                    if fire.message is None:  # else it is a worker's, later
                        self._held[fire.fence] = key
                case Taken(settled=True) | Refused():
                    free.append((key, fire.fence, scripts.DONE))
                case _:
                    free.append((key, fire.fence, ""))
        await self._free(free)
        return answers

    async def beat(self, fences: Sequence[int]) -> set[int]:
        held = [fence for fence in fences if fence in self._held]
        answers = await self._beat(scripts.BEAT, held)
        if gone := [fence for fence in held if answers[fence] == "gone"]:
            ours = await super().beat(gone)
            answers |= await self._beat(scripts.REVIVE, sorted(ours))
        return {fence for fence, answer in answers.items() if answer == "kept"}

    async def _beat(self, script: str, fences: Sequence[int]) -> dict[int, str]:
        if not fences:
            return {}
        keys = [self._held[fence] for fence in fences]
        claims = map(self._claim, fences)
        answers = await self._redis.run(script, keys, self._lease_ms, *claims)
        return dict(zip(fences, answers, strict=True))

    async def finish(self, fence: int, outcome: Outcome, **more: Any) -> Outcome | None:
        stands = await super().finish(fence, outcome, **more)
        if not more.get("still_running"):
            await self._let_go(fence, scripts.DONE if stands else "")
        return stands

    async def release(self, fence: int) -> bool:
        released = await super().release(fence)
        await self._let_go(fence, scripts.DONE if released else "")
        return released

    async def hand_over(self, fence: int, attempts: Sequence[dict[str, Any]]) -> bool:
        given = await super().hand_over(fence, attempts)
        if given:  # else it has its outcome: how it ended is still to be recorded
            await self._let_go(fence, "")
        return given

    async def acquire(
        self, row: Row[Any], condition: ColumnElement[bool], values: Mapping[str, Any]
    ) -> Won | None:
        key, won = _run_key(row.job, row.fire_time), None
        try:
            won = await super().acquire(row, condition, values)
        finally:
            fence = self._seized.pop(key, None)
            if won:
                self._held[won.fence] = key
            elif fence:
                await self._free([(key, fence, "")])
        return won

    def _fence(self, batch: Subquery) -> ColumnElement[int]:
        return batch.c.fence

    async def spare_fence(self) -> int:
        return int(await self._redis.run(scripts.SPARE, ["fence"]))

    async def _seize(self, row: Row[Any]) -> int | None:
        key = _run_key(row.job, row.fire_time)
        # A holder that beats again after its lease keeps the run, unless it has given that up.
        given_up = int(row.sent is not None or row.lease_until == 0)
        claim = (self.replica, self._lease_ms, row.fence, given_up)
        new = await self._redis.run(scripts.SEIZE, ["fence", key], *claim)
        if not new or int(new) in self._held:
            return None
        self._seized[key] = int(new)
        return int(new)

    async def _alive(self, rows: Sequence[Row[Any]]) -> set[int]:
        alive = await super()._alive(rows)  # those that were claimed within a lease
        rows = [row for row in rows if row.fence not in alive and row.lease_until > 0]
        if not rows:
            return alive
        keys = [_run_key(row.job, row.fire_time) for row in rows]
        held = await self._redis.run(
            scripts.HOLDERS, ["since", "server", *keys], self._lease_ms * 1000
        )
        if held is None:
            return alive | {row.fence for row in rows}
        holders = {claim.partition(":")[0] for claim in held}
        return alive | {row.fence for row in rows if str(row.fence) in holders}

    async def _let_go(self, fence: int, state: str) -> None:
        if key := self._held.pop(fence, None):
            await self._freeing((key, fence, state))

    async def _free(self, claims: Sequence[tuple[str, int, str]]) -> Sequence[None]:
        """End our leases at once; if the server does not answer, they end by themselves."""
        if not claims:
            return ()
        keys = [key for key, _, _ in claims]
        states = [value for _, fence, state in claims for value in (self._claim(fence), state)]
        try:
            await self._redis.run(scripts.RELEASE, keys, int(_REMEMBERED * 1000), *states)
        except RedisUnavailable as error:
            _log.warning("%d leases are left to end by themselves: %s", len(claims), error)
        return [None] * len(claims)

    def _claim(self, fence: int) -> str:
        return f"{fence}:{self.replica}"


def _run_key(job: str, time: int) -> str:
    return f"run:{job}:{time}"
