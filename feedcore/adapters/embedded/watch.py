"""Is the ground of an open store still there: what a process sees of it, asked once a second.

    fault                                   seen by                     ends when
    store.db is damaged                     a statement, or a check     a later check finds nothing
    directory removed, store.db replaced    the inode that was opened   the process starts anew
    file system read-only                   a touch of write.lock       it is writable again

Damage is kept in the file DAMAGED of the directory, so that all processes, `doctor` and the next
start know of it; `feedcore restore` takes it away, and so does a start whose check finds nothing.
Not for derived data, which is mended without anybody: `damage`, `rebuild`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from pathlib import Path

from feedcore.adapters.common.machine import RESTORE, fault_of
from feedcore.adapters.embedded.database import Connection, is_file
from feedcore.errors import StoreDamaged

MARKER = "DAMAGED"
CHECK_EVERY_MS = 3_600_000  # all of store.db is read: seconds of one core for a gigabyte
_FINDINGS_MAX = 3

log = logging.getLogger(__name__)


class StoreWatch:
    """One a process."""

    def __init__(self, data_dir: Path, conn: Connection) -> None:
        self._directory = data_dir
        self._conn = conn
        self._damage = ""
        self._next_check_ms = 0

    def fault(self) -> str:
        """What concerns every caller, with the remedy; "" if nothing is wrong."""
        if not is_file(self._conn.path, self._conn.file):
            return (
                f"{self._conn.path} was removed or replaced under the server: put it back, or"
                " restart the server"
            )
        try:
            # Asks the file system itself: one that gave up after an error is not mounted read-only.
            os.utime(self._directory / "write.lock")
        except OSError as error:
            if error.errno == errno.EROFS:
                return (
                    f"the file system of {self._directory} is read-only: look at the disk and at"
                    " the kernel's log, then remount it"
                )
            return f"{error.filename} cannot be written: {error.strerror}"
        return read_marker(self._directory) or self._damage

    def note(self, error: BaseException) -> None:
        """Of a call that failed: if store.db is damaged, everybody is told, once."""
        fault = fault_of(error)
        if isinstance(fault, StoreDamaged) and not self._damage:
            self._damage = str(fault)
            log.error("%s", self._damage)
            self._mark(self._damage)

    def check_when_due(self, now_ms: int) -> None:
        """Reads all of store.db now and then. Blocks: for a thread of its own."""
        if now_ms < self._next_check_ms:
            return
        self._next_check_ms = now_ms + CHECK_EVERY_MS
        findings = check_database(self._conn.path)
        if findings:
            self.note(StoreDamaged(f"store.db is corrupt ({findings}); {RESTORE}"))
        else:
            self._damage = ""
            (self._directory / MARKER).unlink(missing_ok=True)

    def _mark(self, text: str) -> None:
        try:
            (self._directory / MARKER).write_text(text + "\n", encoding="utf-8")
        except OSError as error:  # the log has it, and this process says it
            log.warning("%s not written: %s", self._directory / MARKER, error)


def read_marker(data_dir: Path) -> str:
    """What is known of damage to store.db; "" if nothing."""
    try:
        return (data_dir / MARKER).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def check_database(path: Path) -> str:
    """What SQLite finds wrong with the file; "" if nothing. Changes nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
            rows = conn.execute(f"PRAGMA quick_check({_FINDINGS_MAX})").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error) if isinstance(fault_of(error), StoreDamaged) else ""
    found = "; ".join(" ".join(str(row[0]).split()) for row in rows)
    return "" if found == "ok" else found
