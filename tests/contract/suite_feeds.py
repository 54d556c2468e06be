"""Contract of ports.FeedStore and ports.FanoutQueue: what every engine keeps. What only an engine
with jobs in the same store keeps is in suite_overlay.
"""

from __future__ import annotations

from feedcore import native
from feedcore.domain import entry, ids
from feedcore.limits import FANOUT_ATTEMPTS_MAX, INACTIVE_AFTER_MS, LANE_SPLIT_FOLLOWERS
from feedcore.ports import Delivery, JobKind, Lane
from tests.contract.engine import (
    ALL,
    Engine,
    Ports,
    entry_of,
    finish,
    jobs_of,
    no_more,
    post,
)


async def feed(ports: Ports, user_id: int, **bounds: int) -> list[int]:
    """Content ids of the window of a user, merged."""
    await ports.validation.observe_viewer(user_id)
    window = await ports.feeds.window(
        user_id,
        (await ports.graph.followees(user_id)).ids,
        bounds.get("at_or_below", ALL),
        bounds.get("not_below", 0),
        bounds.get("limit", 500),
    )
    merged = native.merge_newest(
        window.sources,
        bounds.get("at_or_below", ALL),
        bounds.get("not_below", 0),
        bounds.get("limit", 500),
    )
    return entry.content_ids(merged)


async def pending(engine: Engine, user_id: int) -> tuple[int, ...]:
    """Authors whose posts are on their way into the feed, as another process sees them."""
    await engine.other.validation.observe_viewer(user_id)
    return (await engine.other.feeds.window(user_id, b"", ALL, 0, 500)).pending_authors


class FeedContract:
    """Deliveries, removals, bounds, the overlay."""

    async def test_delivered_is_stored_once_however_often_it_is_delivered(
        self, engine: Engine
    ) -> None:
        content_id = ids.make(engine.clock.now_ms(), 0, 0, 1)
        users = native.pack_ids([1, 2, 2**63 - 1])
        for _ in range(3):
            await engine.store.feeds.deliver([Delivery(entry_of(content_id, 9), users)])
            await engine.settle()
        for user in (1, 2, 2**63 - 1):
            assert await feed(engine.store, user) == [content_id]
            assert await feed(engine.other, user) == [content_id]
            assert await engine.other.feeds.delivered(user, content_id)
        assert await feed(engine.store, 3) == []
        assert not await engine.store.feeds.delivered(3, content_id)

    async def test_many_posts_to_one_user_over_many_days(self, engine: Engine) -> None:
        day_ms = 86_400_000
        made = [ids.make(engine.clock.now_ms() - n * day_ms // 3, 0, 0, 1) for n in range(18)]
        entries = b"".join(entry_of(one, 9) for one in made)
        await engine.store.feeds.deliver([Delivery(entries, native.pack_ids([5]))])
        await engine.settle()
        assert await feed(engine.store, 5) == made
        assert await feed(engine.store, 5, at_or_below=made[4], limit=3) == made[4:7]
        assert await feed(engine.store, 5, not_below=made[2]) == made[:3]

    async def test_removal_takes_what_was_before_and_leaves_what_comes_after(
        self, engine: Engine
    ) -> None:
        old, new = (ids.make(engine.clock.now_ms(), 0, 0, n) for n in (1, 2))
        user = native.pack_ids([1])
        for settle_between in (True, False):
            await engine.store.feeds.deliver([Delivery(entry_of(old, 9), user)])
            if settle_between:
                await engine.settle()
            await engine.store.feeds.deliver([Delivery(b"", user, remove_author=9)])
            await engine.store.feeds.deliver([Delivery(entry_of(new, 9), user)])
            await engine.settle()
            assert await feed(engine.other, 1) == [new]

    async def test_removal_leaves_other_authors_and_other_users(self, engine: Engine) -> None:
        one, two = (ids.make(engine.clock.now_ms(), 0, 0, n) for n in (1, 2))
        both = native.pack_ids([1, 2])
        await engine.store.feeds.deliver(
            [Delivery(entry_of(one, 8), both), Delivery(entry_of(two, 9), both)]
        )
        await engine.settle()
        await engine.store.feeds.deliver([Delivery(b"", native.pack_ids([1]), remove_author=9)])
        await engine.settle()
        assert await feed(engine.store, 1) == [one]
        assert await feed(engine.store, 2) == [two, one]

    async def test_published_is_visible_at_every_step_of_its_delivery(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        made = await ports.posts.publish(post(engine.clock, 9))
        await engine.settle()
        assert await feed(engine.other, 1) == [made.content_id]
        (job,) = await jobs_of(engine, JobKind.POST, 1)
        assert (job.content_id, job.author_id) == (made.content_id, 9)
        await ports.feeds.deliver([Delivery(job.entry, native.pack_ids([1]))])
        assert await feed(engine.other, 1) == [made.content_id]
        await ports.queue.advance([(job, -1, 1)], now)
        assert await feed(engine.other, 1) == [made.content_id]
        await engine.settle()
        assert await feed(engine.other, 1) == [made.content_id]
        assert await feed(engine.other, 2) == []

    async def test_a_new_follow_is_pending_until_its_backfill_is_stored(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        assert await ports.graph.follow(1, 9, now)
        follows = (await ports.graph.followees(1)).ids
        await engine.other.validation.observe_viewer(1)
        pending = await engine.other.feeds.window(1, follows, ALL, 0, 500)
        assert pending.pending_authors == (9,)
        (job,) = await jobs_of(engine, JobKind.BACKFILL, 1)
        assert (job.author_id, job.user_id) == (9, 1)
        await finish(ports, job, engine.clock)
        await engine.settle()
        await engine.other.validation.observe_viewer(1)
        window = await engine.other.feeds.window(1, follows, ALL, 0, 500)
        assert window.pending_authors == ()
        assert await feed(engine.other, 1) == [made.content_id]

    async def test_follows_of_another_service_have_their_jobs_by_request(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        await ports.feeds.request_backfill(1, 9, now)
        assert await pending(engine, 1) == (9,)
        (backfill,) = await jobs_of(engine, JobKind.BACKFILL, 1)
        await finish(ports, backfill, engine.clock)
        await engine.settle()
        assert await pending(engine, 1) == ()
        assert await feed(engine.other, 1) == [made.content_id]
        engine.clock.advance(1)
        await ports.feeds.request_removal(1, 9, engine.clock.now_ms())
        (removal,) = await jobs_of(engine, JobKind.REMOVE, 1)
        assert {(job.user_id, job.author_id) for job in (backfill, removal)} == {(1, 9)}
        await finish(ports, removal, engine.clock)
        await engine.settle()
        assert await feed(engine.other, 1) == []

    async def test_an_inactive_user_is_not_built_until_the_rebuild_is_stored(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        later = now + INACTIVE_AFTER_MS + 1
        assert await engine.mark_inactive(later, 10) == 1
        assert not (await engine.other.feeds.window(1, b"", ALL, 0, 500)).built
        assert (await ports.graph.push_recipients(9, 0, 10, Lane.ALL, 0)).ids == b""
        await ports.feeds.request_rebuild(1, later)
        await ports.feeds.request_rebuild(1, later)
        recipients = await ports.graph.push_recipients(9, 0, 10, Lane.ALL, 0)
        assert native.unpack_ids(recipients.ids) == [1]
        assert not (await engine.other.feeds.window(1, b"", ALL, 0, 500)).built
        (job,) = await jobs_of(engine, JobKind.REBUILD, 1)
        assert job.user_id == 1
        content_id = ids.make(now, 0, 0, 1)
        await ports.feeds.deliver([Delivery(entry_of(content_id, 9), native.pack_ids([1]))])
        await ports.queue.advance([(job, -1, 1)], later)
        await engine.settle()
        assert (await engine.other.feeds.window(1, b"", ALL, 0, 500)).built
        assert await feed(engine.other, 1) == [content_id]


class QueueContract:
    """Fairness, continuations, order, dead letters."""

    async def _posts(self, engine: Engine, count: int) -> None:
        await engine.store.graph.follow(1, 9, engine.clock.now_ms())
        for seq in range(count):
            await engine.store.posts.publish(post(engine.clock, 9, seq=seq))

    async def test_a_continuation_comes_after_what_was_there_before(self, engine: Engine) -> None:
        await self._posts(engine, 1)
        queue, now = engine.store.queue, engine.clock.now_ms()
        (first,) = await jobs_of(engine, JobKind.POST, 1)
        for seq in (1, 2):
            await engine.store.posts.publish(post(engine.clock, 9, seq=seq))
        await engine.settle()
        await queue.advance([(first, 77, 5)], now)
        order = await jobs_of(engine, JobKind.POST, 3)
        assert order[-1].content_id == first.content_id
        assert (order[-1].after, order[-1].delivered) == (77, 5)

    async def test_a_finished_job_is_not_claimed_again(self, engine: Engine) -> None:
        await self._posts(engine, 1)
        queue, now = engine.store.queue, engine.clock.now_ms()
        (job,) = await jobs_of(engine, JobKind.POST, 1)
        await queue.advance([(job, -1, 1)], now)
        await queue.advance([(job, -1, 1)], now)
        assert await no_more(engine, JobKind.POST)
        stats = await engine.other.posts.stats(job.content_id)
        assert stats is not None
        assert stats.fanned_out_ms == now

    async def test_failing_for_good_makes_a_dead_letter_that_can_be_replayed(
        self, engine: Engine
    ) -> None:
        await self._posts(engine, 1)
        queue, now = engine.store.queue, engine.clock.now_ms()
        for attempt in range(FANOUT_ATTEMPTS_MAX):
            (job,) = await jobs_of(engine, JobKind.POST, 1)
            assert job.attempts == attempt
            await queue.fail(job, "broken", now)
        assert await no_more(engine, JobKind.POST)
        (dead,) = await engine.other.queue.dead_letters(10)
        assert (dead.job.job_id, dead.error, dead.failed_ms) == (job.job_id, "broken", now)
        assert await queue.replay([], now) == 1
        assert await queue.replay([job.job_id], now) == 0
        (again,) = await jobs_of(engine, JobKind.POST, 1)
        assert (again.content_id, again.attempts) == (job.content_id, 0)

    async def test_removal_and_backfill_of_one_pair_keep_their_order(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.posts.publish(post(engine.clock, 9))
        for change in (ports.graph.follow, ports.graph.unfollow, ports.graph.follow):
            await change(1, 9, now)
        await engine.settle()
        kinds: list[JobKind] = []
        while len(kinds) < 3:
            for job in await engine.jobs(tuple(Lane), 10):
                if job.kind is not JobKind.POST:  # an engine may queue a post without followers
                    kinds.append(job.kind)
                await ports.queue.advance([(job, -1, 0)], now)
        assert kinds == [JobKind.BACKFILL, JobKind.REMOVE, JobKind.BACKFILL]
        assert await engine.jobs(tuple(Lane), 10, at_least=0) == []

    async def test_lanes_split_followers_of_large_authors(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        count = LANE_SPLIT_FOLLOWERS + 1
        edges = [(user, 9) for user in range(100, 100 + count)]
        assert await ports.graph.import_follows(edges, now) == count
        engine.clock.advance(10 * 86_400_000)
        ports.preferences.seen(105, engine.clock.now_ms())
        await engine.write_seen()
        followers = await ports.graph.audience(9)
        made = await ports.posts.publish(post(engine.clock, 9, followers=followers))
        recent = engine.clock.now_ms() - 86_400_000
        for lane in (Lane.ACTIVE, Lane.REST):
            (job,) = await jobs_of(engine, JobKind.POST, 1, (lane,))
            assert (job.lane, job.content_id) == (lane, made.content_id)
        active = await ports.graph.push_recipients(9, 0, 5_000, Lane.ACTIVE, recent)
        rest = await ports.graph.push_recipients(9, 0, 5_000, Lane.REST, recent)
        assert native.unpack_ids(active.ids) == [105]
        assert len(rest.ids) // 8 == count - 1
        assert (await ports.queue.lag(engine.clock.now_ms()))[Lane.REST].jobs == 1
        made_ms = engine.clock.now_ms()
        engine.clock.advance(1_000)
        ports.preferences.seen(106, engine.clock.now_ms())
        await engine.write_seen()
        late = await ports.graph.push_recipients(9, 0, 5_000, Lane.REST, recent, made_ms)
        assert native.ids_contain(late.ids, 106), "seen between the passes: in neither"
        assert not native.ids_contain(late.ids, 105)
