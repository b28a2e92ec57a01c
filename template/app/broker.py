"""The broker that carries runs to the workers. Another of taskiq's brokers goes here."""

from taskiq import AsyncBroker
from taskiq_redis import RedisStreamBroker


def broker(url: str, name: str) -> AsyncBroker:
    """`url` is BROKER_URL; `name` is what this service's queue is called there."""
    return RedisStreamBroker(
        url,
        queue_name=name,
        consumer_group_name=name,
        # One for all workers: what is claimed by time needs no names, and theirs would pile up.
        consumer_name="workers",
        consumer_id="0",  # what was sent before there was a worker is read, too
        xread_count=1,  # a worker takes no more than it can begin
        unacknowledged_batch_size=1,
        maxlen=10_000,  # what is acknowledged stays in the stream until newer messages push it out
        max_connection_pool_size=20,
        timeout=5,
        socket_timeout=5,
        socket_connect_timeout=5,
    )
