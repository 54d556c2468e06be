"""Rows that cannot be read: each is named, and none stops what stands behind it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.domain.entry import content_ids
from feedcore.limits import COUNTER_BATCH
from feedcore.ports import Interaction, InteractionKind, Lane
from tests.contract.engine import ALL, START_MS, fan_out, post

LANES = tuple(Lane)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    clock = ManualClock(START_MS)
    opened = EmbeddedStore.open(tmp_path / "data", clock, writer_role=True, merge_thread=False)
    for reader in (11, 12):
        await opened.graph.follow(reader, 1, clock.now_ms())
    yield opened
    await opened.close()


def change(store: EmbeddedStore, sql: str) -> None:
    """As a bad disk does: behind everybody's back."""
    with sqlite3.connect(store.data_dir / "store.db", isolation_level=None) as conn:
        assert conn.execute(sql).rowcount == 1
    conn.close()


async def feed(store: EmbeddedStore, reader: int) -> list[int]:
    followees = native.pack_ids([1])
    sources = (await store.feeds.window(reader, followees, ALL, 0, 100)).sources
    return content_ids(native.merge_newest(sources, ALL, 0, 100))


@pytest.mark.parametrize(
    "noise",
    [
        "kind = 'posx'",
        "kind = 7",
        "lane = 9",
        "lane = 'x'",
        "entry = x'0102'",
        "entry = 'text'",
        "entry = zeroblob(40)",
        "author_id = 'x'",
        "after = 1.5",
        "attempts = x'00'",
    ],
)
async def test_a_job_becomes_a_dead_letter_and_its_lane_goes_on(
    store: EmbeddedStore, noise: str
) -> None:
    clock = ManualClock(START_MS)
    await store.posts.publish(post(clock, 1, seq=1))
    change(store, f"UPDATE fanout_jobs SET {noise}")
    whole = (await store.posts.publish(post(clock, 1, seq=2))).content_id
    assert whole in await feed(store, 11), "the overlay stops with it"
    (job,) = await store.queue.claim(LANES, 10)
    assert job.content_id == whole
    (letter,) = await store.queue.dead_letters(10)
    assert letter.error.startswith("Unreadable: ")
    assert sum(lag.jobs for lag in (await store.queue.lag(clock.now_ms())).values()) == 1
    await fan_out(store, clock)
    await store.merge_all()
    for reader in (11, 12):
        assert await store.feeds.delivered(reader, whole)
    if noise.startswith("attempts"):
        return  # putting it back mends it
    # put back, it is a dead letter again, and again stops nobody
    assert await store.queue.replay([], clock.now_ms()) == 1
    assert await store.queue.claim(LANES, 10) == []
    assert len(await store.queue.dead_letters(10)) == 1


@pytest.mark.parametrize("noise", ["entries = x'01'", "recipients = zeroblob(9)", "entries = 'x'"])
async def test_a_delivery_is_dropped_and_everything_is_derived_again(
    store: EmbeddedStore, noise: str
) -> None:
    clock = ManualClock(START_MS)
    made = (await store.posts.publish(post(clock, 1))).content_id
    await fan_out(store, clock)
    change(store, f"UPDATE deliveries SET {noise}")
    await store.merge_all()
    window = await store.feeds.window(11, native.pack_ids([1]), ALL, 0, 100)
    assert window.damaged
    for _ in range(100):
        if await store.repair(store.graph, clock.now_ms()) == 0.5:
            break
        await store.merge_all()
    assert not (await store.feeds.window(11, native.pack_ids([1]), ALL, 0, 100)).damaged
    for reader in (11, 12):
        assert await store.feeds.delivered(reader, made)


@pytest.mark.parametrize("noise", ["kind = 99", "kind = 0", "kind = 'x'", "delta = x'00'"])
async def test_a_row_of_the_counter_log_is_left_out(store: EmbeddedStore, noise: str) -> None:
    clock = ManualClock(START_MS)
    made = (await store.posts.publish(post(clock, 1))).content_id
    like = InteractionKind.LIKE
    await store.signals.record(Interaction(11, made, like, True, clock.now_ms()))
    change(store, f"UPDATE counter_log SET {noise}")
    await store.signals.record(Interaction(12, made, like, True, clock.now_ms()))
    await store.signals.apply_counters(COUNTER_BATCH, clock.now_ms())
    assert store.connection.execute("SELECT likes FROM post_counts").fetchone()[0] == 1
    assert not store.connection.execute("SELECT 1 FROM counter_log").fetchone()
