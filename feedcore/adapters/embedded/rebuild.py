"""Stored feeds are derived again from posts and graph: all of them, or days that were damaged.

For each pushed author, in chunks: the timeline to every active follower.

`rebuild` needs a store that no other process has open. What was waiting to be merged is part of
that, so it is dropped; jobs that are not done go on afterwards. `Repair` works in the fan-out
process beside everything else:

    idle       no day is damaged
    deriving   authors with posts of those days, one chunk of followers a step
    merging    everything is delivered and waits for the merge
    idle       the days are whole, but those that were damaged again meanwhile

Its state is in memory alone: killed half way, it begins again, and delivers again what is there.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from feedcore.adapters.embedded.damage import end_damage, numbered_damage
from feedcore.adapters.embedded.database import marks
from feedcore.adapters.embedded.feeds import last_delivery, merged_delivery
from feedcore.adapters.embedded.queue import drop_jobs
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.limits import DAY_MS, DELIVERY_BACKLOG_MAX, MERGE_DELIVERIES_MAX, RETENTION_MS
from feedcore.ports import Delivery, Lane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from feedcore.adapters.embedded.database import Connection
    from feedcore.adapters.embedded.store import EmbeddedStore
    from feedcore.ports import GraphSource

FOLLOWERS_PER_CHUNK = 1_000  # x a busy author's timeline: bounds what one delivery row holds
REPAIR_IDLE_S = 0.5  # damaged days are looked for so often: one row
REPAIR_WAIT_S = 0.05  # for the merge

log = logging.getLogger(__name__)


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
        async for new in _deliver(store, follows, author_id, timeline):
            items += new
            waiting += new
            if waiting >= MERGE_DELIVERIES_MAX:
                await store.merge_all()
                waiting = 0
                progress(items)
    await store.merge_all()
    progress(items)
    await store.writer.run(lambda conn: conn.execute("DELETE FROM blobs WHERE name = 'rebuilding'"))
    return items


async def _deliver(
    store: EmbeddedStore, follows: GraphSource, author_id: int, timeline: bytes
) -> AsyncIterator[int]:
    """Delivers a timeline to the author's followers; how many items, chunk by chunk."""
    entries = _pushed_entries(timeline)
    after = 0
    while entries:
        page = await follows.push_recipients(author_id, after, FOLLOWERS_PER_CHUNK, Lane.ALL, 0)
        if page.ids:
            await store.feeds.deliver([Delivery(entries, page.ids)])
            yield len(page.ids) // 8 * (len(entries) // entries_of.ENTRY_BYTES)
        after = page.next_after
        if not after:
            return


class Repair:
    """Derives damaged days again; one a data directory, in the process that fans out."""

    def __init__(self, store: EmbeddedStore, graph: GraphSource) -> None:
        self._store = store
        self._graph = graph
        self._days: dict[int, tuple[int, str]] = {}
        self._deriving: AsyncIterator[int] | None = None
        self._last_delivery = 0
        self._items = 0

    async def step(self, now_ms: int) -> float:
        """Does a little of what is to do; how many seconds to wait before the next step."""
        conn = self._store.connection
        if not self._days:
            self._days = numbered_damage(conn)
            if not self._days:
                return REPAIR_IDLE_S
            log.warning("feeds of the days %s are derived again", sorted(self._days))
            self._deriving, self._items = self._derive(list(self._days), now_ms), 0
        if self._deriving is not None:
            if self._store.feeds.backlog() > DELIVERY_BACKLOG_MAX:
                return REPAIR_WAIT_S
            try:
                self._items += await anext(self._deriving)
                return 0.0
            except StopAsyncIteration:
                self._deriving = None
                self._last_delivery = last_delivery(conn)
            except BaseException:
                self._days = {}  # from the beginning: a generator that has failed is at its end
                raise
        if merged_delivery(conn) < self._last_delivery:
            return REPAIR_WAIT_S
        days, self._days = self._days, {}
        await self._store.writer.run(lambda conn: end_damage(conn, days))
        log.warning("feeds of the days %s are whole: %d items", sorted(days), self._items)
        return 0.0

    async def _derive(self, days: list[int], now_ms: int) -> AsyncIterator[int]:
        first_day = (now_ms - RETENTION_MS) // DAY_MS
        kept = [day for day in days if day >= first_day]
        conn, marked = self._store.connection, marks(len(kept))
        sql = (
            "SELECT DISTINCT o.author_id FROM author_outbox o LEFT JOIN authors a USING (author_id)"
            f" WHERE o.day IN ({marked}) AND coalesce(a.mode, 0) <> ? ORDER BY o.author_id"
        )
        authors = [row[0] for row in conn.execute(sql, (*kept, int(Mode.PULL)))]
        sql = f"SELECT entries FROM author_outbox WHERE author_id = ? AND day IN ({marked})"
        for author_id in authors:
            timeline = b"".join(row[0] for row in conn.execute(sql, (author_id, *kept)))
            async for new in _deliver(self._store, self._graph, author_id, timeline):
                yield new


def _forget(conn: Connection) -> None:
    conn.execute("INSERT OR REPLACE INTO blobs VALUES ('rebuilding', x'01')")
    conn.execute("DELETE FROM runs")
    end_damage(conn, numbered_damage(conn))
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
