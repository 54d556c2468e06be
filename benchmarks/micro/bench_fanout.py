"""Fan-out on one core: `python -m benchmarks.micro.bench_fanout [--small --seconds N --rate N]`.

Posts with 500 uniformly random followers each, of 200,000 users (the worst case for locality),
through the real queue, graph, delivery log and merger.

    burst      posts are queued, then expanded; counted when every delivery is durable, which
               is when readers see it (a second store object checks that they do)
    sustained  posts are queued and expanded without pause for N seconds while the merger runs
               beside; the rate counts merged deliveries only. --rate holds it at about that many
               deliveries a second, for runs whose length matters and not their speed
    disk       bytes of the run files for each stored item, after the sustained run
    wide       one post to 1,000,000 followers; resident memory before and after

--small runs all of it with small numbers and checks results, not times.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.micro.report import print_table
from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.compose import compose_over
from feedcore.domain import entry, ids
from feedcore.limits import DELIVERY_BACKLOG_MAX, PAGE_SIZE_MAX
from feedcore.ports import NewPost
from feedcore.services.hot import HotSettings

SEED = 7
CONTENT = b"\x0a\x64" + b"x" * 100  # a Content with a body of 100 characters
WIDE_AUTHOR = 900_000_000
AUTHOR_BASE = 800_000_000
POSTS_PER_COMMIT = 256


@dataclass(frozen=True, slots=True)
class Size:
    """What to run."""

    users: int
    authors: int
    followers: int
    burst_posts: int
    seconds: float
    wide_followers: int
    rate: float = 0.0


FULL = Size(200_000, 4_000, 500, 20_000, 60.0, 1_000_000)
SMALL = Size(2_000, 40, 50, 200, 0.5, 5_000)


class World:
    """A store with authors who have random followers."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.size = size
        self.clock = SystemClock()
        self.store = EmbeddedStore.open(folder, self.clock, writer_role=True, merge_thread=False)
        self.ids = ids.IdGenerator(0, 1)
        self.random = random.Random(SEED)
        hot = HotSettings(push_threshold=2**31)
        self.worker = compose_over(self.store, hot, self.clock).fanout

    async def add_authors(self) -> None:
        """Reverse rows and counts only: fan-out reads nothing else of the graph."""
        size, chance = self.size, self.random

        def work(conn) -> None:
            for author in range(AUTHOR_BASE, AUTHOR_BASE + size.authors):
                users = sorted(chance.sample(range(1, size.users + 1), size.followers))
                rows = [(author, user) for user in users]
                conn.executemany("INSERT INTO followers VALUES (?, ?)", rows)
                conn.execute(
                    "INSERT INTO authors (author_id, followers) VALUES (?, ?)",
                    (author, size.followers),
                )
            wide = range(1, size.wide_followers + 1)
            conn.executemany(
                "INSERT INTO followers VALUES (?, ?)", ((WIDE_AUTHOR, u) for u in wide)
            )
            conn.execute(
                "INSERT INTO authors (author_id, followers) VALUES (?, ?)",
                (WIDE_AUTHOR, size.wide_followers),
            )

        await self.store.writer.run(work)

    async def publish(self, count: int, author_id: int = 0) -> list[tuple[int, int]]:
        """(content_id, author_id) of `count` new posts."""
        last = self.size.authors - 1
        made = []
        while len(made) < count:
            part = []
            for _ in range(min(POSTS_PER_COMMIT, count - len(made))):
                author = author_id or AUTHOR_BASE + self.random.randint(0, last)
                content_id = self.ids.new_id(self.clock.now_ms())
                part.append(NewPost(content_id, author, CONTENT, b"", 0, 1.0, ""))
            await self.store.posts.import_posts(part)
            made += [(post.content_id, post.author_id) for post in part]
        return made

    async def expand_all(self) -> None:
        """Turns until no job is left to do."""
        while await self.worker.turn():
            pass


async def check_visible(world: World, made: list[tuple[int, int]], folder: Path) -> None:
    """A second reader sees the posts in the feeds of sampled followers."""
    reader = EmbeddedStore.open(folder, world.clock)
    for content_id, author_id in world.random.sample(made, min(len(made), 50)):
        followers = native.unpack_ids(
            (await reader.graph.followers(author_id, 0, PAGE_SIZE_MAX)).ids
        )
        user = world.random.choice(list(followers))
        follows = native.pack_ids([author_id])
        window = await reader.feeds.window(user, follows, ids.ID_MAX, 0, 500)
        merged = native.merge_newest(window.sources, content_id, content_id, 1)
        if entry.content_ids(merged) != [content_id]:
            raise AssertionError(f"post {content_id} is not in the feed of follower {user}")
    asyncio.get_running_loop().create_task(reader.close())


async def burst(world: World, folder: Path) -> float:
    """Deliveries a second, durable and visible."""
    made = await world.publish(world.size.burst_posts)
    before = world.worker.stats.deliveries
    started = time.perf_counter()
    await world.expand_all()
    took = time.perf_counter() - started
    delivered = world.worker.stats.deliveries - before
    if delivered != world.size.burst_posts * world.size.followers:
        raise AssertionError(f"{delivered} deliveries")
    await check_visible(world, made, folder)
    while await world.store.merge_all():
        pass
    await check_visible(world, made, folder)
    if world.store.feeds.backlog():
        raise AssertionError("backlog after the merge")
    return delivered / took


async def sustained(world: World, folder: Path, seconds: float) -> tuple[float, int, int]:
    """(merged deliveries a second, backlog at the end, runs of the day) with the merger beside."""
    world.store.merger.start()
    before = world.worker.stats.deliveries
    started = time.perf_counter()
    made: list[tuple[int, int]] = []
    peak = 0
    while time.perf_counter() - started < seconds:
        made = await world.publish(512)
        await world.expand_all()
        if world.size.rate:
            delivered = world.worker.stats.deliveries - before
            ahead = delivered / world.size.rate - (time.perf_counter() - started)
            await asyncio.sleep(max(ahead, 0.0))
        backlog = world.store.feeds.backlog()
        peak = max(peak, backlog)
        while backlog > min(DELIVERY_BACKLOG_MAX, 4_000_000):
            await asyncio.sleep(0.01)
            backlog = world.store.feeds.backlog()
    took = time.perf_counter() - started
    merged = world.worker.stats.deliveries - before - world.store.feeds.backlog()
    await check_visible(world, made, folder)
    most_runs = "SELECT max(n) FROM (SELECT count(*) AS n FROM runs GROUP BY day)"
    runs = world.store.connection.execute(most_runs).fetchone()[0]
    while world.store.feeds.backlog():  # noqa: ASYNC110 - a thread merges
        await asyncio.sleep(0.05)
    await check_visible(world, made, folder)
    return merged / took, peak, runs


async def wide(world: World) -> tuple[float, int, int]:
    """(deliveries a second, resident bytes before, most during) of one post with many followers."""
    before = most = resident_bytes()
    started = time.perf_counter()
    await world.publish(1, WIDE_AUTHOR)
    while await world.worker.turn():
        most = max(most, resident_bytes())
    took = time.perf_counter() - started
    return world.size.wide_followers / took, before, most


def resident_bytes() -> int:
    """Anonymous memory of this process: maps of files do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


async def measure(size: Size) -> None:
    """Runs all parts in one temporary directory and prints the table."""
    folder = Path(tempfile.mkdtemp(prefix="feedcore-fanout-"))
    try:
        world = World(folder, size)
        await world.add_authors()
        burst_rate = await burst(world, folder)
        sustained_rate, peak, runs = await sustained(world, folder, size.seconds)
        items, disk = await stored(world)
        wide_rate, before, most = await wide(world)
        await world.store.close()
    finally:
        shutil.rmtree(folder)
    rows = [
        ("burst, durable and visible", f"{burst_rate:,.0f} deliveries/s", ">= 300,000"),
        (
            f"sustained {size.seconds:.0f} s, merged",
            f"{sustained_rate:,.0f} deliveries/s",
            ">= 100,000",
        ),
        ("backlog at most, while sustained", f"{peak:,} deliveries", ""),
        ("runs of the day at its end", str(runs), ""),
        ("stored", f"{disk / items:.1f} bytes an item ({items:,} items)", "<= 40"),
        (f"one post, {size.wide_followers:,} followers", f"{wide_rate:,.0f} deliveries/s", ""),
        ("resident memory during that", f"{before / 1e6:.0f} -> {most / 1e6:.0f} MB", "flat"),
    ]
    title = f"Fan-out on one core, {size.followers} random followers of {size.users:,} users"
    print_table(title, ("what", "measured", "goal"), rows)


async def stored(world: World) -> tuple[int, int]:
    """(items, bytes on disk) of the stored feeds."""
    counts = await world.store.counts()
    return counts["feed_items"], counts["feeds_bytes"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small numbers; checks results only")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of the sustained part")
    parser.add_argument("--rate", type=float, default=0.0, help="deliveries a second to hold")
    options = parser.parse_args()
    size = replace(SMALL if options.small else FULL, rate=options.rate)
    if options.seconds:
        size = replace(size, seconds=options.seconds)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asyncio.run(measure(size))


if __name__ == "__main__":
    main()
