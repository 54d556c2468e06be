"""Contract of ports.PageCache: a page that one opening leaves is served by others as long as it
would be made again, and not longer. Where nothing is shared every answer is that there is no page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from feedcore import native
from feedcore.domain.policy import Mode
from feedcore.ports import Preference, PreferenceKind
from feedcore.ports.page_cache import NO_PAGE, SharedPage
from feedcore.ports.settings import AuthorMode
from tests.contract.engine import Capability, WholeEngine, WholePorts, post

USER, STRANGER, FOLLOWED = 1, 2, 9
SHAPE, ANOTHER = b"20f", b"50f"
BODY = b"an encoded page"
ASKED_MAX, ASK_EVERY_S = 500, 0.01  # pages are written behind the call that made them
CHANGES: dict[str, Callable[[WholeEngine, int], Awaitable[object]]] = {
    "mute": lambda engine, now: engine.store.preferences.put(
        USER, Preference(PreferenceKind.MUTE, 7, 0, now)
    ),
    "unfollow": lambda engine, now: engine.store.graph.unfollow(USER, FOLLOWED, now),
    "post": lambda engine, now: engine.store.posts.publish(post(engine.clock, FOLLOWED, seq=1)),
    "own post": lambda engine, now: engine.store.posts.publish(post(engine.clock, USER, seq=2)),
    "ranking": lambda engine, now: engine.store.settings.put("ranking", {}, now),
    "mode": lambda engine, now: engine.store.settings.set_author_modes(
        [AuthorMode(FOLLOWED, int(Mode.PULL), 5, 0)]
    ),
}


async def leave_page(engine: WholeEngine) -> int:
    """`store` makes a page of USER and leaves it; the item that it shows."""
    ports, now = engine.store, engine.clock.now_ms()
    await ports.graph.follow(USER, FOLLOWED, now)
    shown = (await ports.posts.publish(post(engine.clock, FOLLOWED))).content_id
    await engine.settle()
    assert await ports.page_cache.page(USER, SHAPE) is None
    page = SharedPage(BODY, native.pack_ids([shown]))
    ports.page_cache.keep_page(USER, SHAPE, page, native.pack_ids([FOLLOWED]))
    return shown


async def page_at(ports: WholePorts) -> SharedPage | None:
    """What the opening has for USER, as soon as it has anything."""
    for _ in range(ASKED_MAX):
        if found := await ports.page_cache.page(USER, SHAPE):
            return found
        ports.page_cache.keep_none(USER, SHAPE)
        await asyncio.sleep(ASK_EVERY_S)
    return None


class PageCacheContract:
    """What one opening leaves, the other finds."""

    async def test_a_page_is_for_its_user_and_its_shape(self, engine: WholeEngine) -> None:
        await leave_page(engine)
        cache = engine.other.page_cache
        if Capability.SHARED_PAGES in engine.capabilities:
            assert (page := await page_at(engine.other)) is not None and page.body == BODY
        assert (found := await cache.page(USER, SHAPE)) is None or found.body == BODY
        for user_id, shape in ((USER, ANOTHER), (STRANGER, SHAPE)):
            assert not await cache.page(user_id, shape)
            cache.keep_none(user_id, shape)

    @pytest.mark.parametrize("change", CHANGES)
    async def test_a_page_that_would_be_another_one_is_not_served(
        self, engine: WholeEngine, change: str
    ) -> None:
        await leave_page(engine)
        if Capability.SHARED_PAGES in engine.capabilities:
            assert (page := await page_at(engine.other)) is not None and page.body == BODY
        await CHANGES[change](engine, engine.clock.now_ms())
        for ports in (engine.other, engine.store):
            assert not await ports.page_cache.page(USER, SHAPE)
            ports.page_cache.keep_none(USER, SHAPE)

    async def test_many_are_answered_in_the_order_asked_for(self, engine: WholeEngine) -> None:
        await leave_page(engine)
        if Capability.SHARED_PAGES in engine.capabilities:
            assert (page := await page_at(engine.other)) is not None and page.body == BODY
        cache = engine.other.page_cache
        asked = [(STRANGER, SHAPE), (USER, SHAPE), (USER, b""), (USER, ANOTHER)]
        stranger, mine, unasked, another = await cache.pages_of(asked)
        for user_id, shape in (asked[0], asked[3]):
            cache.keep_none(user_id, shape)
        shares = Capability.SHARED_PAGES in engine.capabilities
        assert (mine and mine.body) == (BODY if shares else None)
        assert {stranger, unasked, another} <= {NO_PAGE, None}

    async def test_a_stale_page_shows_nothing_deleted(self, engine: WholeEngine) -> None:
        shown = await leave_page(engine)
        cache = engine.other.page_cache
        if Capability.SHARED_PAGES in engine.capabilities:
            assert (page := await page_at(engine.other)) is not None and page.body == BODY
            stale = await cache.stale_page(USER, SHAPE)
            assert stale is not None and stale.page.body == BODY and stale.age_ms >= 0
            assert native.unpack_ids(stale.page.shown) == [shown]
        await engine.store.posts.delete(FOLLOWED, shown, engine.clock.now_ms())
        await engine.other.validation.observe_node()
        assert await cache.stale_page(USER, SHAPE) is None
