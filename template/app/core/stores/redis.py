"""Jobs that are added while the service runs are kept in Redis or Valkey, for all replicas.

Each is JSON in the hash `jobs`; `job-versions` has the version of each, removed ones included;
`job-due` the times of one-off jobs, `job-recurring` the rest.
"""

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

from pydantic import SecretStr, field_validator

from app.core.database import Database
from app.core.redis import SERVER, RedisServer, redis_url
from app.core.settings import ServiceSettings, on_this_machine
from app.core.stores import (
    Definition,
    DefinitionChanged,
    DefinitionStore,
    UnreadableDefinition,
)
from app.core.stores.protocol import Changes
from app.core.tasks import unhurried

_PAGE = 500
_UNREADABLE = (TypeError, ValueError, RecursionError)
_STORED = ("job", "kwargs", "trigger", "fire_time", "paused", "removed")
_KEYS = (
    "job-version",
    "jobs",
    "job-versions",
    "job-due",
    "job-recurring",
    "job-removed",
    "job-epoch",
)


class StoreSettings(ServiceSettings):
    job_store_url: SecretStr = on_this_machine("redis://127.0.0.1:6379/0")

    @field_validator("job_store_url")
    @classmethod
    def _store_is_redis(cls, value: SecretStr) -> SecretStr:
        return redis_url("JOB_STORE_URL", value)


def definitions(settings: StoreSettings, database: Database) -> DefinitionStore | None:
    return _RedisStore(RedisServer("JOB_STORE_URL", settings.job_store_url, settings.service_name))


# Set once; another one shows that the server has lost its memory. What a server is that came back
# with an older state, or took another one's place, is seen by its run.
_EPOCH = """
local clock = redis.call('TIME')
redis.call('SET', KEYS[7], clock[1] .. '.' .. clock[2], 'NX')
"""
_READ = (
    _EPOCH
    + """
local answer = {redis.call('GET', KEYS[7]), redis.call('GET', KEYS[1]) or '0'}
local function add(ids)
  for _, id in ipairs(ids) do
    answer[#answer + 1] = id
    answer[#answer + 1] = redis.call('ZSCORE', KEYS[3], id) or '0'
    answer[#answer + 1] = redis.call('HGET', KEYS[2], id) or ''
  end
end
"""
)
_CHANGES = (
    SERVER
    + _READ
    + """
local version, seen, horizon = ARGV[1], ARGV[2], ARGV[3]
if version == '0' then
  add(redis.call('SMEMBERS', KEYS[5]))
  add(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', horizon))
else
  add(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. version, '+inf'))
  add(redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. seen, horizon))
end
answer[1] = answer[1] .. ' ' .. server()
return answer
"""
)
_PAGE_OF = (
    _READ
    + """
add(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2]))
return answer
"""
)
_ONE = _READ + "add({ARGV[1]}) return answer"
# A version is never smaller than the server's clock: it grows even over a loss of memory.
_WRITE = (
    _EPOCH
    + """
local id, expected, generation, due, token = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local stored = redis.call('HGET', KEYS[2], id)
if stored and string.match(stored, '^%d+ (%x+) ') == token then
  -- Sent twice, since the first answer did not arrive.
  return {redis.call('ZSCORE', KEYS[3], id), string.match(stored, '^%d+')}
end
local live = redis.call('SISMEMBER', KEYS[5], id) == 1 or redis.call('ZSCORE', KEYS[4], id)
if expected == 'free' and live then
  return false
elseif tonumber(expected) and redis.call('ZSCORE', KEYS[3], id) ~= expected then
  return false
end
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local version = string.format('%.0f', math.max(last + 1, clock[1] * 1000000 + clock[2]))
if generation == '0' then
  generation = version
end
redis.call('SET', KEYS[1], version)
redis.call('HSET', KEYS[2], id, generation .. ' ' .. token .. ' ' .. ARGV[3])
redis.call('ZADD', KEYS[3], version, id)
redis.call('ZREM', KEYS[4], id)
redis.call('SREM', KEYS[5], id)
redis.call('ZREM', KEYS[6], id)
if due == 'removed' then
  redis.call('ZADD', KEYS[6], version, id)
elseif due == 'recurring' then
  redis.call('SADD', KEYS[5], id)
else
  redis.call('ZADD', KEYS[4], due, id)
end
return {version, generation}
"""
)
_PURGE = """
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', ARGV[1])) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('ZREM', KEYS[6], id)
end
"""


class _RedisStore:
    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis

    async def changes(self, version: int, seen: int, horizon: int) -> Changes:
        epoch, newest, read = await self._read(_CHANGES, version, seen, horizon)
        good = [definition for _, _, definition in read if definition]
        bad = [id for id, _, definition in read if definition is None]
        return Changes(newest, good, bad, epoch)

    async def add(self, definition: Definition, *, replace: bool) -> Definition:
        new = await self._write(definition, "any" if replace else "free", generation=0)
        if new is None:
            raise DefinitionChanged(f"a job {definition.id!r} exists; replace_existing=True")
        return new

    async def change(self, definition: Definition) -> Definition:
        new = await self._write(definition, str(definition.version), definition.generation)
        if new is None:
            raise DefinitionChanged(f"job {definition.id!r} was changed elsewhere; read it again")
        return new

    async def get(self, id: str) -> Definition | None:
        *_, ((_, version, definition),) = await self._read(_ONE, id)
        if definition is None and version:
            raise UnreadableDefinition(id)
        return None if definition is None or definition.removed else definition

    async def purge(self, version: int) -> None:
        await self._redis.run(_PURGE, _KEYS, version)

    async def all(self) -> AsyncIterator[Definition | str]:
        last = 0
        while True:
            *_, page = await self._read(_PAGE_OF, last, _PAGE)
            for id, _, definition in page:
                if definition is None or not definition.removed:
                    yield definition or id
            if len(page) < _PAGE:
                return
            last = page[-1][1]

    async def close(self) -> None:
        await self._redis.close()

    async def _read(
        self, script: str, *arguments: object
    ) -> tuple[str, int, list[tuple[str, int, Definition | None]]]:
        epoch, newest, *found = await self._redis.run(script, _KEYS, *arguments)
        versions = (int(float(score)) for score in found[1::3])
        entries = unhurried(zip(found[::3], versions, found[2::3], strict=True))
        read = [(id, version, _parse(id, version, value)) async for id, version, value in entries]
        return epoch, int(newest), read

    async def _write(
        self, definition: Definition, expected: str, generation: int
    ) -> Definition | None:
        due = "recurring" if definition.fire_time is None else str(definition.fire_time)
        stored = {name: getattr(definition, name) for name in _STORED}
        written = await self._redis.run(
            _WRITE,
            _KEYS,
            definition.id,
            expected,
            json.dumps(stored),
            generation,
            "removed" if definition.removed else due,
            secrets.token_hex(8),
        )
        if not written:
            return None
        version, given = map(int, written)
        return replace(definition, version=version, generation=given)


def _parse(id: str, version: int, value: str) -> Definition | None:
    """The entry, unless this version of the service can make nothing of it."""
    generation, _, text = value.partition(" ")
    text = text.partition(" ")[2]  # without the token of the call that wrote it
    try:
        stored = json.loads(text)
        whole = Definition(id=id, version=version, generation=int(generation), **stored)
    except _UNREADABLE:
        return None
    good = isinstance(whole.kwargs, dict) and isinstance(whole.trigger, dict)
    return whole if good and isinstance(whole.fire_time, int | None) else None
