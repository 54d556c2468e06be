"""The system of record of node-wide state, in CQL tables."""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.common.engagement_table import PAIR
from feedcore.adapters.cql.counting.counters import ENGAGEMENT_BUCKETS
from feedcore.adapters.cql.driver.ids import bigints
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement
from feedcore.adapters.cql.stores.settings import CqlSettingsRecord
from feedcore.limits import CLOCK_AHEAD_MAX_MS, DAY_MS, ENGAGEMENT_SLOTS, HOUR_MS
from feedcore.resilience.gather import gather_bounded

_TOMBSTONES = Statement("SELECT content_id FROM tombstones WHERE hour = ? AND at_ms >= ?")
_TRENDING = Statement("SELECT packed FROM trending WHERE bucket = 0")
_ENGAGEMENT = Statement(
    "SELECT pair FROM engagement WHERE day = ? AND bucket = ? LIMIT ?", Consistency.ONE
)
# the newest of each partition: a table with more would have no room for them
_A_PARTITION = ENGAGEMENT_SLOTS // ENGAGEMENT_BUCKETS


class CqlSystemOfRecord(CqlSettingsRecord):
    """See `contracts.replica.SystemOfRecord`. Settings and modes are the base class's."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """By the clocks of those who deleted: ask from a minute earlier than you know of."""
        hours = range(since_ms // HOUR_MS, (now_ms + CLOCK_AHEAD_MAX_MS) // HOUR_MS + 1)

        async def read(hour: int) -> Sequence[int]:
            return bigints(await self._session.read_packed(_TOMBSTONES, (hour, since_ms)))

        return [content_id for part in await gather_bounded(hours, read) for content_id in part]

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
