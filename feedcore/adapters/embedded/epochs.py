"""The epoch map of a data directory, and what one transaction invalidates in all processes.

State of a transaction's `Changes`: filled by the writes of a transaction, announced (counters
bumped) after its commit and before the write lock is released, cleared after commit and rollback.
Hence no caller gets an acknowledgement before the counters are bumped.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from feedcore import native
from feedcore.adapters.embedded.locks import FileLock
from feedcore.codecs import epochs as layout

_MAGIC = b"FEEDEPO1"
_COUNTED_AT, _COUNTED_BYTES = 24, 16  # era and generation, between them nothing


class Changes:
    """What the transaction under way will change."""

    __slots__ = ("authors", "contents", "epochs", "feeds", "replicated", "viewers")

    def __init__(self, epochs: native.Epochs | None) -> None:
        self.epochs = epochs
        self.replicated = False  # node-wide state: every process has a replica of it
        self.viewers: list[int] = []
        self.feeds: list[int] = []
        self.authors: list[int] = []
        self.contents: list[int] = []

    def announce(self) -> None:
        """Bumps the noted counters; called after the commit."""
        epochs = self.epochs
        if epochs is not None:
            for kind, idents in (
                (layout.VIEWER, self.viewers),
                (layout.FEED, self.feeds),
                (layout.AUTHOR, self.authors),
                (layout.CONTENT, self.contents),
            ):
                for ident in idents:
                    epochs.bump(kind, ident)
            if self.replicated:
                epochs.advance()
        self.forget()

    def forget(self) -> None:
        """Forgets what was noted: the transaction was rolled back."""
        self.replicated = False
        for noted in (self.viewers, self.feeds, self.authors, self.contents):
            noted.clear()


class EpochMap:
    """The file `epochs.map`, mapped. Derived: a missing one is made. One that is torn or foreign is
    mended where it lies, since other processes may have it mapped: all must share one.
    """

    def __init__(self, directory: Path, store_id: bytes) -> None:
        path = directory / "epochs.map"
        turn = FileLock(directory / "write.lock")
        try:
            # One process makes it: two files of one name would not know of each other's bumps.
            turn.acquire()
            if not path.exists():
                _make(path, store_id)
            with path.open("r+b") as file:
                _mend(file.fileno(), store_id)
                self._map = mmap.mmap(file.fileno(), layout.EPOCHS_BYTES)
                status = os.fstat(file.fileno())
        finally:
            turn.close()
        self.epochs = native.Epochs(memoryview(self._map))
        self.epochs.begin_era()
        self._path, self._file = path, (status.st_dev, status.st_ino)

    def is_in_place(self) -> bool:
        """Whether a process that starts now would share this map; its length is mended."""
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == self._file

    def close(self) -> None:
        """Releases the map."""
        self.epochs.close()
        self._map.close()


def _make(path: Path, store_id: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("w+b") as file:
            _mend(file.fileno(), store_id)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _mend(fd: int, store_id: bytes) -> None:
    """Its length, allocated: a write into a hole of a full disk would end the process; and to whom
    it belongs. Counters that are lost differ from those that were observed, which costs loads.
    """
    header = _MAGIC + store_id
    if os.fstat(fd).st_size != layout.EPOCHS_BYTES:
        os.ftruncate(fd, layout.EPOCHS_BYTES)
        os.posix_fallocate(fd, 0, layout.EPOCHS_BYTES)
        # era and generation: none that anybody may have observed
        os.pwrite(fd, os.urandom(_COUNTED_BYTES), _COUNTED_AT)
    if os.pread(fd, len(header), 0) != header:
        os.pwrite(fd, header, 0)
