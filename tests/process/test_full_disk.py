"""A full disk: publishes are refused by name, deletes and merges go on, nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore, database
from feedcore.clock import SystemClock
from feedcore.domain import entry
from feedcore.errors import StoreFull, StoreReadOnly
from tests.contract.engine import ALL, fan_out, post
from tests.support.smalldisk import fill, remount, small_disk

DISK_MB = 56  # 24 of them are the maps
RESERVE_BYTES = 4 * 1024 * 1024  # of this small disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_MB."""
    with small_disk(tmp_path / "disk", DISK_MB) as mounted:
        yield mounted


async def _fill(store: EmbeddedStore, clock: SystemClock) -> list[int]:
    """Publishes until refused; the content ids that were acknowledged."""
    made = []
    body = b"x" * 100
    for number in range(100_000):
        new = post(clock, 9, seq=number % 1024, body=body)
        new = new.__class__(new.content_id, 9, b"\x0a\xc0\x3e" + b"x" * 8_000, b"", 0, 1.0, "")
        try:
            made.append((await store.posts.publish(new)).content_id)
        except StoreFull as error:
            assert "free space" in str(error)
            return made
    raise AssertionError("the disk was never full")


async def test_the_reserve_refuses_publishes_and_lets_the_rest_go_on(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "DISK_RESERVE_BYTES", RESERVE_BYTES)
    clock = SystemClock()
    store = EmbeddedStore.open(disk / "data", clock, writer_role=True, merge_thread=False)
    await store.graph.follow(1, 9, clock.now_ms())
    made = await _fill(store, clock)
    assert len(made) > 100
    await store.posts.delete(9, made[0], clock.now_ms())
    await fan_out(store, clock)
    await store.merge_all()
    sources = (await store.feeds.window(1, b"", ALL, 0, 100_000)).sources
    assert entry.content_ids(native.merge_newest(sources, ALL, 0, 100_000)) == made[::-1]
    with pytest.raises(StoreFull):
        await store.posts.publish(post(clock, 9))
    await store.close()


async def test_a_disk_full_to_the_last_byte_loses_nothing_acknowledged(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.Writer, "require_room", lambda self: None)
    clock = SystemClock()
    store = EmbeddedStore.open(disk / "data", clock, writer_role=True, merge_thread=False)
    await store.graph.follow(1, 9, clock.now_ms())
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * 22 * 1024 * 1024)
    made = await _fill(store, clock)
    assert (
        sorted(entry.content_ids((await store.posts.timelines([9], ALL, 0, 500)).entries[0]))
        == made
    )
    with pytest.raises((StoreFull, OSError)):
        await store.posts.delete(9, made[0], clock.now_ms())
        await fan_out(store, clock)
        await store.merge_all()
        await _fill(store, clock)
        raise StoreFull("small writes still found room")
    assert store.merger is not None
    ballast.unlink()
    store.merger.checkpoint()
    await fan_out(store, clock)
    await store.merge_all()
    timeline = entry.content_ids((await store.posts.timelines([9], ALL, 0, 500)).entries[0])
    assert set(made) <= set(timeline)
    sources = (await store.feeds.window(1, b"", ALL, 0, 100_000)).sources
    assert entry.content_ids(native.merge_newest(sources, ALL, 0, 100_000)) == timeline
    await store.close()


async def test_a_first_start_on_a_full_disk_says_so_and_leaves_nothing_half(disk: Path) -> None:
    ballast = fill(disk)
    for left in (0, 1 << 20, 20 << 20):
        os.truncate(ballast, ballast.stat().st_size - left)
        with pytest.raises(StoreFull, match="free space and start again: nothing is lost"):
            EmbeddedStore.open(disk / "data", SystemClock(), writer_role=True)
        assert not list(disk.glob("data/*.map.*"))
    ballast.unlink()
    store = EmbeddedStore.open(disk / "data", SystemClock(), writer_role=True)
    await store.graph.follow(1, 9, 0)
    await store.close()


async def test_a_read_only_file_system_is_refused_by_name(disk: Path) -> None:
    store = EmbeddedStore.open(disk / "data", SystemClock(), writer_role=True)
    await store.close()
    remount(disk, "ro")
    for name in ("data", "new"):
        with pytest.raises(StoreReadOnly, match="read-only file system; mount it writable"):
            EmbeddedStore.open(disk / name, SystemClock())
