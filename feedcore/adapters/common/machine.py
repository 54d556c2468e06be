"""What SQLite and the operating system say when they give up, as errors of the engine.

`fault_of` is asked by what turns errors into answers: the group commit, and the server's table of
statuses. One table, so that a full disk is the same refusal whichever statement meets it. Not for
errors of our own, which carry their decision already.
"""

from __future__ import annotations

import errno
import sqlite3

from feedcore.errors import (
    FeedcoreError,
    MachineFault,
    OutOfResources,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
)

RESTORE = "restore a backup: stop the server, `feedcore restore BACKUP --data-dir DIR`"
_DISK = "look at the disk and at the kernel's log"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_PRIMARY = 0xFF  # SQLite's extended codes carry more in the bytes above


def fault_of(error: BaseException) -> FeedcoreError | None:
    """The error that callers get; None if it is none of the machine's."""
    if isinstance(error, FeedcoreError):
        return error
    if isinstance(error, sqlite3.DatabaseError):
        return _of_sqlite(error)
    if isinstance(error, MemoryError):
        return OutOfResources("no memory is left for this call; retry later")
    if isinstance(error, OSError):
        return _of_system(error)
    return None


def _of_sqlite(error: sqlite3.DatabaseError) -> FeedcoreError | None:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _lacks_schema(error):
        return StoreDamaged(f"store.db is corrupt ({error}); {RESTORE}")
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"the disk of the store is full ({error}); free space and retry")
    if code == sqlite3.SQLITE_READONLY:
        return StoreReadOnly(f"the store can only be read ({error}); {_DISK}")
    if code == sqlite3.SQLITE_NOMEM:
        return OutOfResources("no memory is left for this call; retry later")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return MachineFault(f"store.db cannot be read or written ({error}); {_DISK}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return MachineFault(f"another program holds store.db ({error}); end it, or wait for it")
    return None


def _lacks_schema(error: sqlite3.DatabaseError) -> bool:
    """Every table and column is there from the first start on: one that is not was damaged away."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(
        ("no such table", "no such column")
    )


def _of_system(error: OSError) -> FeedcoreError | None:
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if error.errno in _FULL:
        return StoreFull(f"the disk of the store is full ({what}); free space and retry")
    if error.errno == errno.EROFS:
        return StoreReadOnly(f"the store can only be read ({what}); {_DISK}")
    if error.errno in _DESCRIPTORS:
        return OutOfResources(
            f"no descriptors are left ({what}); raise `ulimit -n`, or retry later"
        )
    if error.errno == errno.ENOMEM:
        return OutOfResources("no memory is left for this call; retry later")
    if error.errno == errno.EIO:
        return MachineFault(f"the disk does not answer ({what}); {_DISK}")
    return None
