"""Run files: `feeds/<day>/<run_id>.run`, and the set of them that a process has open.

Layout: 64 bytes header, entries, padding to 8, users, offsets (`codecs.runs`). A file is complete
before its row is committed to `runs`, and never changes, but for REMOVED bits (one byte each,
idempotent). Rows say which files count; other files are leftovers. A reader keeps its maps when
files are unlinked.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from feedcore import native
from feedcore.codecs.runs import RunView
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import StoreError

_HEADER = struct.Struct("<8s16sQQQQII")
HEADER_BYTES = 64
_MAGIC = b"FEEDRUN1"
assert _HEADER.size == HEADER_BYTES


class RunRow(NamedTuple):
    """A row of `runs`."""

    run_id: int
    day: int
    users: int
    entries: int
    removed: int


def run_path(feeds_dir: Path, day: int, run_id: int) -> Path:
    """Where a run is."""
    return feeds_dir / str(day) / f"{run_id}.run"


def write_run(
    path: Path,
    store_id: bytes,
    day: int,
    produce: Callable[[Callable[[bytes], object]], tuple[bytes, bytes]],
) -> tuple[int, int]:
    """Writes and fsyncs one file; `produce(sink)` sends the entries and returns (users, offsets).

    Returns the numbers (users, entries). The directory is made durable, too. OSError if the disk is
    full.
    """
    path.parent.mkdir(exist_ok=True)
    entry_bytes = crc = 0
    with path.open("wb", buffering=0) as file:
        _write(file, bytes(HEADER_BYTES))

        def sink(piece: bytes) -> None:
            nonlocal entry_bytes, crc
            entry_bytes += len(piece)
            crc = zlib.crc32(piece, crc)
            _write(file, piece)

        users, offsets = produce(sink)
        tail = bytes(-entry_bytes % 8) + users + offsets
        _write(file, tail)
        count = len(users) // 8
        entries = entry_bytes // ENTRY_BYTES
        header = _HEADER.pack(_MAGIC, store_id, day, count, entries, 0, crc, zlib.crc32(tail))
        os.pwrite(file.fileno(), header, 0)
        os.fsync(file.fileno())
    for directory in (path.parent, path.parent.parent):
        sync_directory(directory)
    return count, entries


def _write(file: object, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]  # type: ignore[attr-defined]


def sync_directory(path: Path) -> None:
    """Makes new and removed names in it durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class RunFile:
    """One run, mapped. Lookups cost a binary search in the users and one copy."""

    __slots__ = ("_map", "_offsets", "_path", "_users", "entries", "row", "users")

    def __init__(self, path: Path, store_id: bytes, row: RunRow) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.row = row
        self._path = path
        header = _HEADER.unpack_from(self._map)
        if header[:5] != (_MAGIC, store_id, row.day, row.users, row.entries):
            raise StoreError(f"{path} is not the run its store speaks of; run 'feedcore rebuild'")
        users_at = HEADER_BYTES + row.entries * ENTRY_BYTES
        users_at += -users_at % 8
        offsets_at = users_at + 8 * row.users
        if len(self._map) != offsets_at + 4 * (row.users + 1):
            raise StoreError(f"{path} is torn ({len(self._map)} bytes); run 'feedcore rebuild'")
        view = memoryview(self._map)
        self._users = view[users_at:offsets_at].cast("Q")
        self._offsets = view[offsets_at:].cast("I")
        self.entries = row.entries
        self.users = row.users

    def parts(self) -> tuple[memoryview, memoryview, memoryview]:
        """(users, offsets, entries) for merging; the views die with the object."""
        end = HEADER_BYTES + self.entries * ENTRY_BYTES
        return self._users, self._offsets, memoryview(self._map)[HEADER_BYTES:end]

    def slice_of(self, user_id: int) -> tuple[int, int]:
        """Byte positions of the user's entries in the file; equal if there are none."""
        at = bisect_left(self._users, user_id)
        if at == self.users or self._users[at] != user_id:
            return 0, 0
        offsets = self._offsets
        return (
            HEADER_BYTES + offsets[at] * ENTRY_BYTES,
            HEADER_BYTES + offsets[at + 1] * ENTRY_BYTES,
        )

    def view(self) -> RunView:
        """For lookups of one user after the other."""
        return RunView(self.row.run_id, self.row.day, *self.parts(), self.row.removed > 0)

    def bytes_at(self, start: int, end: int) -> bytes:
        """A piece of the file as it is, removed entries and all."""
        return self._map[start:end]

    def check(self) -> None:
        """Raises StoreError if the file's index does not have its checksum (merging reads all of
        it).
        """
        end = HEADER_BYTES + self.entries * ENTRY_BYTES
        if zlib.crc32(memoryview(self._map)[end:]) != _HEADER.unpack_from(self._map)[7]:
            raise StoreError(f"{self._path} is corrupt; run 'feedcore rebuild'")


class RunSet:
    """The runs that count, by day, opened when first read."""

    def __init__(self, feeds_dir: Path, store_id: bytes) -> None:
        self._feeds_dir = feeds_dir
        self._store_id = store_id
        self._rows: dict[int, RunRow] = {}
        self._open: dict[int, RunFile] = {}
        self._days: dict[int, list[RunRow]] = {}
        self._index: native.RunIndex | None = None

    def replace(self, rows: Sequence[RunRow]) -> None:
        """Takes a new set; files that are no longer in it are released."""
        self._rows = {row.run_id: row for row in rows}
        for run_id in [run_id for run_id in self._open if run_id not in self._rows]:
            del self._open[run_id]
        for run_id, file in self._open.items():
            file.row = self._rows[run_id]
        days: dict[int, list[RunRow]] = {}
        for row in rows:
            days.setdefault(row.day, []).append(row)
        self._days = days
        self._index = None

    def rows(self, day: int) -> list[RunRow]:
        """The runs of one day."""
        return self._days.get(day, [])

    def file(self, row: RunRow) -> RunFile:
        """Opens it if need be. FileNotFoundError if another process has replaced the set."""
        file = self._open.get(row.run_id)
        if file is None:
            path = run_path(self._feeds_dir, row.day, row.run_id)
            file = self._open[row.run_id] = RunFile(path, self._store_id, row)
        return file

    def index(self) -> native.RunIndex:
        """Lookups in all of them. FileNotFoundError if another process has replaced the set."""
        if self._index is None:
            rows = self._rows.values()
            self._index = native.RunIndex([self.file(row).view() for row in rows])
        return self._index

    def close(self) -> None:
        """Releases all maps."""
        self._index = None
        self._open.clear()
