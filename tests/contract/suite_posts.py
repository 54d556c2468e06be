"""Contract of ports.PostStore."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from feedcore import native
from feedcore.domain import entry, ids
from feedcore.domain.policy import Mode
from feedcore.errors import IdempotencyConflict, NotFound, NotPermitted
from feedcore.limits import CLOCK_AHEAD_MAX_MS, RETENTION_MS
from feedcore.ports import JobKind, Published
from feedcore.ports.settings import AuthorMode
from tests.contract.engine import ALL, Engine, jobs_of, no_more, post, timeline_of


def covers(newest: int, content_id: int) -> bool:
    """A store may have reserved ids ahead, by less than what is taken for a broken clock."""
    ahead_ms = ids.time_ms(newest) - ids.time_ms(content_id)
    return newest >= content_id and ahead_ms < CLOCK_AHEAD_MAX_MS


class PostContract:
    """Publish, replay, delete, timelines, stats."""

    async def test_published_is_read_by_everybody_at_once(self, engine: Engine) -> None:
        new = post(engine.clock, 9, body=b"text")
        made = await engine.store.posts.publish(new)
        assert made == Published(new.content_id, False)
        for ports in (engine.store, engine.other):
            stored = await ports.posts.get(new.content_id)
            assert stored is not None
            assert (stored.author_id, stored.content) == (9, new.content)
            timeline = await timeline_of(ports, 9)
            assert entry.content_ids(timeline) == [new.content_id]
            assert covers(await ports.posts.newest_content_id(), new.content_id)
            (content,) = await ports.contents.contents([new.content_id])
            assert content is not None
            assert content.content == new.content

    async def test_the_same_key_and_request_is_one_post(self, engine: Engine) -> None:
        first = post(engine.clock, 9, key="k")
        made = await engine.store.posts.publish(first)
        engine.clock.advance(1_000)
        again = await engine.other.posts.publish(post(engine.clock, 9, key="k"))
        assert again == Published(made.content_id, True)
        assert await engine.other.posts.content_id_of(9, "k") == made.content_id
        assert await engine.other.posts.content_id_of(8, "k") == 0
        assert len(await timeline_of(engine.store, 9)) == entry.ENTRY_BYTES
        other_author = await engine.store.posts.publish(post(engine.clock, 8, key="k", seq=5))
        assert not other_author.replayed

    async def test_the_same_key_with_another_request_is_refused(self, engine: Engine) -> None:
        await engine.store.posts.publish(post(engine.clock, 9, key="k"))
        with pytest.raises(IdempotencyConflict, match="idempotency_key"):
            await engine.store.posts.publish(post(engine.clock, 9, key="k", digest=b"x", seq=2))
        assert len(await timeline_of(engine.store, 9)) == entry.ENTRY_BYTES

    async def test_one_refused_publish_does_not_touch_those_beside_it(self, engine: Engine) -> None:
        await engine.store.posts.publish(post(engine.clock, 9, key="k"))
        calls = [
            engine.store.posts.publish(
                post(engine.clock, 9, key="k" if seq % 2 else f"{seq}", digest=b"n", seq=seq)
            )
            for seq in range(1, 41)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in results if isinstance(one, IdempotencyConflict)]
        assert (len(refused), len(results)) == (20, 40)
        timeline = await timeline_of(engine.other, 9)
        assert len(timeline) // entry.ENTRY_BYTES == 21

    async def test_delete_is_final_and_only_the_authors(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.posts.publish(post(engine.clock, 8))
        made = await ports.posts.publish(post(engine.clock, 9))
        with pytest.raises(NotPermitted):
            await ports.posts.delete(8, made.content_id, now)
        with pytest.raises(NotFound, match="author_id"):
            await ports.posts.delete(7, made.content_id, now)
        with pytest.raises(NotFound):
            await ports.posts.delete(9, made.content_id + 1, now)
        await engine.other.validation.observe_node()
        assert made.content_id not in engine.other.posts.tombstones()
        for _ in range(2):
            await ports.posts.delete(9, made.content_id, now)
        await engine.other.validation.observe_node()
        assert made.content_id in engine.other.posts.tombstones()
        assert await engine.other.posts.get(made.content_id) is None
        assert await engine.other.contents.contents([made.content_id]) == [None]
        assert await engine.other.posts.stats(made.content_id) is None
        assert covers(await engine.other.posts.newest_content_id(), made.content_id)
        with pytest.raises(NotPermitted):
            await ports.posts.delete(8, made.content_id, now)

    async def test_a_taken_id_moves_on(self, engine: Engine) -> None:
        first = post(engine.clock, 9, key="a")
        second = post(engine.clock, 9, key="b")
        third = post(engine.clock, 9, key="a", digest=b"other")
        answers = await engine.store.posts.import_posts([first, second, third])
        taken = first.content_id
        assert answers == [Published(taken, False), Published(taken + 1, False), None]
        again = await engine.store.posts.import_posts([first, second])
        assert again == [Published(taken, True), Published(taken + 1, True)]

    async def test_timelines_are_newest_first_whatever_the_order_of_publishing(
        self, engine: Engine
    ) -> None:
        day_ms = 86_400_000
        ages = [3 * day_ms, 0, 5_000, day_ms, 1_000]
        made = [post(engine.clock, 9, age_ms=age) for age in ages]
        await engine.store.posts.import_posts(made)
        newest_first = sorted((one.content_id for one in made), reverse=True)
        found = (await engine.other.posts.timelines([7, 9], ALL, 0, 500)).entries
        assert found[0] == b""
        assert entry.content_ids(found[1]) == newest_first

    async def test_mode_is_read_in_the_commit(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.graph.follow(1, 9, now)
        for mode in (Mode.PULL, Mode.DRAINING, Mode.PUSH):
            await ports.settings.set_author_modes([AuthorMode(9, int(mode), 0, 0)])
            engine.clock.advance(1)
            made = await engine.other.posts.publish(post(engine.clock, 9, followers=1))
            if mode is Mode.PULL:
                assert await no_more(engine, JobKind.POST)
            else:
                (job,) = await jobs_of(engine, JobKind.POST, 1)
                assert job.content_id == made.content_id
                await ports.queue.advance([(job, -1, 0)], now)
            stats = await ports.posts.stats(made.content_id)
            assert stats is not None
            assert stats.mode == ("pull" if mode is Mode.PULL else "push")
            assert stats.reach == (1 if mode is Mode.PULL else 0)

    async def test_a_push_waits_for_who_follows_meanwhile(self, engine: Engine) -> None:
        # the follow found no post, and the count that the post came with knew no follower
        new = post(engine.clock, 9, followers=0)
        await engine.store.graph.follow(1, 9, engine.clock.now_ms())
        assert await no_more(engine, JobKind.BACKFILL)
        await engine.store.posts.publish(new)
        (job,) = await jobs_of(engine, JobKind.POST, 1)
        page = await engine.store.graph.push_recipients(9, 0, 10, job.lane, 0)
        assert native.unpack_ids(page.ids) == [1]
        lonely = await engine.store.posts.publish(post(engine.clock, 8, seq=5))
        await engine.store.queue.advance([(job, -1, 1)], engine.clock.now_ms())
        (job,) = await jobs_of(engine, JobKind.POST, 1)
        assert job.content_id == lonely.content_id

    async def test_what_no_feed_holds_any_more_is_a_post_only(self, engine: Engine) -> None:
        old = post(engine.clock, 9, age_ms=RETENTION_MS + 1)
        (made,) = await engine.store.posts.import_posts([old])
        assert made == Published(old.content_id, False)
        assert await timeline_of(engine.other, 9) == b""
        assert await no_more(engine, JobKind.POST)
        stats = await engine.other.posts.stats(old.content_id)
        assert stats is not None
        assert stats.fanned_out_ms == ids.time_ms(old.content_id)

    async def test_a_private_post_goes_to_nobody(self, engine: Engine) -> None:
        await engine.store.graph.follow(1, 9, engine.clock.now_ms())
        made = await engine.store.posts.publish(
            post(engine.clock, 9, visibility=int(entry.Visibility.PRIVATE))
        )
        assert await no_more(engine, JobKind.POST)
        (own,) = entry.unpack(await timeline_of(engine.store, 9))
        assert (own.content_id, own.visibility) == (made.content_id, entry.Visibility.PRIVATE)

    async def test_media_sets_its_flag(self, engine: Engine) -> None:
        new = replace(post(engine.clock, 9), has_media=True)
        await engine.store.posts.publish(new)
        (own,) = entry.unpack(await timeline_of(engine.store, 9))
        assert own.flags & entry.FLAG_MEDIA

    async def test_ids_up_to_63_bits(self, engine: Engine) -> None:
        author, follower = 2**63 - 1, 2**63 - 5
        now = engine.clock.now_ms()
        assert await engine.store.graph.follow(follower, author, now)
        made = await engine.store.posts.publish(post(engine.clock, author, key="k"))
        stored = await engine.other.posts.get(made.content_id)
        assert stored is not None
        assert stored.author_id == author
        (job,) = await jobs_of(engine, JobKind.POST, 1)
        assert job.author_id == author
        assert ids.time_ms(made.content_id) == now
