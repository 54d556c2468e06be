"""Contract of ports.limiter.Limiter: one rate for a caller, whichever opening is asked."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from feedcore.ports.limiter import Limiter


class LimiterEngine(Protocol):
    """Two limiters of the same callers, as two nodes have them."""

    @property
    def one(self) -> Limiter: ...

    @property
    def another(self) -> Limiter: ...


class LimiterContract:
    """Buckets that fill again."""

    async def test_all_nodes_together_keep_the_rate(self, limiters: LimiterEngine) -> None:
        both = limiters.one, limiters.another
        answers = await asyncio.gather(*(both[n % 2].take(b"caller", 0.5, 20) for n in range(50)))
        assert sum(answer.allowed for answer in answers) == 20
        waits = [answer.retry_after_ms for answer in answers if not answer.allowed]
        assert all(1_000 < wait <= 2_000 for wait in waits), waits
        assert all(not one.retry_after_ms for one in answers if one.allowed)
        assert (await limiters.another.take(b"somebody else", 0.5, 20)).allowed

    async def test_a_bucket_fills_again_when_it_said(self, limiters: LimiterEngine) -> None:
        assert (await limiters.one.take(b"caller", 20, 1)).allowed
        refused = await limiters.another.take(b"caller", 20, 1)
        assert not refused.allowed
        while not refused.allowed:
            assert 0 < refused.retry_after_ms <= 50
            await asyncio.sleep(refused.retry_after_ms / 1_000)
            refused = await limiters.one.take(b"caller", 20, 1)

    async def test_a_call_that_costs_more_takes_more(self, limiters: LimiterEngine) -> None:
        assert (await limiters.one.take(b"caller", 0.1, 5, cost=4)).allowed
        assert not (await limiters.another.take(b"caller", 0.1, 5, cost=4)).allowed
        assert (await limiters.one.take(b"caller", 0.1, 5)).allowed

    async def test_what_is_never_allowed_is_no_rate(self, limiters: LimiterEngine) -> None:
        with pytest.raises(ValueError, match="room for 2"):
            await limiters.one.take(b"caller", 1, 1, cost=2)
        with pytest.raises(ValueError, match="a rate"):
            await limiters.one.take(b"caller", 0, 1)
