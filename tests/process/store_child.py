"""Child processes of the adapter's tests: `python -m tests.process.store_child WHAT DATA_DIR`.

publish   publishes for author 9 without end; prints each acknowledged content id
merge     claims, delivers, merges and compacts without end; prints a line when it begins
read      answers each user id on stdin with the content ids of that user's feed
"""

from __future__ import annotations

import asyncio
import os
import sys

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.adapters.embedded import merger as merger_module
from feedcore.clock import SystemClock
from feedcore.domain import entry, ids
from feedcore.ports import NewPost
from tests.contract.engine import ALL, fan_out

AUTHOR = 9
NODE_BITS = 0x7F


async def publish(folder: str) -> None:
    """Each line printed is an acknowledged post."""
    clock = SystemClock()
    store = EmbeddedStore.open(folder, clock)
    made = ids.IdGenerator(0, os.getpid() & NODE_BITS)
    while True:
        content_id = made.new_id(clock.now_ms())
        await store.posts.publish(NewPost(content_id, AUTHOR, b"\x0a\x01x", b"", 0, 1.0, ""))
        print(content_id, flush=True)


async def merge(folder: str) -> None:
    """The fan-out process, in a hurry: it compacts all the time, so that kills meet everything."""
    clock = SystemClock()
    merger_module.QUIET_S = 0.0
    merger_module.MERGE_WAIT_S = 0.0
    merger_module.POLL_S = 0.0005
    store = EmbeddedStore.open(folder, clock, writer_role=True)
    print("merging", flush=True)
    while True:
        await fan_out(store, clock)
        await store.writer.run(lambda conn: None)  # paces the loop by the disk


async def read(folder: str) -> None:
    """Reads with the same store object all the time."""
    store = EmbeddedStore.open(folder, SystemClock())
    for line in sys.stdin:
        user = int(line)
        follows = (await store.graph.followees(user)).ids
        window = await store.feeds.window(user, follows, ALL, 0, 100_000)
        merged = native.merge_newest(window.sources, ALL, 0, 100_000)
        print(*entry.content_ids(merged), flush=True)


if __name__ == "__main__":
    asyncio.run({"publish": publish, "merge": merge, "read": read}[sys.argv[1]](sys.argv[2]))
