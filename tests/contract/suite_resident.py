"""Contract of ports.resident.ResidentSource: what it loads in bulk is what the other ports say, and
its replica is as of the last observation of the node.
"""

from __future__ import annotations

from feedcore import native
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.ports import Delivery, Interaction, InteractionKind, Preference, PreferenceKind
from feedcore.ports.resident import ViewerRow
from feedcore.ports.settings import AuthorMode
from tests.contract.engine import ALL, WholeEngine, entry_of, post, timeline_of

DEPTH = 6


async def viewers(engine: WholeEngine, users: list[int]) -> list[ViewerRow]:
    """Of the other opening, after what a page load does first."""
    for user_id in users:
        await engine.other.validation.observe_viewer(user_id)
    return await engine.other.resident.viewers(users, DEPTH, engine.clock.now_ms())


class ResidentContract:
    """Bulk reads, replica."""

    async def test_a_viewer_is_what_the_other_ports_say(self, engine: WholeEngine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        users = [5, 3, 8, 1]
        for user in users:
            await ports.graph.follow(user, 100 + user, now)
            made = [entry_of(ids.make(now - n, 0, 0, user), 9) for n in range(2 * user)]
            await ports.feeds.deliver([Delivery(b"".join(made), native.pack_ids([user]))])
        await ports.preferences.put(3, Preference(PreferenceKind.MUTE, 7, 0, now))
        for until_ms in (now + 500, now + 90):
            target = until_ms - now
            await ports.preferences.put(3, Preference(PreferenceKind.SNOOZE, target, until_ms, now))
        await ports.graph.block(8, 200, now)
        await engine.settle()
        rows = await viewers(engine, [*users, 99])
        for user, row in zip([*users, 99], rows, strict=True):
            followees = (await engine.other.graph.followees(user)).ids
            window = await engine.other.feeds.window(user, followees, ALL, 0, DEPTH)
            assert row.followees == followees
            assert row.filters == await engine.other.preferences.filters(user, now)
            assert row.entries == native.merge_newest(window.sources, ALL, 0, DEPTH)
            assert row.snoozed_until_ms == (now + 90 if user == 3 else 0)
            assert row.built and window.built

    async def test_who_waits_for_posts_is_told_from_the_others(self, engine: WholeEngine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        await ports.posts.publish(post(engine.clock, 9))
        await ports.graph.follow(7, 9, now)  # waits for the backfill
        await ports.feeds.request_rebuild(8, now)
        waits, rebuilt, built = await viewers(engine, [7, 8, 6])
        assert not waits.built or 7 in engine.other.resident.replica().backfills
        assert not rebuilt.built
        assert built.built and 6 not in engine.other.resident.replica().backfills

    async def test_timelines_and_contents_are_those_of_their_ports(
        self, engine: WholeEngine
    ) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = [await ports.posts.publish(post(engine.clock, 9, seq=seq)) for seq in range(3)]
        await ports.posts.delete(9, made[1].content_id, now)
        await engine.other.validation.observe_node()
        source = engine.other.resident
        assert await source.timelines([7, 9], now) == [b"", await timeline_of(engine.other, 9)]
        asked = [made[2].content_id, made[1].content_id, 12_345, made[0].content_id]
        found = await source.contents(asked)
        assert found == await engine.other.contents.contents(asked)
        assert [one is None for one in found] == [False, True, True, False]

    async def test_the_replica_shows_what_is_not_delivered_yet(self, engine: WholeEngine) -> None:
        ports, source = engine.store, engine.other.resident
        await ports.graph.follow(1, 9, engine.clock.now_ms())
        await engine.other.validation.observe_node()
        source.replica()
        before = source.replica_version
        made = await ports.posts.publish(post(engine.clock, 9))
        await engine.other.validation.observe_node()
        replica = source.replica()
        assert source.replica_version != before
        assert 9 in replica.overlay_authors and 8 not in replica.overlay_authors
        assert replica.posts_of([9]) == entry_of(made.content_id, 9)
        assert 9 in replica.posted.authors

    async def test_the_replica_knows_who_is_pulled_and_what_is_deleted(
        self, engine: WholeEngine
    ) -> None:
        ports, source = engine.store, engine.other.resident
        made = await ports.posts.publish(post(engine.clock, 9))
        await engine.other.validation.observe_node()
        before = source.replica()
        assert 9 not in before.pulled and made.content_id not in before.tombstones
        await ports.settings.set_author_modes([AuthorMode(9, int(Mode.PULL), 5, 0)])
        await ports.posts.delete(9, made.content_id, engine.clock.now_ms())
        await engine.other.validation.observe_node()
        after = source.replica()
        assert 9 in after.pulled and after.pulled_version != before.pulled_version
        assert made.content_id in after.tombstones

    async def test_pulled_authors_who_published_are_told_once(self, engine: WholeEngine) -> None:
        ports, source = engine.store, engine.other.resident
        await ports.settings.set_author_modes([AuthorMode(9, int(Mode.PULL), 5, 0)])
        await engine.other.validation.observe_node()
        source.replica()
        source.take_published()
        for author_id in (8, 9):
            await ports.posts.publish(post(engine.clock, author_id, seq=author_id))
        await engine.other.validation.observe_node()
        source.replica()
        assert source.take_published() == [9]
        assert source.take_published() == []

    async def test_the_table_has_the_engagement_that_ranks(self, engine: WholeEngine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        await ports.signals.record(Interaction(1, made.content_id, InteractionKind.LIKE, True, now))
        while await ports.signals.apply_counters(100, now):
            pass
        await engine.other.validation.observe_node()
        entries = entry_of(made.content_id, 9) + entry_of(made.content_id - 1, 9)
        found = native.engagement_lookup(engine.other.resident.engagement_table(), entries)
        assert found == engine.other.signals.engagement(entries)
        assert found[:4] != bytes(4) and found[4:] == bytes(4)
