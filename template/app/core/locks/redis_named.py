"""`lock("name")` in Redis or Valkey."""

import secrets

from app.core.locks.redis_scripts import ACQUIRE, FREE, RENEW
from app.core.redis import RedisServer
from app.core.settings import ServiceSettings


class RedisLocks:
    def __init__(self, redis: RedisServer, settings: ServiceSettings) -> None:
        self.lease = settings.lease_seconds
        self._redis = redis

    def acquire(self, name: str, lease: float) -> int | None:
        # The token is for a call that is sent twice, since its first answer did not arrive.
        token, milliseconds = secrets.token_hex(8), int(lease * 1000)
        fence = self._redis.run_sync(ACQUIRE, ["fence", f"lock:{name}"], token, milliseconds)
        return int(fence) if fence else None

    def renew(self, name: str, fence: int, lease: float) -> bool:
        return bool(self._redis.run_sync(RENEW, [f"lock:{name}"], fence, int(lease * 1000)))

    def release(self, name: str, fence: int) -> None:
        self._redis.run_sync(FREE, [f"lock:{name}"], fence)

    def close(self) -> None:
        self._redis.close_sync()
