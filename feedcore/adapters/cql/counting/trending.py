"""Trending: the posts with most engagement lately, as one row that all nodes replica.

Nobody can look at all posts of two days. Candidates are: what this process has counted lately, what
is trending now (so that what other workers found stays as long as it is worth it), and now and then
the newest posts with engagement. Their weights are those of the engagement table, which is current.
Where that gives too few, a sample of the newest public posts fills up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from feedcore import native
from feedcore.adapters.common.engagement_table import PAIR, EngagementTable
from feedcore.adapters.cql.counting.counters import ENGAGEMENT_BUCKETS
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement
from feedcore.domain import entry as entries_of
from feedcore.domain.engagement import weight_of
from feedcore.domain.trending import (
    TRENDING_CANDIDATES,
    TRENDING_WINDOW_MS,
    filled_up,
    heaviest,
    oldest_id,
    timeless_worth,
)
from feedcore.limits import DAY_MS, HOUR_MS, MINUTE_MS, TRENDING_ENTRIES
from feedcore.resilience.gather import gather_bounded

SCAN_EVERY_MS = MINUTE_MS  # for what workers counted that are gone since
SCANNED_A_PARTITION = 500  # 48,000 posts of three days: 0.1 s of one core
CHOSEN_MAX = 2 * TRENDING_ENTRIES  # looked up; deleted and not public ones drop out

_NEWEST = Statement(
    "SELECT pair FROM engagement WHERE day = ? AND bucket = ? LIMIT ?", Consistency.ONE
)
_POST = Statement("SELECT entry, visibility FROM posts WHERE content_id = ?")
_RECENT = Statement("SELECT entry FROM recent WHERE hour = ? LIMIT ?", Consistency.ONE)
_STORED = Statement("SELECT packed FROM trending WHERE bucket = 0")
_STORE = Statement("INSERT INTO trending (bucket, packed) VALUES (0, ?)")


class Trending:
    """One a process."""

    def __init__(self, session: Session, table: EngagementTable) -> None:
        self._session = session
        self._table = table
        self._counted: dict[int, float] = {}
        self._scanned_ms = -SCAN_EVERY_MS

    def note(self, pairs: Iterable[tuple[int, float]]) -> None:
        """(content_id, engagement) just counted."""
        self._counted.update(pairs)
        if len(self._counted) > 2 * TRENDING_CANDIDATES:
            best = heapq.nlargest(
                TRENDING_CANDIDATES, self._counted.items(), key=lambda one: timeless_worth(*one)
            )
            self._counted = dict(best)

    async def refresh(self, now_ms: int) -> bool:
        """Whether something else is trending than before."""
        rows = await self._session.read(_STORED)
        stored = rows[0][0] or b"" if rows else b""
        oldest = oldest_id(now_ms)
        wanted = {*self._counted, *entries_of.content_ids(stored)}
        if now_ms - self._scanned_ms >= SCAN_EVERY_MS:
            wanted |= await self._scan(now_ms)
            self._scanned_ms = now_ms
        chosen = self._heaviest([one for one in wanted if one >= oldest], now_ms)
        entries = await self._public(chosen)
        if len(entries) < TRENDING_ENTRIES:
            entries = await self._fill(entries, now_ms)
        value = native.sort_entries(b"".join(entries.values()))
        if value == stored:
            return False
        await self._session.write(_STORE, (value,))
        return True

    def _heaviest(self, content_ids: list[int], now_ms: int) -> list[int]:
        keys = [entries_of.pack(content_id, 0) for content_id in content_ids]
        values = memoryview(self._table.lookup(b"".join(keys))).cast("f")
        weights = [weight_of(value) for value in values]
        return heaviest(zip(content_ids, weights, strict=True), now_ms, CHOSEN_MAX)

    async def _scan(self, now_ms: int) -> set[int]:
        """Newest posts with engagement; their values go into the table."""
        days = range((now_ms - TRENDING_WINDOW_MS) // DAY_MS, now_ms // DAY_MS + 1)
        keys = [
            (day, bucket, SCANNED_A_PARTITION)
            for day in days
            for bucket in range(ENGAGEMENT_BUCKETS)
        ]

        async def read(key: tuple[int, int, int]) -> set[int]:
            pairs = await self._session.read_packed(_NEWEST, key)
            self._table.apply(pairs)
            return {content_id for content_id, _ in PAIR.iter_unpack(pairs)}

        return set().union(*await gather_bounded(keys, read))

    async def _public(self, content_ids: list[int]) -> dict[int, bytes]:
        """content -> entry of the first TRENDING_ENTRIES that are there and public."""
        rows = await self._session.read_many(_POST, [(one,) for one in content_ids])
        public = [
            (content_id, row[0][0])
            for content_id, row in zip(content_ids, rows, strict=True)
            if row and row[0][0] is not None and row[0][1] == entries_of.Visibility.PUBLIC
        ]
        return dict(public[:TRENDING_ENTRIES])

    async def _fill(self, entries: dict[int, bytes], now_ms: int) -> dict[int, bytes]:
        hours = range(now_ms // HOUR_MS, (now_ms - TRENDING_WINDOW_MS) // HOUR_MS - 1, -1)

        async def read(hour: int) -> bytes:
            return await self._session.read_packed(_RECENT, (hour, TRENDING_ENTRIES))

        newest: list[int] = []
        for at in range(0, len(hours), 8):
            parts = await gather_bounded(hours[at : at + 8], read)
            newest += [one for one in entries_of.content_ids(b"".join(parts)) if one not in entries]
            if len(newest) >= CHOSEN_MAX:
                break
        filled = await self._public(newest[:CHOSEN_MAX])
        known = filled | entries
        return {one: known[one] for one in filled_up(list(entries), filled, now_ms)}
