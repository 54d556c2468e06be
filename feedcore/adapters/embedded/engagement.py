"""The engagement map file: made, sized and rebuilt here; looked up through `native`.

Derived data: a missing, torn or foreign file is made again from the counts in the store.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
from pathlib import Path

from feedcore import native
from feedcore.codecs.engagement import SLOT_BYTES
from feedcore.domain.engagement import engagement_of
from feedcore.limits import ENGAGEMENT_SLOTS

_HEADER_BYTES = 64
_MAGIC = b"FEEDENG1"
_FILE_BYTES = _HEADER_BYTES + ENGAGEMENT_SLOTS * SLOT_BYTES


class EngagementMap:
    """The file, mapped by every process; the fan-out process writes, all read."""

    def __init__(self, path: Path, store_id: bytes, conn: sqlite3.Connection) -> None:
        if not _is_ours(path, store_id):
            _build(path, store_id, conn)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
        self.slots = memoryview(self._map)[_HEADER_BYTES:]

    def lookup(self, entries: bytes) -> bytes:
        """One f32 LE an entry."""
        return native.engagement_lookup(self.slots, entries)

    def store(self, content_id: int, weight: float) -> None:
        """Absolute, so that storing again is the same."""
        native.engagement_store(self.slots, content_id, engagement_of(weight))

    def close(self) -> None:
        """Releases the map."""
        self.slots.release()
        self._map.close()


def _is_ours(path: Path, store_id: bytes) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    return size == _FILE_BYTES and header[:24] == _MAGIC + store_id


def _build(path: Path, store_id: bytes, conn: sqlite3.Connection) -> None:
    """From the newest posts that have engagement; complete before it gets its name."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("w+b") as file:
        file.truncate(_FILE_BYTES)
        with mmap.mmap(file.fileno(), _FILE_BYTES) as table:
            table[:24] = _MAGIC + store_id
            slots = memoryview(table)[_HEADER_BYTES:]
            sql = (
                "SELECT content_id, weight FROM post_counts WHERE weight > 0"
                " ORDER BY content_id DESC LIMIT ?"
            )
            for content_id, weight in conn.execute(sql, (ENGAGEMENT_SLOTS,)):
                native.engagement_store(slots, content_id, engagement_of(weight))
            slots.release()
    draft.replace(path)
