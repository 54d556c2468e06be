"""Publish acknowledgements: `python -m benchmarks.micro.bench_publish [--small]`.

64 concurrent callers, each waiting for its acknowledgement (fsync included) before the next post;
beside it the time of a bare 4 KB write and fdatasync on the same disk. --small checks results only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.micro.report import print_table
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.domain import ids
from feedcore.ports import NewPost

CALLERS = 64
POSTS = 20_000
POSTS_SMALL = 640
SYNCS = 500
CONTENT = b"\x0a\xac\x02" + b"x" * 300  # a Content with a body of 300 characters
AUTHORS = 1_000


async def publish(folder: Path, callers: int, posts: int) -> tuple[list[float], float]:
    """Seconds each acknowledgement took, and all together."""
    clock = SystemClock()
    store = EmbeddedStore.open(folder, clock)
    edges = [(10_000_000 + author, author) for author in range(1, AUTHORS + 1)]
    await store.graph.import_follows(edges, clock.now_ms())
    made = ids.IdGenerator(0, 1)
    took: list[float] = []
    acknowledged: list[int] = []

    async def caller(number: int) -> None:
        for turn in range(posts // callers):
            author = (number * 31 + turn) % AUTHORS + 1
            post = NewPost(
                made.new_id(clock.now_ms()), author, CONTENT, b"d", 0, 1.0, f"{number}:{turn}"
            )
            started = time.perf_counter()
            acknowledged.append((await store.posts.publish(post)).content_id)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    seconds = time.perf_counter() - started
    if len(set(acknowledged)) != posts // callers * callers:
        raise AssertionError("content ids repeat")
    for content_id in acknowledged[:: max(len(acknowledged) // 100, 1)]:
        if await store.posts.get(content_id) is None:
            raise AssertionError(f"{content_id} was acknowledged and is not there")
    await store.close()
    return took, seconds


def bare_syncs(folder: Path, count: int) -> list[float]:
    """Seconds a 4 KB write and fdatasync takes, appended as a log is."""
    took = []
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(count):
            started = time.perf_counter()
            os.write(fd, bytes(4_096))
            os.fdatasync(fd)
            took.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    return took


def row(name: str, took: list[float], rate: str) -> tuple[str, str, str, str]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(took, n=100)
    return name, f"{cuts[49] * 1e3:.2f}", f"{cuts[98] * 1e3:.2f}", rate


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few posts; checks results only")
    posts = POSTS_SMALL if parser.parse_args().small else POSTS
    folder = Path(tempfile.mkdtemp(prefix="feedcore-publish-"))
    try:
        rows = [row("bare write + fdatasync, 4 KB", bare_syncs(folder, SYNCS), "")]
        for callers in (1, CALLERS):
            count = posts if callers > 1 else posts // 10
            took, seconds = asyncio.run(publish(folder / str(callers), callers, count))
            rate = f"{len(took) / seconds:,.0f}"
            rows.append(row(f"publish, {callers} concurrent callers", took, rate))
    finally:
        shutil.rmtree(folder)
    head = ("what", "p50 ms", "p99 ms", "posts/s")
    print_table("Publish acknowledgement, fsync included", head, rows)


if __name__ == "__main__":
    main()
