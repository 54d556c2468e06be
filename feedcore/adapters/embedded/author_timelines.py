"""Author timelines, read through a cache that is bounded in bytes and never stale.

Timelines of pulled authors are read by all their followers: the same few hundred bytes again and
again. A publish notes its author in `outbox_changes`, in its own commit; the replica forgets the
noted authors here before each read. So a cached timeline equals what SQLite holds. The oldest are
evicted first. Not for bounds: a timeline is cached whole, from the oldest day of the retention on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache

from feedcore import native
from feedcore.adapters.embedded.database import marks
from feedcore.limits import TIMELINE_CACHE_BYTES
from feedcore.ports import Timelines

_AUTHORS_PER_QUERY = 500  # an IN list that stays in SQLite's statement cache
_OVERHEAD_BYTES = 150  # of a dictionary slot, an int and a bytes object


@lru_cache(maxsize=512)
def _sql(count: int) -> str:
    return (
        f"SELECT author_id, entries FROM author_outbox WHERE author_id IN ({marks(count)})"
        " AND day >= ?"
    )


class TimelineCache:
    """One a process; belongs to the thread that owns the connection."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._timelines: dict[int, bytes] = {}
        self._bytes = 0

    def forget(self, author_ids: Iterable[int]) -> None:
        """Drops the timelines of authors who have published."""
        for author_id in author_ids:
            self._drop(author_id)

    def clear(self) -> None:
        """Drops everything: the store cannot say what has changed."""
        self._timelines.clear()
        self._bytes = 0

    def read(self, author_ids: Sequence[int], first_day: int) -> Timelines:
        """Entries of each, newest first, in the order asked for; b"" if there are none."""
        known = self._timelines.get
        found = [known(author_id) for author_id in author_ids]
        whole = [entries for entries in found if entries is not None]
        if len(whole) == len(found):
            return Timelines(whole, len(whole))
        missing = [a for a, entries in zip(author_ids, found, strict=True) if entries is None]
        loaded = self.load(missing, first_day)
        for author_id, entries in loaded.items():
            self._keep(author_id, entries)
        entries_of = [
            loaded[author_id] if entries is None else entries
            for author_id, entries in zip(author_ids, found, strict=True)
        ]
        return Timelines(entries_of, len(whole))

    def load(self, author_ids: Sequence[int], first_day: int) -> dict[int, bytes]:
        """author -> entries, newest first, b"" if there are none; past the cache."""
        days: dict[int, bytes] = {}
        asked = list(author_ids)
        for start in range(0, len(asked), _AUTHORS_PER_QUERY):
            part = asked[start : start + _AUTHORS_PER_QUERY]
            for author, entries in self._conn.execute(_sql(len(part)), (*part, first_day)):
                days[author] = entries + days[author] if author in days else entries
        sort = native.sort_entries
        return {
            author_id: sort(days[key]) if key in days else b""
            for author_id, key in zip(author_ids, asked, strict=True)
        }

    def _keep(self, author_id: int, entries: bytes) -> None:
        self._drop(author_id)
        self._timelines[author_id] = entries
        self._bytes += len(entries) + _OVERHEAD_BYTES
        while self._bytes > TIMELINE_CACHE_BYTES:
            self._drop(next(iter(self._timelines)))

    def _drop(self, author_id: int) -> None:
        entries = self._timelines.pop(author_id, None)
        if entries is not None:
            self._bytes -= len(entries) + _OVERHEAD_BYTES
