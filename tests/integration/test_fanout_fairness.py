"""Fan-out as bounded continuations: one author's many followers delay nobody, lanes can wait, and
the jobs of a turn are read concurrently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from feedcore.limits import (
    FANOUT_JOBS_PER_TURN,
    FANOUT_QUOTA_FOLLOWERS,
    LANE_SPLIT_FOLLOWERS,
    RECENTLY_ACTIVE_MS,
)
from feedcore.ports import Lane
from tests.support.worlds import EmbeddedWorld as World

CROWD, QUIET = 1, 2  # an author with many followers, and one with a single one
FANS = range(10_000, 10_000 + 2 * FANOUT_QUOTA_FOLLOWERS + 500)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "data", threshold=10**6)
    await made.open()
    yield made
    await made.close()


async def follow_all(world: World, fans: range) -> None:
    for at in range(0, len(fans), 5_000):
        edges = [(fan, CROWD) for fan in fans[at : at + 5_000]]
        await world.store.graph.import_follows(edges, world.clock.now_ms())


async def come_back(world: World, users: list[int]) -> None:
    """The users load a feed now, after everybody has been quiet for two days."""
    world.clock.advance(2 * RECENTLY_ACTIVE_MS)
    for user in users:
        world.store.preferences.seen(user, world.clock.now_ms())
    await world.store.preferences.write_seen()


async def test_a_crowd_takes_turns_with_everybody_else(world: World) -> None:
    await follow_all(world, FANS)
    await world.engine.graph.follow(9, QUIET)
    await world.settle()
    crowded = await world.publish(CROWD)
    quiet = [await world.publish(QUIET) for _ in range(3)]
    worker = world.worker()
    await worker.turn()
    await world.store.merge_all()
    assert all([await world.store.feeds.delivered(9, post) for post in quiet]), "they had to wait"
    assert not await world.store.feeds.delivered(FANS[-1], crowded), "one turn took them all"
    while await worker.turn():
        pass
    await world.store.merge_all()
    assert all([await world.store.feeds.delivered(fan, crowded) for fan in FANS])
    assert (await world.engine.publish.get_stats(crowded)).reach == len(FANS)


async def test_a_late_crowd_does_not_overtake_who_was_not_served_yet(world: World) -> None:
    """More jobs than fit one turn: the least recently served go first, whatever their size."""
    await follow_all(world, FANS)
    await world.engine.graph.follow(9, QUIET)
    await world.settle()
    for _ in range(40):  # two lanes each: 80 jobs, a turn takes 64
        await world.publish(CROWD)
    last = await world.publish(QUIET)
    worker = world.worker()
    await worker.turn()
    await worker.turn()
    await world.store.merge_all()
    assert await world.store.feeds.delivered(9, last), "large jobs were served twice before it once"


async def test_the_rest_lane_waits_while_active_followers_are_served(world: World) -> None:
    fans = range(10_000, 10_000 + LANE_SPLIT_FOLLOWERS + 200)
    await follow_all(world, fans)
    await world.settle()
    active = [fans[0], fans[700]]
    await come_back(world, active)
    await world.engine.admin.set_settings(rest_lane_paused=True)
    post = await world.publish(CROWD)
    worker = world.worker()
    while await worker.turn():
        pass
    await world.store.merge_all()
    served = [fan for fan in fans if await world.store.feeds.delivered(fan, post)]
    assert served == active
    lag, paused = (await world.engine.admin.lanes())[Lane.REST]
    assert (lag.jobs, paused) == (1, True)
    assert await world.ids(fans[1]) == [post], "who waits for delivery sees it all the same"
    await world.engine.admin.set_settings(rest_lane_paused=False)
    await world.settle()
    assert all([await world.store.feeds.delivered(fan, post) for fan in fans])


class Meeting:
    """A graph that answers nobody until as many ask as there are jobs."""

    def __init__(self, graph: object, count: int) -> None:
        self._graph, self._barrier = graph, asyncio.Barrier(count)

    def __getattr__(self, name: str) -> object:
        return getattr(self._graph, name)

    async def push_recipients(self, *asked: object) -> object:
        await asyncio.wait_for(self._barrier.wait(), 10)
        return await self._graph.push_recipients(*asked)  # type: ignore[attr-defined]


async def test_the_jobs_of_a_turn_are_read_side_by_side(world: World) -> None:
    await world.engine.graph.follow(9, QUIET)
    posts = [await world.publish(QUIET) for _ in range(FANOUT_JOBS_PER_TURN)]
    worker = world.worker(graph=Meeting(world.store.graph, len(posts)))
    assert await worker.turn() == len(posts)
    await world.store.merge_all()
    assert all([await world.store.feeds.delivered(9, post) for post in posts])
