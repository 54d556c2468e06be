"""Token buckets: one rate over all nodes, on a real Redis, and without one."""

from __future__ import annotations

import asyncio
import time

import pytest

from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.adapters.redis.nodes import Nodes
from feedcore.clock import ManualClock
from tests.cluster.redisworld import DEADLINE_S, fresh_prefix
from tests.support.redisserver import RedisServer


def _limiter(url: str, prefix: str, deadline_s: float = DEADLINE_S) -> RateLimiter:
    batcher = Batcher(
        Nodes([url]), FailureDetector(time.monotonic), time.monotonic, deadline_s=deadline_s
    )
    return RateLimiter(batcher, Keys(prefix), ManualClock(1_750_000_000_000))


async def test_nodes_share_a_bucket(redis_url: str) -> None:
    prefix = fresh_prefix()
    limiters = [_limiter(redis_url, prefix) for _ in range(2)]
    try:
        answers = await asyncio.gather(
            *(limiters[n % 2].take(b"caller", 0.5, 20) for n in range(50))
        )
        assert sum(answer.allowed for answer in answers) == 20
        waits = [answer.retry_after_ms for answer in answers if not answer.allowed]
        assert all(1_000 < wait <= 2_000 for wait in waits), waits
        assert (await limiters[0].take(b"another", 0.5, 20)).allowed
        batcher = limiters[0]._batcher
        key = Keys(prefix).bucket(b"caller")
        assert 0 < await batcher.ask(key, "PTTL", key).reply() <= 40_001
        assert limiters[0].local == 0
    finally:
        for limiter in limiters:
            await limiter._batcher.close()


async def test_a_bucket_fills_again(redis_url: str) -> None:
    limiter = _limiter(redis_url, fresh_prefix())
    try:
        assert (await limiter.take(b"caller", 20, 1)).allowed
        refused = await limiter.take(b"caller", 20, 1)
        while not refused.allowed:
            assert refused.retry_after_ms <= 50
            await asyncio.sleep(refused.retry_after_ms / 1_000)
            refused = await limiter.take(b"caller", 20, 1)
        assert (await limiter.take(b"caller", 20, 5, cost=4)).allowed is False
    finally:
        await limiter._batcher.close()


async def test_without_redis_each_node_keeps_the_rate(own_redis: RedisServer) -> None:
    limiter = _limiter(own_redis.url, "", deadline_s=0.05)
    own_redis.kill()
    try:
        answers = [await limiter.take(b"caller", 2, 5) for _ in range(8)]
        assert [answer.allowed for answer in answers] == [True] * 5 + [False] * 3
        assert answers[-1].retry_after_ms == 501
        limiter._clock.advance(600)
        assert (await limiter.take(b"caller", 2, 5)).allowed
        assert not (await limiter.take(b"caller", 2, 5)).allowed
        assert limiter.local == 10 and limiter.refused == 4
    finally:
        await limiter._batcher.close()


async def test_what_is_never_allowed_is_no_rate(redis_url: str) -> None:
    limiter = _limiter(redis_url, fresh_prefix())
    with pytest.raises(ValueError, match="room for 2"):
        await limiter.take(b"caller", 1, 1, cost=2)
    await limiter._batcher.close()
