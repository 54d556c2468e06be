"""FeedStore on runs, with the replica as overlay. Writes go to the delivery log: the merger does
the rest.
"""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager

from feedcore import native
from feedcore.adapters.embedded.database import Connection, Writer
from feedcore.adapters.embedded.replica import Replica
from feedcore.domain import ids
from feedcore.domain.entry import ENTRY_BYTES, order_key
from feedcore.domain.jobs import JobKind, Lane
from feedcore.ports import Delivery, Window

_NOT_BUILT = (
    "SELECT EXISTS (SELECT 1 FROM inactive_users WHERE user_id = ?1)"
    " OR EXISTS (SELECT 1 FROM rebuilding_users WHERE user_id = ?1)"
)
# Of a user who is active again since it was queued: whatever it has not read yet is pushed.
_REBUILD_UNDER_WAY = (
    "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM inactive_users WHERE user_id = ?1)"
    " AND EXISTS (SELECT 1 FROM fanout_jobs WHERE user_id = ?1 AND author_id = 0"
    " AND kind = 'rebuild' AND state IN (0, 1))"
)


class EmbeddedFeedStore:
    """See `ports.feeds.FeedStore`. Reads belong to the thread that owns the connection."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer, replica: Replica) -> None:
        self._conn = conn
        self._writer = writer
        self._replica = replica

    def snapshot(self) -> AbstractContextManager[None]:
        """One read transaction of the connection that all ports read with."""
        return self._replica.snapshot()

    async def window(
        self, user_id: int, followees: bytes, at_or_below: int, not_below: int, limit: int
    ) -> Window:
        """The stored runs' slices, and the followed authors' posts that have a job row."""
        replica = self._replica
        replica.refresh()
        pending = tuple(sorted(set(replica.backfills.get(user_id, {}).values())))
        built = not self._conn.execute(_NOT_BUILT, (user_id,)).fetchone()[0]
        at_or_below = min(at_or_below, ids.ID_MAX)
        days = ids.day(not_below), ids.day(at_or_below)
        sources = self._slices(user_id, days, at_or_below, limit)
        damage = replica.damage(*days)
        if len(replica.overlay_authors):
            authors = native.ids_intersect(followees, replica.overlay_authors)
            if authors:
                sources.append(replica.posts_of(authors))
        return Window(sources, built, pending, damage)

    def _slices(
        self, user_id: int, days: tuple[int, int], at_or_below: int, limit: int
    ) -> list[bytes]:
        index = self._replica.run_index()
        while True:
            slices = index.window(user_id, *days, at_or_below, limit)
            if not index.met_run:
                return slices
            index = self._replica.run_index()  # each time without one run more

    def pulled_authors(self, user_id: int, followees: bytes) -> list[int]:
        """Followees in mode PULL or DRAINING, ascending."""
        self._replica.refresh()
        return native.ids_intersect(followees, self._replica.pulled)

    async def request_rebuild(self, user_id: int, now_ms: int) -> None:
        """Active again and queued, in one commit; a read only, if that is so already."""
        user = (user_id,)

        def work(conn: Connection) -> None:
            if conn.execute(_REBUILD_UNDER_WAY, user).fetchone() is None:
                queue_rebuild(conn, user_id, now_ms)

        if self._conn.execute(_REBUILD_UNDER_WAY, user).fetchone() is None:
            await self._writer.run(work, replicated=False)

    async def request_backfill(self, user_id: int, author_id: int, now_ms: int) -> None:
        """One row; readers find it in the replica."""
        await self._request(JobKind.BACKFILL, user_id, author_id, now_ms)

    async def request_removal(self, user_id: int, author_id: int, now_ms: int) -> None:
        """One row."""
        await self._request(JobKind.REMOVE, user_id, author_id, now_ms)

    async def _request(self, kind: JobKind, user_id: int, author_id: int, now_ms: int) -> None:
        def work(conn: Connection) -> None:
            conn.changes.viewers.append(user_id)
            insert_user_job(conn, kind, author_id, user_id, now_ms)

        await self._writer.run(work)

    async def deliver(self, deliveries: list[Delivery]) -> None:
        """One row each in the delivery log."""
        rows, total = [], 0
        for delivery in deliveries:
            entries = len(delivery.entries) // ENTRY_BYTES
            items = max(entries, 1) * (len(delivery.recipients) // 8)
            if not delivery.recipients or not (entries or delivery.remove_author):
                continue
            total += items
            rows.append((items, delivery.remove_author, delivery.entries, delivery.recipients))
        if not rows:
            return

        def work(conn: Connection) -> None:
            sql = (
                "INSERT INTO deliveries (items, remove_author, entries, recipients)"
                " VALUES (?, ?, ?, ?)"
            )
            conn.executemany(sql, rows)
            conn.execute("UPDATE versions SET backlog = backlog + ?", (total,))

        await self._writer.run(work, replicated=False)

    async def delivered(self, user_id: int, content_id: int) -> bool:
        """Looks into the runs of the content's day."""
        self._replica.refresh()
        day = ids.day(content_id)
        key = order_key(content_id)
        slices = self._slices(user_id, (day, day), content_id, 1)
        return any(entries[:8] == key for entries in slices)

    def backlog(self) -> int:
        """Kept as a running total."""
        self._replica.refresh()
        return self._replica.backlog


def last_delivery(conn: sqlite3.Connection) -> int:
    """Number of the newest delivery row there ever was."""
    row = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'").fetchone()
    return row[0] if row else 0


def merged_delivery(conn: sqlite3.Connection) -> int:
    """All delivery rows up to this one are in the runs."""
    return conn.execute("SELECT merged_seq FROM versions").fetchone()[0]


def queue_rebuild(conn: Connection, user_id: int, now_ms: int) -> None:
    """Marks the user active and rebuilding, with a REBUILD job of its own.

    A job that waits already may be at work in this moment, with what it read before this commit.
    """
    conn.changes.viewers.append(user_id)
    conn.execute("DELETE FROM inactive_users WHERE user_id = ?", (user_id,))
    sql = (
        "INSERT INTO viewers VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET last_seen_ms = max(last_seen_ms, excluded.last_seen_ms)"
    )
    conn.execute(sql, (user_id, now_ms))
    conn.execute(
        "INSERT INTO rebuilding_users VALUES (?, NULL) ON CONFLICT DO UPDATE SET done_seq = NULL",
        (user_id,),
    )
    insert_user_job(conn, JobKind.REBUILD, 0, user_id, now_ms)


def insert_user_job(
    conn: sqlite3.Connection, kind: JobKind, author_id: int, user_id: int, now_ms: int
) -> None:
    """A job about one user's feed."""
    sql = (
        "INSERT INTO fanout_jobs (kind, lane, content_id, author_id, user_id, entry, created_ms)"
        " VALUES (?, ?, 0, ?, ?, x'', ?)"
    )
    row = (kind.value, int(Lane.ALL), author_id, user_id, now_ms)
    conn.execute(sql, row)
