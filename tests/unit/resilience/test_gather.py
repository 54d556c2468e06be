"""Bounded gathering: how many at once, what an error stops, what a cancelled caller leaves."""

from __future__ import annotations

import asyncio

import pytest

from feedcore.errors import StoreError
from feedcore.resilience.gather import gather_all, gather_bounded


async def turns(count: int = 3) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


async def test_gathering_is_bounded_and_stops_at_an_error() -> None:
    running = most = 0
    begun: list[int] = []

    async def run(place: int) -> None:
        nonlocal running, most
        begun.append(place)
        running += 1
        most = max(most, running)
        await turns()
        running -= 1
        if place == 20:
            raise StoreError("the twentieth")

    await gather_bounded(range(20), run, 4)
    assert most == 4 and begun == list(range(20))
    begun.clear()
    with pytest.raises(StoreError, match="the twentieth"):
        await gather_bounded(range(1_000), run, 4)
    assert running == 0 and len(begun) < 30
    await gather_bounded((), run, 4)


async def test_gathering_ends_with_its_caller() -> None:
    running = 0

    async def run(place: int) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    call = asyncio.create_task(gather_bounded(range(10), run, 4))
    await turns()
    assert running == 4
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled() and running == 0


async def test_all_of_a_few_answer_in_order_and_one_error_waits_for_the_rest() -> None:
    ended: list[str] = []

    async def call(name: str) -> str:
        await turns()
        ended.append(name)
        return name

    async def fail() -> str:
        raise StoreError("at once")

    assert await gather_all(call("a"), call("b")) == ["a", "b"]
    with pytest.raises(StoreError, match="at once"):
        await gather_all(fail(), call("c"))
    assert ended == ["a", "b", "c"]
