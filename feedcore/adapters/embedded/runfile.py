"""Run files: `feeds/<day>/<run_id>.run`, and the set of them that a process has open.

Layout: 64 bytes header, entries, padding to 8, users, offsets, sums, blocks (`codecs.runs`); files
of version 1 have neither sums nor blocks. A file is complete before its row is committed to `runs`,
and never changes, but for REMOVED bits (one byte each, idempotent). Rows say which files count;
other files are leftovers. A reader keeps its maps when files are unlinked.

State of a run in one process:

    named     its row is in the set
    open      mapped: the header fits the row, the length fits the header, the users have their
              checksum; entries have theirs slice by slice, when they are looked up
    left out  it is not there, cannot be read, or is damaged: what it held is not known here

Invariants: nothing that a lookup gives was read outside a map or differs from what was written
(slices and blocks of users have sums); what is left out is never passed over in silence
(`RunSet.damaged`). Not for mending: the merger sets damaged runs aside, `rebuild.Repair` derives
their days again.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from feedcore import native
from feedcore.codecs.runs import REMOVED_BIT, REMOVED_BYTE, USERS_PER_BLOCK, RunView
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import StoreError
from feedcore.limits import RUN_CHECK_PIECE_BYTES

_HEADER = struct.Struct("<8s16sQQQQII")
HEADER_BYTES = 64
_MAGIC = b"FEEDRUN2"
_MAGIC_WITHOUT_SUMS = b"FEEDRUN1"
_PIECE = RUN_CHECK_PIECE_BYTES // ENTRY_BYTES * ENTRY_BYTES
_BYTES_WITHOUT_BIT = bytes(range(REMOVED_BIT))
_WITHOUT_BIT = bytes(byte & ~REMOVED_BIT for byte in range(256))
assert _HEADER.size == HEADER_BYTES


class DamagedRun(StoreError):
    """A run file that is not what was written: what it held is to be derived again."""


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
    with path.open("w+b", buffering=0) as file:
        _write(file, bytes(HEADER_BYTES))

        def sink(piece: bytes) -> None:
            nonlocal entry_bytes, crc
            entry_bytes += len(piece)
            crc = zlib.crc32(piece, crc)
            _write(file, piece)

        users, offsets = produce(sink)
        index = bytes(-entry_bytes % 8) + users + offsets
        _write(file, index)
        sums = _sums_of(file.fileno(), entry_bytes, users, offsets) + native.run_blocks(users)
        _write(file, sums)
        index_crc = zlib.crc32(sums, zlib.crc32(index))
        count = len(users) // 8
        entries = entry_bytes // ENTRY_BYTES
        users_crc = zlib.crc32(users)
        header = _HEADER.pack(_MAGIC, store_id, day, count, entries, users_crc, crc, index_crc)
        os.pwrite(file.fileno(), header, 0)
        os.fsync(file.fileno())
    for directory in (path.parent, path.parent.parent):
        sync_directory(directory)
    return count, entries


def _sums_of(fd: int, entry_bytes: int, users: bytes, offsets: bytes) -> bytes:
    """Of the entries that were just written: they were handed over piece by piece."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as written, memoryview(written) as view:
        return native.run_sums(users, offsets, view[HEADER_BYTES : HEADER_BYTES + entry_bytes])


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

    __slots__ = (
        "_blocks", "_fences", "_map", "_offsets", "_path", "_sums", "_users",
        "entries", "row", "users",
    )  # fmt: skip

    def __init__(self, path: Path, store_id: bytes, row: RunRow) -> None:
        """Raises DamagedRun, FileNotFoundError, and OSError if it cannot be read now."""
        self.row = row
        self._path = path
        self._map = _mapped(path)
        header = _HEADER.unpack_from(self._map)
        if header[0] not in (_MAGIC, _MAGIC_WITHOUT_SUMS) or header[1:5] != (store_id, *row[1:4]):
            raise DamagedRun(f"{path} is not the run its store speaks of")
        users_at = HEADER_BYTES + row.entries * ENTRY_BYTES
        users_at += -users_at % 8
        offsets_at = users_at + 8 * row.users
        sums_at = offsets_at + 4 * (row.users + 1)
        blocks_at = end = sums_at
        if header[0] == _MAGIC:
            blocks_at += 4 * row.users
            end = blocks_at + 4 * (-(-row.users // USERS_PER_BLOCK))
        if len(self._map) != end:
            raise DamagedRun(f"{path} is torn: {len(self._map)} bytes; {end}")
        view = memoryview(self._map)
        self._users = view[users_at:offsets_at].cast("Q")
        self._offsets = view[offsets_at:sums_at].cast("I")
        self._sums = view[sums_at:blocks_at].cast("I")
        self._blocks = view[blocks_at:].cast("I")
        self._fences = b""
        self.entries = row.entries
        self.users = row.users
        if header[0] == _MAGIC:
            self._fences = self._users[::USERS_PER_BLOCK].tobytes()  # before they are checked
            if zlib.crc32(self._users) != header[5]:
                raise DamagedRun(f"{path} is damaged: its users do not have their checksum")

    def parts(self) -> tuple[memoryview, memoryview, memoryview]:
        """(users, offsets, entries) for merging; the views die with the object."""
        end = HEADER_BYTES + self.entries * ENTRY_BYTES
        return self._users, self._offsets, memoryview(self._map)[HEADER_BYTES:end]

    def slice_of(self, user_id: int) -> tuple[int, int]:
        """Byte positions of the user's entries in the file; equal if there are none. Raises
        DamagedRun.
        """
        at = bisect_left(self._users, user_id)
        if at == self.users or self._users[at] != user_id:
            return 0, 0
        first, end = self._offsets[at], self._offsets[at + 1]
        if first > end or end > self.entries:
            raise DamagedRun(f"{self._path} is damaged: its offsets point outside it")
        return HEADER_BYTES + first * ENTRY_BYTES, HEADER_BYTES + end * ENTRY_BYTES

    def view(self) -> RunView:
        """For lookups of one user after the other."""
        row = self.row
        sums = self._sums, self._blocks, self._fences
        return RunView(row.run_id, row.day, *self.parts(), row.removed > 0, *sums)

    def bytes_at(self, start: int, end: int) -> bytes:
        """A piece of the file as it is, removed entries and all."""
        return self._map[start:end]

    def verify(self) -> Generator[int, None, int]:
        """Compares the whole index and the entries with their checksums, and says after each piece
        how many bytes it has read; returns how many entries are removed. Raises DamagedRun.
        """
        self._check_index()
        entries = self.parts()[2]
        crc = marked = 0
        for start in range(0, len(entries), _PIECE):
            piece = bytearray(entries[start : start + _PIECE])
            flags = piece[REMOVED_BYTE::ENTRY_BYTES]
            gone = len(flags.translate(None, _BYTES_WITHOUT_BIT))
            if gone:
                marked += gone
                piece[REMOVED_BYTE::ENTRY_BYTES] = flags.translate(_WITHOUT_BIT)
            crc = zlib.crc32(piece, crc)
            yield len(piece)
        if crc != self._checksums()[0]:
            raise DamagedRun(f"{self._path} is damaged: its entries do not have their checksum")
        return marked

    def check_removed(self, marked: int) -> None:
        """Raises DamagedRun if more or fewer entries are removed than the row says. Only for the
        process that removes them.
        """
        if marked != self.row.removed:
            raise DamagedRun(
                f"{self._path} is damaged: {marked} entries are removed; {self.row.removed}"
            )

    def count_removed(self) -> int:
        """Entries with the REMOVED bit; reads all of them."""
        entries, marked = self.parts()[2], 0
        for start in range(0, len(entries), _PIECE):
            flags = bytes(entries[start : start + _PIECE])[REMOVED_BYTE::ENTRY_BYTES]
            marked += len(flags.translate(None, _BYTES_WITHOUT_BIT))
        return marked

    def _check_index(self) -> None:
        end = HEADER_BYTES + self.entries * ENTRY_BYTES
        if zlib.crc32(memoryview(self._map)[end:]) != self._checksums()[1]:
            raise DamagedRun(f"{self._path} is damaged: its index does not have its checksum")

    def _checksums(self) -> tuple[int, int]:
        """(entries, index)."""
        *_, entries, index = _HEADER.unpack_from(self._map)
        return entries, index


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < HEADER_BYTES:
                raise DamagedRun(f"{path} is torn: {size} bytes; at least {HEADER_BYTES}")
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except OSError as error:
        if error.errno in (errno.EIO, errno.EISDIR):
            raise DamagedRun(f"{path} cannot be read: {error.strerror}") from error
        raise


class RunSet:
    """The runs that count, by day, opened when first read. `damaged`: those that are left out, with
    the reason.
    """

    def __init__(self, feeds_dir: Path, store_id: bytes) -> None:
        self._feeds_dir = feeds_dir
        self._store_id = store_id
        self._rows: dict[int, RunRow] = {}
        self._open: dict[int, RunFile] = {}
        self._index: native.RunIndex | None = None
        self.damaged: dict[int, str] = {}

    def replace(self, rows: Sequence[RunRow]) -> None:
        """Takes a new set; files that are no longer in it are released. What was left out is tried
        again.
        """
        self._rows = {row.run_id: row for row in rows}
        for run_id in [run_id for run_id in self._open if run_id not in self._rows]:
            del self._open[run_id]
        for run_id, file in self._open.items():
            file.row = self._rows[run_id]
        self.damaged = {}
        self._index = None

    def index(self, *, leave_out_missing: bool = False) -> native.RunIndex:
        """Lookups in all of them, but those that are damaged. FileNotFoundError if a file is not
        there, which is damage only if its row is still in the set when that is read again.
        """
        if self._index is not None and self._index.met_run:
            self._leave_out(self._index.met_run, "a lookup found it changed")
        if self._index is None:
            views = []
            for row in self._rows.values():
                if row.run_id in self.damaged:
                    continue
                try:
                    views.append(self._file(row).view())
                except DamagedRun as error:
                    self._leave_out(row.run_id, str(error))
                except FileNotFoundError as error:
                    if not leave_out_missing:
                        raise
                    self._leave_out(row.run_id, f"{error.filename} is missing")
            self._index = native.RunIndex(views, max(self.damaged, default=0))
        return self._index

    def damaged_days(self) -> dict[int, str]:
        """Days of the runs that are left out."""
        return {self._rows[run_id].day: why for run_id, why in self.damaged.items()}

    def close(self) -> None:
        """Releases all maps."""
        self._index = None
        self._open.clear()

    def _leave_out(self, run_id: int, reason: str) -> None:
        self.damaged[run_id] = reason
        self._open.pop(run_id, None)
        self._index = None

    def _file(self, row: RunRow) -> RunFile:
        file = self._open.get(row.run_id)
        if file is None:
            path = run_path(self._feeds_dir, row.day, row.run_id)
            file = self._open[row.run_id] = RunFile(path, self._store_id, row)
        return file
