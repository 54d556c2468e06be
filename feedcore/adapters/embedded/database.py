"""Connections to store.db, and the group commit.

Reading: one connection on the event loop's thread, every statement its own snapshot. Writing: one
thread; operations that wait together share one transaction and its fsync, and one that fails
changes nothing while the others stand: work may therefore run twice and must change nothing but
the database. Processes take turns by `write.lock`.

Not here: what is written (the ports' files), the merger's transactions (it has its own connection).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from feedcore import native
from feedcore.adapters.common.machine import fault_of
from feedcore.adapters.embedded.epochs import Changes
from feedcore.adapters.embedded.locks import FileLock
from feedcore.errors import MachineFault, Overloaded, StoreError, StoreFull
from feedcore.limits import DISK_RESERVE_BYTES, WRITE_BATCH_MAX, WRITE_QUEUE_MAX

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000  # a checkpoint or a backup may hold the file for a moment
MMAP_BYTES = 1 << 30  # reads without copying; address space only
READ_CACHE_KIB = 32 * 1024  # inner pages of the trees that each load walks
WRITE_CACHE_KIB = 64 * 1024  # a batch's dirty pages stay out of the log until the commit
WAL_CHECKPOINT_PAGES = 20_000  # 80 MB: only reached if no fan-out process checkpoints
PAIRS_PER_STATEMENT = 5_000  # some ten milliseconds without the interpreter
STATEMENTS_CACHED = 256  # every statement of the engine


class Connection(sqlite3.Connection):
    """Notes which cached data of all processes its transaction changes."""

    changes: Changes
    path: Path
    file: tuple[int, int]  # device and inode of the file that was opened

    def require_in_place(self) -> None:
        """Raises MachineFault if the path does not name the file that was opened."""
        if not is_file(self.path, self.file):
            raise MachineFault(
                f"{self.path} was removed or replaced under the server: nothing can be kept;"
                " put it back, or restart the server"
            )


def is_file(path: Path, file: tuple[int, int]) -> bool:
    """Whether the path names this file: (device, inode)."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (status.st_dev, status.st_ino) == file


def connect(path: Path, *, read_only: bool, epochs: native.Epochs | None = None) -> Connection:
    """A connection in autocommit; transactions are written out. StoreError if the file cannot be
    read.

    `epochs`: where its transactions announce what they changed; None: nobody caches anything.
    """
    conn = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED,
        factory=Connection,
    )
    conn.changes, conn.path = Changes(epochs), path
    try:
        conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute(f"PRAGMA mmap_size = {MMAP_BYTES}")
        conn.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        if read_only:
            conn.execute(f"PRAGMA cache_size = -{READ_CACHE_KIB}")
            conn.execute("PRAGMA query_only = 1")
        else:
            conn.execute(f"PRAGMA cache_size = -{WRITE_CACHE_KIB}")
        status = path.stat()
        conn.file = status.st_dev, status.st_ino
    except (sqlite3.DatabaseError, OSError) as error:
        conn.close()
        raise fault_of(error) or StoreError(f"{path} cannot be opened: {error}") from error
    return conn


def bump(conn: Connection, column: str) -> None:
    """Invalidates what all processes have cached of `column`, when this transaction commits."""
    conn.execute(f"UPDATE versions SET {column} = {column} + 1")
    conn.changes.replicated = True


def marks(count: int) -> str:
    """`?,?,?` for an IN list; SQLite allows 32,766."""
    return ",".join("?" * count)


def write_pairs(conn: sqlite3.Connection, sql: str, pairs: list[tuple[int, int]]) -> None:
    """Runs `sql` over (integer, integer) pairs that it finds in json_each(?).

    One statement for many: between the statements of executemany the writer's thread asks for the
    interpreter, and a busy event loop lets it wait half a millisecond each time.
    """
    for start in range(0, len(pairs), PAIRS_PER_STATEMENT):
        conn.execute(sql, (json.dumps(pairs[start : start + PAIRS_PER_STATEMENT]),))


@contextlib.contextmanager
def transaction(conn: Connection, lock: FileLock) -> Iterator[Connection]:
    """One write transaction under the lock of all processes; what it changed is announced before
    the lock is released. What the machine says (a full disk, say) is raised as an error of ours,
    and so is a store whose file is not there any more: what is written then is nowhere.
    """
    lock.acquire()
    try:
        conn.require_in_place()
        conn.execute("BEGIN IMMEDIATE")
        try:
            yield conn
            conn.execute("COMMIT")
            conn.changes.announce()
            conn.require_in_place()
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            conn.changes.forget()
            raise
    except (sqlite3.DatabaseError, OSError, MemoryError) as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error
    finally:
        lock.release()


class _Operation:
    """One queued write and who waits for it."""

    __slots__ = ("error", "future", "replicated", "result", "work")

    def __init__(
        self, work: Callable[[Connection], Any], future: asyncio.Future, replicated: bool
    ) -> None:
        self.work = work
        self.replicated = replicated
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """Group commit. Any number of event loops may wait; a result arrives once its commit is on
    disk.
    """

    def __init__(self, path: Path, lock_path: Path, epochs: native.Epochs | None = None) -> None:
        self._directory = path.parent
        self._log = path.with_name(path.name + "-wal")
        self._conn = connect(path, read_only=False, epochs=epochs)
        self._lock = FileLock(lock_path)
        self._waiting: deque[_Operation] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="feedcore-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Connection], T], *, replicated: bool = True) -> T:
        """Runs `work` inside the next shared transaction; returns its result once that is durable.

        `replicated` False: it changes no node-wide state (`replica`), so that no process has to
        read it again.

        What `work` raises is raised here, and of its changes none is left. Raises Overloaded and
        StoreFull.
        """
        future = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._closing:
                raise StoreError("the store is closed; open it again")
            if len(self._waiting) >= WRITE_QUEUE_MAX:
                raise Overloaded("the write queue", f"{WRITE_QUEUE_MAX} writes")
            self._waiting.append(_Operation(work, future, replicated))
            self._wake.notify()
        return await future

    def require_room(self) -> None:
        """Raises StoreFull if new data should be refused, so that deletes and merges can still go
        on; MachineFault if there is no place for it any more.
        """
        self._conn.require_in_place()
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        # a checkpoint may have to add all of the log to the database
        needed = DISK_RESERVE_BYTES + _size_of(self._log)
        if free < needed:
            raise StoreFull(
                f"{free} bytes are free on the disk of the store, {needed} are kept in reserve; "
                "free space and retry"
            )

    def queued(self) -> int:
        """Writes that wait for a transaction."""
        return len(self._waiting)

    def close(self) -> None:
        """Finishes what is queued, then ends the thread. Blocks; call it off the event loop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._conn.close()
        self._lock.close()

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if not self._waiting:
                    return
                count = min(len(self._waiting), WRITE_BATCH_MAX)
                batch = [self._waiting.popleft() for _ in range(count)]
            self._commit(batch)
            _answer(batch)

    def _commit(self, batch: list[_Operation]) -> None:
        """Without savepoints first: they double the cost of a write, and failing late is rare."""
        try:
            try:
                with transaction(self._conn, self._lock) as conn:
                    for operation in batch:
                        _apply(conn, operation)
            except _FailedLate:
                with transaction(self._conn, self._lock) as conn:
                    for operation in batch:
                        _apply_in_savepoint(conn, operation)
        except Exception as error:
            # nothing of the batch is on disk: every caller gets the error, also those that
            # succeeded
            for operation in batch:
                operation.error = _translated(error)


class _FailedLate(Exception):
    """An operation failed after it had written: its batch starts again, in savepoints."""


def _apply(conn: Connection, operation: _Operation) -> None:
    if operation.future.cancelled():
        return
    before = conn.total_changes
    conn.changes.replicated |= operation.replicated
    try:
        operation.result = operation.work(conn)
    except Exception as error:
        if _ends_all(error) or not conn.in_transaction:
            raise
        if conn.total_changes != before:
            raise _FailedLate from error
        operation.error = _translated(error)


def _apply_in_savepoint(conn: Connection, operation: _Operation) -> None:
    operation.error = None
    if operation.future.cancelled():
        return
    conn.execute("SAVEPOINT one")
    conn.changes.replicated |= operation.replicated
    try:
        operation.result = operation.work(conn)
    except Exception as error:
        if _ends_all(error) or not conn.in_transaction:
            raise
        conn.execute("ROLLBACK TO one")
        operation.error = _translated(error)
    conn.execute("RELEASE one")


def _translated(error: Exception) -> Exception:
    return fault_of(error) or error


def _ends_all(error: Exception) -> bool:
    """Whether the disk had no room: then none of the batch will be written."""
    return isinstance(fault_of(error), StoreFull)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _answer(batch: list[_Operation]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Operation]] = {}
    for operation in batch:
        loops.setdefault(operation.future.get_loop(), []).append(operation)
    for loop, operations in loops.items():
        # the loop is closed: no caller waits there any more
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, operations)


def _resolve(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.result)
