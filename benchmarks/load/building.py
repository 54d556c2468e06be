"""Makes the stores of worlds: graph and posts in bulk, then fan-out and merge until nothing waits.

Follows go straight into the store's tables, sorted, a thousand times faster than one call an edge;
posts, modes, deliveries and runs come about as in a server. Not for loading data that people care
about: `feedcore load` does that.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.codecs.content import Media, digest, encode_content
from feedcore.compose import Engine, compose_over
from feedcore.domain import ids
from feedcore.loading.demo_text import sentence
from feedcore.ports import ImportedCounts, NewPost
from feedcore.services.hot import HotSettings
from feedcore_bench import graph as graphs
from feedcore_bench.world import ROOT, SIZES, WINDOWS, Echo, Spec, World

IMPORT_NODE = 127  # the node number that no worker has
ROWS_A_COMMIT = 1_000_000  # follower rows: 30 MB of log a commit
POSTS_A_COMMIT = 2_000
THRESHOLD_SHARE = 0.5  # of all users: authors with more followers are pulled ...
THRESHOLD_MOST = 10_000  # ... and everybody with more than the default threshold
ORDINARY_FOLLOWERS = 500  # of the author whose posts are waited for
ORDINARY_AUTHORS = 32
FOLLOWERS_KEPT = 64  # of each of those
CELEBRITY_FOLLOWERS_KEPT = 10_000  # of the best known: so many load at once when it posts

SIZES_ITEMS = 40  # a user, on average: two pages
SIZES_EXPONENT = 0.7  # of the rank by popularity: well known authors post most
# The world of windows: each user's window is full and merged with 20 pulled authors' timelines.
WINDOW_PUSHED, WINDOW_PUSHED_OF, WINDOW_PUSHED_POSTS = 100, 1_000, 8
WINDOW_PULLED, WINDOW_PULLED_OF, WINDOW_PULLED_POSTS = 20, 100, 50
WINDOW_NOISE = 380  # accounts followed that posted nothing: 500 in all
WINDOW_NOISE_FIRST, WINDOW_NOISE_OF = 1_000_000, 1_000_000
WINDOW_FIRST_USER = 10_000

PostRow = tuple[int, int, str, tuple[str, ...], int]


class Windows:
    """The graph of the world of windows; pulled authors are 1 to 100, pushed ones 101 to 1,100.
    `noise` accounts of `noise_of` are followed that post nothing. `posts_share`: of the posts.
    """

    def __init__(
        self,
        users: int,
        seed: int,
        noise: int = WINDOW_NOISE,
        noise_of: int = WINDOW_NOISE_OF,
        posts_share: float = 1.0,
    ) -> None:
        self._posts_share = posts_share
        draw = random.Random(f"{seed} windows")
        self.ids = array("Q", range(WINDOW_FIRST_USER, WINDOW_FIRST_USER + users))
        pulled = range(1, WINDOW_PULLED_OF + 1)
        pushed = range(WINDOW_PULLED_OF + 1, WINDOW_PULLED_OF + WINDOW_PUSHED_OF + 1)
        quiet = range(WINDOW_NOISE_FIRST, WINDOW_NOISE_FIRST + noise_of)
        followers: dict[int, list[int]] = {}
        for user in self.ids:
            for author in (
                *draw.sample(pulled, WINDOW_PULLED),
                *draw.sample(pushed, WINDOW_PUSHED),
                *draw.sample(quiet, noise),
            ):
                followers.setdefault(author, []).append(user)
        self._followers = followers
        self.authors = [*pulled, *pushed]
        self.activity = list(self.ids)
        draw.shuffle(self.activity)

    def follower_lists(self) -> Iterator[tuple[int, list[int]]]:
        """As `graph.Graph.follower_lists`."""
        for author in sorted(self._followers):
            yield author, self._followers[author]

    def posts(self, now_ms: int, seed: int) -> Iterator[PostRow]:
        """As `graph.posts`."""
        draw = random.Random(f"{seed} window posts")
        pulled, pushed = self.authors[:WINDOW_PULLED_OF], self.authors[WINDOW_PULLED_OF:]
        each = [
            max(1, round(self._posts_share * count))
            for count in (WINDOW_PULLED_POSTS, WINDOW_PUSHED_POSTS)
        ]
        authors = [*pulled * each[0], *pushed * each[1]]
        draw.shuffle(authors)
        moments = sorted(now_ms - 60_000 - draw.randrange(graphs.SPREAD_MS) for _ in authors)
        for at_ms, author in zip(moments, authors, strict=True):
            body = " ".join(sentence(draw) for _ in range(4))
            yield at_ms, author, body, (), draw.randrange(50)


def build(spec: Spec, folder: Path, echo: Echo) -> World:
    """Makes the world in `folder`, which must not exist. Minutes for a large one."""
    return asyncio.run(_build(spec, folder, echo))


async def _build(spec: Spec, folder: Path, echo: Echo) -> World:
    began = time.perf_counter()
    clock = SystemClock()
    made_ms = clock.now_ms()
    source: graphs.Graph | graphs.FileGraph | Windows
    if spec.kind == WINDOWS:
        source = Windows(spec.users, spec.seed)
    elif spec.graph:
        source = graphs.FileGraph(Path(spec.graph), spec.seed)
    else:
        source = graphs.Graph(spec.users, spec.seed, spec.scale)
    users = list(source.ids)
    threshold = min(THRESHOLD_MOST, max(2, int(len(users) * THRESHOLD_SHARE)))
    if isinstance(source, Windows):
        # between the fifth of all users that follows a pulled author and the tenth of a pushed one
        threshold = int(len(users) * 0.15)
    store = EmbeddedStore.open(folder / "data", clock, writer_role=True, merge_thread=False)
    try:
        engine = compose_over(store, HotSettings(), clock, node=IMPORT_NODE)
        world = World(spec, folder, made_ms, 0.0, users, source.activity, threshold, 0, 0, 0, 0, 0)
        await _follows(store, source.follower_lists(), world, echo)
        await engine.admin.set_settings(push_threshold=threshold)
        await engine.policy.review(clock.now_ms())
        if isinstance(source, Windows):
            rows = source.posts(made_ms, spec.seed)
        elif spec.kind == SIZES:
            reach = graphs.follower_counts(spec.users, spec.scale)
            count = graphs.posts_for(reach, SIZES_ITEMS, SIZES_EXPONENT)
            order = source.popularity
            rows = graphs.posts(order, count, made_ms, spec.seed, SIZES_EXPONENT)
        else:
            count = round(spec.posts_per_user * len(users))
            rows = graphs.posts(source.activity, count, made_ms, spec.seed)
        await _posts(store, rows, world, echo)
        await _fan_out(store, engine, world, echo)
    finally:
        await store.close()
    _compact(folder / "data" / "store.db")
    world.seconds = time.perf_counter() - began
    world.save()
    echo(f"made {_short(folder)} in {world.seconds:.0f} s: {world.edges:,} follows")
    return world


def _short(folder: Path) -> str:
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else folder.name


async def _follows(
    store: EmbeddedStore, lists: Iterable[tuple[int, list[int]]], world: World, echo: Echo
) -> None:
    """All edges, in the order of the tables; notes the authors that scenarios publish as."""
    following: dict[int, array[int]] = {user: array("Q") for user in world.users}
    counts: list[tuple[int, int]] = []
    waiting: list[tuple[int, list[int]]] = []
    rows = 0
    wanted = max(1, round(ORDINARY_FOLLOWERS * world.spec.scale))
    for author, followers in lists:
        for follower in followers:
            following[follower].append(author)
        counts.append((author, len(followers)))
        waiting.append((author, followers))
        remember(world, author, followers, wanted)
        rows += len(followers)
        if rows >= ROWS_A_COMMIT:
            world.edges += rows
            await store.writer.run(_insert_followers(waiting))
            waiting, rows = [], 0
            echo(f"{world.edges:,} follows")
    world.edges += rows
    await store.writer.run(_insert_followers(waiting))
    now_ms = world.made_ms

    def work(conn: sqlite3.Connection) -> None:
        conn.executemany("INSERT INTO authors (author_id, followers) VALUES (?, ?)", counts)
        packed = ((user, one.tobytes()) for user, one in following.items() if one)
        conn.executemany("INSERT INTO followees VALUES (?, ?)", packed)
        conn.executemany("INSERT INTO viewers VALUES (?, ?)", ((u, now_ms) for u in world.users))

    await store.writer.run(work)
    numbers = [count for _, count in counts if count]
    world.median_followers = int(statistics.median(numbers))
    world.mean_followers = sum(numbers) / len(numbers)
    world.ordinary.sort(key=lambda one: abs(one[1] - wanted))
    del world.ordinary[ORDINARY_AUTHORS:]


def remember(world: World, author: int, followers: list[int], wanted: int) -> None:
    """Notes an author of about `wanted` followers, and the best known one."""
    count = len(followers)
    if wanted * 0.8 <= count <= wanted * 1.25:
        step = max(1, count // FOLLOWERS_KEPT)
        world.ordinary.append((author, count, followers[::step][:FOLLOWERS_KEPT]))
    if world.celebrity is None or count > world.celebrity[1]:
        world.celebrity = author, count, followers[:CELEBRITY_FOLLOWERS_KEPT]


def _insert_followers(lists: list[tuple[int, list[int]]]) -> Callable[[sqlite3.Connection], None]:
    rows = ((author, follower) for author, followers in lists for follower in followers)

    def work(conn: sqlite3.Connection) -> None:
        conn.executemany("INSERT INTO followers VALUES (?, ?)", rows)

    return work


async def _posts(store: EmbeddedStore, rows: Iterator[PostRow], world: World, echo: Echo) -> None:
    last_id = 0
    while part := list(islice(rows, POSTS_A_COMMIT)):
        made, counts = [], []
        for at_ms, author, body, media, likes in part:
            content = encode_content(
                body, [Media(uri, "image/jpeg", 1200, 900) for uri in media], 0
            )
            last_id = max(last_id + 1, ids.make(at_ms, 0, IMPORT_NODE, 0))
            made.append(NewPost(last_id, author, content, digest(content), 0, 1.0, ""))
            if likes:
                counts.append((likes, likes // 8, likes // 20))
            else:
                counts.append((0, 0, 0))
        published = await store.posts.import_posts(made)
        liked = [
            ImportedCounts(post.content_id, *count)
            for post, count in zip(published, counts, strict=True)
            if post is not None and count[0]
        ]
        await store.signals.import_counts(liked)
        world.posts += len(made)
        if world.posts % (10 * POSTS_A_COMMIT) == 0:
            echo(f"{world.posts:,} posts")


async def _fan_out(store: EmbeddedStore, engine: Engine, world: World, echo: Echo) -> None:
    worker = engine.fanout
    while await worker.turn():
        if store.feeds.backlog() > ROWS_A_COMMIT:
            await store.merge_all()
            echo(f"{worker.stats.deliveries:,} deliveries")
    await engine.background.drain()
    world.deliveries = worker.stats.deliveries


def _compact(path: Path) -> None:
    """The log back into the file, so that copies are of one file."""
    conn = sqlite3.connect(path)
    try:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        conn.close()
