"""Copies of a store: made beside a running server, and put in the place of one that is lost.

    backup     one read transaction into a file beside the target; checked, synced, then named
    restore    in a directory that no process has open: what is there is set aside, the copy takes
               its place, derived data goes and is derived again

A copy says of itself that it is one (`blobs`, 'backup'). Hence a store that was copied back by
hand is known at its next start (`mend_copy`): its run rows name files of another time. Invariants:
a file has its name only when it is whole and on disk; nothing is deleted that is not derived. Not
for clusters: their engines have snapshots of their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

from feedcore.adapters.embedded.damage import all_days, note_damage
from feedcore.adapters.embedded.database import connect, transaction
from feedcore.adapters.embedded.locks import FileLock
from feedcore.adapters.embedded.runfile import sync_directory
from feedcore.adapters.embedded.schema import stored_version
from feedcore.adapters.embedded.watch import MARKER, check_database
from feedcore.errors import StoreDamaged, StoreError

_COPY = "backup"  # in `blobs`, with the time in milliseconds
_PARTS = ("store.db", "store.db-wal", "store.db-shm", MARKER)
_DERIVED = ("engagement.map", "epochs.map")


class Copy(NamedTuple):
    """What a copy holds."""

    made_ms: int
    posts: int
    bytes: int


def backup(data_dir: Path, target: Path, now_ms: int) -> Copy:
    """Writes a copy of the store as of one moment; a server may run. Raises StoreError."""
    source = data_dir / "store.db"
    if not stored_version(source):
        raise StoreError(f"{data_dir} has no store; name the directory of one")
    if target.exists():
        raise StoreError(f"{target} is there already; name another file")
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with contextlib.closing(connect(source, read_only=True)) as conn:
            _copy(conn, draft, now_ms)
        found = look_at(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(target)
        sync_directory(target.parent)
        return found
    finally:
        for left in target.parent.glob(f"{draft.name}*"):
            left.unlink()


def _copy(conn: sqlite3.Connection, draft: Path, now_ms: int) -> None:
    # In one step: a snapshot, for which no writer waits. In several, each commit begins it anew.
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as made:
        conn.backup(made)
        made.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        value = now_ms.to_bytes(8, "big")
        made.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (_COPY, value))


def look_at(path: Path) -> Copy:
    """Reads all of a copy. Raises StoreError if it is none, and StoreDamaged if it is damaged."""
    if not stored_version(path):
        raise StoreError(f"{path} is not there, or empty; name the file of a backup")
    if findings := check_database(path):
        raise StoreDamaged(f"{path} is corrupt ({findings}); take another backup")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        posts = conn.execute("SELECT count(*) FROM posts").fetchone()[0]
        row = conn.execute("SELECT value FROM blobs WHERE name = ?", (_COPY,)).fetchone()
    made_ms = int.from_bytes(row[0], "big") if row else 0
    return Copy(made_ms, posts, path.stat().st_size)


def restore(source: Path, data_dir: Path, now_ms: int) -> tuple[Copy, Path | None]:
    """Puts a copy in the place of the store; (what it holds, where the store that was there is).

    Feeds are to be derived again by `rebuild`, or by the next server while it serves.
    """
    found = look_at(source)
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(data_dir / "store.lock")
    try:
        if not lock.try_acquire():
            raise StoreError(f"{data_dir} is in use by other processes; stop them first")
        draft = data_dir / "store.db.new"
        shutil.copyfile(source, draft)
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as conn:
            value = now_ms.to_bytes(8, "big")  # also for a copy that was made by other means
            conn.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (_COPY, value))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        aside = _set_aside(data_dir)
        for name in _DERIVED:
            (data_dir / name).unlink(missing_ok=True)
        shutil.rmtree(data_dir / "feeds", ignore_errors=True)
        draft.rename(data_dir / "store.db")
        sync_directory(data_dir)
        return found, aside
    finally:
        lock.close()


def _set_aside(data_dir: Path) -> Path | None:
    """Moves the store that is there, its log included, into a directory of its own."""
    there = [data_dir / name for name in _PARTS if (data_dir / name).exists()]
    if not there:
        return None
    number = 1
    while (aside := data_dir / f"replaced-{number}").exists():
        number += 1
    aside.mkdir()
    for path in there:
        path.rename(aside / path.name)
    sync_directory(aside)
    return aside


def is_copy(conn: sqlite3.Connection) -> bool:
    """Whether this store was copied from another time, and not opened since."""
    return conn.execute("SELECT 1 FROM blobs WHERE name = ?", (_COPY,)).fetchone() is not None


def mend_copy(data_dir: Path, now_ms: int) -> None:
    """Its runs are of another time: all days are derived again, engagement is made anew."""
    lock = FileLock(data_dir / "write.lock")
    try:
        with (
            contextlib.closing(connect(data_dir / "store.db", read_only=False)) as conn,
            transaction(conn, lock),
        ):
            if is_copy(conn):
                (data_dir / "engagement.map").unlink(missing_ok=True)
                conn.execute("DELETE FROM runs")
                note_damage(conn, all_days(now_ms), "the store was restored from a backup")
                conn.execute("DELETE FROM blobs WHERE name = ?", (_COPY,))
    finally:
        lock.close()
