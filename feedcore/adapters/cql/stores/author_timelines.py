"""Author timelines: one partition an author and day, read concurrently, newest day first.

Read at quorum: a pulled post is nowhere else, and must be found once it is acknowledged. Not for
caching: the resident set caches timelines until their author publishes.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.domain import ids
from feedcore.limits import CLOCK_AHEAD_MAX_MS, DAY_MS, RETENTION_MS
from feedcore.resilience.gather import gather_bounded

TIMELINES_WIDTH = 64  # partitions under way for one caller: 8 authors with a week each

_ENTRIES = Statement(
    "SELECT entry FROM outbox WHERE author_id = ? AND day = ?"
    " AND content_id <= ? AND content_id >= ? LIMIT ?",
    speculative=True,
)


class AuthorTimelines:
    """One a process."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(
        self, author_ids: Sequence[int], at_or_below: int, not_below: int, limit: int, now_ms: int
    ) -> list[bytes]:
        """Per author the newest entries in bounds, newest first; at least `limit` if there are."""
        days = retained_days(now_ms)
        first = max(days.start, ids.day(not_below))
        last = min(days.stop - 1, ids.day(at_or_below))
        if first > last or not author_ids:
            return [b""] * len(author_ids)
        wanted = range(last, first - 1, -1)
        top, bottom = min(at_or_below, ids.ID_MAX), max(not_below, 0)
        keys = [(author_id, day, top, bottom, limit) for author_id in author_ids for day in wanted]
        parts = await gather_bounded(keys, self._partition, TIMELINES_WIDTH)
        step = len(wanted)
        return [b"".join(parts[at : at + step]) for at in range(0, len(parts), step)]

    async def _partition(self, key: Sequence[int]) -> bytes:
        return await self._session.read_packed(_ENTRIES, key)


def retained_days(now_ms: int) -> range:
    """Days whose partitions may hold something within retention."""
    return range((now_ms - RETENTION_MS) // DAY_MS, (now_ms + CLOCK_AHEAD_MAX_MS) // DAY_MS + 1)
