"""Rebuild: the stored feeds are derived again from posts and graph, in a store that no other
process has open.

For each pushed author, in chunks: the timeline to every active follower. What was waiting to be
merged is part of that, so it is dropped; jobs that are not done go on afterwards.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from feedcore.adapters.embedded.queue import drop_jobs
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.limits import MERGE_DELIVERIES_MAX, RETENTION_MS
from feedcore.ports import Delivery, Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from feedcore.adapters.embedded.database import Connection
    from feedcore.adapters.embedded.store import EmbeddedStore
    from feedcore.ports import GraphSource

FOLLOWERS_PER_CHUNK = 1_000  # x a busy author's timeline: bounds what one delivery row holds


async def rebuild(
    store: EmbeddedStore,
    progress: Callable[[int], object] = lambda items: None,
    graph: GraphSource | None = None,
) -> int:
    """Derives all stored feeds; the number of items. `store` must be opened with exclusive=True.
    `graph`: another team's, in place of the store's own.

    `progress` is called with the items so far. Killed half way, it is to be started again.
    """
    store.require_exclusive()
    follows = graph or store.graph
    await store.writer.run(_forget)
    shutil.rmtree(store.feeds_dir, ignore_errors=True)
    store.mark_feeds()
    now_ms = store.clock.now_ms()
    oldest = ids.first_id_at(now_ms - RETENTION_MS)
    items = waiting = 0
    for author_id in _authors(store):
        timeline = (await store.posts.timelines([author_id], ids.ID_MAX, oldest, 0)).entries[0]
        entries = _pushed_entries(timeline)
        after = 0
        while entries:
            page = await follows.push_recipients(author_id, after, FOLLOWERS_PER_CHUNK, Lane.ALL, 0)
            if page.ids:
                await store.feeds.deliver([Delivery(entries, page.ids)])
                new = len(page.ids) // 8 * (len(entries) // entries_of.ENTRY_BYTES)
                items += new
                waiting += new
            if waiting >= MERGE_DELIVERIES_MAX:
                await store.merge_all()
                waiting = 0
                progress(items)
            after = page.next_after
            if not after:
                break
    await store.merge_all()
    progress(items)
    await store.writer.run(lambda conn: conn.execute("DELETE FROM blobs WHERE name = 'rebuilding'"))
    return items


def _forget(conn: Connection) -> None:
    conn.execute("INSERT OR REPLACE INTO blobs VALUES ('rebuilding', x'01')")
    conn.execute("DELETE FROM runs")
    conn.execute("DELETE FROM deliveries")
    conn.execute(
        "UPDATE versions SET runs = runs + 1, backlog = 0, merged_seq ="
        " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'), 0)"
    )
    done = conn.execute("SELECT job_id FROM fanout_jobs WHERE state = 1").fetchall()
    drop_jobs(conn, [row[0] for row in done])
    conn.execute("DELETE FROM rebuilding_users WHERE done_seq IS NOT NULL")


def _authors(store: EmbeddedStore) -> list[int]:
    """Who is pushed, also those that are still draining."""
    sql = (
        "SELECT DISTINCT o.author_id FROM author_outbox o LEFT JOIN authors a USING (author_id)"
        " WHERE coalesce(a.mode, 0) <> ? ORDER BY o.author_id"
    )
    return [row[0] for row in store.connection.execute(sql, (int(Mode.PULL),))]


def _pushed_entries(entries: bytes) -> bytes:
    """Private posts are in the author's timeline alone."""
    return b"".join(
        entries_of.pack(row.content_id, row.author_id, row.quality, row.flags)
        for row in entries_of.unpack(entries)
        if row.visibility != entries_of.Visibility.PRIVATE
    )
