"""Advisory file locks (flock): released by the kernel when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """One lock file, opened for the life of the object; never shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def acquire(self) -> None:
        """Waits until the lock is ours alone."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def try_acquire(self, shared: bool = False) -> bool:
        """Takes the lock if that is possible at once. Changes shared to exclusive and back, too."""
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Gives the lock back; the file stays open."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file, which releases the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
