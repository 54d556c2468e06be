"""The engagement map file: made, sized and rebuilt here; looked up through `native`.

Derived data: a missing file is made from the counts in the store; a torn, foreign or damaged one is
filled again where it lies, since other processes may have it mapped. All of it is allocated: a
write into a hole of a full disk would end the process (SIGBUS).
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
_MAGIC = b"FEEDENG2"
_FILE_BYTES = _HEADER_BYTES + ENGAGEMENT_SLOTS * SLOT_BYTES


class EngagementMap:
    """The file, mapped by every process; the fan-out process writes, all read."""

    def __init__(self, path: Path, store_id: bytes, conn: sqlite3.Connection) -> None:
        self._path, self._store_id = path, store_id
        if not path.exists():
            self._make(conn)
        elif not _is_ours(path, store_id):
            self._fill(path, conn)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
        self.slots = memoryview(self._map)[_HEADER_BYTES:]

    def lookup(self, entries: bytes) -> bytes:
        """One f32 LE an entry."""
        return native.engagement_lookup(self.slots, entries)

    def store(self, content_id: int, weight: float) -> None:
        """Absolute, so that storing again is the same."""
        native.engagement_store(self.slots, content_id, engagement_of(weight))

    def mend(self, conn: sqlite3.Connection) -> int:
        """Fills the map again if slots of it are damaged; how many were. For the process that
        writes; blocks.
        """
        damaged = native.engagement_damaged(self.slots)
        if damaged:
            self._fill(self._path, conn)
        return damaged

    def close(self) -> None:
        """Releases the map."""
        self.slots.release()
        self._map.close()

    def _make(self, conn: sqlite3.Connection) -> None:
        """Complete before it gets its name."""
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._fill(draft, conn)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def _fill(self, path: Path, conn: sqlite3.Connection) -> None:
        """From the newest posts that have engagement."""
        table = bytearray(_FILE_BYTES)
        table[:24] = _MAGIC + self._store_id
        with memoryview(table)[_HEADER_BYTES:] as slots:
            sql = (
                "SELECT content_id, weight FROM post_counts WHERE weight > 0"
                " ORDER BY content_id DESC LIMIT ?"
            )
            for content_id, weight in conn.execute(sql, (ENGAGEMENT_SLOTS,)):
                native.engagement_store(slots, content_id, engagement_of(weight))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, _FILE_BYTES)
            os.ftruncate(fd, _FILE_BYTES)
            os.pwrite(fd, table, 0)
        finally:
            os.close(fd)


def _is_ours(path: Path, store_id: bytes) -> bool:
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    return size == _FILE_BYTES and header[:24] == _MAGIC + store_id
