"""Posts on Cassandra when publishers die, meet, or come back after a deletion."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from feedcore.adapters.contracts.announcements import Deleted, Posted
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.adapters.cql.stores.node_ids import RESERVED_AHEAD_MS
from feedcore.clock import ManualClock
from feedcore.domain import entry, ids
from feedcore.domain.policy import Mode
from feedcore.errors import IdempotencyConflict
from feedcore.limits import LANE_SPLIT_FOLLOWERS
from feedcore.ports import Lane, Published
from feedcore.ports.settings import AuthorMode
from tests.contract.engine import ALL, START_MS, post
from tests.support.cqlposts import PostsEngine, opened
from tests.support.cqlusers import drop_keyspace, make_keyspace


@pytest.fixture(scope="module")
def keyspace(cassandra: str) -> Iterator[str]:
    """One for the tests of this file."""
    name = f"cqlposts_faults_{os.getpid()}"
    asyncio.run(make_keyspace(name, cassandra))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str) -> AsyncIterator[PostsEngine]:
    """An empty store."""
    async with opened(keyspace, ManualClock(START_MS)) as made:
        yield made


async def timeline_of(engine: PostsEngine, author_id: int) -> list[int]:
    (entries,) = (await engine.other.posts.timelines([author_id], ALL, 0, 500)).entries
    return entry.content_ids(entries)


async def test_a_publisher_that_died_between_key_and_batch_is_healed_by_the_retry(
    engine: PostsEngine,
) -> None:
    first = post(engine.clock, 9, key="k", body=b"text")
    engine.session.fail_batches = 1
    with pytest.raises(ConnectionAbortedError):
        await engine.store.posts.publish(first)
    assert await engine.store.posts.get(first.content_id) is None
    assert engine.log.events == []
    engine.clock.advance(700)
    again = post(engine.clock, 9, key="k", body=b"text")
    assert await engine.other.posts.publish(again) == Published(first.content_id, True)
    stored = await engine.store.posts.get(first.content_id)
    assert stored is not None
    assert stored.content == first.content
    assert await engine.store.posts.get(again.content_id) is None
    assert await timeline_of(engine, 9) == [first.content_id]
    assert [job.content_id for job in await engine.jobs((Lane.ALL,), 10)] == [first.content_id]
    assert len(await engine.queue.rows()) == 1
    with pytest.raises(IdempotencyConflict):
        await engine.other.posts.publish(replace(again, digest=b"other"))


async def test_a_batch_that_failed_leaves_nothing_and_is_not_repeated_under_a_new_id(
    engine: PostsEngine,
) -> None:
    engine.session.fail_batches = 1
    with pytest.raises(ConnectionAbortedError):
        await engine.store.posts.publish(post(engine.clock, 9))
    assert await timeline_of(engine, 9) == []
    assert await engine.jobs(tuple(Lane), 10) == []
    assert await engine.queue.rows() == []


async def test_publishers_with_one_key_at_once_make_one_post(engine: PostsEngine) -> None:
    calls = [
        (engine.store, engine.other)[seq % 2].posts.publish(post(engine.clock, 9, key="k", seq=seq))
        for seq in range(12)
    ]
    made = await asyncio.gather(*calls)
    assert len({one.content_id for one in made}) == 1
    assert [one.replayed for one in made].count(False) == 1
    assert await timeline_of(engine, 9) == [made[0].content_id]
    jobs = await engine.jobs(tuple(Lane), 100)
    assert {job.content_id for job in jobs} == {made[0].content_id}


async def test_a_replay_does_not_bring_a_deleted_post_back(engine: PostsEngine) -> None:
    first = post(engine.clock, 9, key="k")
    made = await engine.store.posts.publish(first)
    await engine.store.posts.delete(9, made.content_id, engine.clock.now_ms())
    again = post(engine.clock, 9, key="k", seq=3)
    assert await engine.other.posts.publish(again) == Published(made.content_id, True)
    # a publisher that hung since before the deletion, and sends its batch now
    await engine.other.posts._publisher._store(first, made.content_id)
    for store in (engine.store, engine.other):
        assert await store.posts.get(made.content_id) is None
        assert await store.posts.stats(made.content_id) is None
        assert await store.contents.contents([made.content_id]) == [None]
        await store.validation.observe_node()
        assert made.content_id in store.posts.tombstones()
    assert await timeline_of(engine, 9) == []
    # nor for who does not know of the tombstone
    rows = await engine.session.read(Statement("SELECT content, entry FROM posts"))
    assert rows == [(None, None)]


async def test_a_deletion_that_died_half_way_is_finished_by_the_next(engine: PostsEngine) -> None:
    made = await engine.store.posts.publish(post(engine.clock, 9))
    engine.session.fail_batches = 1
    with pytest.raises(ConnectionAbortedError):
        await engine.store.posts.delete(9, made.content_id, engine.clock.now_ms())
    await engine.other.validation.observe_node()
    assert made.content_id in engine.other.posts.tombstones()
    assert await engine.other.contents.contents([made.content_id]) == [None]
    for _ in range(2):
        engine.log.events.clear()
        await engine.other.posts.delete(9, made.content_id, engine.clock.now_ms())
        assert engine.log.events == [Deleted(made.content_id)]
    assert await engine.other.posts.get(made.content_id) is None


async def test_tombstones_are_found_from_any_moment_on(engine: PostsEngine) -> None:
    deleted: list[tuple[int, int]] = []
    for seq in range(6):
        made = await engine.store.posts.publish(post(engine.clock, 9, seq=seq))
        await engine.store.posts.delete(9, made.content_id, engine.clock.now_ms())
        deleted.append((engine.clock.now_ms(), made.content_id))
        engine.clock.advance(25 * 60_000)
    now_ms = engine.clock.now_ms()
    for since_ms in (0, *(at_ms for at_ms, _ in deleted), now_ms):
        found = await engine.source.tombstones_since(max(since_ms, START_MS), now_ms)
        assert sorted(found) == sorted(one for at_ms, one in deleted if at_ms >= since_ms)


async def test_lanes_split_above_the_bound_counted_or_not(engine: PostsEngine) -> None:
    counted = Statement("INSERT INTO author_sizes (author_id, followers) VALUES (?, ?)")
    await engine.session.write(counted, (1, LANE_SPLIT_FOLLOWERS))
    await engine.session.write(counted, (2, LANE_SPLIT_FOLLOWERS + 1))
    insert = Statement("INSERT INTO followers (author_id, follower_id, since_ms) VALUES (?, ?, 1)")
    for author_id, size in ((3, LANE_SPLIT_FOLLOWERS), (4, LANE_SPLIT_FOLLOWERS + 1)):
        rows = [Write(insert, (author_id, follower)) for follower in range(1, size + 1)]
        await engine.session.write_many(rows)
    for author_id in (1, 2, 3, 4):
        followers = await engine.store.graph.audience(author_id)
        new = post(engine.clock, author_id, seq=author_id, followers=followers)
        await engine.store.posts.publish(new)
    jobs = await engine.jobs(tuple(Lane), 100)
    lanes = [sorted(job.lane for job in jobs if job.author_id == author) for author in (1, 2, 3, 4)]
    split = [Lane.ACTIVE, Lane.REST]
    assert lanes == [[Lane.ALL], split, [Lane.ALL], split]
    assert len({job.job_id for job in jobs}) == len(jobs)
    (active, rest) = [job for job in jobs if job.author_id == 2]
    await engine.queue.advance([(active, -1, 70)], 5)
    stats = await engine.store.posts.stats(active.content_id)
    assert stats is not None
    assert (stats.reach, stats.fanned_out_ms) == (70, 0)
    await engine.queue.advance([(rest, -1, 8)], 9)
    stats = await engine.store.posts.stats(active.content_id)
    assert stats is not None
    assert (stats.reach, stats.fanned_out_ms) == (78, 9)


async def test_a_retry_tells_of_a_post_that_was_stored_untold(engine: PostsEngine) -> None:
    first = post(engine.clock, 9, key="k")
    await engine.store.posts.publish(first)
    engine.log.events.clear()  # as if who stored it had died, or given up, before it said so
    engine.clock.advance(700)
    again = post(engine.clock, 9, key="k")
    assert await engine.other.posts.publish(again) == Published(first.content_id, True)
    (told,) = engine.log.events
    assert isinstance(told, Posted)
    assert (told.author_id, entry.content_ids(told.entry)) == (9, [first.content_id])
    assert len(await engine.queue.rows()) == 1
    await engine.store.posts.delete(9, first.content_id, engine.clock.now_ms())
    engine.log.events.clear()
    assert await engine.other.posts.publish(again) == Published(first.content_id, True)
    assert engine.log.events == [], "nothing to tell of what is deleted"


async def test_a_pulled_post_is_announced_as_such_and_has_no_job(engine: PostsEngine) -> None:
    await engine.store.settings.set_author_modes(
        [AuthorMode(9, int(Mode.PULL), 0, 0), AuthorMode(8, int(Mode.DRAINING), 0, 0)]
    )
    made = [await engine.store.posts.publish(post(engine.clock, a, seq=a)) for a in (7, 8, 9)]
    told = [(one.author_id, one.pulled) for one in engine.log.events if isinstance(one, Posted)]
    assert told == [(7, False), (8, True), (9, True)]
    jobs = await engine.jobs(tuple(Lane), 10)
    assert [job.content_id for job in jobs] == [one.content_id for one in made[:2]]


async def test_importers_at_once_never_share_an_id(engine: PostsEngine) -> None:
    first = [post(engine.clock, 9, key=f"a{at}", body=b"a%d" % at) for at in range(20)]
    second = [post(engine.clock, 8, key=f"b{at}", body=b"b%d" % at) for at in range(20)]
    answers = await asyncio.gather(
        engine.store.posts.import_posts(first), engine.other.posts.import_posts(second)
    )
    made = [one for part in answers for one in part if one is not None]
    assert len({one.content_id for one in made}) == 40
    assert not any(one.replayed for one in made)
    for one, published in zip(first + second, made, strict=True):
        stored = await engine.store.posts.get(published.content_id)
        assert stored is not None
        assert (stored.author_id, stored.content) == (one.author_id, one.content)
    assert await engine.other.posts.import_posts(first) == [
        Published(one.content_id, True) for one in made[:20]
    ]
    assert len(await timeline_of(engine, 9)) == 20


async def test_an_import_that_died_is_finished_by_the_next(engine: PostsEngine) -> None:
    posts = [post(engine.clock, 9, key=f"{at}", age_ms=at * 1_000) for at in range(40)]
    engine.session.fail_batches = 5
    with pytest.raises(ConnectionAbortedError):
        await engine.store.posts.import_posts(posts)
    answers = await engine.other.posts.import_posts(posts)
    assert None not in answers
    found = await timeline_of(engine, 9)
    assert sorted(found) == sorted(one.content_id for one in answers if one is not None)
    for one, published in zip(posts, answers, strict=True):
        assert published is not None
        stored = await engine.store.posts.get(published.content_id)
        assert stored is not None
        assert stored.content == one.content


async def test_ids_are_reserved_before_they_are_used_and_seldom(engine: PostsEngine) -> None:
    posts = engine.store.posts
    newest = 0
    reserved = set()
    for at in range(30):
        made = await posts.publish(post(engine.clock, 9, seq=at))
        newest = max(newest, made.content_id)
        found = await engine.other.posts.newest_content_id()
        assert newest <= found <= ids.last_id_at(engine.clock.now_ms() + RESERVED_AHEAD_MS)
        reserved.add(found)
        engine.clock.advance(200)
    assert len(reserved) == 3


async def test_timelines_are_cut_to_days_in_bounds(engine: PostsEngine) -> None:
    day_ms = 86_400_000
    made = [post(engine.clock, 9, age_ms=day * day_ms, seq=day) for day in range(7)]
    await engine.store.posts.import_posts(made)
    content_ids = [one.content_id for one in made]
    for newest in range(7):
        for oldest in range(newest, 7):
            found = await engine.store.posts.timelines(
                [9], content_ids[newest], content_ids[oldest], 500
            )
            assert found.kept == 0
            (entries,) = found.entries
            assert entry.content_ids(entries) == content_ids[newest : oldest + 1]
    (entries,) = (await engine.store.posts.timelines([9], ALL, 0, 1)).entries
    assert entry.content_ids(entries)[0] == content_ids[0]
