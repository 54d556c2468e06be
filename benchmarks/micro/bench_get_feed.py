"""A cold GetFeed inside the service, CPU microseconds: window of 500 stored entries, 20 pulled
authors with 50 posts each, 20 items hydrated, embedded store, nothing cached but the operating
system's pages.

    python -m benchmarks.micro.bench_get_feed [--small] [--users N]

Each measured call loads the feed of a user that this process has not loaded before: half of them
with an empty cache of timelines, half with the timelines that the user before has left there.
--small checks results, not times.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.micro.report import print_table
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.codecs.content import digest, encode_content
from feedcore.compose import Engine, compose_over
from feedcore.domain import ids
from feedcore.ports import NewPost
from feedcore.services.hot import HotSettings
from feedcore_pb.v1 import feed_pb2

SEED = 11
PULLED_AUTHORS, POSTS_OF_PULLED = 20, 50
PUSHED_AUTHORS, POSTS_OF_PUSHED = (
    100,
    8,
)  # 800 stored entries a user: the window takes the newest 500
BODY = "A sentence of ordinary length that somebody wrote about their day. " * 4
FIRST_USER = 10_000


async def make_world(store: EmbeddedStore, engine: Engine, users: int) -> None:
    """Users 10,000 and up follow authors 1..120; 1..20 are pulled."""
    clock = SystemClock()
    draw = random.Random(SEED)
    authors = range(1, PULLED_AUTHORS + PUSHED_AUTHORS + 1)
    for user in range(FIRST_USER, FIRST_USER + users):
        noise = draw.sample(range(1_000_000, 2_000_000), 380)
        edges = [(user, author) for author in authors] + [(user, other) for other in noise]
        await store.graph.import_follows(edges, clock.now_ms())
    extra = [(fan, author) for author in range(1, PULLED_AUTHORS + 1) for fan in range(300, 400)]
    await store.graph.import_follows(extra, clock.now_ms())
    await engine.admin.set_settings(push_threshold=users + 50)
    await engine.policy.review(clock.now_ms())
    now_ms = clock.now_ms()
    posts = []
    for author in authors:
        count = POSTS_OF_PULLED if author <= PULLED_AUTHORS else POSTS_OF_PUSHED
        for number in range(count):
            at_ms = now_ms - draw.randrange(1_000, 6 * 86_400_000)
            content = encode_content(f"{author}/{number} {BODY}", (), 0)
            posts.append(
                NewPost(ids.make(at_ms, 0, 127, 0), author, content, digest(content), 0, 1.0, "")
            )
    await store.posts.import_posts(posts)


async def measure(
    store: EmbeddedStore, engine: Engine, users: range
) -> tuple[list[float], list[float]]:
    """CPU microseconds of first loads: without any timeline in memory, and with all of them."""
    cold, warm = [], []
    for user in users:
        if user % 2:
            store.replica.timelines.clear()
        before = time.process_time_ns()
        page = await engine.feed.get_feed(user, 20, "", 0, "")
        (cold if user % 2 else warm).append((time.process_time_ns() - before) / 1_000)
        assert page.items == 20 and not page.degraded
    return cold, warm


def resident_bytes() -> int:
    """Of this process, mapped files with it: what the feeds of active users keep in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def check(body: bytes) -> None:
    """What was measured is a real page."""
    page = feed_pb2.GetFeedResponse.FromString(body)
    assert len({item.content_id for item in page.items}) == 20
    assert all(item.content.body for item in page.items)
    assert page.receipt.candidates == 500 and page.receipt.pull_sources_considered == 20


async def run(users: int, small: bool) -> None:
    """Builds the world, loads every user's feed."""
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()
        store = EmbeddedStore.open(Path(folder), clock, writer_role=True)
        engine = compose_over(store, HotSettings(), clock)
        await make_world(store, engine, users)
        await engine.background.drain()
        await store.close()
        # A new store object: no feed data of the load above is left in this process.
        store = EmbeddedStore.open(Path(folder), clock, writer_role=False)
        engine = compose_over(store, HotSettings(), clock)
        check((await engine.feed.get_feed(FIRST_USER, 20, "", 0, "")).body)
        before = resident_bytes()
        cold, warm = await measure(store, engine, range(FIRST_USER + 1, FIRST_USER + users))
        grown = (resident_bytes() - before) // (users - 1)
        await store.close()
    if small:
        print("bench_get_feed small: ok")
        return
    rows = [
        ("cold GetFeed in the service", f"{statistics.median(cold):.0f} us", "<= 700 us"),
        ("the same with timelines warm", f"{statistics.median(warm):.0f} us", "<= 300 us"),
        ("resident memory a user loaded", f"{grown / 1_000:.1f} KB", ""),
    ]
    print_table("GetFeed, CPU a call (median)", ("what", "measured", "target"), rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--users", type=int, default=300)
    options = parser.parse_args()
    asyncio.run(run(8 if options.small else options.users, options.small))


if __name__ == "__main__":
    main()
