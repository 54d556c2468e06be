"""Signals on Cassandra: counts are exact whatever workers do at once, and wherever they die."""

from __future__ import annotations

import asyncio
import math
import os
import random
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from feedcore import native
from feedcore.adapters.common.engagement_table import PAIR, EngagementTable
from feedcore.adapters.contracts.announcements import SettingsChanged
from feedcore.adapters.cql.counting import counters
from feedcore.adapters.cql.counting.signals import CqlSignalStore
from feedcore.adapters.cql.driver.session import Statement
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores import dirty
from feedcore.adapters.cql.stores.dirty import DirtyMarks, DirtyReader, Kind
from feedcore.clock import ManualClock
from feedcore.domain import entry
from feedcore.errors import InvalidField, NotFound
from feedcore.ports import ImportedCounts, Interaction, InteractionKind, PostStats
from tests.contract.engine import START_MS, entry_of, post
from tests.support.cqlposts import PostsEngine, opened
from tests.support.cqlusers import drop_keyspace, make_keyspace

LIKE, HIDE = InteractionKind.LIKE, InteractionKind.HIDE


@pytest.fixture(scope="module")
def keyspace(cassandra: str) -> Iterator[str]:
    """One for the tests of this file."""
    name = f"cqlposts_signals_{os.getpid()}"
    asyncio.run(make_keyspace(name, cassandra))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str) -> AsyncIterator[PostsEngine]:
    """An empty store."""
    async with opened(keyspace, ManualClock(START_MS)) as made:
        yield made


async def stats_of(engine: PostsEngine, content_id: int) -> PostStats:
    stats = await engine.other.posts.stats(content_id)
    assert stats is not None
    return stats


async def drain(engine: PostsEngine) -> None:
    """Two workers, until neither finds anything."""
    now = engine.clock.now_ms()
    while any(
        await asyncio.gather(
            engine.store.signals.apply_counters(50, now),
            engine.other.signals.apply_counters(50, now),
        )
    ):
        pass


async def test_counts_are_exact_after_random_interactions_that_are_counted_meanwhile(
    engine: PostsEngine,
) -> None:
    draw = random.Random(7)
    authors = [100, 101, 102]
    posts = [
        (await engine.store.posts.publish(post(engine.clock, draw.choice(authors), seq=seq)))
        for seq in range(12)
    ]
    author_of = {one.content_id: (await engine.store.posts.get(one.content_id)) for one in posts}
    content_ids = list(author_of)
    model: dict[tuple[int, int, int], bool] = {}
    stop = asyncio.Event()

    async def work(signals: CqlSignalStore) -> None:
        while not stop.is_set():
            await signals.apply_counters(draw.randint(1, 9), engine.clock.now_ms())

    workers = [asyncio.create_task(work(one.signals)) for one in (engine.store, engine.other)]
    for _ in range(125):
        batch: dict[tuple[int, int, int], Interaction] = {}
        while len(batch) < 8:
            key = (draw.randint(1, 25), draw.choice(content_ids), draw.randint(1, 5))
            kind = InteractionKind(key[2])
            batch[key] = Interaction(*key[:2], kind, draw.random() < 0.6, engine.clock.now_ms())
        calls = [
            draw.choice((engine.store, engine.other)).signals.record(one) for one in batch.values()
        ]
        for (key, one), changed in zip(batch.items(), await asyncio.gather(*calls), strict=True):
            assert changed == (model.get(key, False) != one.on), key
            model[key] = one.on
    stop.set()
    await asyncio.gather(*workers)
    await drain(engine)
    for content_id in content_ids:
        stats = await stats_of(engine, content_id)
        counted = [
            sum(on for (_, *what), on in model.items() if what == [content_id, kind])
            for kind in range(1, 6)
        ]
        found = [stats.likes, stats.comments, stats.shares, stats.clicks, stats.hides]
        assert found == counted
        weight = counted[0] + 2 * counted[1] + 3 * counted[2] + 0.1 * counted[3]
        for store in (engine.store, engine.other):
            (value,) = struct.unpack("<f", store.signals.engagement(entry_of(content_id, 1)))
            assert value == pytest.approx(math.log1p(weight), abs=1e-6)
    stored = await engine.source.engagement_since(START_MS, START_MS)
    assert len(stored) == 12 * PAIR.size
    weights = (1.0, 2.0, 3.0, 0.1, 0.0)
    for user in range(1, 26):
        likes: dict[int, float] = {}
        for (who, content, kind), on in model.items():
            if who == user and on and weights[kind - 1]:
                author = author_of[content].author_id  # type: ignore[union-attr]
                likes[author] = likes.get(author, 0.0) + weights[kind - 1]
        filters = await engine.other.preferences.filters(user, START_MS)
        total = sum(likes.values())
        shares = dict(struct.iter_unpack("<Qf", filters.affinity))
        assert shares == pytest.approx({one: like / total for one, like in likes.items()})
        hidden = {c for (u, c, k), on in model.items() if on and u == user and k == HIDE}
        assert set(native.unpack_ids(filters.hidden)) == hidden


async def test_a_worker_that_hangs_with_an_old_count_does_not_write_it(
    engine: PostsEngine,
) -> None:
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))
    like = Interaction(1, made.content_id, LIKE, True, now)
    await engine.store.signals.record(like)
    passed_on = engine.session.insert_if_absent
    hung = False

    async def hang_once(statement: Statement, parameters: Any = ()) -> Any:
        nonlocal hung
        if "post_counts" in statement.cql and not hung:
            hung = True
            await engine.other.signals.record(like._replace(user_id=2))
            assert await engine.other.signals.apply_counters(10, now) == 1
            assert (await stats_of(engine, made.content_id)).likes == 2
        return await passed_on(statement, parameters)

    engine.session.insert_if_absent = hang_once  # type: ignore[method-assign]
    assert await engine.store.signals.apply_counters(10, now) == 1
    assert hung
    assert (await stats_of(engine, made.content_id)).likes == 2
    await drain(engine)
    assert (await stats_of(engine, made.content_id)).likes == 2


async def test_a_mark_that_is_set_while_its_content_is_counted_survives(
    engine: PostsEngine,
) -> None:
    stamps = Stamps()
    marks = DirtyMarks(engine.session, stamps)
    reader = DirtyReader(engine.session, stamps, Kind.CONTENT)
    await marks.mark([(Kind.CONTENT, 5), (Kind.AFFINITY, 6), (Kind.CONTENT, 2**63 - 1)])
    taken = await reader.take(10)
    assert set(taken) == {5, 2**63 - 1}
    await marks.mark([(Kind.CONTENT, 5)])
    await reader.clear(mark for found in taken.values() for mark in found)
    assert set(await reader.take(10)) == {5}
    assert set(await reader.take(10, skip={5})) == set()
    assert set(await DirtyReader(engine.session, stamps, Kind.AFFINITY).take(10)) == {6}


async def test_marks_of_older_minutes_are_found_and_what_is_done_is_not_looked_at_again(
    engine: PostsEngine,
) -> None:
    class Hands:
        us = 1_800_000_000_000_000

    stamps = Stamps(lambda: Hands.us)
    marks = DirtyMarks(engine.session, stamps)
    for minute in range(0, 200, 20):
        await marks.mark([(Kind.FOLLOWERS, minute + 1)])
        Hands.us += 20 * 60_000_000
    reader = DirtyReader(engine.session, stamps, Kind.FOLLOWERS)
    found: set[int] = set()
    for _ in range(20):
        taken = await reader.take(3)
        found |= set(taken)
        await reader.clear(mark for one in taken.values() for mark in one)
        Hands.us += dirty.OLDER_EVERY_US
    assert found == {minute + 1 for minute in range(0, 200, 20)}
    rows = await engine.session.read(
        Statement("SELECT minute FROM dirty_since WHERE kind = ?"), (int(Kind.FOLLOWERS),)
    )
    assert stamps.minute() - rows[0][0] <= dirty.LATE_MINUTES + 1


async def test_a_change_comes_after_the_one_it_follows_whatever_the_clocks_say(
    engine: PostsEngine,
) -> None:
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))
    hide = Interaction(1, made.content_id, HIDE, True, now)
    late = engine.other.signals._interactions._stamps
    late._now_us = lambda: 1  # a node whose clock is far behind
    assert await engine.store.signals.record(hide)
    assert await engine.other.signals.record(hide._replace(on=False))
    assert (await engine.store.preferences.filters(1, now)).hidden == b""
    assert await engine.store.signals.record(hide)
    assert await engine.other.signals.record(hide._replace(on=False))
    await drain(engine)
    assert (await stats_of(engine, made.content_id)).hides == 0
    assert (await engine.store.preferences.filters(1, now)).hidden == b""


async def test_who_died_before_the_mark_is_healed_by_the_retry(engine: PostsEngine) -> None:
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))
    for user, key in ((1, ""), (2, "key")):
        like = Interaction(user, made.content_id, LIKE, True, now, key)
        marks = engine.store.signals._interactions._marks
        marks._begun |= set(Kind)
        passed_on = engine.session.write_many

        async def die(writes: Any) -> None:
            raise ConnectionAbortedError("the process died here")

        engine.session.write_many = die  # type: ignore[method-assign]
        with pytest.raises(ConnectionAbortedError):
            await engine.store.signals.record(like)
        engine.session.write_many = passed_on  # type: ignore[method-assign]
        await drain(engine)
        assert (await stats_of(engine, made.content_id)).likes == user - 1
        await engine.other.signals.record(like)
        await drain(engine)
        assert (await stats_of(engine, made.content_id)).likes == user


async def test_a_deleted_post_is_not_counted_and_takes_no_more(engine: PostsEngine) -> None:
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))
    like = Interaction(1, made.content_id, LIKE, True, now)
    await engine.store.signals.record(like)
    await engine.store.posts.delete(9, made.content_id, now)
    await drain(engine)
    with pytest.raises(NotFound):
        await engine.other.signals.record(like._replace(user_id=2))
    await engine.store.signals.import_counts([ImportedCounts(made.content_id, 5, 5, 5)])
    assert await engine.session.read(Statement("SELECT content_id FROM post_counts")) == []


async def test_large_posts_are_counted_in_slices_and_less_often(
    engine: PostsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "COUNT_AT_ONCE_MAX", 20)
    limit = counters._SLICE.cql.rindex(" LIMIT")
    monkeypatch.setattr(counters, "_SLICE", Statement(counters._SLICE.cql[:limit] + " LIMIT 20"))
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))

    async def like(users: range) -> None:
        rows = [Interaction(user, made.content_id, LIKE, True, now) for user in users]
        assert await engine.store.signals.import_interactions(rows) == len(users)

    await like(range(1, 61))
    assert await engine.store.signals.apply_counters(10, now) == 1
    assert (await stats_of(engine, made.content_id)).likes == 60
    await like(range(61, 96))
    rest = Interaction(2**63 - 7, made.content_id, InteractionKind.SHARE, True, now)
    await engine.store.signals.record(rest)
    while await engine.store.signals.apply_counters(10, now):  # users; the post is held
        pass
    assert (await stats_of(engine, made.content_id)).likes == 60
    now += 60
    assert await engine.store.signals.apply_counters(10, now) == 1
    stats = await stats_of(engine, made.content_id)
    assert (stats.likes, stats.shares) == (95, 1)


async def test_imports_of_counts_and_counting_do_not_lose_each_other(engine: PostsEngine) -> None:
    now = engine.clock.now_ms()
    made = await engine.store.posts.publish(post(engine.clock, 9))
    for turn in range(6):
        like = Interaction(turn + 1, made.content_id, LIKE, True, now)
        await engine.store.signals.record(like)
        await asyncio.gather(
            engine.store.signals.import_counts(
                [ImportedCounts(made.content_id, 100 * turn, turn, 0)]
            ),
            engine.other.signals.apply_counters(10, now),
        )
    await drain(engine)
    stats = await stats_of(engine, made.content_id)
    assert (stats.likes, stats.comments) == (506, 5)


async def test_impressions_of_all_processes_add_up_and_may_be_written_again(
    engine: PostsEngine,
) -> None:
    made = [await engine.store.posts.publish(post(engine.clock, 9, seq=seq)) for seq in range(3)]
    content_ids = [one.content_id for one in made]
    store, other = engine.store.signals, engine.other.signals
    store.impressions(content_ids[:2])
    store.impressions(content_ids, 5)
    other.impressions(content_ids[1:])
    assert await store.write_impressions() == 3
    store.impressions(content_ids[:1])
    impressions = store._impressions
    for _ in range(2):
        await store.write_impressions()
        impressions._waiting = dict.fromkeys(content_ids)  # as if that had got no answer
    assert await other.write_impressions() == 2
    shown = [(await stats_of(engine, one)).impressions for one in content_ids]
    assert shown == [7, 7, 6]
    engine.clock.advance(3_600_000)
    store.impressions(content_ids)
    await store.write_impressions()  # ends the run
    store.impressions(content_ids)
    await store.write_impressions()
    shown = [(await stats_of(engine, one)).impressions for one in content_ids]
    assert shown == [9, 9, 8]
    store.impressions(range(1_000_000))
    assert store.impressions_dropped == 1_000_000


async def test_a_new_process_finds_engagement_and_what_is_trending(engine: PostsEngine) -> None:
    hour = 3_600_000
    now = engine.clock.now_ms()
    made = [
        await engine.store.posts.publish(post(engine.clock, 9, seq=at, age_ms=at * 20 * hour))
        for at in range(5)
    ]
    content_ids = [one.content_id for one in made]
    counts = [ImportedCounts(content_id, 5, 0, 0) for content_id in content_ids[1:]]
    await engine.store.signals.import_counts(counts)
    fresh = CqlSignalStore(
        engine.session, engine.queue, engine.log, engine.clock, EngagementTable()
    )
    fresh.table.apply(await engine.source.engagement_since(now - 8 * 24 * hour, now))
    keys = b"".join(entry_of(one, 9) for one in content_ids)
    values = struct.unpack("<5f", fresh.engagement(keys))
    assert values == pytest.approx([0.0, *[math.log1p(5)] * 4])
    await fresh.refresh_trending(now)
    assert engine.log.events[-1] == SettingsChanged("trending")
    # by weight those of 48 hours, then the newest there are, with or without
    assert entry.content_ids(await engine.source.trending()) == content_ids[:3]
    engine.log.events.clear()
    await engine.store.signals.refresh_trending(now)
    assert engine.log.events == []
    await engine.store.posts.delete(9, content_ids[1], now)
    await engine.store.signals.refresh_trending(now)
    found = entry.content_ids(await engine.source.trending())
    assert found == [content_ids[0], content_ids[2]]


async def test_a_full_filter_set_takes_no_more_hides(
    engine: PostsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedcore.domain.follow_plan.PREFERENCES_PER_USER_MAX", 2)
    now = engine.clock.now_ms()
    made = [await engine.store.posts.publish(post(engine.clock, 9, seq=seq)) for seq in range(3)]
    hides = [Interaction(1, one.content_id, HIDE, True, now) for one in made]
    for one in hides[:2]:
        assert await engine.store.signals.record(one)
    with pytest.raises(InvalidField, match="preferences"):
        await engine.store.signals.record(hides[2])
    assert engine.log.viewers == [1, 1]
    assert await engine.other.signals.record(hides[0]._replace(on=False))
    assert await engine.store.signals.record(hides[2])
