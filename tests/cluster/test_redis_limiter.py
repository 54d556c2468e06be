"""Token buckets: one rate over all nodes, on a real Redis, and without one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.adapters.redis.nodes import Nodes
from feedcore.clock import ManualClock
from tests.cluster.redisworld import DEADLINE_S, fresh_prefix
from tests.contract.suite_limiter import LimiterContract
from tests.support.redisserver import RedisServer


def _limiter(url: str, prefix: str, deadline_s: float = DEADLINE_S) -> RateLimiter:
    batcher = Batcher(
        Nodes([url]), FailureDetector(time.monotonic), time.monotonic, deadline_s=deadline_s
    )
    return RateLimiter(batcher, Keys(prefix), ManualClock(1_750_000_000_000))


class RedisLimiters(NamedTuple):
    """See `tests.contract.suite_limiter.LimiterEngine`."""

    one: RateLimiter
    another: RateLimiter


@pytest.fixture
async def limiters(redis_url: str) -> AsyncIterator[RedisLimiters]:
    """Two nodes of one cluster."""
    prefix = fresh_prefix()
    nodes = RedisLimiters(_limiter(redis_url, prefix), _limiter(redis_url, prefix))
    yield nodes
    for node in nodes:
        await node._batcher.close()


class TestRedisLimiter(LimiterContract):
    """See the suite."""


async def test_a_bucket_that_is_full_again_is_no_key(redis_url: str) -> None:
    prefix = fresh_prefix()
    limiter = _limiter(redis_url, prefix)
    try:
        await limiter.take(b"caller", 0.5, 20)
        key = Keys(prefix).bucket(b"caller")
        assert 0 < await limiter._batcher.ask(key, "PTTL", key).reply() <= 40_001
        assert limiter.local == 0
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
