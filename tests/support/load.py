"""People who use a cluster while something in it fails: a bounded rate of calls, all that was
promised remembered and compared.

A population follows and publishes; each call is one line of its own in `Load.calls`. While calls go
on it is checked that no page has an item that was deleted, or an author who was muted, before the
page was asked for, nor an item twice; and that a scroll that says it is complete has every post
acknowledged `late_max_s` before it began: at once, but without Redis, whose node log brings a post
to other processes before its fan-out does. `settle` sends again, with the same key, what has no
answer; `reckon` compares every follower's feed with what was acknowledged. Not for measuring speed:
clients and servers share the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from feedcore_pb.collaborators.v1 import graph_pb2, graph_pb2_grpc
from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2, publish_pb2_grpc, types_pb2
from tests.support.figures import Call

CALL_S = 10.0  # a caller's patience, on a machine that does other things, too
IN_FLIGHT_MAX = 128
AUTHORS, FOLLOWERS = 8, 16
FOLLOWED = 5  # authors each follower follows
MUTED = 2  # authors that are ever muted: the posts of others must always be there
RETRY_S = 0.3
SETTLE_S = 60.0
SCROLL_PAGE = 100
# weights of what people do
KINDS = {"feed": 66, "publish": 20, "mute": 5, "delete": 5, "scroll": 4}
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # so long an attempt may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(slots=True)
class Post:
    """One that was sent. Times are of `time.monotonic`; 0: not yet."""

    key: str
    author: int
    body: str
    content_id: int = 0
    acknowledged_s: float = 0.0
    delete_sent_s: float = 0.0
    deleted_s: float = 0.0


class Stubs(NamedTuple):
    """One connection, so one API process."""

    channel: grpc.aio.Channel
    feed: Any
    publish: Any
    graph: Any

    @classmethod
    def of(cls, address: str) -> Stubs:
        channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        return cls(
            channel,
            feed_pb2_grpc.FeedServiceStub(channel),
            publish_pb2_grpc.PublishServiceStub(channel),
            graph_pb2_grpc.GraphServiceStub(channel),
        )


async def surely(call: Callable[..., Awaitable[Any]], request: Any) -> Any:
    """Asks until there is an answer: what is not measured must not fail on a busy machine."""
    until_s = time.monotonic() + SETTLE_S
    while True:
        try:
            return await call(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            retried = error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            if not retried or time.monotonic() > until_s:
                raise
        await asyncio.sleep(RETRY_S)


@dataclass(slots=True)
class Load:
    """One population. `first_user`: ids from there on are its own."""

    nodes: list[Stubs]
    first_user: int
    rate: float
    seed: int = 7
    phase: str = "before"
    calls: list[Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what must never happen
    posts: dict[str, Post] = field(default_factory=dict)
    by_id: dict[int, Post] = field(default_factory=dict)
    follows: dict[int, list[int]] = field(default_factory=dict)
    # (user, author) -> when a mute was acknowledged; no entry: not muted, or not known
    muted: dict[tuple[int, int], float] = field(default_factory=dict)
    touched: set[tuple[int, int]] = field(default_factory=set)  # pairs ever muted
    busy: set[tuple[int, int]] = field(default_factory=set)
    skipped: int = 0
    late_max_s: float = 0.0
    late_s: float = 0.0  # the longest that an acknowledged post was not there yet
    _draw: random.Random = field(default_factory=random.Random)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _retries: set[asyncio.Task[None]] = field(default_factory=set)

    # --- population -----------------------------------------------------------------------------

    async def populate(self) -> None:
        """Everybody follows; FOLLOWED authors each, evenly spread."""
        self._draw.seed(self.seed)
        authors = [self.first_user + number for number in range(AUTHORS)]
        for number in range(FOLLOWERS):
            user = self.first_user + AUTHORS + number
            chosen = [authors[(number + step) % AUTHORS] for step in range(FOLLOWED)]
            self.follows[user] = chosen
        for user, chosen in self.follows.items():
            for author in chosen:
                request = graph_pb2.FollowRequest(follower_id=user, followee_id=author)
                await surely(self.nodes[0].graph.Follow, request)

    @property
    def followers(self) -> list[int]:
        return list(self.follows)

    def followers_of(self, author: int) -> list[int]:
        return [user for user, authors in self.follows.items() if author in authors]

    # --- running --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Calls go on while the block runs; at its end those under way are awaited."""
        stop = asyncio.Event()
        pacer = asyncio.create_task(self._pace(stop))
        try:
            yield
        finally:
            stop.set()
            await pacer
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _pace(self, stop: asyncio.Event) -> None:
        names, weights = list(KINDS), list(KINDS.values())
        due_s = time.monotonic()
        while not stop.is_set():
            due_s = max(due_s + 1 / self.rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(due_s - time.monotonic(), 0))
            if len(self._tasks) >= IN_FLIGHT_MAX:
                self.skipped += 1
                continue
            kind = self._draw.choices(names, weights)[0]
            task = asyncio.create_task(getattr(self, f"_{kind}")())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.wrong.append(f"the driver failed: {task.exception()!r}")

    async def ask(self, kind: str, call: Callable[[Stubs], Awaitable[Any]]) -> Any:
        """One call, noted; None if it failed."""
        node = self._draw.choice(self.nodes)
        phase, began_s = self.phase, time.monotonic()
        answer, status, details = None, "OK", ""
        try:
            answer = await call(node)
        except grpc.aio.AioRpcError as error:
            status, details = error.code().name, error.details() or ""
        took_s = time.monotonic() - began_s
        said = ""
        if isinstance(answer, feed_pb2.GetFeedResponse):
            said = self._receipt(answer)
        self.calls.append(Call(kind, phase, began_s, took_s, status, said, details))
        return answer

    @staticmethod
    def _receipt(page: feed_pb2.GetFeedResponse) -> str:
        origin = types_pb2.FeedOrigin.Name(page.receipt.origin).removeprefix("FEED_ORIGIN_").lower()
        failed = [one.name for one in page.receipt.sources if not one.ok or one.stale_ms]
        return f"{origin} without {'+'.join(failed)}" if page.receipt.degraded else origin

    # --- what people do -------------------------------------------------------------------------

    async def _publish(self) -> None:
        number = len(self.posts)
        author = self.first_user + self._draw.randrange(AUTHORS)
        post = Post(f"{self.first_user}-{number}", author, f"post {number} of {self.first_user}")
        self.posts[post.key] = post
        if not await self._send(post, "publish"):
            task = asyncio.create_task(self._send_again(post))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _send(self, post: Post, kind: str) -> bool:
        request = publish_pb2.PublishRequest(
            author_id=post.author, body=post.body, idempotency_key=post.key
        )
        answer = await self.ask(kind, lambda node: node.publish.Publish(request, timeout=CALL_S))
        if answer is None:
            return False
        if post.content_id and post.content_id != answer.content_id:
            self.wrong.append(f"{post.key} is there twice: {post.content_id}, {answer.content_id}")
        if not post.acknowledged_s:
            post.acknowledged_s = time.monotonic()
            post.content_id = answer.content_id
            self.by_id[answer.content_id] = post
        return True

    async def _send_again(self, post: Post) -> None:
        """As clients do: the same key until there is an answer."""
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s:
            await asyncio.sleep(RETRY_S)
            if await self._send(post, "publish again"):
                return

    async def _delete(self) -> None:
        there = [one for one in self.by_id.values() if not one.delete_sent_s]
        if not there:
            return
        post = self._draw.choice(there)
        post.delete_sent_s = time.monotonic()
        request = publish_pb2.DeleteRequest(author_id=post.author, content_id=post.content_id)
        answer = await self.ask(
            "delete",
            lambda node: node.publish.Delete(request, timeout=CALL_S),
        )
        if answer is not None:
            post.deleted_s = time.monotonic()

    async def _mute(self) -> None:
        user = self._draw.choice(self.followers)
        author = self.first_user + self._draw.randrange(MUTED)
        pair = user, author
        if author not in self.follows[user] or pair in self.busy:
            return
        self.busy.add(pair)
        self.touched.add(pair)
        unmute = self.muted.pop(pair, None) is not None
        request = feed_pb2.SetPreferenceRequest(
            user_id=user,
            target_user_id=author,
            kind=feed_pb2.PREFERENCE_KIND_UNMUTE if unmute else feed_pb2.PREFERENCE_KIND_MUTE,
        )
        answer = await self.ask(
            "mute", lambda node: node.feed.SetPreference(request, timeout=CALL_S)
        )
        if answer is not None and not unmute:
            self.muted[pair] = time.monotonic()
        self.busy.discard(pair)

    async def _feed(self) -> None:
        user = self._draw.choice(self.followers)
        began_s = time.monotonic()
        request = feed_pb2.GetFeedRequest(user_id=user)
        page = await self.ask("feed", lambda node: node.feed.GetFeed(request, timeout=CALL_S))
        if page is not None:
            self._check_items(user, page.items, began_s)

    async def _scroll(self) -> None:
        user = self._draw.choice(self.followers)
        await self.scroll(user)

    async def scroll(self, user: int, kind: str = "scroll") -> Counter[int] | None:
        """The whole feed, checked; None if a page failed."""
        began_s = time.monotonic()
        due = [post for post in self.by_id.values() if self._is_due(user, post)]
        found: Counter[int] = Counter()
        cursor, complete = "", True
        while True:
            request = feed_pb2.GetFeedRequest(user_id=user, page_size=SCROLL_PAGE, cursor=cursor)
            page = await self.ask(
                kind, lambda node, r=request: node.feed.GetFeed(r, timeout=CALL_S)
            )
            if page is None:
                return None
            self._check_items(user, page.items, began_s)
            complete = complete and not page.receipt.degraded
            found.update(item.content_id for item in page.items)
            cursor = page.next_cursor
            if not cursor:
                break
        for content_id, times in found.items():
            if times > 1:
                self.wrong.append(f"a scroll of {user} has {content_id} {times} times")
        # those that may have gone meanwhile are nobody's fault
        gone = [one for one in due if self._is_due(user, one) and one.content_id not in found]
        if complete and gone:
            late_s = began_s - min(one.acknowledged_s for one in gone)
            self.late_s = max(self.late_s, late_s)
            if late_s > self.late_max_s:
                self.wrong.append(
                    f"{self.phase}: a scroll of {user} lacks {len(gone)} of {len(due)}, one of"
                    f" them acknowledged {late_s:.3f} s before: {gone[0]}"
                )
        return found

    def _is_due(self, user: int, post: Post) -> bool:
        """Whether it must be there: by somebody followed, and surely neither deleted nor muted."""
        return (
            post.author in self.follows[user]
            and not post.delete_sent_s
            and (user, post.author) not in self.touched
        )

    def _check_items(self, user: int, items: Any, began_s: float) -> None:
        ids = [item.content_id for item in items]
        if len(set(ids)) != len(ids):
            self.wrong.append(f"a page of {user} has an item twice")
        for item in items:
            post = self.by_id.get(item.content_id)
            if post is not None and 0 < post.deleted_s < began_s:
                late_s = began_s - post.deleted_s
                self.wrong.append(
                    f"{self.phase}: {user} is shown {item.content_id}, which was deleted"
                    f" {late_s:.3f} s before the page was asked for"
                )
            since_s = self.muted.get((user, item.author_id), began_s)
            if since_s < began_s:
                self.wrong.append(
                    f"{self.phase}: {user} is shown {item.author_id}, who was muted"
                    f" {began_s - since_s:.3f} s before the page was asked for"
                )

    # --- the end --------------------------------------------------------------------------------

    async def settle(self) -> None:
        """What has no answer yet gets one, and all else that was asked has come to an end."""
        self.phase = "settling"
        while self._retries:
            await asyncio.wait(self._retries)
        for post in self.posts.values():
            if post.delete_sent_s and not post.deleted_s and post.content_id:
                request = publish_pb2.DeleteRequest(
                    author_id=post.author, content_id=post.content_id
                )
                await surely(self.nodes[0].publish.Delete, request)
                post.deleted_s = time.monotonic()
        silent = [key for key, post in self.posts.items() if not post.acknowledged_s]
        assert not silent, f"no answer within {SETTLE_S:g} s for {silent[:5]}"
        for key in self._draw.sample(sorted(self.posts), min(len(self.posts), 20)):
            await self._send(self.posts[key], "publish again")
        for user, author in sorted(self.touched):
            request = feed_pb2.SetPreferenceRequest(
                user_id=user, target_user_id=author, kind=feed_pb2.PREFERENCE_KIND_UNMUTE
            )
            await surely(self.nodes[0].feed.SetPreference, request)
        self.muted.clear()
        self.touched.clear()

    def expected(self, user: int) -> set[int]:
        """Content ids of the user's whole feed, once settled."""
        return {
            post.content_id
            for post in self.posts.values()
            if post.author in self.follows[user] and not post.delete_sent_s
        }

    async def reckon(self) -> tuple[int, int, int]:
        """(lost, twice, too many) over all followers' feeds."""
        lost = twice = more = 0
        for user in self.followers:
            found, until_s = None, time.monotonic() + SETTLE_S
            while found is None:
                assert time.monotonic() < until_s, f"the feed of {user} cannot be read"
                found = await self.scroll(user, "reckoning")
            expected = self.expected(user)
            lost += len(expected - found.keys())
            twice += sum(times - 1 for times in found.values())
            more += len(found.keys() - expected)
        return lost, twice, more

    async def close(self) -> None:
        for task in self._retries:
            task.cancel()
        for node in self.nodes:
            await node.channel.close()
