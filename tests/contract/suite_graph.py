"""Contract of ports.GraphSource."""

from __future__ import annotations

import pytest

from feedcore import native
from feedcore.errors import FailedPrecondition, InvalidField, NotPermitted
from feedcore.limits import HOUR_MS, LANE_SPLIT_FOLLOWERS
from feedcore.ports import Followees, JobKind, Lane
from tests.contract.engine import Capability, Engine, jobs_of, post


class GraphContract:
    """Follows, blocks, listings, imports."""

    async def test_follow_and_unfollow_in_both_directions(self, engine: Engine) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        assert await graph.follow(1, 9, now)
        assert not await graph.follow(1, 9, now)
        assert native.unpack_ids((await engine.other.graph.followees(1)).ids) == [9]
        assert native.unpack_ids((await engine.other.graph.followers(9, 0, 10)).ids) == [1]
        assert await engine.other.graph.follower_count(9) == 1
        assert await graph.unfollow(1, 9, now)
        assert not await graph.unfollow(1, 9, now)
        assert (await engine.other.graph.followees(1)).ids == b""
        assert (await engine.other.graph.followers(9, 0, 10)).ids == b""
        assert await engine.other.graph.follower_count(9) == 0

    async def test_the_audience_is_exact_up_to_where_lanes_split(self, engine: Engine) -> None:
        assert await engine.store.graph.audience(9) == 0
        many = range(1, LANE_SPLIT_FOLLOWERS + 3)
        await engine.load_follows([(user, 9_001) for user in many[:-2]])
        await engine.load_follows([(user, 9_002) for user in many])
        assert await engine.other.graph.audience(9_001) == LANE_SPLIT_FOLLOWERS
        assert await engine.other.graph.audience(9_002) > LANE_SPLIT_FOLLOWERS

    async def test_what_answers_is_current(self, engine: Engine) -> None:
        for followees in ([], [9], [8, 9]):
            for author_id in followees:
                await engine.store.graph.follow(1, author_id, engine.clock.now_ms())
            found = await engine.other.graph.followees(1)
            assert found == Followees(native.pack_ids(followees), stale_ms=0)

    async def test_two_passes_reach_every_follower_the_active_ones_first(
        self, engine: Engine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        followers = [1, 2, 3]
        for user in followers:
            await ports.graph.follow(user, 9, now - 3 * HOUR_MS)
        ports.preferences.seen(2, now)
        await engine.write_seen()
        since = now - HOUR_MS
        push = engine.other.graph.push_recipients
        everybody, active, rest = [
            native.unpack_ids((await push(9, 0, 10, lane, since)).ids)
            for lane in (Lane.ALL, Lane.ACTIVE, Lane.REST)
        ]
        assert everybody == sorted(active + rest) == followers
        known = Capability.ACTIVITY in engine.capabilities
        assert active == ([2] if known else followers)

    async def test_following_oneself_is_refused(self, engine: Engine) -> None:
        with pytest.raises(InvalidField, match="followee_id"):
            await engine.store.graph.follow(5, 5, engine.clock.now_ms())

    async def test_a_block_ends_follows_and_forbids_new_ones(self, engine: Engine) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        await graph.follow(1, 9, now)
        await graph.follow(9, 1, now)
        assert await graph.block(9, 1, now)
        assert not await graph.block(9, 1, now)
        assert (await graph.followees(1)).ids == (await graph.followees(9)).ids == b""
        for one, two in ((1, 9), (9, 1)):
            with pytest.raises(NotPermitted, match="block"):
                await graph.follow(one, two, now)
            filters = await engine.other.preferences.filters(one, now)
            assert native.unpack_ids(filters.blocked) == [two]
        assert not await graph.unblock(1, 9, now)
        assert await graph.unblock(9, 1, now)
        assert await graph.follow(1, 9, now)

    @pytest.mark.parametrize(("one", "two"), [(2**63, 9), (9, 2**63), (0, 9), (9, 2**64 - 1)])
    async def test_ids_have_63_bits(self, engine: Engine, one: int, two: int) -> None:
        for change in (engine.store.graph.follow, engine.store.graph.block):
            with pytest.raises(InvalidField, match=str(2**63 - 1)):
                await change(one, two, engine.clock.now_ms())
        if Capability.FOLLOW_IMPORTS in engine.capabilities:
            with pytest.raises(InvalidField, match=str(2**63 - 1)):
                await engine.store.graph.import_follows([(one, two)], engine.clock.now_ms())

    async def test_listings_page_through_all_ids(self, engine: Engine) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        users = [1, 2, 3, 700, 2**32, 2**53 + 1, 2**63 - 2, 2**63 - 1]
        for user in users:
            assert await graph.follow(user, 9, now) and await graph.follow(9, user, now)
        for listing in (
            engine.other.graph.followers,
            engine.other.graph.followee_page,
            lambda user, after, limit: graph.push_recipients(user, after, limit, Lane.ALL, 0),
        ):
            for limit in (1, 2, 3, 5, 8, 100):
                found: list[int] = []
                after = 0
                while True:
                    page = await listing(9, after, limit)
                    assert len(page.ids) // 8 <= limit
                    found += native.unpack_ids(page.ids)
                    after = page.next_after
                    if not after:
                        break
                assert found == users, (listing, limit)

    async def test_import_counts_new_edges_and_rebuilds_where_posts_exist(
        self, engine: Engine
    ) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        if Capability.FOLLOW_IMPORTS not in engine.capabilities:
            with pytest.raises(FailedPrecondition):
                await graph.import_follows([(1, 9)], now)
            return
        assert await graph.import_follows([(1, 9), (1, 8), (1, 9)], now) == 2
        await engine.store.posts.publish(post(engine.clock, 7))
        assert await graph.import_follows([(1, 9), (1, 7), (2, 7)], now) == 2
        jobs = await jobs_of(engine, JobKind.REBUILD, 2)
        assert sorted(job.user_id for job in jobs) == [1, 2]
        await engine.other.validation.observe_viewer(1)
        assert not (await engine.other.feeds.window(1, b"", 1, 0, 500)).built

    async def test_an_imported_edge_does_not_pass_a_block(self, engine: Engine) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        await graph.block(9, 1, now)
        if Capability.FOLLOW_IMPORTS in engine.capabilities:
            assert await graph.import_follows([(1, 9), (9, 1), (1, 8)], now) == 1
        assert (await graph.followees(9)).ids == b""

    async def test_a_sample_is_the_same_for_the_same_seed(self, engine: Engine) -> None:
        graph, now = engine.store.graph, engine.clock.now_ms()
        if Capability.USER_SAMPLES not in engine.capabilities:
            with pytest.raises(FailedPrecondition):
                await graph.sample_users(10, 1)
            return
        await graph.import_follows([(user, 9_999) for user in range(1, 101)], now)
        one, two = await graph.sample_users(10, 1), await engine.other.graph.sample_users(10, 1)
        assert one == two == sorted(set(one))
        assert len(one) == 10
        assert await graph.sample_users(10, 2) != one
        assert await graph.sample_users(1_000, 1) == list(range(1, 101))
