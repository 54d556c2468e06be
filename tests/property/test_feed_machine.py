"""The invariants of the feed against a model, on the real embedded store, in any order of events.

    model                            invariant
    posts, follows, mutes, hides     visibility: a whole scroll equals what the model says
    scrolls in progress              monotonicity: nothing twice, nothing skipped that was there
                                     when the scroll began and was visible all along
    deleted posts                    deletion: in no page after the acknowledgement
    preferences                      read your writes: in force on the very next page
    acknowledged posts               durability: there after the store is closed and opened

Events include the fan-out stopped between delivering and advancing, merges at any moment, the
operator moving the threshold, users going away and coming back, and days passing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feedcore import native
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.codecs.cursor import encode_head
from feedcore.compose import compose_over
from feedcore.domain import ids
from feedcore.limits import INACTIVE_AFTER_MS, RETENTION_MS
from feedcore.ports import ImportedCounts, InteractionKind, PreferenceKind
from feedcore.services.feed import NewContent
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore.workers.fanout import FanoutWorker
from feedcore_pb.v1 import feed_pb2
from tests.support.fanout import fanout_over

LONG = os.environ.get("FEEDCORE_LONG") == "1"
START_MS = 1_780_000_000_000
USER_COUNT = 4
USERS = st.integers(1, USER_COUNT)
EDGES = st.sets(st.tuples(USERS, USERS), min_size=2, max_size=8)
MOSTLY = st.sampled_from([True, True, False])
PAGES = st.integers(1, 4)


class Killed(Exception):
    """The fan-out process dies here."""


class KilledBeforeAdvance:
    """A queue whose process is killed when deliveries are durable and continuations are not."""

    def __init__(self, queue) -> None:
        self._queue = queue

    def __getattr__(self, name: str):
        return getattr(self._queue, name)

    async def advance(self, *_arguments: object) -> None:
        """Never gets that far."""
        raise Killed


class Interrupted:
    """A port on which, before the named write of a turn, something else is committed."""

    def __init__(self, port, write: str, event) -> None:
        self._port, self._write, self._event = port, write, event

    def __getattr__(self, name: str):
        inner = getattr(self._port, name)
        if name != self._write:
            return inner

        async def after_the_event(*arguments: object):
            await self._event()
            return await inner(*arguments)

        return after_the_event


@dataclass(slots=True)
class OpenScroll:
    """A scroll in progress: `due` are items that were visible when it began and all along."""

    user: int
    cursor: str
    served: set[int]
    due: set[int]


@dataclass(slots=True)
class Model:
    """What users did, in plain sets."""

    author_of: dict[int, int] = field(default_factory=dict)
    at_ms: dict[int, int] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    follows: set[tuple[int, int]] = field(default_factory=set)
    blocks: set[tuple[int, int]] = field(default_factory=set)
    mutes: set[tuple[int, int]] = field(default_factory=set)
    hides: set[tuple[int, int]] = field(default_factory=set)

    def visible(self, user: int, now_ms: int) -> set[int]:
        """Content ids that belong into the user's feed now."""
        return {
            post
            for post, author in self.author_of.items()
            if post not in self.deleted
            and self.at_ms[post] >= now_ms - RETENTION_MS
            and (user, post) not in self.hides
            and (
                author == user
                or (
                    (user, author) in self.follows
                    and (user, author) not in self.mutes
                    and (user, author) not in self.blocks
                    and (author, user) not in self.blocks
                )
            )
        }


class FeedMachine(RuleBasedStateMachine):
    """Random histories of a small network, served from the store alone."""

    budget: CacheBudget | None = None

    @initialize(edges=EDGES)
    def begin(self, edges: set[tuple[int, int]]) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="feedcore-machine-"))
        self.clock = ManualClock(START_MS)
        self.model = Model()
        self.scrolls: list[OpenScroll] = []
        self._open()
        for user, other in sorted(edges):
            self.follow(user, other, True)

    def _open(self) -> None:
        async def opened() -> None:
            self.store = EmbeddedStore.open(
                self.folder, self.clock, writer_role=True, merge_thread=False
            )

        self.run(opened())
        self.engine = compose_over(
            self.store,
            HotSettings(push_threshold=2, hysteresis_percent=0),
            self.clock,
            node=1,
            budget=self.budget,
        )

    def _close(self) -> None:
        self.run(self.engine.close())
        self.run(self.store.close())

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._close()
            self.loop.close()
            shutil.rmtree(self.folder)

    def tick(self) -> None:
        """Two events never share a millisecond: the model need not know about sequence numbers."""
        self.clock.advance(1)

    def settle_scrolls(self) -> None:
        """After any change: what is not visible any more is no longer due."""
        now_ms = self.clock.now_ms()
        for scroll in self.scrolls:
            scroll.due &= self.model.visible(scroll.user, now_ms)

    @rule(author=USERS)
    def publish(self, author: int) -> None:
        self.tick()
        done = self.run(self.engine.publish.publish(author, f"by {author}"))
        self.model.author_of[done.content_id] = author
        self.model.at_ms[done.content_id] = done.published_at_ms

    @precondition(lambda self: self.model.author_of)
    @rule(data=st.data())
    def delete(self, data) -> None:
        post = data.draw(st.sampled_from(sorted(self.model.author_of)))
        if self.model.at_ms[post] < self.clock.now_ms() - RETENTION_MS:
            return
        self.run(self.engine.publish.delete(self.model.author_of[post], post))
        self.model.deleted.add(post)
        self.settle_scrolls()

    @rule(user=USERS, other=USERS, on=MOSTLY)
    def follow(self, user: int, other: int, on: bool) -> None:
        blocked = {(user, other), (other, user)} & self.model.blocks
        if user == other or (on and blocked):
            return
        self.tick()
        if on:
            self.run(self.engine.graph.follow(user, other))
            self.model.follows.add((user, other))
        else:
            self.run(self.engine.graph.unfollow(user, other))
            self.model.follows.discard((user, other))
        self.settle_scrolls()

    @rule(user=USERS, other=USERS, on=st.booleans())
    def block(self, user: int, other: int, on: bool) -> None:
        if user == other:
            return
        if on:
            self.run(self.engine.graph.block(user, other))
            self.model.blocks.add((user, other))
            self.model.follows -= {(user, other), (other, user)}
        else:
            self.run(self.engine.graph.unblock(user, other))
            self.model.blocks.discard((user, other))
        self.settle_scrolls()

    @rule(user=USERS, other=USERS, on=st.booleans())
    def mute(self, user: int, other: int, on: bool) -> None:
        if user == other:
            return
        change = self.engine.preferences.set_preference(user, PreferenceKind.MUTE, on, other, 0)
        self.run(change)
        (self.model.mutes.add if on else self.model.mutes.discard)((user, other))
        self.settle_scrolls()

    @precondition(lambda self: self.model.author_of)
    @rule(user=USERS, on=st.booleans(), data=st.data())
    def hide(self, user: int, on: bool, data) -> None:
        alive = sorted(
            post
            for post in self.model.author_of.keys() - self.model.deleted
            if self.model.at_ms[post] > self.clock.now_ms() - RETENTION_MS
        )
        if not alive:
            return
        post = data.draw(st.sampled_from(alive))
        self.run(
            self.engine.preferences.record_interaction(user, post, InteractionKind.HIDE, on, "")
        )
        (self.model.hides.add if on else self.model.hides.discard)((user, post))
        self.settle_scrolls()

    @precondition(lambda self: self.model.author_of)
    @rule(fans=st.integers(1, 200), data=st.data())
    def becomes_popular(self, fans: int, data) -> None:
        """Likes turn the order of ranking away from the order of time."""
        post = data.draw(st.sampled_from(sorted(self.model.author_of)))
        if post not in self.model.deleted:
            self.run(self.store.signals.import_counts([ImportedCounts(post, fans, 0, 0)]))

    @rule(threshold=st.sampled_from([0, 2, 100]))
    def move_threshold(self, threshold: int) -> None:
        self.run(self.engine.admin.set_settings(push_threshold=threshold))
        self.run(self.engine.policy.review(self.clock.now_ms()))

    @rule(turns=st.integers(1, 4))
    def fan_out(self, turns: int) -> None:
        for _ in range(turns):
            self.run(self.engine.fanout.turn())

    @rule()
    def fan_out_killed_between_deliver_and_advance(self) -> None:
        with contextlib.suppress(Killed):
            self.run(self._worker(KilledBeforeAdvance(self.store.queue)).turn())

    @rule(
        event=st.sampled_from(["publish", "follow", "unfollow", "load"]),
        write=st.sampled_from(["deliver", "advance"]),
        user=USERS,
        other=USERS,
    )
    def something_happens_inside_a_turn(
        self, event: str, write: str, user: int, other: int
    ) -> None:
        blocked = {(user, other), (other, user)} & self.model.blocks
        if user == other or (event in ("follow", "load") and blocked):
            return

        async def happen() -> None:
            self.tick()
            if event == "publish":
                done = await self.engine.publish.publish(user, "inside a turn")
                self.model.author_of[done.content_id] = user
                self.model.at_ms[done.content_id] = done.published_at_ms
            elif event == "unfollow":
                await self.engine.graph.unfollow(user, other)
                self.model.follows.discard((user, other))
            else:
                edge, now_ms = (user, other), self.clock.now_ms()
                if event == "load":
                    await self.store.graph.import_follows([edge], now_ms)
                else:
                    await self.engine.graph.follow(*edge)
                self.model.follows.add(edge)

        feeds, queue = self.store.feeds, self.store.queue
        if write == "deliver":
            feeds = Interrupted(feeds, write, happen)
        else:
            queue = Interrupted(queue, write, happen)
        self.run(self._worker(queue, feeds).turn())
        self.settle_scrolls()

    @rule(user=USERS, others=st.sets(USERS, min_size=1))
    def load_follows(self, user: int, others: set[int]) -> None:
        edges = [
            (user, other)
            for other in sorted(others - {user})
            if not {(user, other), (other, user)} & self.model.blocks
        ]
        if edges:
            self.tick()
            self.run(self.store.graph.import_follows(edges, self.clock.now_ms()))
            self.model.follows.update(edges)

    def _worker(self, queue, feeds=None) -> FanoutWorker:
        store = self.store
        ports = SimpleNamespace(
            queue=queue,
            feeds=feeds or store.feeds,
            posts=store.posts,
            validation=store.validation,
        )
        return fanout_over(ports, store.graph, self.engine.hot, self.clock)

    @rule()
    def merge(self) -> None:
        self.run(self.store.merge_all())

    @rule()
    def compact(self) -> None:
        while self.store.merger.compact_once(quiet=True):
            pass

    @rule()
    def everybody_goes_away(self) -> None:
        self.run(self.store.upkeep_inactive(self.clock.now_ms() + INACTIVE_AFTER_MS + 1))

    @rule(hours=st.sampled_from([1, 30, 100]))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(hours * 3_600_000)
        self.run(self.store.expire(self.clock.now_ms()))
        self.settle_scrolls()

    @rule()
    def reopen(self) -> None:
        self._close()
        self._open()

    @rule(user=USERS, size=PAGES)
    def begin_scroll(self, user: int, size: int) -> None:
        if not any(follower == user for follower, _ in self.model.follows):
            return
        due = self.model.visible(user, self.clock.now_ms())
        if due:
            scroll = OpenScroll(user, "", set(), due)
            self._next_page(scroll, size)

    @precondition(lambda self: self.scrolls)
    @rule(data=st.data(), size=PAGES)
    def go_on_scrolling(self, data, size: int) -> None:
        place = data.draw(st.integers(0, len(self.scrolls) - 1))
        self._next_page(self.scrolls.pop(place), size)

    def _next_page(self, scroll: OpenScroll, size: int) -> None:
        page = self._page(scroll.user, size, scroll.cursor)
        found = [item.content_id for item in page.items]
        assert not scroll.served & set(found) and len(set(found)) == len(found), "served twice"
        visible = self.model.visible(scroll.user, self.clock.now_ms())
        assert set(found) <= visible, "a page shows what is not visible"
        scroll.served |= set(found)
        scroll.cursor = page.next_cursor
        if scroll.cursor:
            self.scrolls.append(scroll)
        else:
            assert scroll.due <= scroll.served, "skipped what was there all along"

    def _page(self, user: int, size: int, cursor: str) -> feed_pb2.GetFeedResponse:
        page = self.run(self.engine.feed.get_feed(user, size, cursor, 0, ""))
        return feed_pb2.GetFeedResponse.FromString(page.body)

    @invariant()
    def every_feed_is_what_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        now_ms = self.clock.now_ms()
        for user in range(1, USER_COUNT + 1):
            if not any(follower == user for follower, _ in self.model.follows):
                continue
            served = self.run(self.engine.feed.scroll_ids(user, 3))
            assert len(set(served)) == len(served), f"user {user}: served twice"
            assert set(served) == self.model.visible(user, now_ms), f"user {user}"


class ResidentFeedMachine(FeedMachine):
    """The same, made by compiled code from what is kept in memory: byte for byte what the store
    alone gives at that moment, whichever page of whichever scroll."""

    budget = CacheBudget(0, 1 << 20)

    def _page(self, user: int, size: int, cursor: str) -> feed_pb2.GetFeedResponse:
        page = self.run(self.engine.resident.get_feed(user, size, cursor, 0, ""))
        plain = self.run(self.engine.feed.get_feed(user, size, cursor, 0, ""))
        assert page.body == plain.body, readable(page.body, plain.body)
        return feed_pb2.GetFeedResponse.FromString(page.body)

    @invariant()
    def first_pages_are_the_same(self) -> None:
        if hasattr(self, "store"):
            for user in range(1, USER_COUNT + 1):
                page = self._page(user, 3, "")
                new = self.run(self.engine.resident.check_new(user, page.head))
                plain = self.run(self.engine.feed.check_new(user, page.head))
                if isinstance(new, bytes):
                    new = NewContent(*check_of(new))
                assert new == plain

    @rule(user=USERS, after=st.integers(0, 5_000))
    def check_from_the_past(self, user: int, after: int) -> None:
        head_id = ids.first_id_at(self.clock.now_ms() - after * 60_000)
        head = encode_head(user, head_id, self.store.secret)
        new = self.run(self.engine.resident.check_new(user, head))
        plain = self.run(self.engine.feed.check_new(user, head))
        assert (NewContent(*check_of(new)) if isinstance(new, bytes) else new) == plain


class KeptFeedMachine(FeedMachine):
    """The same with cached pages: a cached page shows what is visible now, and lacks nothing."""

    budget = CacheBudget(1 << 20, 1 << 20)

    def _page(self, user: int, size: int, cursor: str) -> feed_pb2.GetFeedResponse:
        maker = self.engine.resident.maker
        hits = maker.counts.pages_cached
        page = self.run(self.engine.resident.get_feed(user, size, cursor, 0, ""))
        self.was_cached = maker.counts.pages_cached > hits
        if not self.was_cached:
            plain = self.run(self.engine.feed.get_feed(user, size, cursor, 0, ""))
            assert page.body == plain.body, readable(page.body, plain.body)
        return feed_pb2.GetFeedResponse.FromString(page.body)

    @invariant()
    def cached_pages_show_what_is_visible(self) -> None:
        if not hasattr(self, "store"):
            return
        for user in range(1, USER_COUNT + 1):
            if not any(follower == user for follower, _ in self.model.follows):
                continue
            maker = self.engine.resident.maker
            made = maker.counts.pages_generated
            first = self._page(user, 3, "")
            made = maker.counts.pages_generated - made
            again = self._page(user, 3, "")
            if made:
                assert self.was_cached and again == first, "a generated page is cached"
            visible = self.model.visible(user, self.clock.now_ms())
            shown = {item.content_id for item in again.items}
            assert shown <= visible and len(shown) == min(3, len(visible))


def readable(body: bytes, plain: bytes) -> str:
    """Both answers, for the report of a failure."""
    parse = feed_pb2.GetFeedResponse.FromString
    return f"resident: {parse(body)}\nplain: {parse(plain)}"


def check_of(body: bytes) -> tuple[int, bool, int, int]:
    """The fields of an encoded CheckNewResponse."""
    new = feed_pb2.CheckNewResponse.FromString(body)
    return new.count, new.capped, new.newest_published_at_ms, new.newest_content_id


SETTINGS = settings(
    max_examples=1_000 if LONG else 200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FeedMachine.TestCase.settings = SETTINGS
TestFeedMachine = FeedMachine.TestCase
if native.COMPILED:
    ResidentFeedMachine.TestCase.settings = SETTINGS
    TestResidentFeedMachine = ResidentFeedMachine.TestCase
    KeptFeedMachine.TestCase.settings = SETTINGS
    TestKeptFeedMachine = KeptFeedMachine.TestCase
