"""A store that is not local is asked first whether what a node keeps is current, and what one load
has made another may serve; a local one is asked nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.compose import Engine, compose_over
from feedcore.errors import Overloaded, Unavailable
from feedcore.ports import Interaction, InteractionKind, PreferenceKind
from feedcore.ports.page_cache import NO_PAGE, SharedPage, StalePage
from feedcore.resilience import deadline
from feedcore.services.audit import AuditReport
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore_pb.v1 import feed_pb2
from feedcore_server.wiring import fast_feed

START_MS = 1_780_000_000_000
READER, AUTHOR = 9, 1
BUDGET = CacheBudget(1 << 20, 1 << 20)
STALE_MS = 41_000
compiled = pytest.mark.skipif(not native.COMPILED, reason="compiled modules are not built")


class Remote:
    """The store's own source as one that may wait; notes what it is asked for."""

    def __init__(self, source, asked: list[object]) -> None:
        self._source = source
        self._asked = asked
        self.local = False
        self.error: Exception | None = None
        self.waiting, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    async def viewers(self, user_ids, depth, now_ms):
        self._asked.append("viewers")
        if self.error is not None:
            raise self.error
        return await self._source.viewers(user_ids, depth, now_ms)

    async def contents(self, content_ids):
        self._asked.append("contents")
        self.waiting.set()
        await self.go.wait()
        return await self._source.contents(content_ids)


class SharedPages:
    """Notes what it is asked for, and gives back every page that was left to it."""

    def __init__(self, asked: list[object]) -> None:
        self._asked = asked
        self.pages: dict[tuple[int, bytes], SharedPage] = {}
        self.bypassed = False
        self.current = True

    async def observe_node(self) -> None:
        self._asked.append("shared")

    async def observe_viewer(self, user_id: int) -> None:
        self._asked.append("viewer")

    def is_bypassed(self, user_id: int) -> bool:
        return self.bypassed

    async def page(self, user_id: int, shape: bytes) -> SharedPage | None:
        self._asked.append("page")
        return self.pages.get((user_id, shape)) if self.current else None

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[SharedPage | None]:
        return [await self.page(*one) or NO_PAGE for one in asked]

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        self._asked.append("stale_page")
        found = self.pages.get((user_id, shape))
        return StalePage(found, STALE_MS) if found else None

    def keep_none(self, user_id: int, shape: bytes) -> None:
        self._asked.append("keep_none")

    def keep_page(self, user_id: int, shape: bytes, page: SharedPage, followees: bytes) -> None:
        self._asked.append("keep_page")
        self.pages[user_id, shape] = page


class Away(SharedPages):
    """Nothing can be vouched for."""

    async def observe_node(self) -> None:
        raise Unavailable("epochs: no answer within 100 ms")

    async def observe_viewer(self, user_id: int) -> None:
        raise Unavailable("epochs: no answer within 100 ms")

    async def page(self, user_id: int, shape: bytes) -> SharedPage | None:
        raise Unavailable("epochs: no answer within 100 ms")


class World:
    """A store with a few posts, and engines over it."""

    def __init__(self, store: EmbeddedStore, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.asked: list[object] = []
        self.local_source = store.resident
        self.remote = Remote(store.resident, self.asked)
        self.validation = SharedPages(self.asked)
        self.engines: list[Engine] = []

    def engine(self, *, local: bool = False, validation: SharedPages | None = None) -> Engine:
        """One worker's."""
        self.store.resident = self.local_source if local else self.remote
        self.store.validation = self.store.page_cache = validation or self.validation
        made = compose_over(self.store, HotSettings(), self.clock, node=1, budget=BUDGET)
        self.engines.append(made)
        return made

    async def posts(self, count: int) -> list[int]:
        """Content ids, newest first, by somebody whom the reader follows."""
        engine = self.engine(local=True)
        await engine.graph.follow(READER, AUTHOR)
        made = []
        for _ in range(count):
            self.clock.advance(1)
            made.append((await engine.publish.publish(AUTHOR, "x")).content_id)
        self.asked.clear()
        return made[::-1]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock(START_MS)
    store = EmbeddedStore.open(tmp_path, clock, writer_role=True, merge_thread=False)
    made = World(store, clock)
    yield made
    for engine in made.engines:
        if engine.resident is not None:
            await engine.resident.close()
    await store.close()


def ids_of(body: bytes) -> list[int]:
    return [item.content_id for item in feed_pb2.GetFeedResponse.FromString(body).items]


@compiled
async def test_a_page_is_asked_for_before_anything_is_read_and_left_to_others(
    world: World,
) -> None:
    made = await world.posts(3)
    first, second = world.engine().resident, world.engine().resident
    page = await first.get_feed(READER, 20, "", 0, "")
    assert sorted(ids_of(page.body)) == sorted(made)
    assert world.asked == ["page", "viewers", "contents", "keep_page"]
    ((body, shown),) = world.validation.pages.values()
    assert (body, native.unpack_ids(shown)) == (page.body, ids_of(body))
    world.asked.clear()
    again = await first.get_feed(READER, 20, "", 0, "")
    assert (again.body, world.asked) == (page.body, ["viewer"]), "kept here: nobody is asked for it"
    world.asked.clear()
    other = await second.get_feed(READER, 20, "", 0, "")
    assert (other.body, other.items, world.asked) == (page.body, 3, ["page"])
    assert second.batched is not None
    assert (second.batched.shared_pages, second.maker.counts.pages_generated) == (1, 0)
    await world.store.signals.write_impressions()
    await world.store.signals.apply_counters(100, world.clock.now_ms())
    for worker in (first, second):
        while worker.count_shown():
            pass
    await world.store.signals.write_impressions()
    stats = await world.store.posts.stats(made[0])
    assert stats is not None
    assert stats.impressions == 3, "made, kept, and served by the other"


@compiled
async def test_a_bypassed_cache_is_on_the_receipt(world: World) -> None:
    made = await world.posts(3)
    engine = world.engine()
    world.validation.bypassed = True
    for service in (engine.resident, engine.feed):
        body = (await service.get_feed(READER, 20, "", 0, "")).body
        page = feed_pb2.GetFeedResponse.FromString(body)
        said = {source.name: (source.ok, source.error) for source in page.receipt.sources}
        assert said["cache"][0] is False and "bypassed" in said["cache"][1]
        assert "stored" in said and page.receipt.degraded
        assert sorted(item.content_id for item in page.items) == sorted(made)
    world.validation.bypassed = False
    body = (await engine.resident.get_feed(READER, 20, "", 0, "")).body
    receipt = feed_pb2.GetFeedResponse.FromString(body).receipt
    assert "cache" not in {source.name for source in receipt.sources} and not receipt.degraded


@compiled
@pytest.mark.parametrize("error", [Unavailable("CQL: no host"), Overloaded("CQL", "1,024")])
async def test_a_stale_page_stands_in_for_a_store_that_fails(
    world: World, error: Exception
) -> None:
    made = await world.posts(3)
    page = await world.engine().resident.get_feed(READER, 20, "", 0, "")
    other, world.remote.error = world.engine().resident, error
    world.validation.current = False
    world.asked.clear()
    stale = await other.get_feed(READER, 20, "", 0, "")
    assert world.asked == ["page", "viewers", "keep_none", "stale_page"]
    answer = feed_pb2.GetFeedResponse.FromString(stale.body)
    said = {source.name: source for source in answer.receipt.sources}
    assert sorted(ids_of(stale.body)) == sorted(made) and stale.body.startswith(page.body)
    assert (said["cache"].ok, said["cache"].stale_ms, said["cache"].count) == (True, STALE_MS, 3)
    assert said["stored"].ok, "of the page as it was"
    assert answer.receipt.degraded and stale.degraded and other.stale_pages == 1
    with pytest.raises(type(error), match="CQL"):
        await other.get_feed(READER, 19, "", 0, "")  # no page of that shape


@compiled
async def test_a_store_that_hangs_leaves_time_for_a_stale_page(world: World) -> None:
    await world.posts(3)
    page = await world.engine().resident.get_feed(READER, 20, "", 0, "")
    other = world.engine().resident
    world.validation.current = False
    world.remote.go.clear()
    with deadline.within(0.5):
        stale = await other.get_feed(READER, 20, "", 0, "")
        assert deadline.remaining_s(1.0) > 0
        assert stale.degraded and stale.body.startswith(page.body)
    with deadline.within(0.5), pytest.raises(Unavailable, match="in time"):
        await other.get_feed(READER, 19, "", 0, "")
    world.remote.go.set()


@compiled
async def test_every_compiled_page_is_told_once(world: World) -> None:
    made = await world.posts(3)
    first, second = world.engine().resident, world.engine().resident
    told: list[list[int]] = []
    for worker in (first, second):
        worker.batched.on_page = lambda draft, ids: told.append(list(ids))
    for worker in (first, first, second):  # made, kept, left by the other
        await worker.get_feed(READER, 20, "", 0, "")
    assert [sorted(one) for one in told] == [sorted(made)] * 3


@compiled
async def test_pages_of_another_shape_are_others_and_etags_ask_for_none(world: World) -> None:
    await world.posts(3)
    resident = world.engine().resident
    first = await resident.get_feed(READER, 2, "", 0, "")
    cursor = feed_pb2.GetFeedResponse.FromString(first.body).next_cursor
    await resident.get_feed(READER, 2, cursor, 0, "")
    await resident.get_feed(READER, 3, "", 0, "")
    await resident.get_feed(READER, 2, "", 2, "")
    assert len(world.validation.pages) == 4
    assert len({shape for _, shape in world.validation.pages}) == 4
    resident.resident.pages.clear()
    world.asked.clear()
    await resident.get_feed(READER, 2, "", 0, "another")
    assert "page" not in world.asked and "keep_page" not in world.asked


@compiled
async def test_many_are_answered_at_once_as_each_would_be(world: World) -> None:
    made = await world.posts(3)
    first, second = world.engine().resident, world.engine().resident
    full = feed_pb2.GetFeedRequest(user_id=READER, page_size=20).SerializeToString()
    refused = feed_pb2.GetFeedRequest(user_id=0).SerializeToString()
    assert await first.batched.answer([full, refused, b"\xff"]) == [None, None, None], "not loaded"
    assert "keep_page" not in world.asked and "keep_none" in world.asked
    page = await first.get_feed(READER, 20, "", 0, "")
    assert await second.batched.answer([full, refused, full]) == [page.body, None, page.body]
    assert (
        second.batched.shared_pages,
        second.maker.counts.pages_generated,
        second.batched.declined,
    ) == (
        2,
        0,
        1,
    )
    assert await first.batched.answer([full]) == [page.body]
    assert first.batched.shared_pages == 0, "it is kept here: nobody is asked for it"
    etag = feed_pb2.GetFeedResponse.FromString(page.body).etag
    request = feed_pb2.GetFeedRequest(user_id=READER, page_size=20, if_none_match=etag)
    (same,) = await first.batched.answer([request.SerializeToString()])
    assert feed_pb2.GetFeedResponse.FromString(same).not_modified
    await world.engine(local=True).publish.delete(AUTHOR, made[0])
    world.validation.pages.clear()
    (anew,) = await first.batched.answer([full])
    assert anew is None or made[0] not in ids_of(anew), "what is deleted is shown no more"


@compiled
async def test_without_a_page_cache_pages_are_left_to_others_all_the_same(world: World) -> None:
    await world.posts(3)
    world.store.resident = world.remote
    world.store.validation = world.store.page_cache = world.validation
    engine = compose_over(
        world.store, HotSettings(), world.clock, node=2, budget=CacheBudget(0, 1 << 20)
    )
    world.engines.append(engine)
    page = await engine.resident.get_feed(READER, 20, "", 0, "")
    assert [body for body, _ in world.validation.pages.values()] == [page.body]


@compiled
@pytest.mark.parametrize("what", ["mute", "post", "delete", "nothing"])
async def test_what_changed_while_a_page_was_made_keeps_it_from_others(
    world: World, what: str
) -> None:
    made = await world.posts(3)
    engine = world.engine()
    world.remote.go.clear()
    load = asyncio.create_task(engine.resident.get_feed(READER, 20, "", 0, ""))
    await world.remote.waiting.wait()
    world.clock.advance(1)
    if what == "mute":
        mute = PreferenceKind.MUTE
        await engine.preferences.set_preference(READER, mute, True, AUTHOR, 0)
    elif what == "post":
        await engine.publish.publish(AUTHOR, "news")
    elif what == "delete":
        await engine.publish.delete(AUTHOR, made[0])
    world.remote.go.set()
    page = await load
    shown = set(ids_of(page.body))
    assert shown == set(made) - ({made[0]} if what == "delete" else set())
    kept = [sorted(native.unpack_ids(shown)) for _, shown in world.validation.pages.values()]
    assert kept in ([], [sorted(shown)])
    if what in ("mute", "post"):
        assert not kept
    if what == "nothing":
        assert kept


@compiled
async def test_a_local_store_is_asked_nothing_and_alone_has_fast_handlers(world: World) -> None:
    await world.posts(3)
    engine = world.engine(local=True)
    head = (await engine.resident.get_feed(READER, 20, "", 0, "")).body
    head = feed_pb2.GetFeedResponse.FromString(head).head
    await engine.resident.check_new(READER, head)
    assert world.asked == []
    assert set(fast_feed(engine)) <= {"GetFeed", "CheckNew"}
    assert fast_feed(world.engine()) == {}


async def test_without_cache_validation_nothing_is_read(world: World) -> None:
    await world.posts(1)
    engine = world.engine(validation=Away([]))
    page = feed_pb2.GetFeedResponse.FromString(
        (await world.engine().feed.get_feed(READER, 20, "", 0, "")).body
    )
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: engine.feed.get_feed(READER, 20, "", 0, ""),
        lambda: engine.feed.check_new(READER, page.head),
        lambda: engine.feed.score_first_window(READER),
        lambda: engine.feed.scroll_ids(READER, 20),
        lambda: engine.explain.explain(READER, page.items[0].content_id),
        lambda: engine.audit.audit_user(READER, AuditReport()),
        lambda: engine.admin.get_ranking(),
        lambda: engine.admin.get_settings(),
        lambda: engine.admin.set_settings(fanout_paused=True),
        lambda: engine.admin.lanes(),
        lambda: engine.policy.review(START_MS),
        engine.fanout.turn,
    ]
    if engine.resident is not None:
        resident = engine.resident
        steps += [
            lambda: resident.get_feed(READER, 20, "", 0, ""),
            lambda: resident.check_new(READER, page.head),
        ]
    for step in steps:
        with pytest.raises(Unavailable):
            await step()
    like = Interaction(READER, page.items[0].content_id, InteractionKind.LIKE, True, START_MS)
    assert await world.store.signals.record(like), "writes ask the store alone"
