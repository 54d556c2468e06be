"""The system of record of node-wide state, in CQL tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

from feedcore.adapters.common.engagement_table import PAIR
from feedcore.adapters.contracts.replica import Document
from feedcore.adapters.cql.counting.counters import ENGAGEMENT_BUCKETS
from feedcore.adapters.cql.driver.ids import bigints
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement
from feedcore.limits import (
    CLOCK_AHEAD_MAX_MS,
    DAY_MS,
    ENGAGEMENT_SLOTS,
    HOUR_MS,
    RANKING_VERSIONS_KEPT,
)
from feedcore.ports.settings import AuthorMode
from feedcore.resilience.gather import gather_bounded

_TOMBSTONES = Statement("SELECT content_id FROM tombstones WHERE hour = ? AND at_ms >= ?")
_NAMES = Statement("SELECT name FROM setting_names WHERE bucket = 0")
_SINCE = Statement("SELECT version, document FROM settings WHERE name = ? AND version > ?")
_MODES = Statement("SELECT author_id, mode, followers, until_ms FROM author_modes WHERE bucket = 0")
_TRENDING = Statement("SELECT packed FROM trending WHERE bucket = 0")
_ENGAGEMENT = Statement(
    "SELECT pair FROM engagement WHERE day = ? AND bucket = ? LIMIT ?", Consistency.ONE
)
# the newest of each partition: a table with more would have no room for them
_A_PARTITION = ENGAGEMENT_SLOTS // ENGAGEMENT_BUCKETS


class CqlSystemOfRecord:
    """See `contracts.replica.SystemOfRecord`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: dict[str, list[Document]] = {}

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """By the clocks of those who deleted: ask from a minute earlier than you know of."""
        hours = range(since_ms // HOUR_MS, (now_ms + CLOCK_AHEAD_MAX_MS) // HOUR_MS + 1)

        async def read(hour: int) -> Sequence[int]:
            return bigints(await self._session.read_packed(_TOMBSTONES, (hour, since_ms)))

        return [content_id for part in await gather_bounded(hours, read) for content_id in part]

    async def author_modes(self) -> list[AuthorMode]:
        """One partition."""
        rows = await self._session.read(_MODES)
        return [AuthorMode(one, mode, n, until) for one, mode, n, until in rows]

    async def documents(self) -> dict[str, list[Document]]:
        """One query of the names, one a name, of versions that were not read before: a version
        never changes.
        """
        names = [row[0] for row in await self._session.read(_NAMES)]
        kept = {name: self._kept.get(name, []) for name in names}
        known = [(name, kept[name][0].version if kept[name] else 0) for name in names]
        for name, rows in zip(names, await self._session.read_many(_SINCE, known), strict=True):
            new = [Document(version, json.loads(text)) for version, text in rows]
            # another call may have read more meanwhile: no reader is shown less than before
            found = self._kept.get(name, [])
            newest = found[0].version if found else 0
            newer = [one for one in new if one.version > newest]
            kept[name] = (newer + found)[:RANKING_VERSIONS_KEPT]
        self._kept |= kept
        return {name: list(found) for name, found in self._kept.items() if found}

    async def trending(self) -> bytes:
        """As of the last `SignalStore.refresh_trending`."""
        rows = await self._session.read(_TRENDING)
        return rows[0][0] or b"" if rows else b""

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        """Newest days first, until there are more than a table holds."""
        days = range((now_ms + CLOCK_AHEAD_MAX_MS) // DAY_MS, since_ms // DAY_MS - 1, -1)
        parts: list[bytes] = []
        size = 0
        for day in days:
            keys = [(day, bucket, _A_PARTITION) for bucket in range(ENGAGEMENT_BUCKETS)]
            found = await gather_bounded(keys, self._pairs)
            parts += found
            size += sum(map(len, found))
            if size >= ENGAGEMENT_SLOTS * PAIR.size:
                break
        # oldest first: where the table is full, the newer ones push the older out
        return b"".join(reversed(parts))

    async def _pairs(self, key: tuple[int, int, int]) -> bytes:
        return await self._session.read_packed(_ENGAGEMENT, key)
