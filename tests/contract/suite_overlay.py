"""Contract of an engine whose jobs are rows of the same store: readers overlay what has a job, from
the commit that made it until what it delivered is stored, and the queue is one line for all.
"""

from __future__ import annotations

from feedcore import native
from feedcore.domain import ids
from feedcore.limits import FANOUT_ATTEMPTS_MAX
from feedcore.ports import Delivery, JobKind, Lane
from tests.contract.engine import Engine, entry_of, post
from tests.contract.suite_feeds import feed


class OverlayContract:
    """What only such an engine keeps; nothing here settles before it looks."""

    async def test_backlog_counts_what_is_durable_but_not_stored(self, engine: Engine) -> None:
        content_id = ids.make(engine.clock.now_ms(), 0, 0, 1)
        await engine.store.feeds.deliver(
            [Delivery(entry_of(content_id, 9), native.pack_ids([1, 2]))]
        )
        assert engine.other.feeds.backlog() == 2
        await engine.settle()
        assert engine.other.feeds.backlog() == 0

    async def test_published_is_visible_before_delivery_and_at_every_step(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        made = await ports.posts.publish(post(engine.clock, 9))
        assert await feed(engine.other, 1) == [made.content_id]
        (job,) = await ports.queue.claim(tuple(Lane), 10)
        await ports.feeds.deliver([Delivery(job.entry, native.pack_ids([1]))])
        assert await feed(engine.other, 1) == [made.content_id]
        await ports.queue.advance([(job, -1, 1)], now)
        assert await feed(engine.other, 1) == [made.content_id]
        await engine.settle()
        assert await feed(engine.other, 1) == [made.content_id]
        assert await feed(engine.other, 2) == []

    async def test_a_dead_letter_does_not_hide_the_post(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        made = await ports.posts.publish(post(engine.clock, 9))
        for _ in range(FANOUT_ATTEMPTS_MAX):
            (job,) = await ports.queue.claim(tuple(Lane), 10)
            await ports.queue.fail(job, "broken", now)
        assert len(await ports.queue.dead_letters(10)) == 1
        assert await feed(engine.other, 1) == [made.content_id]

    async def test_least_recently_served_first_and_the_same_until_it_is_served(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        for seq in range(3):
            await ports.posts.publish(post(engine.clock, 9, seq=seq))
        before = await ports.queue.claim(tuple(Lane), 10)
        assert await ports.queue.claim(tuple(Lane), 10) == before
        await ports.queue.advance([(before[0], 77, 5)], now)
        order = await ports.queue.claim(tuple(Lane), 10)
        assert order[:2] == before[1:]
        last = order[-1]
        assert (last.job_id, last.after, last.delivered) == (before[0].job_id, 77, 5)

    async def test_jobs_of_one_pair_are_claimed_one_at_a_time(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.posts.publish(post(engine.clock, 9))
        (delivery,) = await ports.queue.claim(tuple(Lane), 10)
        await ports.queue.advance([(delivery, -1, 0)], now)
        for change in (ports.graph.follow, ports.graph.unfollow, ports.graph.follow):
            await change(1, 9, now)
        for kind in (JobKind.BACKFILL, JobKind.REMOVE, JobKind.BACKFILL):
            (job,) = await ports.queue.claim(tuple(Lane), 10)
            assert job.kind is kind
            await ports.queue.advance([(job, -1, 0)], now)

    async def test_edges_to_authors_without_posts_queue_nothing(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(2, 9, now)
        assert await ports.graph.import_follows([(1, 9), (1, 8), (1, 9)], now) == 2
        assert await ports.queue.claim(tuple(Lane), 10) == []
