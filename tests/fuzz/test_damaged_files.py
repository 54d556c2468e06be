"""Seeded flips and truncations of every derived file of a store, before it is opened and while it
is: no page is wrong without saying so, and what was damaged is whole again by itself.

A page that says so has a source that failed on its receipt. `make test-asan` runs the same under
sanitizers: a read outside a map would end it. FEEDCORE_LONG=1 does a thousand rounds.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.compose import Engine, compose_over
from feedcore.limits import COUNTER_BATCH, DAY_MS, HOUR_MS
from feedcore.ports import InteractionKind
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore_pb.v1 import feed_pb2

LONG = os.environ.get("FEEDCORE_LONG") == "1"
ROUNDS = 1_000 if LONG else 60
SEED = int(os.environ.get("FEEDCORE_SEED", "20261201"))
START_MS = 1_780_000_000_000
AUTHORS, READERS = range(1, 5), range(11, 19)
EVERYTHING = 1 << 40
FORMATS = ("feeds/*/*.run", "engagement.map", "epochs.map")


class Page(NamedTuple):
    """What a reader gets."""

    shown: list[int]
    degraded: bool


def clock_of_today() -> ManualClock:
    return ManualClock(START_MS + 2 * DAY_MS + HOUR_MS)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Engine]:
    """With the fan-out role, and nothing done behind."""
    clock = clock_of_today()
    store = EmbeddedStore.open(folder, clock, writer_role=True, merge_thread=False)
    budget = CacheBudget(0, 1 << 22)
    engine = compose_over(store, HotSettings(), clock, budget=budget if native.COMPILED else None)
    try:
        yield engine
    finally:
        await engine.close()
        await store.close()


async def settle(engine: Engine) -> None:
    """Everything that happens behind, until nothing is left to do."""
    store = engine.store
    assert store.merger is not None
    now_ms = clock_of_today().now_ms()
    while await engine.fanout.turn():
        continue
    await store.merge_all()
    while store.merger.verify_some(EVERYTHING):
        continue
    store.merger.verify_some(EVERYTHING)
    while await store.repair(store.graph, now_ms) != 0.5:
        await store.merge_all()
    await store.upkeep(now_ms)


async def pages(engine: Engine) -> dict[int, Page]:
    """The first page of every reader, as the server would answer."""
    found = {}
    for user in READERS:
        source = engine.resident or engine.feed
        page = await source.get_feed(user, 100, "", 0, "")
        reply = feed_pb2.GetFeedResponse.FromString(page.body)
        shown = [item.content_id for item in reply.items]
        found[user] = Page(shown, reply.receipt.degraded)
    return found


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    return tmp_path / "pristine"


@pytest.fixture
async def expected(pristine: Path) -> dict[int, Page]:
    """Three days of posts, in several runs a day; the pages of the whole store."""
    clock = ManualClock(START_MS)
    store = EmbeddedStore.open(pristine, clock, writer_role=True, merge_thread=False)
    engine = compose_over(store, HotSettings(), clock)
    for reader in READERS:
        for author in AUTHORS:
            if (reader + author) % 3:
                await engine.graph.follow(reader, author)
    for number in range(18):
        for author in AUTHORS:
            post = await engine.publish.publish(author, f"{author} {number}")
            if (author + number) % 2:
                like = InteractionKind.LIKE
                liked = post.content_id
                await engine.preferences.record_interaction(11, liked, like, True, "")
        clock.advance(DAY_MS // 8)
        if number % 3 == 2:
            while await engine.fanout.turn():
                continue
            await store.merge_all()
    await store.signals.apply_counters(COUNTER_BATCH, clock.now_ms())
    await engine.close()
    await store.close()
    async with opened(pristine) as whole:
        await settle(whole)
        return await pages(whole)


def damage(folder: Path, chance: random.Random, *, cuts: bool = True) -> str:
    """Flips bits of a file, or cuts it off; says what was done."""
    pattern = chance.choice(FORMATS)
    path = chance.choice(sorted(folder.glob(pattern)))
    size = path.stat().st_size
    if cuts and chance.random() < 0.25:
        at = chance.randrange(size)
        os.truncate(path, at)
        return f"{path.name} cut at {at}"
    with path.open("r+b") as file:
        # epochs are 8 MB of counters: a flip of the header is what matters
        at = chance.randrange(64 if pattern == "epochs.map" else min(size, 1 << 20))
        file.seek(at)
        byte = file.read(1)[0] ^ 1 << chance.randrange(8)
        file.seek(at)
        file.write(bytes([byte]))
    return f"{path.name} flipped at {at}"


def compare(found: dict[int, Page], expected: dict[int, Page], what: str) -> None:
    for user, page in found.items():
        whole = sorted(page.shown) == sorted(expected[user].shown)
        assert whole or page.degraded, f"{what}: user {user} misses posts without a word"


async def test_damage_before_the_start(
    pristine: Path, expected: dict[int, Page], tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        what = f"seed {SEED} round {number}: {damage(folder, chance)}"
        async with opened(folder) as engine:
            compare(await pages(engine), expected, what)
            await settle(engine)
            assert await pages(engine) == expected, f"{what}: not whole again"
        shutil.rmtree(folder)


async def test_damage_while_it_is_open(
    pristine: Path, expected: dict[int, Page], tmp_path: Path
) -> None:
    chance = random.Random(SEED + 1)
    async with opened(pristine) as engine:
        for number in range(ROUNDS):
            engine.store.epochs.begin_era()  # nothing in memory hides the damage
            what = f"seed {SEED} round {number}: {damage(pristine, chance, cuts=False)}"
            compare(await pages(engine), expected, what)
            await settle(engine)
            assert await pages(engine) == expected, f"{what}: not whole again"


async def test_posts_that_are_gone_are_named(pristine: Path, expected: dict[int, Page]) -> None:
    """What a bad disk took of the system of record: the page says so, and the audit names it."""
    gone = expected[READERS[0]].shown[0]
    with sqlite3.connect(pristine / "store.db", isolation_level=None) as conn:
        assert conn.execute("DELETE FROM posts WHERE content_id = ?", (gone,)).rowcount == 1
    conn.close()
    async with opened(pristine) as engine:
        found = await pages(engine)
        for user, page in found.items():
            lacks = gone in expected[user].shown
            assert page.degraded == lacks and gone not in page.shown
        report = await engine.audit.audit(100, 1)
        assert report.missing == sum(gone in page.shown for page in expected.values())
        assert any("the table of posts is damaged" in line for line in report.findings)
