"""One load in flight a key; each who waits gets the outcome that is theirs."""

from __future__ import annotations

import asyncio

import pytest

from feedcore.errors import Overloaded, Unavailable
from feedcore.resilience.coalescing import Coalescer


class Source:
    """Loads when it is let to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def fetch(self, keys: list[int]) -> list[int]:
        self.batches.append(list(keys))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [key * 10 for key in keys]


def coalescer(source: Source, batch_max: int = 100, waiting_max: int = 100) -> Coalescer[int, int]:
    return Coalescer("numbers", source.fetch, batch_max=batch_max, waiting_max=waiting_max)


async def turns(count: int = 3) -> None:
    """So many turns of the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


async def test_who_asks_in_one_turn_shares_one_batch() -> None:
    source = Source()
    loads = coalescer(source)
    waiting = [asyncio.create_task(loads.get_all([key, key + 1])) for key in (1, 2, 3)]
    await turns()
    late = asyncio.create_task(loads.get(2))
    await turns()
    source.go.set()
    assert await asyncio.gather(*waiting) == [[10, 20], [20, 30], [30, 40]]
    assert await late == 20
    assert source.batches == [[1, 2, 3, 4]], "each key once"
    assert (loads.batches, loads.loaded, loads.joined) == (1, 4, 3)
    assert await loads.get(2) == 20
    assert source.batches[1:] == [[2]], "results are not kept here"


async def test_the_first_who_asks_may_leave() -> None:
    source = Source()
    loads = coalescer(source)
    first, second = (asyncio.create_task(loads.get(1)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    source.go.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 10 and source.batches == [[1]]


async def test_everybody_may_leave_and_the_load_ends() -> None:
    source = Source()
    source.error = Unavailable("numbers", "gone")
    loads = coalescer(source)
    alone = asyncio.create_task(loads.get(1))
    await turns()
    alone.cancel()
    source.go.set()
    await loads.close()
    assert loads.batches == 1


async def test_a_failure_is_everybodys_and_is_not_remembered() -> None:
    source = Source()
    source.error = Unavailable("numbers", "gone")
    source.go.set()
    loads = coalescer(source)
    outcomes = await asyncio.gather(loads.get(1), loads.get(1), return_exceptions=True)
    assert [str(one) for one in outcomes] == [str(source.error)] * 2
    source.error = None
    assert await loads.get(1) == 10


async def test_a_deadline_shorter_than_the_load_is_ones_own() -> None:
    source = Source()
    loads = coalescer(source)
    patient = asyncio.create_task(loads.get(1))
    await turns()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loads.get(1), 0.001)
    source.go.set()
    assert await patient == 10 and source.batches == [[1]]


async def test_batches_and_queues_are_bounded() -> None:
    source = Source()
    loads = coalescer(source, batch_max=2, waiting_max=5)
    with pytest.raises(Overloaded, match="numbers"):
        await loads.get_all([1, 2, 3, 4, 5, 6])
    source.go.set()
    assert await loads.get_all([1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert source.batches == [[1, 2], [3, 4], [5]]
    assert await loads.get(6) == 60


async def test_a_source_that_does_not_wait_is_asked_at_once() -> None:
    source = Source()
    loads = coalescer(source)
    with pytest.raises(RuntimeError, match="numbers"):
        loads.fetch_now([1])
    source.go.set()
    assert loads.fetch_now([1, 2]) == {1: 10, 2: 20}
    assert (loads.batches, loads.loaded) == (1, 2)


async def test_close_waits_for_what_was_asked_a_moment_ago() -> None:
    source = Source()
    source.go.set()
    loads = coalescer(source)
    asked = asyncio.create_task(loads.get(1))
    await turns(1)
    await loads.close()
    assert await asked == 10
