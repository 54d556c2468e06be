"""Probes of a data directory: nothing is made, migrated or waited for.

Locks are tried shared for an instant, where their files are there. Not for what the store holds:
`feedcore audit` looks at that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from feedcore.adapters.common.machine import RESTORE
from feedcore.adapters.common.probing import Probe
from feedcore.adapters.embedded.damage import read_damage
from feedcore.adapters.embedded.locks import FileLock
from feedcore.adapters.embedded.runfile import run_path
from feedcore.adapters.embedded.schema import SCHEMA_VERSION, stored_version
from feedcore.adapters.embedded.watch import read_marker
from feedcore.limits import DISK_RESERVE_BYTES
from feedcore.ports.finding import Finding, State

ENGINE = "store"
DISK_WARN_BYTES = 16 * DISK_RESERVE_BYTES  # 1 GiB: an hour of posts at 100 a second
MAPS = ("engagement.map", "epochs.map")


def probes(data_dir: Path) -> list[Probe]:
    """One of the directory, one of the store in it."""
    return [
        Probe(ENGINE, "directory", lambda: asyncio.to_thread(_directory, data_dir), RESTORE),
        Probe(ENGINE, "store.db", lambda: asyncio.to_thread(_store, data_dir), RESTORE),
    ]


def _directory(data_dir: Path) -> Sequence[Finding]:
    if not data_dir.is_dir():
        mend = "correct store.data_dir, or `feedcore serve` makes it there"
        return [Finding(ENGINE, "directory", State.DOWN, f"{data_dir} is not there", mend)]
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        mend = f"as its owner: chown -R {os.getuid()} {data_dir}, or run feedcore as that user"
        return [Finding(ENGINE, "directory", State.DOWN, f"{data_dir} is not writable", mend)]
    free = shutil.disk_usage(data_dir).free
    return [
        Finding(ENGINE, "directory", State.OK, f"{data_dir} is writable"),
        judge_disk(free),
    ]


def judge_disk(free: int) -> Finding:
    """Bytes that are left."""
    text = f"{free / 1e9:,.1f} GB free"
    if free < DISK_RESERVE_BYTES:
        mend = f"free {DISK_RESERVE_BYTES / 1e6:.0f} MB or more: publishes are refused until then"
        return Finding(ENGINE, "disk", State.DOWN, text, mend)
    if free < DISK_WARN_BYTES:
        mend = "free space, or a larger disk: publishes are refused when it is full"
        return Finding(ENGINE, "disk", State.WARN, text, mend)
    return Finding(ENGINE, "disk", State.OK, text)


def _store(data_dir: Path) -> Sequence[Finding]:
    path = data_dir / "store.db"
    version = stored_version(path)
    if not version:
        mend = "correct store.data_dir, or `feedcore serve` makes one there"
        return [Finding(ENGINE, "store.db", State.DOWN, f"{data_dir} has no store", mend)]
    if damaged := read_marker(data_dir):
        return [Finding(ENGINE, "store.db", State.DOWN, damaged, RESTORE)]
    if version < SCHEMA_VERSION:
        detail = f"schema {version}, this program's is {SCHEMA_VERSION}"
        found = [
            Finding(ENGINE, "store.db", State.WARN, detail, "the next start migrates it: backup")
        ]
    else:
        found = [Finding(ENGINE, "store.db", State.OK, f"opens, schema {version}")]
    found += _locks(data_dir)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as conn:
        return [*found, *_tables(conn, data_dir)]


def _locks(data_dir: Path) -> list[Finding]:
    if not _is_free(data_dir / "store.lock", shared=True):
        mend = "a rebuild or a migration has it for itself: wait for it"
        return [Finding(ENGINE, "in use", State.WARN, "by one process alone", mend)]
    if not _is_free(data_dir / "fanout.lock", shared=True):
        return [Finding(ENGINE, "in use", State.OK, "a server fans out here")]
    mend = "`feedcore serve` if there should be one"
    return [Finding(ENGINE, "in use", State.WARN, "no server fans out here", mend)]


def _is_free(path: Path, *, shared: bool) -> bool:
    if not path.exists():
        return True
    lock = FileLock(path)
    try:
        return lock.try_acquire(shared=shared)
    finally:
        lock.close()


def _tables(conn: sqlite3.Connection, data_dir: Path) -> list[Finding]:
    meta = dict(conn.execute("SELECT key, value FROM meta").fetchall())
    store_id = meta["store_id"]
    found = [_feeds(conn, data_dir, store_id), _maps(data_dir, store_id)]
    dead = conn.execute("SELECT count(*) FROM fanout_jobs WHERE state = 2").fetchone()[0]
    if dead:
        mend = "`feedcore admin dead-letters` says why; mend that, then `feedcore admin replay`"
        detail = f"{dead:,} jobs given up"
        found.append(Finding(ENGINE, "dead letters", State.WARN, detail, mend))
    return found


def _feeds(conn: sqlite3.Connection, data_dir: Path, store_id: bytes) -> Finding:
    feeds = data_dir / "feeds"
    marker = feeds / "FEEDS"
    rebuild = f"stop the server, then `feedcore rebuild --data-dir {data_dir}`"
    if conn.execute("SELECT 1 FROM blobs WHERE name = 'rebuilding'").fetchone():
        return Finding(ENGINE, "feeds", State.DOWN, "a rebuild was interrupted", rebuild)
    if not marker.exists() or marker.read_bytes().strip() != store_id.hex().encode():
        return Finding(ENGINE, "feeds", State.DOWN, "are not this store's", rebuild)
    if damage := read_damage(conn):
        mend = "nothing: the server derives them again; pages are pulled until then"
        reasons = "; ".join(sorted(set(damage.values())))
        detail = f"{len(damage)} days are damaged: {reasons}"
        return Finding(ENGINE, "feeds", State.WARN, detail, mend)
    runs = conn.execute("SELECT day, run_id FROM runs").fetchall()
    gone = [one for one in runs if not run_path(feeds, *one).exists()]
    # merged away while we looked: then the row is gone, too
    now = set(conn.execute("SELECT day, run_id FROM runs")) if gone else set()
    if any(one in now for one in gone):
        mend = "nothing: a server derives them again; pages are pulled until then"
        return Finding(ENGINE, "feeds", State.WARN, f"{len(gone)} files are missing", mend)
    return Finding(ENGINE, "feeds", State.OK, f"{len(runs):,} runs, all there")


def _maps(data_dir: Path, store_id: bytes) -> Finding:
    foreign = []
    for name in MAPS:
        try:
            with (data_dir / name).open("rb") as file:
                if file.read(24)[8:] != store_id:
                    foreign.append(name)
        except FileNotFoundError:
            foreign.append(name)
    if foreign:
        mend = "nothing: the next start makes them again"
        return Finding(ENGINE, "maps", State.WARN, f"{', '.join(foreign)} missing", mend)
    return Finding(ENGINE, "maps", State.OK, "this store's")
