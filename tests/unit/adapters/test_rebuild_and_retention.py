"""Stored feeds can be derived again; what is old leaves; readers survive both."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore, merger
from feedcore.adapters.embedded.rebuild import rebuild
from feedcore.clock import ManualClock
from feedcore.domain import entry, ids
from feedcore.errors import StoreError
from feedcore.limits import DAY_MS, POST_AGE_MAX_MS, RETENTION_MS, TOMBSTONE_AGE_MAX_MS
from tests.contract.engine import ALL, START_MS, fan_out, post

USERS = range(1, 30)
AUTHORS = range(100, 120)


async def build(folder: Path, clock: ManualClock) -> EmbeddedStore:
    """A network with posts over six days, fanned out and merged in several batches."""
    store = EmbeddedStore.open(folder, clock, writer_role=True, merge_thread=False)
    chance = random.Random(3)
    edges = [(user, author) for user in USERS for author in AUTHORS if chance.random() < 0.4]
    await store.graph.import_follows(edges, clock.now_ms())
    for number in range(120):
        age_ms = chance.randrange(6 * DAY_MS)
        new = post(clock, chance.choice(AUTHORS), seq=number, age_ms=age_ms)
        await store.posts.publish(new)
        if number % 30 == 29:
            await fan_out(store, clock)
            await store.merge_all()
    await store.graph.unfollow(*edges[0], clock.now_ms())
    await fan_out(store, clock)
    await store.merge_all()
    return store


async def stored(store: EmbeddedStore) -> dict[int, list[int]]:
    """Everybody's stored feed."""
    feeds = {}
    for user in USERS:
        follows = (await store.graph.followees(user)).ids
        window = await store.feeds.window(user, follows, ALL, 0, 10_000)
        feeds[user] = entry.content_ids(native.merge_newest(window.sources, ALL, 0, 10_000))
    return feeds


async def test_deleted_feeds_are_derived_again_the_same(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    store = await build(tmp_path / "data", clock)
    before = await stored(store)
    assert sum(map(len, before.values())) > 1_000
    with pytest.raises(StoreError, match="stop the server"):
        await rebuild(store)
    await store.close()
    shutil.rmtree(tmp_path / "data" / "feeds")
    alone = EmbeddedStore.open(
        tmp_path / "data", clock, writer_role=True, exclusive=True, merge_thread=False
    )
    assert await rebuild(alone) == sum(map(len, before.values()))
    await alone.close()
    again = EmbeddedStore.open(tmp_path / "data", clock)
    assert await stored(again) == before
    await again.close()


async def test_compaction_changes_no_feed_and_readers_survive_it(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    store = await build(tmp_path / "data", clock)
    reader = EmbeddedStore.open(tmp_path / "data", clock)
    before = await stored(reader)
    runs = len(list((tmp_path / "data").glob("feeds/*/*.run")))
    assert store.merger is not None
    while store.merger.compact_once(quiet=True):
        assert await stored(reader) == before
    assert len(list((tmp_path / "data").glob("feeds/*/*.run"))) < runs
    assert await stored(store) == before
    await reader.close()
    await store.close()


@pytest.mark.parametrize(
    ("hurried", "eager", "pauses"),
    [(False, 1 << 60, True), (True, 1 << 60, False), (False, 0, False)],
    ids=["readers come first", "runs have piled up", "deliveries have piled up"],
)
async def test_compaction_pauses_unless_something_piles_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: bool, eager: int, pauses: bool
) -> None:
    store = await build(tmp_path / "data", ManualClock(START_MS))
    assert store.merger is not None
    waited: list[float] = []
    monkeypatch.setattr(merger, "MERGE_EAGER", eager)
    monkeypatch.setattr(merger, "RUNS_OF_DAY_MAX", 0 if hurried else 1 << 60)
    monkeypatch.setattr(store.merger, "_thread", object())  # as if its thread compacted
    monkeypatch.setattr(store.merger._stop, "wait", waited.append)
    assert store.merger.compact_once(quiet=True)
    monkeypatch.undo()
    assert bool(waited) == pauses and all(seconds > 0 for seconds in waited)
    await store.close()


async def test_old_days_leave_and_the_rest_stays(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    store = await build(tmp_path / "data", clock)
    reader = EmbeddedStore.open(tmp_path / "data", clock)
    before = await stored(reader)
    await store.expire(clock.now_ms())
    assert await stored(reader) == before, "nothing is seven days old"
    clock.advance(3 * DAY_MS)
    assert await store.expire(clock.now_ms()) > 0
    oldest = ids.first_id_at(clock.now_ms() - RETENTION_MS)
    kept = await stored(reader)
    for user, feed in before.items():
        assert [one for one in kept[user] if one >= oldest] == [
            one for one in feed if one >= oldest
        ]
    first_day = (clock.now_ms() - RETENTION_MS) // DAY_MS
    days = [int(path.name) for path in (tmp_path / "data" / "feeds").iterdir() if path.is_dir()]
    assert days
    assert min(days) >= first_day
    sql = "SELECT min(day) FROM author_outbox"
    assert store.connection.execute(sql).fetchone()[0] >= first_day
    assert await store.expire(clock.now_ms()) == 0
    await reader.close()
    await store.close()


async def test_keys_tombstones_and_posts_leave_each_at_their_age(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    store = EmbeddedStore.open(tmp_path / "data", clock, writer_role=True, merge_thread=False)
    gone = await store.posts.publish(post(clock, 9, key="gone"))
    kept = await store.posts.publish(post(clock, 9, key="kept", seq=1))
    await store.posts.delete(9, gone.content_id, clock.now_ms())
    clock.advance(TOMBSTONE_AGE_MAX_MS - 1)
    await store.expire(clock.now_ms())
    assert gone.content_id in store.posts.tombstones()
    assert await store.posts.content_id_of(9, "kept") == 0
    clock.advance(2)
    await store.expire(clock.now_ms())
    assert gone.content_id not in store.posts.tombstones()
    assert await store.posts.get(kept.content_id) is not None
    clock.advance(POST_AGE_MAX_MS)
    await store.expire(clock.now_ms())
    assert await store.posts.get(kept.content_id) is None
    await store.close()
