"""PostStore and ContentSource: posts, timelines, tombstones. Publishing is one transaction, with
its job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

from feedcore import native
from feedcore.adapters.embedded.database import Connection, Writer, bump, marks
from feedcore.adapters.embedded.replica import Replica
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.jobs import JobKind
from feedcore.domain.policy import Mode
from feedcore.domain.publish_plan import (
    NO_SUCH_POST,
    check_replay,
    deletion_refused,
    plan_publish,
)
from feedcore.errors import IdempotencyConflict, NotFound, StoreError
from feedcore.limits import DAY_MS, RETENTION_MS
from feedcore.ports import Content, NewPost, Post, PostStats, Published, Timelines

_IDS_PER_QUERY = 500  # an IN list that stays in SQLite's statement cache
_MODES = ("push", "pull")


@lru_cache(maxsize=512)
def _content_sql(count: int) -> str:
    return (
        "SELECT p.content_id, p.content, coalesce(c.likes, 0), coalesce(c.comments, 0),"
        " coalesce(c.shares, 0) FROM posts p LEFT JOIN post_counts c USING (content_id)"
        f" WHERE p.content_id IN ({marks(count)})"
    )


class EmbeddedPostStore:
    """See `ports.posts.PostStore`."""

    def __init__(
        self, conn: sqlite3.Connection, writer: Writer, replica: Replica, clock: Clock
    ) -> None:
        self._conn = conn
        self._writer = writer
        self._replica = replica
        self._clock = clock

    async def publish(self, post: NewPost) -> Published:
        """Post, outbox, idempotency key and job, in one commit shared with others."""
        self._writer.require_room()
        now_ms = self._clock.now_ms()
        return await self._writer.run(lambda conn: _publish(conn, post, now_ms))

    async def import_posts(self, posts: list[NewPost]) -> list[Published | None]:
        """In order, in one commit."""
        self._writer.require_room()
        now_ms = self._clock.now_ms()

        def work(conn: Connection) -> list[Published | None]:
            answers: list[Published | None] = []
            for post in posts:
                try:
                    answers.append(_publish(conn, post, now_ms))
                except IdempotencyConflict:
                    answers.append(None)
            return answers

        return await self._writer.run(work)

    async def delete(self, author_id: int, content_id: int, now_ms: int) -> None:
        """The tombstone outlives everything that could still point at the post."""
        await self._writer.run(lambda conn: _delete(conn, author_id, content_id, now_ms))

    async def get(self, content_id: int) -> Post | None:
        """One row."""
        sql = "SELECT author_id, content, visibility FROM posts WHERE content_id = ?"
        row = self._conn.execute(sql, (content_id,)).fetchone()
        return Post(content_id, row[0], row[1], row[2]) if row else None

    async def timelines(
        self, author_ids: Sequence[int], at_or_below: int, not_below: int, limit: int
    ) -> Timelines:
        """One array an author, in the order asked for; cut to bounds only by the caller's merge."""
        self._replica.refresh()
        oldest_day = (self._clock.now_ms() - RETENTION_MS) // DAY_MS
        return self._replica.timelines.read(author_ids, min(oldest_day, ids.day(not_below)))

    async def stats(self, content_id: int) -> PostStats | None:
        """Counters as far as they are applied."""
        sql = (
            "SELECT p.author_id, coalesce(c.likes, 0), coalesce(c.comments, 0),"
            " coalesce(c.shares, 0), coalesce(c.clicks, 0), coalesce(c.hides, 0),"
            " coalesce(c.impressions, 0), p.reach, p.mode, p.fanned_out_ms FROM posts p"
            " LEFT JOIN post_counts c USING (content_id)"
            " WHERE p.content_id = ?"
        )
        row = self._conn.execute(sql, (content_id,)).fetchone()
        if row is None:
            return None
        *counts, mode, fanned_out_ms = row
        return PostStats._make((content_id, *counts, _MODES[mode], fanned_out_ms))

    def tombstones(self) -> native.U64Set:
        """The replica's set: do not change it."""
        self._replica.refresh()
        return self._replica.tombstones

    def trending(self) -> bytes:
        """As of the last `SignalStore.refresh_trending`."""
        self._replica.refresh()
        return self._replica.trending

    async def content_id_of(self, author_id: int, idempotency_key: str) -> int:
        """By key."""
        sql = "SELECT content_id FROM idempotency WHERE author_id = ? AND key = ?"
        row = self._conn.execute(sql, (author_id, idempotency_key)).fetchone()
        return row[0] if row else 0

    async def newest_content_id(self) -> int:
        """Deleted ones count, too: their ids must not be given out again."""
        sql = (
            "SELECT max(coalesce((SELECT max(content_id) FROM posts), 0),"
            " coalesce((SELECT max(content_id) FROM tombstones), 0))"
        )
        return self._conn.execute(sql).fetchone()[0]


class EmbeddedContentSource:
    """See `ports.content.ContentSource`."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """One query for all."""
        asked = list(content_ids)
        found = {
            row[0]: Content._make(row[1:])
            for start in range(0, len(asked), _IDS_PER_QUERY)
            for row in self._query(asked[start : start + _IDS_PER_QUERY])
        }
        return [found.get(content_id) for content_id in asked]

    def _query(self, asked: list[int]) -> sqlite3.Cursor:
        return self._conn.execute(_content_sql(len(asked)), asked)


def _publish(conn: Connection, post: NewPost, now_ms: int) -> Published:
    if post.idempotency_key:
        sql = "SELECT digest, content_id FROM idempotency WHERE author_id = ? AND key = ?"
        row = conn.execute(sql, (post.author_id, post.idempotency_key)).fetchone()
        if row is not None:
            check_replay(post, row[0])
            return Published(row[1], True)
    content_id = _free_id(conn, post.content_id)
    if post.idempotency_key:
        key_row = (post.author_id, post.idempotency_key, post.digest, content_id)
        conn.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", key_row)
    row = conn.execute("SELECT mode FROM authors WHERE author_id = ?", (post.author_id,)).fetchone()
    plan = plan_publish(post, content_id, row[0] if row else Mode.PUSH, now_ms)
    conn.execute(
        "INSERT INTO posts VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(content_id, post.author_id, post.visibility, int(plan.pulled)),
            *(plan.reach, plan.finished_ms, post.content),
        ),
    )
    conn.changes.contents.append(content_id)
    if plan.kept:
        conn.execute(
            "INSERT INTO author_outbox VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET entries = CAST(excluded.entries || entries AS BLOB)",
            (post.author_id, ids.day(content_id), plan.entry),
        )
        conn.execute("INSERT INTO outbox_changes (author_id) VALUES (?)", (post.author_id,))
        conn.changes.authors.append(post.author_id)
        conn.changes.feeds.append(post.author_id)
    conn.executemany(
        "INSERT INTO fanout_jobs"
        " (kind, lane, content_id, author_id, user_id, entry, created_ms)"
        " VALUES (?, ?, ?, ?, 0, ?, ?)",
        [
            (JobKind.POST.value, int(lane), content_id, post.author_id, plan.entry, now_ms)
            for lane in plan.lanes
        ],
    )
    return Published(content_id, False)


def _free_id(conn: sqlite3.Connection, content_id: int) -> int:
    taken = (
        "SELECT 1 FROM posts WHERE content_id = ?1 UNION ALL"
        " SELECT 1 FROM tombstones WHERE content_id = ?1"
    )
    last = content_id | ids.SEQUENCE_MAX
    for candidate in range(content_id, last + 1):
        if conn.execute(taken, (candidate,)).fetchone() is None:
            return candidate
    raise StoreError(
        f"content ids from {content_id} to {last} are taken: two processes share a node number"
    )


def _delete(conn: Connection, author_id: int, content_id: int, now_ms: int) -> None:
    row = conn.execute("SELECT author_id FROM posts WHERE content_id = ?", (content_id,)).fetchone()
    known = (
        row
        or conn.execute(
            "SELECT author_id FROM tombstones WHERE content_id = ?", (content_id,)
        ).fetchone()
    )
    if known is None:
        raise NotFound(NO_SUCH_POST)
    if known[0] != author_id:
        raise deletion_refused(author_known=_is_author(conn, author_id))
    if row is None:
        return
    conn.execute(
        "INSERT INTO tombstones (content_id, author_id, deleted_ms) VALUES (?, ?, ?)",
        (content_id, row[0], now_ms),
    )
    conn.execute("DELETE FROM posts WHERE content_id = ?", (content_id,))
    conn.changes.contents.append(content_id)
    bump(conn, "tombstones")


def _is_author(conn: sqlite3.Connection, author_id: int) -> bool:
    """Whether anything is known of the author: posts within retention, or followers ever."""
    sql = (
        "SELECT EXISTS (SELECT 1 FROM author_outbox WHERE author_id = ?1)"
        " OR EXISTS (SELECT 1 FROM authors WHERE author_id = ?1)"
    )
    return bool(conn.execute(sql, (author_id,)).fetchone()[0])
