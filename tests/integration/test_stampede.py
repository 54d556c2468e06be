"""A celebrity posts and everybody loads at once, with nothing in memory: the store is asked once
for each thing, whichever callers leave; and random worlds, byte for byte as without memory.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.codecs.content import digest, encode_content
from feedcore.compose import Engine, compose_over
from feedcore.domain import ids
from feedcore.limits import PAGE_SOFT_AGE_MS
from feedcore.ports import InteractionKind, NewPost, PreferenceKind
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore_pb.v1 import feed_pb2

pytestmark = pytest.mark.skipif(not native.COMPILED, reason="compiled modules are not built")

LONG = os.environ.get("FEEDCORE_LONG") == "1"
FOLLOWERS = 10_000 if LONG else 2_000
CELEBRITY, OTHERS = 1, range(2, 12)
FIRST_FOLLOWER = 1_000
START_MS = 1_780_000_000_000
BUDGET = CacheBudget(64 << 20, 256 << 20)
WORLDS = 20 if LONG else 4


class Counting:
    """The store's own source; counts what it is asked for, and waits until it may answer."""

    def __init__(self, source) -> None:
        self._source = source
        self.contents_asked: Counter[int] = Counter()
        self.timelines_asked: Counter[int] = Counter()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.local = False  # it waits

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    async def contents(self, content_ids):
        self.contents_asked.update(content_ids)
        self.asked.set()
        await self.go.wait()
        return await self._source.contents(content_ids)

    async def timelines(self, author_ids, now_ms):
        self.timelines_asked.update(author_ids)
        return await self._source.timelines(author_ids, now_ms)


class World:
    """A store, its engine, and the source that counts."""

    def __init__(self, store: EmbeddedStore, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.counting = Counting(store.resident)
        store.resident = self.counting  # type: ignore[assignment]
        hot = HotSettings(push_threshold=100, hysteresis_percent=0)
        self.engine: Engine = compose_over(store, hot, clock, node=1, budget=BUDGET)

    async def settle(self) -> None:
        """Policy, fan-out, merges."""
        await self.engine.policy.review(self.clock.now_ms())
        await self.engine.background.drain()

    async def post(self, author: int, ms_ago: int = 0) -> int:
        self.clock.advance(1)
        content = encode_content(f"by {author}", (), 0)
        content_id = ids.make(self.clock.now_ms() - ms_ago, 0, 127, 0)
        made = NewPost(content_id, author, content, digest(content), 0, 1.0, "")
        (published,) = await self.store.posts.import_posts([made])
        return published.content_id


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock(START_MS)
    store = EmbeddedStore.open(tmp_path, clock, writer_role=True, merge_thread=False)
    made = World(store, clock)
    yield made
    await made.engine.close()
    await store.close()


async def crowd(world: World) -> range:
    """Everybody follows the celebrity and the others, all of whom have posts."""
    everybody = range(FIRST_FOLLOWER, FIRST_FOLLOWER + FOLLOWERS)
    followees = [CELEBRITY, *OTHERS]
    for start in range(0, FOLLOWERS, 500):
        some = everybody[start : start + 500]
        edges = [(user, author) for user in some for author in followees]
        await world.store.graph.import_follows(edges, START_MS)
    await world.engine.policy.review(START_MS)
    for author in followees:
        for hour in range(1, 4):
            await world.post(author, hour * 3_600_000)
    await world.settle()
    return everybody


async def test_a_stampede_asks_once_for_each_thing(world: World) -> None:
    everybody = await crowd(world)
    posted = await world.post(CELEBRITY)
    world.engine.resident.resident.clear()
    world.counting.contents_asked.clear()
    world.counting.timelines_asked.clear()
    world.counting.asked.clear()
    world.counting.go.clear()
    resident = world.engine.resident
    loads = [asyncio.create_task(resident.get_feed(user, 20, "", 0, "")) for user in everybody]
    await asyncio.wait_for(world.counting.asked.wait(), 60)
    leaving = loads[:: FOLLOWERS // 20]  # the first, who began the loads, among them
    for one in leaving:
        one.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resident.get_feed(everybody[0], 20, "", 0, ""), 0.05)
    world.counting.go.set()
    pages = await asyncio.gather(*loads, return_exceptions=True)
    left = [page for page in pages if isinstance(page, asyncio.CancelledError)]
    assert len(left) == len(leaving), "each who left, and nobody else"
    for page in pages:
        if not isinstance(page, BaseException):
            items = feed_pb2.GetFeedResponse.FromString(page.body).items
            assert items[0].content_id == posted and len(items) == 20
    assert resident.generic_pages == 0
    assert set(world.counting.contents_asked.values()) == {1}, "a content was asked for twice"
    assert {world.counting.timelines_asked[author] for author in (CELEBRITY, *OTHERS)} == {1}


async def test_a_failed_load_fails_its_callers_and_is_not_cached(world: World) -> None:
    everybody = await crowd(world)
    resident = world.engine.resident
    resident.resident.clear()
    asked = world.counting._source.contents

    async def broken(_ids):
        raise OSError("the disk is gone")

    world.counting._source.contents = broken
    failed = await asyncio.gather(
        *(resident.get_feed(user, 20, "", 0, "") for user in everybody[:50]),
        return_exceptions=True,
    )
    assert {type(one) for one in failed} == {OSError}
    world.counting._source.contents = asked
    page = await resident.get_feed(everybody[0], 20, "", 0, "")
    assert page.items == 20


async def test_celebrity_posts_are_loaded_ahead(world: World) -> None:
    await crowd(world)
    resident = world.engine.resident
    resident.resident.clear()
    resident.start()
    posted = await world.post(CELEBRITY)
    for _ in range(200):
        if resident.prewarmed:
            break
        await asyncio.sleep(0.01)
    assert world.counting.contents_asked[posted] >= 1
    assert posted in resident.resident.contents and CELEBRITY in resident.resident.timelines


async def test_a_process_that_opens_the_store_empties_everybodys_memory(
    world: World, tmp_path: Path
) -> None:
    """One before it may have died between its commit and its bumps."""
    everybody = await crowd(world)
    resident = world.engine.resident
    await resident.get_feed(everybody[0], 20, "", 0, "")
    assert everybody[0] in resident.resident.viewers
    other = EmbeddedStore.open(tmp_path, world.clock)
    resident.maker.follow_replica()
    assert len(resident.resident.viewers) == len(resident.resident.pages) == 0
    await other.close()


async def test_a_cached_page_is_generated_anew_behind_the_call(world: World) -> None:
    everybody = await crowd(world)
    resident, user = world.engine.resident, everybody[0]
    first = await resident.get_feed(user, 20, "", 0, "")
    world.clock.advance(PAGE_SOFT_AGE_MS + 1)
    old = await resident.get_feed(user, 20, "", 0, "")
    assert old.body == first.body, "served as it is"
    resident.start()
    for _ in range(200):
        again = await resident.get_feed(user, 20, "", 0, "")
        if again.body != first.body:
            break
        await asyncio.sleep(0.01)
    page = feed_pb2.GetFeedResponse.FromString(again.body)
    assert page.receipt.generated_at_ms == world.clock.now_ms()
    assert resident.maker.counts.pages_generated == 1, "nobody waited for the second"


async def test_calls_have_their_turns_between_pages_that_are_generated_anew(world: World) -> None:
    """All were cached at one moment, so that all are past their soft age at one moment."""
    everybody = (await crowd(world))[:50]
    resident = world.engine.resident
    world.counting.local = True  # nothing that is asked for waits, as in the embedded store
    for _ in range(2):
        for user in everybody:
            await resident.get_feed(user, 20, "", 0, "")
        world.clock.advance(PAGE_SOFT_AGE_MS + 1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await resident._refresh(0)
    task.cancel()
    assert turns >= len(everybody)
    assert not resident.maker.take_refreshes()


async def test_a_gate_sends_callers_the_ordinary_way(world: World) -> None:
    fastfeed = pytest.importorskip(
        "feedcore._native.feed.fastfeed", reason="built without libnghttp2"
    )
    everybody = await crowd(world)

    class Closed(fastfeed.Gate):
        def admits(self, user_id, _stream) -> bool:
            return user_id != everybody[0]

    fast = fastfeed.FastGetFeed(world.engine.resident.maker, Closed())
    for user in everybody[:2]:
        await world.engine.resident.get_feed(user, 20, "", 0, "")
    asked = [feed_pb2.GetFeedRequest(user_id=user).SerializeToString() for user in everybody[:2]]
    assert fast.ask(asked[0]) is None and fast.ask(asked[1]) is not None
    assert fast.declined == 1 and sum(fast.times()) == 1


@pytest.mark.parametrize("seed", range(WORLDS))
async def test_random_worlds_are_served_as_without_memory(world: World, seed: int) -> None:
    """Full windows, deep scrolls, all views and sizes, etags, at moments between events."""
    draw = random.Random(seed)
    users, authors = range(1, 16), range(1, 60)
    edges = [(u, a) for u in users for a in authors if u != a and draw.random() < 0.6]
    edges += [(user, 1) for user in range(5_000, 5_100)]  # 1 is pulled
    await world.store.graph.import_follows(edges, START_MS)
    await world.engine.policy.review(START_MS)
    for _ in range(1_500):
        await world.post(draw.choice(authors), draw.randrange(1, 6 * 86_400_000))
    await world.settle()
    resident, plain = world.engine.resident, world.engine.feed
    for _ in range(60):
        await an_event(world, draw, users, authors)
        resident.resident.pages.clear()
        user, view = draw.choice(users), draw.choice((0, 0, 1, 2))
        size, cursor = draw.choice((0, 1, 7, 50, 100)), ""
        for _ in range(draw.choice((1, 3, 30))):
            page = await resident.get_feed(user, size, cursor, view, "")
            same = await plain.get_feed(user, size, cursor, view, "")
            assert page.body == same.body, (seed, user, size, view)
            read = feed_pb2.GetFeedResponse.FromString(page.body)
            again = await resident.get_feed(user, size, cursor, view, read.etag)
            assert again.not_modified
            assert again.body == (await plain.get_feed(user, size, cursor, view, read.etag)).body
            cursor = read.next_cursor
            if not cursor:
                break
    assert resident.maker.counts.pages_generated > 100


async def an_event(world: World, draw: random.Random, users: range, authors: range) -> None:
    """Something that changes pages, or time passing."""
    engine, store, user = world.engine, world.store, draw.choice(users)
    kind = draw.randrange(9)
    world.clock.advance(draw.choice((1, 60_000, 3_600_000)))
    if kind == 0:
        await world.post(draw.choice(authors))
    elif kind == 1:
        author = draw.choice(authors)
        if author != user:
            await engine.preferences.set_preference(
                user, PreferenceKind.MUTE, draw.random() < 0.7, author, 0
            )
    elif kind == 2:
        until_ms = world.clock.now_ms() + draw.choice((1_000, 7_200_000))
        author = draw.choice(authors)
        if author != user:
            await engine.preferences.set_preference(
                user, PreferenceKind.SNOOZE, True, author, until_ms
            )
    elif kind in (3, 4):
        page = await engine.feed.get_feed(user, 20, "", 0, "")
        items = feed_pb2.GetFeedResponse.FromString(page.body).items
        if items:
            chosen = draw.choice(items)
            if kind == 3:
                done = draw.choice((InteractionKind.LIKE, InteractionKind.HIDE))
                await engine.preferences.record_interaction(user, chosen.content_id, done, True, "")
            else:
                await engine.publish.delete(chosen.author_id, chosen.content_id)
    elif kind == 5:
        await store.signals.apply_counters(1_000, world.clock.now_ms())
    elif kind == 6:
        other = draw.choice(authors)
        if other != user:
            await (engine.graph.follow if draw.random() < 0.5 else engine.graph.unfollow)(
                user, other
            )
    elif kind == 7:
        await world.settle()
    else:
        while store.merger.compact_once(quiet=True):
            pass
