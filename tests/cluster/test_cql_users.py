"""The users part on Cassandra keeps the contracts, and what only a cluster can break."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import pytest

from feedcore import clock, native
from feedcore.adapters.cql.counting import system_of_record
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.adapters.cql.stores import author_review
from feedcore.adapters.cql.stores import settings as settings_store
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import Activity, in_parts
from feedcore.adapters.cql.stores.resident import CqlResidentSource
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.clock import ManualClock
from feedcore.domain import follow_plan, ids
from feedcore.domain.policy import Mode
from feedcore.errors import InvalidField, NotPermitted, Unavailable
from feedcore.limits import DAY_MS, HOUR_MS, INACTIVE_AFTER_MS, RETENTION_MS
from feedcore.ports import Delivery, FanoutJob, JobKind, Lane, Preference, PreferenceKind
from feedcore.ports.resident import ViewerRow
from feedcore.ports.settings import AuthorMode
from feedcore.services.hot import Hot, HotSettings
from feedcore.workers.fanout import FanoutWorker
from tests.contract.engine import ALL, START_MS, entry_of, post
from tests.contract.suite_feeds import FeedContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_user import PreferenceContract, SettingsContract
from tests.support.cqlusers import UsersEngine, drop_keyspace, make_keyspace, opened
from tests.support.fanout import fanout_over

_STORED = Statement("SELECT content_id FROM feed WHERE user_id = ?")


@pytest.fixture(scope="module")
def keyspace(cassandra: str) -> Iterator[str]:
    """One for the tests of this file."""
    name = f"cqlusers_{os.getpid()}"
    asyncio.run(make_keyspace(name, cassandra))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str) -> AsyncIterator[UsersEngine]:
    """An empty store."""
    async with opened(keyspace, ManualClock(START_MS)) as made:
        yield made


async def posts_of_nine(engine: UsersEngine) -> list[int]:
    """Published and fanned out: newest first."""
    made = [await engine.store.posts.publish(post(engine.clock, 9, seq=n)) for n in range(3)]
    engine.queue.waiting.clear()
    return [one.content_id for one in reversed(made)]


def worker_of(engine: UsersEngine) -> FanoutWorker:
    """Of the other node."""
    store = engine.other
    return fanout_over(store, store.graph, Hot(store.settings, HotSettings()), engine.clock)


async def work(engine: UsersEngine, jobs: list[FanoutJob]) -> None:
    """These jobs in one turn, whatever else waits."""
    others = [job for job in engine.queue.waiting if job not in jobs]
    engine.queue.waiting[:] = jobs
    assert await worker_of(engine).turn() == len(jobs)
    engine.queue.waiting[:] = others


class TestCqlFeeds(FeedContract):
    """See the suite."""


class TestCqlGraph(GraphContract):
    """See the suite."""


class TestCqlPreferences(PreferenceContract):
    """See the suite."""


class TestCqlSettings(SettingsContract):
    """See the suite."""


class TestJobsInAnyOrder:
    """REMOVE and BACKFILL of one pair, done by different consumers."""

    CHANGES = (("follow", "unfollow"), ("follow", "unfollow", "follow"))

    async def _make(
        self, engine: UsersEngine, user: int, changes: Sequence[str]
    ) -> list[FanoutJob]:
        now = engine.clock.now_ms()
        for change in changes:
            assert await getattr(engine.store.graph, change)(user, 9, now)
        jobs = [job for job in engine.queue.waiting if job.user_id == user]
        assert [job.kind for job in jobs] == [
            JobKind.BACKFILL if change == "follow" else JobKind.REMOVE for change in changes
        ]
        return jobs

    async def _check(self, engine: UsersEngine, user: int, made: list[int], last: str) -> None:
        stored = await engine.session.read(_STORED, (user,))
        if last == "follow":
            assert [row[0] for row in stored] == made
        window = await engine.other.feeds.window(user, b"", ALL, 0, 500)
        assert window.built
        assert window.pending_authors == ()

    @pytest.mark.parametrize("changes", CHANGES)
    async def test_each_done_at_once(self, engine: UsersEngine, changes: tuple[str, ...]) -> None:
        made = await posts_of_nine(engine)
        orders = list(itertools.permutations(range(len(changes))))
        for user, order in enumerate(orders, 1_000):
            jobs = await self._make(engine, user, changes)
            for place in order:
                await work(engine, [jobs[place]])
            await self._check(engine, user, made, changes[-1])
            if changes[-1] == "unfollow":
                assert await engine.session.read(_STORED, (user,)) == []

    async def test_read_before_the_next_change_and_delivered_after_it(
        self, engine: UsersEngine
    ) -> None:
        made = await posts_of_nine(engine)
        graph, now = engine.store.graph, engine.clock.now_ms()
        worker = worker_of(engine)
        for user, order in enumerate(itertools.permutations(range(3)), 2_000):
            deliveries = []
            for change in ("follow", "unfollow", "follow"):
                assert await getattr(graph, change)(user, 9, now)
                job = engine.queue.waiting[-1]
                deliveries.append((await worker._expand[job.kind](job, now)).deliveries)
            for place in order:
                await engine.other.feeds.deliver(deliveries[place])
            stored = await engine.session.read(_STORED, (user,))
            assert [row[0] for row in stored] == made, order

    async def test_a_removal_takes_all_of_a_long_feed(self, engine: UsersEngine) -> None:
        now = engine.clock.now_ms()
        made = [ids.make(now - n, 0, 0, n % 7) for n in range(450)]
        entries = b"".join(entry_of(one, 8 + n % 2) for n, one in enumerate(made))
        user = native.pack_ids([1])
        await engine.store.feeds.deliver([Delivery(entries, user)])
        await engine.other.feeds.deliver([Delivery(b"", user, 9)])
        stored = await engine.session.read(_STORED, (1,))
        assert [row[0] for row in stored] == made[::2]
        assert engine.log.viewers == [1]


class TestFollows:
    """Races and bounds that one transaction does not have."""

    async def test_a_post_published_between_the_look_and_the_follow_is_backfilled(
        self, engine: UsersEngine
    ) -> None:
        now, batch = engine.clock.now_ms(), engine.session.batch

        async def batch_after_a_post(writes: Sequence[Write], *, logged: bool) -> None:
            engine.session.batch = batch
            await engine.other.posts.publish(post(engine.clock, 9))
            await batch(writes, logged=logged)

        engine.session.batch = batch_after_a_post  # type: ignore[method-assign]
        assert await engine.store.graph.follow(1, 9, now)
        kinds = [job.kind for job in engine.queue.waiting]
        assert kinds == [JobKind.POST, JobKind.BACKFILL]
        assert (await engine.store.feeds.window(1, b"", ALL, 0, 1)).pending_authors == (9,)

    async def test_follow_and_block_at_once_never_leave_both(self, engine: UsersEngine) -> None:
        now = engine.clock.now_ms()
        for user in range(100, 140):
            _, blocked = await asyncio.gather(
                engine.store.graph.follow(user, 9, now),
                engine.other.graph.block(9, user, now),
                return_exceptions=True,
            )
            assert blocked is True
            assert (await engine.store.graph.followees(user)).ids == b"", user
        assert await engine.store.graph.follower_count(9) == 0

    async def test_a_block_between_the_look_and_the_follow_undoes_it(
        self, engine: UsersEngine
    ) -> None:
        now, batch = engine.clock.now_ms(), engine.session.batch

        async def batch_after_a_block(writes: Sequence[Write], *, logged: bool) -> None:
            engine.session.batch = batch
            assert await engine.other.graph.block(9, 1, now)
            await batch(writes, logged=logged)

        engine.session.batch = batch_after_a_block  # type: ignore[method-assign]
        with pytest.raises(NotPermitted, match="block"):
            await engine.store.graph.follow(1, 9, now)
        assert (await engine.other.graph.followees(1)).ids == b""
        assert (await engine.other.graph.followers(9, 0, 10)).ids == b""

    async def test_a_change_is_in_force_though_a_clock_ahead_wrote_before(
        self, engine: UsersEngine
    ) -> None:
        now, ahead_us = engine.clock.now_ms(), clock.stamp_us() + 5_000_000
        await engine.session.write(*viewer.put(1, Kind.FOLLOWEE, 9, now, ahead_us))
        await engine.session.write(*viewer.put(1, Kind.BLOCKS, 8, now, ahead_us))
        await engine.session.write(*viewer.put(1, Kind.MUTE, 7, 0, ahead_us, b"\0" * 8))
        assert await engine.store.graph.unfollow(1, 9, now)
        assert await engine.store.graph.unblock(1, 8, now)
        assert await engine.store.preferences.clear(1, PreferenceKind.MUTE, 7)
        assert await engine.session.read(viewer.RELATIONS, (1,)) == []
        assert (await engine.other.graph.followees(1)).ids == b""

    async def test_nobody_follows_more_than_the_bound(
        self, engine: UsersEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follow_plan, "FOLLOWEES_MAX", 3)
        now = engine.clock.now_ms()
        assert await engine.store.graph.import_follows([(1, 7), (1, 8)], now) == 2
        assert await engine.store.graph.follow(1, 9, now)
        with pytest.raises(InvalidField, match="at most 3"):
            await engine.store.graph.follow(1, 10, now)
        with pytest.raises(InvalidField, match="at most 3"):
            await engine.store.graph.import_follows([(1, 11)], now)

    async def test_an_import_that_died_is_finished_by_the_next_one(
        self, engine: UsersEngine
    ) -> None:
        now, batch = engine.clock.now_ms(), engine.session.batch
        edges = [(user, author) for user in range(1, 40) for author in range(100, 110)]
        left = 20

        async def dies(writes: Sequence[Write], *, logged: bool) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Unavailable("the process died here")
            await batch(writes, logged=logged)

        engine.session.batch = dies  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await engine.store.graph.import_follows(edges, now)
        engine.session.batch = batch  # type: ignore[method-assign]
        new = await engine.other.graph.import_follows(edges, now)
        assert 0 < new < len(edges)
        assert await engine.other.graph.import_follows(edges, now) == 0
        for author in range(100, 110):
            page = await engine.store.graph.followers(author, 0, 1_000)
            assert native.unpack_ids(page.ids) == list(range(1, 40))
        for user in range(1, 40):
            found = native.unpack_ids((await engine.store.graph.followees(user)).ids)
            assert found == list(range(100, 110))


class TestRecipients:
    """Lanes and inactivity, against brute force."""

    async def test_ten_thousand_followers_in_lanes(self, engine: UsersEngine) -> None:
        chance = random.Random(7)
        now = engine.clock.now_ms()
        users = sorted(chance.sample(range(1, 10**9), 10_000))
        insert = Statement("INSERT INTO followers (follower_id, author_id) VALUES (?, ?)")
        await engine.session.write_packed(insert, native.pack_ids(users), (9,))
        seen = {user: now - chance.randrange(3 * DAY_MS) for user in users if chance.random() < 0.7}
        gone = {user for user in users if chance.random() < 0.2}
        activity = Activity(engine.session, engine.queue, engine.log)
        await in_parts(engine.session, activity.seen_writes(seen.items()))
        await activity._leave_out(sorted(gone), viewer.stamp(engine.queue))
        recent = now - DAY_MS
        here = [user for user in users if user not in gone]
        active = [user for user in here if seen.get(user, 0) >= recent]
        expected = {
            Lane.ALL: here,
            Lane.ACTIVE: active,
            Lane.REST: [user for user in here if user not in set(active)],
        }
        for lane, wanted in expected.items():
            for limit in (997, 10_000, 20_000):
                found: list[int] = []
                after = 0
                while True:
                    page = await engine.other.graph.push_recipients(9, after, limit, lane, recent)
                    found += native.unpack_ids(page.ids)
                    after = page.next_after
                    if not after:
                        break
                assert found == wanted

    async def test_who_is_not_seen_goes_once_and_who_comes_back_stays(
        self, engine: UsersEngine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        users = random.Random(3).sample(range(1, 10**6), 400)
        for number, user in enumerate(users):
            ports.preferences.seen(user, now + number)
        assert await ports.preferences.write_seen() == 400
        later = now + 200 + INACTIVE_AFTER_MS
        marked = []
        while count := await ports.graph.mark_inactive(later, 7):
            marked.append(count)
        assert sum(marked) == 200
        assert max(marked) <= 7
        assert sorted(engine.log.viewers) == sorted(users[:200])
        for user in (users[0], users[250]):
            window = await engine.other.feeds.window(user, b"", ALL, 0, 1)
            assert window.built == (user == users[250])
        await engine.other.feeds.request_rebuild(users[0], later)
        assert await ports.graph.mark_inactive(later, 7) == 0
        # a mark of before the return, written after it
        await Activity(engine.session, engine.queue, engine.log)._leave_out([users[0]], 1_000)
        state = await engine.session.read(viewer.STATE, (users[0],))
        assert [row[0] for row in state] == [Kind.REBUILDING]

    async def test_being_seen_is_written_once_an_hour(self, engine: UsersEngine) -> None:
        preferences, now = engine.store.preferences, engine.clock.now_ms()
        for user in (1, 2, 3, 1):
            preferences.seen(user, now)
        assert await preferences.write_seen() == 3
        preferences.seen(1, now + HOUR_MS - 1)
        assert await preferences.write_seen() == 0
        preferences.seen(1, now + HOUR_MS)
        assert await preferences.write_seen() == 1


class TestFeedRows:
    """What is stored, and how long."""

    async def test_rows_live_for_what_is_left_of_the_retention(self, engine: UsersEngine) -> None:
        now = engine.clock.now_ms()
        ages = [0, DAY_MS, RETENTION_MS - 500, RETENTION_MS, RETENTION_MS + DAY_MS]
        made = [ids.make(now - age, 0, 0, 1) for age in ages]
        entries = b"".join(entry_of(one, 9) for one in made)
        await engine.store.feeds.deliver([Delivery(entries, native.pack_ids([5]))])
        for one in made:
            await engine.store.feeds.deliver([Delivery(entry_of(one, 9), native.pack_ids([6]))])
        query = Statement("SELECT content_id, TTL(entry) FROM feed WHERE user_id = ?")
        for user in (5, 6):
            rows = await engine.session.read(query, (user,))
            left = dict(rows)
            assert list(left)[:2] == made[:2]
            assert set(left) <= set(made[:3])
            assert RETENTION_MS // 1_000 - 60 < left[made[0]] <= RETENTION_MS // 1_000
            assert 6 * 86_400 - 60 < left[made[1]] <= 6 * 86_400

    async def test_a_batch_of_viewers_is_what_each_port_says(self, engine: UsersEngine) -> None:
        chance, now = random.Random(11), engine.clock.now_ms()
        ports, users = engine.store, list(range(1, 25))
        edges = [(user, chance.randrange(100, 160)) for user in users for _ in range(8)]
        await ports.graph.import_follows(edges, now)
        rows = [
            (user, Preference(chance.choice(list(PreferenceKind)), chance.randrange(9), until, now))
            for user in users
            for until in (0, now + 5, now + 500)
        ]
        await ports.preferences.import_preferences(rows)
        for user in users[:5]:
            await ports.graph.block(user, 200 + user, now)
        for user in users:
            count = chance.randrange(9)
            made = b"".join(entry_of(ids.make(now - n, 0, 0, user), 9) for n in range(count))
            await ports.feeds.deliver([Delivery(made, native.pack_ids([user]))])
        await posts_of_nine(engine)
        await ports.graph.follow(7, 9, now)
        await ports.feeds.request_rebuild(8, now)
        resident = CqlResidentSource(engine.session, None, None, None)  # type: ignore[arg-type]
        assert not resident.local
        found = await resident.viewers([*users, 99], 6, now)
        for user, row in zip([*users, 99], found, strict=True):
            assert row.followees == (await ports.graph.followees(user)).ids
            assert row.filters == await ports.preferences.filters(user, now)
            window = await ports.feeds.window(user, b"", ALL, 0, 6)
            assert row.entries == b"".join(window.sources)
            assert row.built == (window.built and not window.pending_authors)
            assert row.built == (user not in (7, 8))
            ends = [
                one.until_ms
                for one in await ports.preferences.all_of(user, now)
                if one.kind is PreferenceKind.SNOOZE
            ]
            assert row.snoozed_until_ms == min(ends, default=0)

    async def test_rows_of_other_nodes_are_taken_unless_a_snooze_is_over(
        self, engine: UsersEngine
    ) -> None:
        now, kept = engine.clock.now_ms(), Kept()
        snooze = Preference(PreferenceKind.SNOOZE, 9, now + 5, now)
        await engine.store.preferences.put(1, snooze)
        await engine.store.graph.import_follows([(1, 9), (2, 9)], now)
        resident = CqlResidentSource(
            engine.session,
            None,
            None,
            None,
            kept,  # type: ignore[arg-type]
        )
        first = await resident.viewers([1, 2], 6, now)
        assert list(kept.rows) == [1, 2]
        kept.rows[2] = first[1]._replace(followees=b"another")
        again = await resident.viewers([2, 1], 6, now)
        assert again == [kept.rows[2], first[0]]
        (row,) = await resident.viewers([1], 6, now + 5)
        assert row.filters.snoozed == b""


class Kept:
    """What other nodes have loaded."""

    def __init__(self) -> None:
        self.rows: dict[int, ViewerRow] = {}

    async def viewer_rows(self, user_ids: Sequence[int], depth: int) -> list[ViewerRow | None]:
        return [self.rows.get(user_id) for user_id in user_ids]

    def keep_viewer_rows(
        self, user_ids: Sequence[int], rows: Sequence[ViewerRow], depth: int
    ) -> None:
        self.rows.update(zip(user_ids, rows, strict=True))


class TestSettings:
    """Two nodes, old versions, the walk over sizes."""

    async def test_of_two_nodes_that_put_at_once_one_wins(self, engine: UsersEngine) -> None:
        now = engine.clock.now_ms()
        for version in range(12):
            outcomes = await asyncio.gather(
                engine.store.settings.put("x", {"by": "store"}, now, version),
                engine.other.settings.put("x", {"by": "other"}, now, version),
                return_exceptions=True,
            )
            kinds = sorted(type(one).__name__ for one in outcomes)
            assert kinds == ["FailedPrecondition", "int"], outcomes
            winner = "store" if isinstance(outcomes[0], int) else "other"
            for node in (engine.store, engine.other):
                await node.validation.observe_node()
                assert node.settings.get("x") == {"by": winner}
                assert node.settings.version("x") == version + 1
        made = await asyncio.gather(
            *(engine.store.settings.put("y", {"n": n}, now) for n in range(5)),
            *(engine.other.settings.put("y", {"n": n}, now) for n in range(5, 10)),
        )
        assert sorted(made) == list(range(1, 11))
        await engine.store.validation.observe_node()
        for version, n in zip(made, range(10), strict=True):
            assert engine.store.settings.at_version("y", version) == {"n": n}

    async def test_old_versions_go(
        self, engine: UsersEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (settings_store, system_of_record):
            monkeypatch.setattr(module, "RANKING_VERSIONS_KEPT", 3)
        settings, now = engine.store.settings, engine.clock.now_ms()
        for n in range(1, 8):
            assert await settings.put("x", {"n": n}, now) == n
        query = Statement("SELECT version FROM settings WHERE name = ?")
        assert [row[0] for row in await engine.session.read(query, ("x",))] == [7, 6, 5]
        assert settings.at_version("x", 4) is None
        assert settings.at_version("x", 5) == {"n": 5}
        await engine.other.validation.observe_node()
        assert engine.other.settings.at_version("x", 5) == {"n": 5}

    async def test_moved_bounds_concern_all_authors_in_bounded_steps(
        self, engine: UsersEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(author_review, "WALK_STEP", 4)
        monkeypatch.setattr(author_review, "WALK_STEPS_PER_CALL", 2)
        ports, now = engine.store, engine.clock.now_ms()
        sizes = {author: 1 + author % 5 for author in range(1_000, 1_040)}
        edges = [(user, author) for author in sizes for user in range(1, sizes[author] + 1)]
        await ports.graph.import_follows(edges, now)

        async def review(promote_at: int, demote_below: int) -> set[int]:
            moved: set[int] = set()
            for _ in range(30):
                found = await ports.settings.authors_to_review(promote_at, demote_below, now, 7)
                assert len(found) <= 7
                modes = []
                for one in found:
                    mode = Mode.DRAINING if one.mode == Mode.PULL else Mode.PULL
                    modes.append(AuthorMode(one.author_id, int(mode), one.followers, now + 99))
                    assert one.followers == min(sizes[one.author_id], max(promote_at, 1) + 1)
                    assert one.author_id not in moved
                    moved.add(one.author_id)
                await ports.settings.set_author_modes(modes)
            return moved

        assert await review(9, 8) == set()
        assert await review(4, 3) == {one for one, size in sizes.items() if size >= 4}
        # counted up to 5 only, so all are counted anew
        assert await review(6, 5) == {one for one, size in sizes.items() if size == 4}


async def test_what_is_so_already_is_said_again(engine: UsersEngine) -> None:
    """The first try may have become true after it was announced, or its node may have died."""
    now_ms = engine.clock.now_ms()
    muted = Preference(PreferenceKind.MUTE, 9, 0, now_ms)
    graph, preferences = engine.store.graph, engine.store.preferences
    steps: list[tuple[Callable[[], Awaitable[bool]], set[int]]] = [
        (lambda: preferences.put(1, muted), {1}),
        (lambda: preferences.clear(1, PreferenceKind.MUTE, 9), {1}),
        (lambda: graph.follow(1, 9, now_ms), {1}),
        (lambda: graph.unfollow(1, 9, now_ms), {1}),
        (lambda: graph.block(1, 9, now_ms), {1, 9}),
        (lambda: graph.unblock(1, 9, now_ms), {1, 9}),
    ]
    for step, users in steps:
        assert await step() is True
        engine.log.viewers.clear()
        assert await step() is False
        assert set(engine.log.viewers) >= users
