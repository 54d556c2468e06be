"""Several processes on one directory: acknowledged is seen by all; kill -9 loses nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.domain import entry
from tests.conftest import LONG
from tests.contract.engine import ALL, fan_out, post

ROOT = Path(__file__).resolve().parents[2]
FOLLOWERS = range(101, 121)
KILLS = 100 if LONG else 12


@contextmanager
def child(what: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own; killed at the end, whatever it does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.process.store_child", what, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A store whose author 9 has followers."""
    store = EmbeddedStore.open(tmp_path / "data", SystemClock())
    await store.graph.import_follows([(user, 9) for user in FOLLOWERS], SystemClock().now_ms())
    await store.close()
    return tmp_path / "data"


def ask(reader: subprocess.Popen[str], user: int) -> list[int]:
    """The feed as the reading process sees it."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(f"{user}\n")
    reader.stdin.flush()
    return [int(word) for word in reader.stdout.readline().split()]


async def test_another_process_sees_at_once_what_was_acknowledged(folder: Path) -> None:
    clock = SystemClock()
    store = EmbeddedStore.open(folder, clock, writer_role=True, merge_thread=False)
    with child("read", folder) as reader:
        made: list[int] = []
        for number in range(30):
            new = await store.posts.publish(post(clock, 9, seq=number))
            made.append(new.content_id)
            assert ask(reader, 107) == sorted(made, reverse=True)
            if number % 3 == 0:
                await fan_out(store, clock)
                assert ask(reader, 107) == sorted(made, reverse=True)
            if number % 5 == 0:
                await store.merge_all()
                assert ask(reader, 107) == sorted(made, reverse=True)
        await store.graph.unfollow(107, 9, clock.now_ms())
        await fan_out(store, clock)
        await store.merge_all()
        assert ask(reader, 107) == []
        assert ask(reader, 108) == sorted(made, reverse=True)
    await store.close()


async def test_kill_9_of_publisher_and_merger_loses_and_doubles_nothing(folder: Path) -> None:
    """Both are killed at random moments while a reader watches; only the choice is seeded."""
    chance = random.Random(11)
    acknowledged: set[int] = set()
    with child("read", folder) as reader:
        for _ in range(KILLS):
            with child("publish", folder) as publisher, child("merge", folder) as merger:
                assert merger.stdout is not None
                assert publisher.stdout is not None
                assert merger.stdout.readline() == "merging\n"
                timer = threading.Timer(chance.uniform(0.02, 0.4), merger.kill)
                timer.start()
                for _ in range(chance.randrange(20, 150)):
                    acknowledged.add(int(publisher.stdout.readline()))
                publisher.kill()
                timer.join()
                acknowledged.update(int(line) for line in publisher.stdout if line.endswith("\n"))
            seen = ask(reader, chance.choice(FOLLOWERS))
            assert len(seen) == len(set(seen))
            assert acknowledged <= set(seen)
    store = EmbeddedStore.open(folder, SystemClock(), writer_role=True, merge_thread=False)
    await fan_out(store, SystemClock())
    await store.merge_all()
    assert store.merger is not None
    while store.merger.compact_once(quiet=True):
        pass
    timeline = entry.content_ids((await store.posts.timelines([9], ALL, 0, 500)).entries[0])
    assert acknowledged <= set(timeline)
    for user in FOLLOWERS:
        sources = (await store.feeds.window(user, b"", ALL, 0, 100_000)).sources
        merged = native.merge_newest(sources, ALL, 0, 100_000)
        assert entry.content_ids(merged) == timeline, "stored feeds alone, without any overlay"
    assert await store.queue.claim((0, 1, 2), 10) == []
    await store.close()
    assert len(list(folder.glob("feeds/*/*.run"))) <= len(list(folder.glob("feeds/*/"))) + 1
