"""migrate-data on a real cluster: a world of a week, of which the cluster then shows the same."""

from __future__ import annotations

import asyncio
import random
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.stores.activity import BUCKETS
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.clock import ManualClock, SystemClock
from feedcore.codecs.content import Media
from feedcore.compose import Engine, compose_over
from feedcore.domain.entry import Visibility
from feedcore.domain.policy import Mode
from feedcore.limits import DAY_MS, HOUR_MS, INACTIVE_AFTER_MS, MINUTE_MS
from feedcore.migrating.compare import ClusterView, feed_over
from feedcore.ports import (
    ImportedCounts,
    Interaction,
    InteractionKind,
    NewPost,
    Preference,
    PreferenceKind,
)
from feedcore.services.hot import HotSettings
from feedcore_pb.v1 import feed_pb2
from tests.support.cqlusers import TABLES, drop_keyspace, make_keyspace
from tests.support.server import FEEDCORE, feedcore

LARGE = (1 << 63) - 1  # the largest id
USERS = [*range(1, 31), LARGE]
STAR = 7  # followed by everybody: pulled
GONE = 30  # not seen for more than a month
SCROLLER = 2
THRESHOLD = 20
POSTS = 400
SEED = 5
# marks to count, and what is waiting for the queue, are made anew by each run until it is done
STABLE = [table for table in TABLES if table not in ("dirty", "dirty_since")]


@dataclass
class World:
    """What was seen before the move."""

    folder: Path
    clock: ManualClock
    cursor: str = ""
    posts: list[int] = field(default_factory=list)
    keyed: NewPost | None = None
    deleted: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def engine_of(store: EmbeddedStore, clock: ManualClock) -> Engine:
    return compose_over(store, HotSettings(push_threshold=THRESHOLD), clock)


async def build(folder: Path) -> World:
    """Six days of random people."""
    now_ms = SystemClock().now_ms()
    clock = ManualClock(now_ms - INACTIVE_AFTER_MS - 10 * DAY_MS)
    world = World(folder, clock)
    store = EmbeddedStore.open(folder, clock, writer_role=True, merge_thread=False)
    engine = engine_of(store, clock)
    draw = random.Random(SEED)
    for user in USERS:
        others = draw.sample([one for one in USERS if one not in (user, STAR)], 8)
        for author in others if user == STAR else [*others, STAR]:
            await engine.graph.follow(user, author)
    clock.move_to(now_ms - 6 * DAY_MS)
    for user in USERS:
        if user != GONE:
            store.preferences.seen(user, clock.now_ms())
    await store.preferences.write_seen()
    await store.upkeep_inactive(clock.now_ms())
    await engine.background.drain()
    step_ms = (6 * DAY_MS - HOUR_MS) // POSTS
    for number in range(POSTS):
        clock.advance(step_ms)
        await act(world, store, engine, draw, number)
    await settings(engine)
    await engine.background.drain()
    page = await engine.feed.get_feed(SCROLLER, 5, "", 0, "")
    world.cursor = feed_pb2.GetFeedResponse.FromString(page.body).next_cursor
    clock.advance(MINUTE_MS)
    await leave_open(world, store, engine)
    await store.close()
    return world


async def act(
    world: World, store: EmbeddedStore, engine: Engine, draw: random.Random, number: int
) -> None:
    """A post, and sometimes something else."""
    now_ms = world.clock.now_ms()
    author, reader, other = STAR if number % 9 == 0 else draw.choice(USERS), *draw.sample(USERS, 2)
    media = [Media("https://example.org/a.png")] if draw.random() < 0.3 else []
    visibility = draw.choice([Visibility.PUBLIC] * 6 + [Visibility.FOLLOWERS, Visibility.PRIVATE])
    made = await engine.publish.publish(author, f"post {number}", media, visibility, f"k{number}")
    world.posts.append(made.content_id)
    target = draw.choice(world.posts)
    for kind in draw.sample(list(InteractionKind)[:4], 2):
        like = Interaction(reader, target, kind, draw.random() < 0.8, now_ms, f"i{number}.{kind}")
        if target not in world.deleted:
            await store.signals.record(like)
    chance = draw.random()
    if chance < 0.06 and target not in world.deleted:
        post = await store.posts.get(target)
        assert post is not None
        await store.posts.delete(post.author_id, target, now_ms)
        world.deleted.append(target)
    elif chance < 0.12:
        kind = draw.choice([PreferenceKind.MUTE, PreferenceKind.SNOOZE, PreferenceKind.SEE_LESS])
        until_ms = now_ms + draw.randint(1, 9) * DAY_MS if kind == PreferenceKind.SNOOZE else 0
        await store.preferences.put(reader, Preference(kind, other, until_ms, now_ms))
    elif chance < 0.15 and target not in world.deleted:
        await store.signals.record(Interaction(reader, target, InteractionKind.HIDE, True, now_ms))
    elif chance < 0.17:
        await engine.graph.block(reader, other)
    elif chance < 0.21 and reader != GONE:
        page = await store.graph.followee_page(reader, 0, 3)
        await store.graph.unfollow(reader, int.from_bytes(page.ids[:8], "little"), now_ms)
    elif chance < 0.3 and target not in world.deleted:
        await store.signals.import_counts([ImportedCounts(target, draw.randint(1, 99), 2, 1)])
    if number % 40 == 0:
        store.signals.impressions(world.posts[-9:])
        await store.signals.write_impressions()
        await engine.background.drain()


async def settings(engine: Engine) -> None:
    """Three versions of ranking, one of the hot settings."""
    for half_life_hours in (6.0, 9.0, 24.0):
        config = await engine.admin.get_ranking()
        changed = replace(config.parameters, half_life_hours=half_life_hours)
        await engine.admin.set_ranking(replace(config, parameters=changed), config.version)
    await engine.admin.set_settings(hysteresis_percent=20)


async def leave_open(world: World, store: EmbeddedStore, engine: Engine) -> None:
    """A rebuild, backfills, uncounted likes, and a post that waits for its fan-out."""
    now_ms = world.clock.now_ms()
    await store.feeds.request_rebuild(3, now_ms)
    for user in (4, 5):
        for author in USERS:
            if author != user:
                with_block = await store.preferences.filters(user, now_ms)
                if author.to_bytes(8, "little") not in with_block.blocked:
                    await engine.graph.follow(user, author)
    target = world.posts[-1]
    await store.signals.record(Interaction(9, target, InteractionKind.LIKE, True, now_ms))
    page = await store.graph.followers(12, 0, 10)
    assert page.ids
    made = await engine.publish.publish(12, "not fanned out", idempotency_key="last")
    world.waiting.append(made.content_id)
    world.posts.append(made.content_id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return asyncio.run(build(tmp_path_factory.mktemp("world") / "data"))


@pytest.fixture(scope="module")
def keyspace(world: World, cassandra: str) -> Iterator[str]:
    """With the world's copy in it: each test may be the first that asks."""
    with made_keyspace(cassandra) as name:
        done = feedcore("migrate-data", *flags(world, name, cassandra), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("equal") and "posts: " in done.stderr
        yield name


class made_keyspace:  # noqa: N801 (a context manager)
    """With all tables; dropped at the end."""

    def __init__(self, point: str) -> None:
        self.name, self.point = f"moved_{uuid.uuid4().hex[:8]}", point

    def __enter__(self) -> str:
        asyncio.run(make_keyspace(self.name, self.point))
        return self.name

    def __exit__(self, *_exception: object) -> None:
        asyncio.run(drop_keyspace(self.name))


def flags(world: World, keyspace: str, point: str) -> list[str]:
    values = {"cql.contact_points": point, "cql.keyspace": keyspace, "cql.timeout_ms": "10000"}
    given = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return ["--from", str(world.folder), "--sample", "50", *given]


@asynccontextmanager
async def both(
    world: World, keyspace: str, point: str
) -> AsyncIterator[tuple[EmbeddedStore, Session, ManualClock]]:
    clock = ManualClock(SystemClock().now_ms())
    store = EmbeddedStore.open(world.folder, clock)
    session = await open_session(CqlSettings((point,), keyspace, request_timeout_s=10.0))
    try:
        yield store, session, clock
    finally:
        await session.close()
        await store.close()


async def view_of(store: EmbeddedStore, session: Session, clock: ManualClock) -> ClusterView:
    view = ClusterView(session, store.secret, clock, JobIds(0, 99, SystemClock()))
    await view.load()
    return view


async def assert_same_feeds(world: World, keyspace: str, point: str) -> None:
    async with both(world, keyspace, point) as (store, session, clock):
        here = feed_over(store, clock)
        there = feed_over(await view_of(store, session, clock), clock)
        sizes = []
        for user in USERS:
            expected = await here.scroll_ids(user, 20)
            assert await there.scroll_ids(user, 20) == expected, user
            sizes.append(len(expected))
            scores = {one: score for score, one in await here.score_first_window(user) if score}
            found = {one: score for score, one in await there.score_first_window(user) if score}
            assert found == pytest.approx(scores, rel=1e-5), user
        assert min(sizes) > 0 and sum(sizes) > 1_000


async def rows_of(keyspace: str, point: str) -> dict[str, list]:
    session = await open_session(CqlSettings((point,), keyspace, request_timeout_s=10.0))
    found = {
        table: sorted(map(repr, await session.read(Statement(f"SELECT * FROM {table}"))))
        for table in STABLE
    }
    await session.close()
    return found


def test_nothing_visible_changes(world: World, keyspace: str, cassandra: str) -> None:
    asyncio.run(assert_same_feeds(world, keyspace, cassandra))


def test_again_changes_nothing(world: World, keyspace: str, cassandra: str) -> None:
    before = asyncio.run(rows_of(keyspace, cassandra))
    assert all(before[table] for table in ("posts", "feed", "viewer", "fanout_events", "settings"))
    again = feedcore("migrate-data", *flags(world, keyspace, cassandra), check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert asyncio.run(rows_of(keyspace, cassandra)) == before


def test_a_cursor_and_a_key_go_on(world: World, keyspace: str, cassandra: str) -> None:
    async def run() -> None:
        async with both(world, keyspace, cassandra) as (store, session, clock):
            here, view = feed_over(store, clock), await view_of(store, session, clock)
            there, posts = feed_over(view, clock), view.posts
            # Before any page: each store counts the impressions of its own pages, a moment later.
            for content_id in world.posts:
                assert await posts.get(content_id) == await store.posts.get(content_id)
                expected, found = await store.posts.stats(content_id), await posts.stats(content_id)
                if content_id not in world.waiting:
                    assert found == expected
            assert all(one in posts.tombstones() for one in world.deleted)
            cursor = world.cursor
            for _ in range(4):
                old = await here.get_feed(SCROLLER, 5, cursor, 0, "")
                new = await there.get_feed(SCROLLER, 5, cursor, 0, "")
                expected = feed_pb2.GetFeedResponse.FromString(old.body)
                found = feed_pb2.GetFeedResponse.FromString(new.body)
                assert list(found.items) == list(expected.items) and found.items
                cursor = found.next_cursor
            for number in (0, 17, 399):
                old_id = world.posts[number]
                row = store.connection.execute(
                    "SELECT author_id, digest FROM idempotency WHERE content_id = ?", (old_id,)
                ).fetchone()
                key = f"k{number}"
                again = NewPost(old_id + 1, row[0], b"", row[1], Visibility.PUBLIC, 1.0, key)
                answer = await posts.publish(again)
                assert answer.replayed and answer.content_id == old_id

    asyncio.run(run())


def test_users_settings_and_waiting_posts(world: World, keyspace: str, cassandra: str) -> None:
    async def run() -> None:
        async with both(world, keyspace, cassandra) as (store, session, clock):
            there = await view_of(store, session, clock)
            now_ms = clock.now_ms()
            for user in USERS:
                mine, theirs = store.preferences, there.preferences
                assert await theirs.all_of(user, now_ms) == await mine.all_of(user, now_ms)
                assert await theirs.filters(user, now_ms) == await mine.filters(user, now_ms)
                for page in ("followers", "followee_page"):
                    asked = (user, 0, 100)
                    found = await getattr(there.graph, page)(*asked)
                    assert found == await getattr(store.graph, page)(*asked)
                expected = await store.settings.author_mode(user)
                assert await there.settings.author_mode(user) == expected
            assert (await there.settings.author_mode(STAR)).mode == Mode.PULL
            for name in ("ranking", "hot"):
                newest = store.settings.version(name)
                assert newest and there.settings.version(name) == newest
                for version in range(1, newest + 1):
                    expected = store.settings.at_version(name, version)
                    assert there.settings.at_version(name, version) == expected
            sql = Statement("SELECT seen_ms, inactive FROM activity WHERE bucket=? AND user_id=?")
            ((seen_ms, inactive),) = await session.read(sql, (GONE % BUCKETS, GONE))
            assert inactive and seen_ms < now_ms - INACTIVE_AFTER_MS
            assert not (await there.feeds.window(GONE, b"", 1, 0, 1)).built
            rows = await session.read(Statement("SELECT job FROM fanout_events"))
            jobs = [jobwire.decode(row[0]) for row in rows]
            assert [job.content_id for job in jobs] == world.waiting

    asyncio.run(run())


def test_killed_half_way_and_run_again(world: World, cassandra: str) -> None:
    with made_keyspace(cassandra) as name:
        command = [str(FEEDCORE), "migrate-data", *flags(world, name, cassandra)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("interactions:"):
                process.kill()
                break
        assert process.wait() == -9
        process.stderr.close()
        assert not asyncio.run(rows_of(name, cassandra))["followers"]
        done = feedcore("migrate-data", *flags(world, name, cassandra), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        asyncio.run(assert_same_feeds(world, name, cassandra))
        asyncio.run(assert_refused(world, name, cassandra))


async def assert_refused(world: World, keyspace: str, point: str) -> None:
    """Into data of its own, and while a server has the store."""
    clock = SystemClock()
    other = World(world.folder.parent / "other", ManualClock(clock.now_ms()))
    await EmbeddedStore.open(other.folder, clock).close()
    ran = await asyncio.to_thread(
        feedcore, "migrate-data", *flags(other, keyspace, point), check=False
    )
    assert ran.returncode == 1 and "copy of another store" in ran.stderr, ran.stderr
    session = await open_session(CqlSettings((point,), keyspace, request_timeout_s=10.0))
    await session.write(Statement("DELETE FROM meta WHERE key = 'copied_from'"))
    ran = await asyncio.to_thread(
        feedcore, "migrate-data", *flags(other, keyspace, point), check=False
    )
    assert ran.returncode == 1 and "has data already (table posts)" in ran.stderr, ran.stderr
    await session.close()
    busy = EmbeddedStore.open(other.folder, clock)
    ran = await asyncio.to_thread(
        feedcore, "migrate-data", *flags(other, keyspace, point), check=False
    )
    await busy.close()
    assert ran.returncode == 1 and "in use by other processes" in ran.stderr, ran.stderr
