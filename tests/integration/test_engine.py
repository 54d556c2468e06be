"""The services together on the real stores of both profiles: what a user of the engine relies on,
case by case."""

from __future__ import annotations

import pytest

from feedcore.codecs.content import Media
from feedcore.domain.entry import Visibility
from feedcore.errors import FailedPrecondition, NotPermitted, Unavailable
from feedcore.limits import (
    HOUR_MS,
    INACTIVE_AFTER_MS,
    PULLED_SOURCES_MAX,
    RETENTION_MS,
)
from feedcore.ports import InteractionKind, JobKind, PreferenceKind
from feedcore_pb.v1 import feed_pb2, types_pb2
from tests.support.worlds import AUTHOR, OTHER, READER, Profile, World


async def test_cold_start_shows_what_trends_and_says_so(world: World) -> None:
    post = await world.publish(AUTHOR, "everybody likes this")
    for user in range(100, 110):
        kind = InteractionKind.LIKE
        await world.engine.preferences.record_interaction(user, post, kind, True, "")
    await world.settle()
    page = await world.page(READER)
    assert page.receipt.origin == types_pb2.FEED_ORIGIN_TRENDING
    assert [item.content_id for item in page.items] == [post]
    assert page.items[0].reason == types_pb2.REASON_TRENDING and page.items[0].counts.likes == 10
    # Following somebody who never posted is a cold start, too.
    await world.engine.graph.follow(READER, 77)
    assert (await world.page(READER)).receipt.origin == types_pb2.FEED_ORIGIN_TRENDING
    await world.engine.graph.follow(READER, AUTHOR)
    assert (await world.page(READER)).receipt.origin == types_pb2.FEED_ORIGIN_STORED


async def test_trending_respects_mutes_and_audience(world: World) -> None:
    private = await world.publish(OTHER, "for me alone", visibility=Visibility.PRIVATE)
    post = await world.publish(AUTHOR, "popular")
    for user in range(100, 105):
        for content in (private, post):
            kind = InteractionKind.LIKE
            await world.engine.preferences.record_interaction(user, content, kind, True, "")
    await world.settle()
    assert await world.ids() == [post]
    mute = PreferenceKind.MUTE
    await world.engine.preferences.set_preference(READER, mute, True, AUTHOR, 0)
    assert await world.ids() == []


async def test_very_many_follows_take_the_most_engaged_sources(profile: Profile) -> None:
    async with profile.world(threshold=0) as world:
        await follow_very_many(world)


async def follow_very_many(world: World) -> None:
    world.needs_own_graph("authors are pulled by the store's own count of their followers")
    authors = range(1_000, 1_000 + world.follows_many)
    for at in range(0, len(authors), 5_000):
        edges = [(READER, author) for author in authors[at : at + 5_000]]
        await world.store.graph.import_follows(edges, world.clock.now_ms())
    await world.review()
    favourite = authors[-1]  # the last by id: only engagement can bring it in
    liked = await world.publish(favourite, "liked before")
    like = InteractionKind.LIKE
    await world.engine.preferences.record_interaction(READER, liked, like, True, "")
    await world.settle()
    post = await world.publish(favourite, "new")
    stranger = await world.publish(authors[-2], "not considered")
    page = await world.page()
    assert page.receipt.pull_sources_total == world.follows_many
    assert page.receipt.pull_sources_considered == PULLED_SOURCES_MAX
    ids = [item.content_id for item in page.items]
    assert post in ids and stranger not in ids


async def test_a_user_who_was_away_is_skipped_and_gets_everything_on_return(world: World) -> None:
    world.needs_own_graph("its contract does not say who was here lately")
    await world.engine.graph.follow(READER, AUTHOR)
    await world.engine.graph.follow(OTHER, AUTHOR)
    await world.settle()
    await world.mark_inactive(world.clock.now_ms() + INACTIVE_AFTER_MS + 1)
    # the other one comes back before the post, the reader after it
    assert (await world.page(OTHER)).receipt.origin == types_pb2.FEED_ORIGIN_TRENDING
    post = await world.publish(AUTHOR, "while you were away")
    await world.settle()
    assert await world.store.feeds.delivered(OTHER, post)
    assert not await world.store.feeds.delivered(READER, post), "an inactive follower was pushed to"
    page = await world.page()
    assert page.receipt.origin == types_pb2.FEED_ORIGIN_REBUILT
    assert [item.content_id for item in page.items] == [post]
    await world.settle()
    page = await world.page()
    assert page.receipt.origin == types_pb2.FEED_ORIGIN_STORED
    assert [item.content_id for item in page.items] == [post]
    assert await world.store.feeds.delivered(READER, post)


async def test_snooze_ends_by_itself_and_see_less_ranks_lower(world: World) -> None:
    for author in (AUTHOR, OTHER):
        await world.engine.graph.follow(READER, author)
    first, second = await world.publish(AUTHOR), await world.publish(OTHER)
    await world.settle()
    preferences = world.engine.preferences
    until = world.clock.now_ms() + HOUR_MS
    await preferences.set_preference(READER, PreferenceKind.SNOOZE, True, AUTHOR, until)
    assert await world.ids() == [second]
    world.clock.advance(HOUR_MS + 1)
    assert await world.ids() == [second, first]
    await preferences.set_preference(READER, PreferenceKind.SEE_LESS, True, OTHER, 0)
    assert await world.ids() == [first, second]
    await preferences.set_preference(READER, PreferenceKind.SEE_LESS, False, OTHER, 0)
    assert await world.ids() == [second, first]


async def test_audience_and_own_posts(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    private = await world.publish(AUTHOR, visibility=Visibility.PRIVATE)
    followers = await world.publish(AUTHOR, visibility=Visibility.FOLLOWERS)
    own = await world.publish(READER, visibility=Visibility.PRIVATE)
    await world.settle()
    page = await world.page()
    assert {item.content_id for item in page.items} == {followers, own}
    reasons = {item.content_id: item.reason for item in page.items}
    assert reasons == {followers: types_pb2.REASON_FOLLOWED, own: types_pb2.REASON_OWN}
    with pytest.raises(NotPermitted, match="content_id"):
        await world.engine.publish.get_post(private, READER)
    assert (await world.engine.publish.get_post(private, AUTHOR)).author_id == AUTHOR


async def test_etag_and_views(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    picture = Media("https://media.example/1.jpg", "image/jpeg", 640, 480)
    post = await world.publish(AUTHOR, "with a picture", media=[picture])
    await world.settle()
    full = await world.page()
    assert full.items[0].content.media[0].uri == picture.uri
    same = await world.page(if_none_match=full.etag)
    assert same.not_modified and not same.items and same.etag == full.etag
    world.clock.advance(HOUR_MS)  # scores decay: the page is still the same page
    assert (await world.page(if_none_match=full.etag)).not_modified
    compact, ids = await world.page(view=1), await world.page(view=2)
    assert not compact.items[0].HasField("content") and compact.items[0].score > 0
    assert ids.items[0].content_id == post and ids.items[0].score == 0
    assert len({full.etag, compact.etag, ids.etag}) == 3
    like = InteractionKind.LIKE
    await world.engine.preferences.record_interaction(READER, post, like, True, "")
    await world.settle()
    assert not (await world.page(if_none_match=full.etag)).not_modified


async def test_check_new_counts_what_is_visible_and_caps(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    await world.engine.graph.follow(READER, OTHER)
    await world.publish(AUTHOR)
    head = (await world.page()).head
    assert (await world.engine.feed.check_new(READER, head)).items == 0
    newest = await world.publish(AUTHOR)
    mute = PreferenceKind.MUTE
    await world.engine.preferences.set_preference(READER, mute, True, OTHER, 0)
    await world.publish(OTHER)
    new = await world.engine.feed.check_new(READER, head)
    assert (new.items, new.capped, new.newest_content_id) == (1, False, newest)
    for _ in range(120):
        await world.publish(AUTHOR)
    new = await world.engine.feed.check_new(READER, head)
    assert (new.items, new.capped) == (99, True)


class ContentsAway:
    """A content service that does not answer."""

    async def contents(self, _content_ids: object) -> list[None]:
        raise Unavailable("content service: no answer within 100 ms")


async def test_without_the_content_service_the_page_has_bare_items(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    post = await world.publish(AUTHOR)
    others = world.collaborators._replace(contents=ContentsAway())
    feed = world.compose(others).feed
    page = feed_pb2.GetFeedResponse.FromString((await feed.get_feed(READER, 20, "", 0, "")).body)
    assert [item.content_id for item in page.items] == [post]
    assert page.receipt.degraded and not page.items[0].HasField("content")
    told = {source.name: source.error for source in page.receipt.sources}
    assert "100 ms" in told["content"]


class PoisonedGraph:
    """A graph that fails for one author."""

    def __init__(self, graph: object, author: int) -> None:
        self._graph, self._author = graph, author

    def __getattr__(self, name: str) -> object:
        return getattr(self._graph, name)

    async def push_recipients(self, author_id: int, *rest: object) -> object:
        if author_id == self._author:
            raise ValueError("a follower list that cannot be read")
        return await self._graph.push_recipients(author_id, *rest)  # type: ignore[attr-defined]


async def test_a_poisoned_job_becomes_a_dead_letter_and_stops_nobody(world: World) -> None:
    for author in (AUTHOR, OTHER):
        await world.engine.graph.follow(READER, author)
    await world.settle()
    poisoned, healthy = await world.publish(AUTHOR), await world.publish(OTHER)
    await world.work(world.worker(graph=PoisonedGraph(world.graph, AUTHOR)))
    assert await world.store.feeds.delivered(READER, healthy)
    (letter,) = await world.engine.admin.dead_letters()
    assert letter.job.kind is JobKind.POST and letter.job.content_id == poisoned
    assert "cannot be read" in letter.error
    assert set(await world.ids()) == {poisoned, healthy}, "readers see it through the overlay"
    assert await world.engine.admin.replay([letter.job.job_id]) == 1
    await world.settle()
    assert await world.store.feeds.delivered(READER, poisoned)
    assert not await world.engine.admin.dead_letters()


async def test_explain_tells_the_way_and_the_reason(profile: Profile) -> None:
    async with profile.world(threshold=2) as world:
        await explain_ways(world)


async def explain_ways(world: World) -> None:
    world.needs_own_graph("authors are pulled by the store's own count of their followers")
    explain = world.engine.explain.explain
    await world.engine.graph.follow(READER, AUTHOR)
    for fan in (READER, 50, 51):
        await world.engine.graph.follow(fan, OTHER)
    await world.settle()
    fresh = await world.publish(AUTHOR)
    assert (await explain(READER, fresh)).delivered_by == "overlay"
    await world.settle()
    pushed = await explain(READER, fresh)
    assert (pushed.delivered_by, pushed.in_feed, pushed.rank) == ("push", True, 1)
    assert [name for name, _ in pushed.terms][:2] == ["quality", "recency"]
    pulled = await world.publish(OTHER)
    assert (await explain(READER, pulled)).delivered_by == "pull"
    assert (await explain(AUTHOR, fresh)).delivered_by == "own"
    stranger = await explain(60, fresh)
    assert not stranger.in_feed and ("unfollowed", True) in stranger.filters
    mute = PreferenceKind.MUTE
    await world.engine.preferences.set_preference(READER, mute, True, AUTHOR, 0)
    muted = await explain(READER, fresh)
    assert not muted.in_feed and "muted" in muted.verdict
    await world.engine.publish.delete(OTHER, pulled)
    assert (await explain(READER, pulled)).verdict == "the post was deleted"
    world.clock.advance(RETENTION_MS + 1)
    assert ("expired", True) in (await explain(READER, fresh)).filters


async def test_audit_finds_nothing_in_a_healthy_store_and_the_hole_in_a_broken_one(
    world: World,
) -> None:
    world.needs_own_graph("its contract does not list users, whom an audit draws from")
    for author in range(1, 6):
        await world.engine.graph.follow(READER, author)
    posts = [await world.publish(author) for author in range(1, 6) for _ in range(30)]
    await world.settle()
    report = await world.engine.audit.audit(10, 1)
    assert (report.users, report.expected) == (1, len(posts))
    assert (report.missing, report.duplicate, report.unexpected) == (0, 0, 0)
    # A run whose author was taken out behind the engine's back: what the audit is for.
    from feedcore import native
    from feedcore.ports import Delivery

    hole = Delivery(b"", native.pack_ids([READER]), remove_author=3)
    await world.store.feeds.deliver([hole])
    await world.store_deliveries()
    world.clock.advance(10)
    await world.forget_newest()
    report = await world.engine.audit.audit(10, 1)
    assert (report.missing, report.duplicate, report.unexpected) == (30, 0, 0)
    assert str(READER) in report.findings[0]


async def test_a_scroll_keeps_its_ranking_while_the_operator_changes_it(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    posts = {await world.publish(AUTHOR) for _ in range(30)}
    first = await world.page(page_size=10)
    before = await world.engine.admin.get_ranking()
    from dataclasses import replace

    flat = replace(before, parameters=replace(before.parameters, half_life_hours=100.0))
    after = await world.engine.admin.set_ranking(flat, before.version)
    assert after.version == before.version + 1
    with pytest.raises(FailedPrecondition):
        await world.engine.admin.set_ranking(flat, before.version)
    second = await world.page(page_size=100, cursor=first.next_cursor)
    assert second.receipt.ranking_version == before.version
    found = [item.content_id for page in (first, second) for item in page.items]
    assert len(found) == len(set(found)) and set(found) == posts
    assert (await world.page()).receipt.ranking_version == after.version


async def test_what_was_acknowledged_is_there_after_reopening(world: World) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    post = await world.publish(AUTHOR, "kept", idempotency_key="k")
    await world.close()
    await world.open()
    assert await world.ids() == [post]
    assert await world.publish(AUTHOR, "kept", idempotency_key="k") == post
    assert await world.ids() == [post]


class FollowsDuringTheTurn:
    """A queue in whose turn, between reading and advancing, a bulk load commits more follows."""

    def __init__(self, world: World, edge: tuple[int, int]) -> None:
        self._world, self._edge = world, edge

    def __getattr__(self, name: str) -> object:
        return getattr(self._world.store.queue, name)

    async def advance(self, *progress: object) -> None:
        now_ms = self._world.clock.now_ms()
        await self._world.store.graph.import_follows([self._edge], now_ms)
        await self._world.store.queue.advance(*progress)  # type: ignore[arg-type]


async def test_follows_loaded_while_the_feed_is_rebuilt_are_not_forgotten(world: World) -> None:
    world.needs_own_graph("its contract has no bulk writes")
    for fan in (50, 51):  # both authors are pushed to somebody before
        for author in (AUTHOR, OTHER):
            await world.engine.graph.follow(fan, author)
    posts = {await world.publish(author) for author in (AUTHOR, OTHER)}
    await world.settle()
    await world.store.graph.import_follows([(READER, AUTHOR)], world.clock.now_ms())
    await world.turn(world.worker(queue=FollowsDuringTheTurn(world, (READER, OTHER))))
    assert set(await world.ids()) == posts
    await world.settle()
    assert set(await world.ids()) == posts
    assert (await world.page()).receipt.origin == types_pb2.FEED_ORIGIN_STORED
