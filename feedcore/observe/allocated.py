"""The metrics library's mapped files, allocated before they are written to.

The library makes them sparse: on a full disk the first write into a hole ends the process (SIGBUS).
Here every byte of a file has its block before it is mapped. Where the disk has none, the values of
this process live in memory instead: it serves, and only its figures are missing in a scrape.
Not for what is in the files: that is the library's.
"""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict, values

_FIRST_BYTES = 1 << 16  # as the library's
_ENTRY_BYTES_MAX = 1 << 14  # of one value with its name, labels and help

log = logging.getLogger(__name__)


class AllocatedDict(mmap_dict.MmapedDict):
    """The library's file of values; see there."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            filename = _with_room(filename)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        """Makes room first, so that the library need not make the file longer."""
        if self._used + _ENTRY_BYTES_MAX > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        capacity = 2 * self._capacity
        try:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        except OSError as error:
            moved: Any = Path(_memory(capacity, error)).open("a+b")
            moved.write(self._m[: self._used])
            moved.truncate(capacity)
            self._f.close()
            self._f = moved
        self._m.close()
        self._m = mmap.mmap(self._f.fileno(), capacity)
        self._capacity = capacity


def _with_room(filename: str) -> str:
    """The file, allocated, or one in memory if the disk has no room for it."""
    fd = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, max(_FIRST_BYTES, os.fstat(fd).st_size))
    except OSError as error:
        Path(filename).unlink()  # a scrape would read a file that is cut off
        return _memory(_FIRST_BYTES, error)
    finally:
        os.close(fd)
    return filename


def _memory(size: int, error: OSError) -> str:
    """The path of a file in memory."""
    log.warning("metrics of this process are kept in memory alone: %s", error.strerror)
    fd = os.memfd_create("metrics")
    os.truncate(fd, size)
    return f"/proc/self/fd/{fd}"


def install() -> None:
    """Before the first metric is made."""
    vars(values)["MmapedDict"] = AllocatedDict
