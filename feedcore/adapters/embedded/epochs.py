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
    """The file `epochs.map`, mapped. Derived: a missing or foreign one is made again."""

    def __init__(self, directory: Path, store_id: bytes) -> None:
        path = directory / "epochs.map"
        turn = FileLock(directory / "write.lock")
        try:
            # One process makes it: two files of one name would not know of each other's bumps.
            turn.acquire()
            if not _is_ours(path, store_id):
                _make(path, store_id)
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), layout.EPOCHS_BYTES)
        finally:
            turn.close()
        self.epochs = native.Epochs(memoryview(self._map))
        self.epochs.begin_era()

    def close(self) -> None:
        """Releases the map."""
        self.epochs.close()
        self._map.close()


def _is_ours(path: Path, store_id: bytes) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(24)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    return size == layout.EPOCHS_BYTES and header == _MAGIC + store_id


def _make(path: Path, store_id: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        # allocated, not only as long: a write into a hole of a full disk would end the process
        os.posix_fallocate(file.fileno(), 0, layout.EPOCHS_BYTES)
        file.write(_MAGIC + store_id)
    draft.replace(path)
