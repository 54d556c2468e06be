"""Tables of store.db, their versions, and what is checked before anything is opened for writing.

Migrations only ever append to `MIGRATIONS`: number n takes a store from version n to n + 1. A
store that is newer, foreign or torn is refused by reading its header, with no change; one that
holds ids above USER_ID_MAX, by looking at its tables once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path

from feedcore.adapters.common.machine import RESTORE
from feedcore.adapters.embedded.database import connect, transaction
from feedcore.adapters.embedded.locks import FileLock
from feedcore.errors import StoreDamaged, StoreError
from feedcore.limits import USER_ID_MAX

APPLICATION_ID = 0x66656564  # "feed"
PAGE_BYTES = 4096
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"

_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- one row; each column counts changes of what processes keep in memory, or a running total
CREATE TABLE versions (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    jobs_dropped INTEGER NOT NULL DEFAULT 0,
    modes INTEGER NOT NULL DEFAULT 0,
    tombstones INTEGER NOT NULL DEFAULT 0,
    settings INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    trending INTEGER NOT NULL DEFAULT 0,
    merged_seq INTEGER NOT NULL DEFAULT 0,
    backlog INTEGER NOT NULL DEFAULT 0,
    turn INTEGER NOT NULL DEFAULT 0
);
INSERT INTO versions (one) VALUES (1);

CREATE TABLE posts (
    content_id INTEGER PRIMARY KEY,
    author_id INTEGER NOT NULL,
    visibility INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    reach INTEGER NOT NULL,
    fanned_out_ms INTEGER NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE post_counts (
    content_id INTEGER PRIMARY KEY,
    likes INTEGER NOT NULL DEFAULT 0,
    comments INTEGER NOT NULL DEFAULT 0,
    shares INTEGER NOT NULL DEFAULT 0,
    clicks INTEGER NOT NULL DEFAULT 0,
    hides INTEGER NOT NULL DEFAULT 0,
    impressions INTEGER NOT NULL DEFAULT 0,
    base_likes INTEGER NOT NULL DEFAULT 0,
    base_comments INTEGER NOT NULL DEFAULT 0,
    base_shares INTEGER NOT NULL DEFAULT 0,
    weight REAL NOT NULL DEFAULT 0
);
CREATE INDEX post_counts_by_weight ON post_counts (weight DESC, content_id) WHERE weight > 0;
CREATE TABLE author_outbox (
    author_id INTEGER NOT NULL,
    day INTEGER NOT NULL,
    entries BLOB NOT NULL,
    PRIMARY KEY (author_id, day)
) WITHOUT ROWID;
CREATE INDEX author_outbox_by_day ON author_outbox (day);
-- authors that published, newest last: what processes keep of their timelines is out of date
CREATE TABLE outbox_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    author_id INTEGER NOT NULL
);
CREATE TABLE tombstones (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    content_id INTEGER NOT NULL UNIQUE,
    author_id INTEGER NOT NULL,
    deleted_ms INTEGER NOT NULL
);
CREATE TABLE idempotency (
    author_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    content_id INTEGER NOT NULL,
    PRIMARY KEY (author_id, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_content ON idempotency (content_id);

CREATE TABLE authors (
    author_id INTEGER PRIMARY KEY,
    followers INTEGER NOT NULL DEFAULT 0,
    mode INTEGER NOT NULL DEFAULT 0,
    until_ms INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX authors_by_mode ON authors (mode, followers);
CREATE TABLE followees (user_id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE followers (
    followee_id INTEGER NOT NULL,
    follower_id INTEGER NOT NULL,
    PRIMARY KEY (followee_id, follower_id)
) WITHOUT ROWID;
CREATE TABLE relations (
    user_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    target_id INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    set_at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, kind, target_id)
) WITHOUT ROWID;
CREATE TABLE affinity (user_id INTEGER PRIMARY KEY, shares BLOB NOT NULL, weights BLOB NOT NULL);
CREATE TABLE viewers (user_id INTEGER PRIMARY KEY, last_seen_ms INTEGER NOT NULL);
CREATE INDEX viewers_by_time ON viewers (last_seen_ms);
CREATE TABLE inactive_users (user_id INTEGER PRIMARY KEY);
CREATE TABLE rebuilding_users (user_id INTEGER PRIMARY KEY, done_seq INTEGER);

CREATE TABLE interactions (
    content_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (content_id, user_id, kind)
) WITHOUT ROWID;
CREATE TABLE interaction_keys (
    user_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    changed INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) WITHOUT ROWID;
CREATE INDEX interaction_keys_by_time ON interaction_keys (at_ms);
CREATE TABLE counter_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    content_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    delta INTEGER NOT NULL
);

-- state: 0 to do, 1 done but not merged, 2 dead letter
CREATE TABLE fanout_jobs (
    job_id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    lane INTEGER NOT NULL,
    content_id INTEGER NOT NULL,
    author_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    entry BLOB NOT NULL,
    after INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL,
    served INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0,
    done_seq INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    failed_ms INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_to_do ON fanout_jobs (served, job_id) WHERE state = 0;
CREATE INDEX jobs_done ON fanout_jobs (done_seq) WHERE state = 1;
CREATE INDEX jobs_dead ON fanout_jobs (job_id) WHERE state = 2;
CREATE INDEX jobs_of_user ON fanout_jobs (user_id, author_id) WHERE user_id <> 0;
CREATE INDEX jobs_of_post ON fanout_jobs (content_id) WHERE content_id <> 0;
CREATE TABLE job_drops (seq INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER NOT NULL);
CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    items INTEGER NOT NULL,
    remove_author INTEGER NOT NULL,
    entries BLOB NOT NULL,
    recipients BLOB NOT NULL
);
CREATE TABLE runs (
    run_id INTEGER PRIMARY KEY AUTOINCREMENT,
    day INTEGER NOT NULL,
    users INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_by_day ON runs (day);

CREATE TABLE settings (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE blobs (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

# Columns that name a user; what is not here has an index entry or a row in one of these, too.
_USER_COLUMNS = (
    ("followees", "user_id"),
    ("authors", "author_id"),
    ("relations", "user_id"),
    ("relations", "target_id"),
    ("author_outbox", "author_id"),
    ("idempotency", "author_id"),
    ("posts", "author_id"),
    ("viewers", "user_id"),
    ("interactions", "user_id"),
)
_IDS_CHECKED = "ids_have_63_bits"  # in `meta`: nothing larger was found, or could be written

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
SCHEMA_VERSION = len(MIGRATIONS)


def stored_version(path: Path) -> int:
    """Schema version of the file at `path`, read from its header; 0 if there is no file.

    Raises StoreError for anything that is not a store of ours; changes nothing.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if size == 0:
        return 0
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise StoreDamaged(f"{path} is corrupt or not a store: no database header; {RESTORE}")
    application = int.from_bytes(header[68:72], "big")
    version = int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path} belongs to another program (application id {application:#x}, ours is "
            f"{APPLICATION_ID:#x}); name another data directory"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}; "
            "start the newer feedcore that wrote it"
        )
    _check_length(path, header, size)
    return version


def check_ids(path: Path, conn: sqlite3.Connection) -> None:
    """Looks, once a store, for user ids above USER_ID_MAX: older versions took 64 bits, and such
    an id would be somebody else's here. Raises StoreError, with what to type.
    """
    asked = "SELECT 1 FROM meta WHERE key = ?"
    if conn.execute(asked, (_IDS_CHECKED,)).fetchone():
        return
    for table, column in _USER_COLUMNS:
        found = f"SELECT {column} FROM {table} WHERE {column} < 0"
        if row := conn.execute(f"{found} LIMIT 1").fetchone():
            raise StoreError(
                f"{path}: {table}.{column} holds the id {row[0] + 2**64}; ids are 1 to"
                f" {USER_ID_MAX}. Nothing was changed: serve it with the feedcore that wrote it,"
                f" or list them (sqlite3 {path} \"SELECT DISTINCT printf('%u', {column})"
                f' FROM {table} WHERE {column} < 0") and load it again under smaller ones'
            )
    lock = FileLock(path.with_name("write.lock"))
    try:
        with (
            contextlib.closing(connect(path, read_only=False)) as writing,
            transaction(writing, lock),
        ):
            writing.execute("INSERT OR IGNORE INTO meta VALUES (?, x'')", (_IDS_CHECKED,))
    finally:
        lock.close()


def _check_length(path: Path, header: bytes, size: int) -> None:
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return  # pages that are missing here may be there: SQLite's recovery decides
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = int.from_bytes(header[28:32], "big")
    if pages * page_bytes > size:
        raise StoreDamaged(
            f"{path} is corrupt: {size} bytes, its header says {pages * page_bytes}; {RESTORE}"
        )


def migrate(conn: sqlite3.Connection, version: int) -> None:
    """Takes the store from `version` to SCHEMA_VERSION in one transaction. Needs the store for
    itself alone.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                conn.execute(statement)
        if version == 0:
            values = [
                ("store_id", os.urandom(16)),
                ("secret", secrets.token_bytes(32)),
                (_IDS_CHECKED, b""),
            ]
            conn.executemany("INSERT INTO meta VALUES (?, ?)", values)
        conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")
    # the header check reads the file alone, so the header must not wait in the log
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [part for part in "\n".join(lines).split(";") if part.strip()]
