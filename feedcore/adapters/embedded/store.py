"""EmbeddedStore: one data directory, opened by one process; several processes may have it open at
once.

Opening checks first and changes nothing if it refuses: a store that is newer, foreign, torn or
corrupt, feeds of another store, or a directory that another process has for itself alone
(StoreError says which and what to do). One object belongs to one event loop's thread; writes go
through the group commit, merges through the merger.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from feedcore.adapters.common.machine import RESTORE, fault_of
from feedcore.adapters.common.page_cache import NoPageCache
from feedcore.adapters.common.write_behind import WriteBehind
from feedcore.adapters.embedded import retention
from feedcore.adapters.embedded.backup import is_copy, mend_copy
from feedcore.adapters.embedded.cache_validation import LocalCacheValidation
from feedcore.adapters.embedded.database import Writer, connect
from feedcore.adapters.embedded.engagement import EngagementMap
from feedcore.adapters.embedded.epochs import EpochMap
from feedcore.adapters.embedded.feeds import EmbeddedFeedStore
from feedcore.adapters.embedded.graph import EmbeddedGraphSource
from feedcore.adapters.embedded.locks import FileLock
from feedcore.adapters.embedded.merger import Merger
from feedcore.adapters.embedded.posts import EmbeddedContentSource, EmbeddedPostStore
from feedcore.adapters.embedded.preferences import EmbeddedPreferenceStore
from feedcore.adapters.embedded.queue import EmbeddedFanoutQueue
from feedcore.adapters.embedded.rebuild import Repair
from feedcore.adapters.embedded.replica import Replica
from feedcore.adapters.embedded.resident import EmbeddedResidentSource
from feedcore.adapters.embedded.runfile import RunSet, sync_directory
from feedcore.adapters.embedded.schema import SCHEMA_VERSION, check_ids, migrate, stored_version
from feedcore.adapters.embedded.settings import EmbeddedSettingsStore
from feedcore.adapters.embedded.signals import EmbeddedSignalStore
from feedcore.adapters.embedded.watch import StoreWatch
from feedcore.clock import Clock
from feedcore.errors import MachineFault, StoreDamaged, StoreError, StoreFull, StoreReadOnly
from feedcore.ports import GraphSource

_START_BYTES = 32 * 1024 * 1024  # the two maps, and the tables of a new store
_INACTIVE_PER_CALL = 10_000  # users moved to the inactive ones in one commit

_COUNTS = {
    "posts": "SELECT count(*) FROM posts",
    "users": "SELECT count(*) FROM followees",
    "follows": "SELECT coalesce(sum(followers), 0) FROM authors",
    "tombstones": "SELECT count(*) FROM tombstones",
    "feed_items": "SELECT coalesce(sum(entries), 0) FROM runs",
    "runs": "SELECT count(*) FROM runs",
    "jobs": "SELECT count(*) FROM fanout_jobs",
    "dead_letters": "SELECT count(*) FROM fanout_jobs WHERE state = 2",
}

log = logging.getLogger(__name__)


class EmbeddedStore:
    """All ports over one data directory. Make one with `open`."""

    events = None  # there is no broker
    limiter = None  # of callers over several nodes: there is one

    def __init__(
        self,
        data_dir: Path,
        clock: Clock,
        locks: list[FileLock],
        *,
        writer_role: bool,
        exclusive: bool,
    ) -> None:
        self.data_dir = data_dir
        self.feeds_dir = data_dir / "feeds"
        self.clock = clock
        self.exclusive = exclusive
        self.merger: Merger | None = None
        self._locks = locks
        self.connection = connect(data_dir / "store.db", read_only=True)
        try:
            self.store_id, self.secret = _identity(self.connection, data_dir)
            check_ids(data_dir / "store.db", self.connection)
            self._check_feeds()
        except BaseException:
            self.connection.close()
            raise
        conn, runs = self.connection, RunSet(self.feeds_dir, self.store_id)
        self._engagement = EngagementMap(data_dir / "engagement.map", self.store_id, conn)
        self._epoch_map = EpochMap(data_dir, self.store_id)
        self.epochs = epochs = self._epoch_map.epochs
        self.writer = writer = Writer(data_dir / "store.db", data_dir / "write.lock", epochs)
        self._runs, self.replica = runs, Replica(conn, runs)
        self.validation = LocalCacheValidation()
        self.page_cache = NoPageCache(self.validation)
        self.watch = StoreWatch(data_dir, conn)
        self.feeds = EmbeddedFeedStore(conn, writer, self.replica)
        self.posts = EmbeddedPostStore(conn, writer, self.replica, clock)
        self.contents = EmbeddedContentSource(conn)
        self.graph = EmbeddedGraphSource(conn, writer)
        self.queue = EmbeddedFanoutQueue(conn, writer)
        self.settings = EmbeddedSettingsStore(conn, writer, self.replica)
        behind = WriteBehind(self._flush)
        self._behind = behind
        self.preferences = EmbeddedPreferenceStore(conn, writer, behind)
        self.signals = EmbeddedSignalStore(conn, writer, self._engagement, behind)
        self.resident = EmbeddedResidentSource(conn, self.replica, self.contents, self._engagement)
        self._repair: Repair | None = None
        if writer_role:
            self.merger = Merger(data_dir, self.store_id, clock, epochs)

    @classmethod
    def open(
        cls,
        data_dir: Path | str,
        clock: Clock,
        *,
        writer_role: bool = False,
        create: bool = True,
        exclusive: bool = False,
        merge_thread: bool = True,
    ) -> EmbeddedStore:
        """Opens the directory, making or migrating the store if need be. Raises StoreError and
        StoreFull.

        `writer_role`: this process does the fan-out and the merging (at most one a directory), in a
        thread unless `merge_thread` is False. `exclusive`: no other process may have it open
        (for `rebuild`).
        """
        try:
            return cls._open(Path(data_dir), clock, writer_role, create, exclusive, merge_thread)
        except (OSError, MachineFault, StoreFull, StoreReadOnly) as error:
            raise _refusal(Path(data_dir), error) from error

    @classmethod
    def _open(
        cls,
        directory: Path,
        clock: Clock,
        writer_role: bool,
        create: bool,
        exclusive: bool,
        merge_thread: bool,
    ) -> EmbeddedStore:
        # Checked before store.db: a process that makes a store makes its feeds last.
        stray_feeds = (directory / "feeds").exists()
        version = stored_version(directory / "store.db")
        if version == 0 and not create:
            raise StoreError(
                f"{directory} has no store; name another directory, or create one there"
            )
        if version == 0 and stray_feeds:
            raise StoreError(
                f"{directory / 'feeds'} is there, but no store.db; restore it or use another"
                " directory"
            )
        directory.mkdir(parents=True, exist_ok=True)
        locks = _take_locks(directory, writer_role=writer_role, exclusive=exclusive)
        try:
            _prepare(directory, locks[0], exclusive=exclusive)
            store = cls(directory, clock, locks, writer_role=writer_role, exclusive=exclusive)
        except BaseException:
            for lock in locks:
                lock.close()
            raise
        if store.merger is not None and merge_thread:
            store.merger.start()
        return store

    async def close(self) -> None:
        """Writes what is buffered, finishes what is queued, releases everything."""
        await self._behind.close()
        if self.merger is not None:
            await asyncio.to_thread(self.merger.close)
        await asyncio.to_thread(self.writer.close)
        self._runs.close()
        self._engagement.close()
        self._epoch_map.close()
        self.connection.close()
        for lock in self._locks:
            lock.close()

    async def merge_all(self) -> int:
        """Merges until nothing waits; how many items. For tools and tests that hold the writer
        role.
        """
        merger = self._require_merger()
        total = 0
        while items := await asyncio.to_thread(merger.run_once):
            total += items
        return total

    async def upkeep(self, now_ms: int) -> None:
        """Retention, inactive users, and whether store.db is whole: what the fan-out process does
        about once a minute.
        """
        await asyncio.to_thread(self.watch.check_when_due, now_ms)
        damaged = self._engagement.mend(self.connection)
        if damaged:
            log.error("engagement.map is made again: %d slots of it were damaged", damaged)
        await self.expire(now_ms)
        await self.upkeep_inactive(now_ms)

    def fault(self) -> str:
        """What is wrong with the directory or store.db, with the remedy; "" if nothing is. Raises
        StoreError if this process does not share its epochs with the others any more.
        """
        fault = self.watch.fault()
        if not fault and not self._epoch_map.is_in_place():
            raise StoreError("epochs.map was removed under the server: this process starts anew")
        return fault

    def note_failure(self, error: BaseException) -> None:
        """Of a call that failed, whatever it was: damage to store.db is remembered."""
        self.watch.note(error)

    async def repair(self, graph: GraphSource, now_ms: int) -> float:
        """A step of deriving damaged days again, with the followers that `graph` knows; how many
        seconds to wait before the next.
        """
        if self._repair is None:
            self._repair = Repair(self, graph)
        return await self._repair.step(now_ms)

    async def upkeep_inactive(self, now_ms: int) -> int:
        """Marks users inactive who were not seen for INACTIVE_AFTER_MS; how many."""
        return await self.graph.mark_inactive(now_ms, _INACTIVE_PER_CALL)

    async def expire(self, now_ms: int) -> int:
        """Removes what is too old; how many rows and runs."""
        return await retention.expire(self.writer, self.feeds_dir, now_ms)

    async def counts(self) -> dict[str, int]:
        """Figures for status. Whole tables are counted: in a thread, so that no page waits."""
        counts = await asyncio.to_thread(_count, self.data_dir)
        counts["merge_backlog"] = self.feeds.backlog()
        counts["damaged_days"] = len(self.replica.damaged_days)
        counts["writes_queued"] = self.writer.queued()
        counts["impressions_dropped"] = self.signals.impressions_dropped
        return counts

    def require_exclusive(self) -> None:
        """Raises StoreError unless this process has the store for itself, with the writer role."""
        if not self.exclusive:
            raise StoreError("the store is open for sharing; stop the server, then rebuild")
        self._require_merger()

    def mark_feeds(self) -> None:
        """Makes the feeds directory, named as this store's: both appear at once, even if another
        process does the same.
        """
        draft = self.data_dir / f"feeds.{os.getpid()}"
        draft.mkdir(exist_ok=True)
        with (draft / "FEEDS").open("wb") as file:
            file.write(self.store_id.hex().encode())
            file.flush()
            os.fsync(file.fileno())
        sync_directory(draft)
        try:
            draft.rename(self.feeds_dir)
        except OSError as error:
            shutil.rmtree(draft)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        sync_directory(self.data_dir)

    def _require_merger(self) -> Merger:
        if self.merger is None:
            raise StoreError("the store was opened without the writer role; another process merges")
        return self.merger

    def _check_feeds(self) -> None:
        conn, marker = self.connection, self.feeds_dir / "FEEDS"
        if is_copy(conn):
            log.warning("%s was restored from a backup: feeds are derived again", self.data_dir)
            mend_copy(self.data_dir, self.clock.now_ms())
            if not marker.exists() or marker.read_bytes().strip() != self.store_id.hex().encode():
                shutil.rmtree(self.feeds_dir, ignore_errors=True)
        if self.exclusive:
            if not marker.exists():
                # other files there belong to no store: a rebuild derives everything again
                shutil.rmtree(self.feeds_dir, ignore_errors=True)
                self.mark_feeds()
            return
        # Checked before the marker: both appear together, whichever process makes them.
        there = self.feeds_dir.exists()
        half = conn.execute("SELECT 1 FROM blobs WHERE name = 'rebuilding'").fetchone()
        if half:
            raise StoreError(f"{self.feeds_dir}: a rebuild was interrupted; run 'feedcore rebuild'")
        if marker.exists():
            if marker.read_bytes().strip() != self.store_id.hex().encode():
                raise StoreError(
                    f"{self.feeds_dir} holds the feeds of another store; run 'feedcore rebuild'"
                )
            return
        if conn.execute("SELECT 1 FROM runs LIMIT 1").fetchone() or there:
            raise StoreError(f"{self.feeds_dir} has no FEEDS marker; run 'feedcore rebuild'")
        self.mark_feeds()

    async def _flush(self) -> None:
        await self.preferences.write_seen()
        await self.signals.write_impressions()


def _refusal(directory: Path, error: Exception) -> Exception:
    """Why a directory cannot be opened, in words for whom to type the remedy."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    full = isinstance(error, StoreFull) or getattr(error, "errno", 0) in (
        errno.ENOSPC,
        errno.EDQUOT,
    )
    if full or (isinstance(error, MachineFault) and free < _START_BYTES):
        return StoreFull(
            f"{directory}: the disk is full ({free:,} bytes are free, a start needs up to"
            f" {_START_BYTES:,}); free space and start again: nothing is lost"
        )
    if os.statvfs(there).f_flag & os.ST_RDONLY or isinstance(error, StoreReadOnly):
        return StoreReadOnly(
            f"{directory} is on a read-only file system; mount it writable, or name another"
            " directory: nothing was changed"
        )
    if isinstance(error, PermissionError):
        return StoreError(
            f"{error.filename}: permission denied; chown -R {os.getuid()} {directory}, or run"
            " feedcore as its owner"
        )
    if isinstance(error, OSError):
        return StoreError(f"{directory} cannot be opened: {error.strerror} ({error.filename})")
    return error


def _identity(conn: sqlite3.Connection, data_dir: Path) -> tuple[bytes, bytes]:
    try:
        rows = dict(conn.execute("SELECT key, value FROM meta").fetchall())
        return rows["store_id"], rows["secret"]
    except (sqlite3.DatabaseError, KeyError) as error:
        path = data_dir / "store.db"
        fault = fault_of(error)
        raise fault or StoreDamaged(f"{path} is corrupt ({error}); {RESTORE}") from error


def _take_locks(directory: Path, *, writer_role: bool, exclusive: bool) -> list[FileLock]:
    """store.lock first; all of them stay until the store is closed."""
    store_lock = FileLock(directory / "store.lock")
    if not store_lock.try_acquire(shared=not exclusive):
        store_lock.close()
        raise StoreError(
            f"{directory} is in use by other processes; stop them first"
            if exclusive
            else f"{directory} is being rebuilt or migrated by another process; wait for it"
        )
    locks = [store_lock]
    if writer_role:
        fanout_lock = FileLock(directory / "fanout.lock")
        locks.append(fanout_lock)
        if not fanout_lock.try_acquire():
            for lock in locks:
                lock.close()
            raise StoreError(f"{directory} has a fan-out process already; one is enough")
    return locks


def _prepare(directory: Path, store_lock: FileLock, *, exclusive: bool) -> None:
    """Makes or migrates the tables, one process at a time."""
    path = directory / "store.db"
    if stored_version(path) == SCHEMA_VERSION:
        return
    turn = FileLock(directory / "write.lock")
    try:
        turn.acquire()
        version = stored_version(path)
        if version == SCHEMA_VERSION:
            return
        if version == 0:
            _create(path)
            return
        if not exclusive and not store_lock.try_acquire():
            raise StoreError(f"{directory} has to be migrated; stop the other processes first")
        _migrate(path, version)
        if not exclusive:
            store_lock.try_acquire(shared=True)
    finally:
        turn.close()


def _create(path: Path) -> None:
    """Makes the store beside its place and moves it there whole: killed before, there is none."""
    for left in path.parent.glob("store.db.new*"):
        left.unlink()
    made = path.with_name("store.db.new")
    _migrate(made, 0)
    made.replace(path)
    sync_directory(path.parent)


def _migrate(path: Path, version: int) -> None:
    conn = connect(path, read_only=False)
    try:
        migrate(conn, version)
    except sqlite3.DatabaseError as error:
        fault = fault_of(error)
        if isinstance(fault, MachineFault | StoreFull | StoreReadOnly):
            raise fault from error
        raise StoreError(
            f"{path} cannot be made or migrated: {fault or error}; nothing was changed"
        ) from error
    finally:
        conn.close()


def _count(data_dir: Path) -> dict[str, int]:
    """Rows and bytes, by a connection of its own."""
    with contextlib.closing(connect(data_dir / "store.db", read_only=True)) as conn:
        counts = {name: conn.execute(sql).fetchone()[0] for name, sql in _COUNTS.items()}
    counts["store_bytes"] = _bytes_of([data_dir / "store.db", data_dir / "store.db-wal"])
    counts["feeds_bytes"] = _bytes_of((data_dir / "feeds").glob("*/*.run"))
    counts["disk_free_bytes"] = shutil.disk_usage(data_dir).free
    return counts


def _bytes_of(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # merged away while we looked
    return total
