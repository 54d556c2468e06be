"""Retention: removes what is too old by key ranges and whole days, without scanning for it.

Small transactions, so that publishing never waits long. Readers cut at exactly RETENTION_MS by
themselves; here it only matters that nothing goes early.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from feedcore.adapters.embedded.database import Connection, Writer, bump
from feedcore.adapters.embedded.runfile import run_path
from feedcore.domain import ids
from feedcore.limits import (
    DAY_MS,
    IDEMPOTENCY_AGE_MAX_MS,
    POST_AGE_MAX_MS,
    RETENTION_MS,
    TOMBSTONE_AGE_MAX_MS,
)

ROWS_PER_COMMIT = 1_000  # a commit of this size holds the write lock for a few milliseconds
COMMITS_PER_CALL = 500  # the rest goes with the next call

_TIMELINES = (
    "DELETE FROM author_outbox WHERE (author_id, day) IN"
    " (SELECT author_id, day FROM author_outbox WHERE day < ? LIMIT ?)"
)
_KEYS = (
    "DELETE FROM idempotency WHERE (author_id, key) IN"
    " (SELECT author_id, key FROM idempotency WHERE content_id < ? LIMIT ?)"
)
# Processes that missed more than this many publishes clear their cache of timelines instead.
TIMELINE_CHANGES_KEPT = 100_000
_TIMELINE_CHANGES = (
    "DELETE FROM outbox_changes WHERE seq IN (SELECT seq FROM outbox_changes"
    " WHERE seq <= (SELECT max(seq) FROM outbox_changes) - ? LIMIT ?)"
)
_INTERACTION_KEYS = (
    "DELETE FROM interaction_keys WHERE (user_id, key) IN"
    " (SELECT user_id, key FROM interaction_keys WHERE at_ms < ? LIMIT ?)"
)
_INTERACTIONS = (
    "DELETE FROM interactions WHERE (content_id, user_id, kind) IN"
    " (SELECT content_id, user_id, kind FROM interactions WHERE content_id < ? LIMIT ?)"
)
_BY_CONTENT = (
    "DELETE FROM {0} WHERE content_id IN (SELECT content_id FROM {0} WHERE content_id < ? LIMIT ?)"
)


async def expire(writer: Writer, feeds_dir: Path, now_ms: int) -> int:
    """Removes what is too old; how many rows and runs. Needs to be called by the fan-out process
    only.
    """
    first_day = (now_ms - RETENTION_MS) // DAY_MS
    removed = await _expire_runs(writer, feeds_dir, first_day)
    oldest_post = ids.first_id_at(now_ms - POST_AGE_MAX_MS)
    for sql, bound in (
        (_TIMELINES, first_day),
        (_TIMELINE_CHANGES, TIMELINE_CHANGES_KEPT),
        (_KEYS, ids.first_id_at(now_ms - IDEMPOTENCY_AGE_MAX_MS)),
        (_INTERACTION_KEYS, now_ms - IDEMPOTENCY_AGE_MAX_MS),
        (_INTERACTIONS, oldest_post),
        (_BY_CONTENT.format("post_counts"), oldest_post),
        (_BY_CONTENT.format("posts"), oldest_post),
    ):
        removed += await _in_batches(writer, sql, bound)
    return removed + await writer.run(
        lambda conn: _expire_tombstones(conn, now_ms - TOMBSTONE_AGE_MAX_MS)
    )


async def _in_batches(writer: Writer, sql: str, bound: int) -> int:
    total = 0
    for _ in range(COMMITS_PER_CALL):
        count = await writer.run(lambda conn: conn.execute(sql, (bound, ROWS_PER_COMMIT)).rowcount)
        total += count
        if count < ROWS_PER_COMMIT:
            break
    return total


async def _expire_runs(writer: Writer, feeds_dir: Path, first_day: int) -> int:
    def work(conn: Connection) -> list[tuple[int, int]]:
        sql = "DELETE FROM runs WHERE day < ? RETURNING day, run_id"
        gone = conn.execute(sql, (first_day,)).fetchall()
        if gone:
            bump(conn, "runs")
        return gone

    gone = await writer.run(work)
    for day, run_id in gone:
        # processes that have the file open keep reading it; others find it gone and read the rows
        # anew
        run_path(feeds_dir, day, run_id).unlink(missing_ok=True)
    for day in {day for day, _ in gone}:
        shutil.rmtree(feeds_dir / str(day), ignore_errors=True)
    return len(gone)


def _expire_tombstones(conn: Connection, before_ms: int) -> int:
    """By age of the deletion; deletions are numbered in their order, so the oldest come first."""
    sql = "SELECT seq, deleted_ms FROM tombstones ORDER BY seq LIMIT ?"
    last = 0
    for seq, deleted_ms in conn.execute(sql, (ROWS_PER_COMMIT,)):
        if deleted_ms >= before_ms:
            break
        last = seq
    if not last:
        return 0
    floor = (last + 1).to_bytes(8, "big")
    conn.execute("INSERT OR REPLACE INTO blobs VALUES ('tombstone_floor', ?)", (floor,))
    bump(conn, "tombstones")
    return conn.execute("DELETE FROM tombstones WHERE seq <= ?", (last,)).rowcount
