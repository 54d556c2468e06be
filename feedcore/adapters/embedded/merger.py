"""The merger: delivery rows become runs, small runs become larger ones. One in a data directory
(fanout.lock).

One merge: read rows in sequence order -> build sorted runs in memory -> write and fsync their files
-> in one SQLite transaction: add the run rows, take away the delivery rows and the jobs that waited
for them. Killed before the commit: the files are leftovers, the rows are merged again. A reader
sees rows or runs, never neither.

Removals set the REMOVED bit in the runs there are, before the commit; additions of the same batch
that come before a removal are left out of it. Both are idempotent.

Compaction merges runs of one size class of a day, so that a day has few runs and each entry is
rewritten a logarithmic number of times.

A core that the fan-out process shares with API workers is theirs first: the thread has a lower
priority, and compaction and verification pause after each slice of a millisecond or so, for most of
the time. They do not pause while deliveries pile up, or runs of a day do.

Verification compares all runs with their checksums, a bounded number of bytes a second, and a run
before it is merged. One that is damaged is set aside: its row goes, its file is renamed, its day is
noted as damaged (`damage`), and everybody's memory of feeds is emptied, in this order. A delivery
row that is not made of entries and ids goes, too; whom it was for cannot be known, so all days are
noted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from feedcore import native
from feedcore.adapters.embedded.damage import all_days, note_damage
from feedcore.adapters.embedded.database import connect, transaction
from feedcore.adapters.embedded.locks import FileLock
from feedcore.adapters.embedded.queue import drop_merged_jobs
from feedcore.adapters.embedded.runfile import DamagedRun, RunFile, RunRow, run_path, write_run
from feedcore.clock import Clock, SystemClock
from feedcore.codecs.runs import ID_BYTES, REMOVED_BIT, REMOVED_BYTE
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.limits import (
    DAY_MS,
    MERGE_DELIVERIES_MAX,
    RETENTION_MS,
    RUN_CHECK_BYTES_PER_S,
)

MERGE_WAIT_S = (
    0.25  # deliveries gather this long: readers overlay posts anyway, and fewer runs are made
)
MERGE_EAGER = 200_000  # deliveries that are merged at once
POLL_S = 0.05
CHECKPOINT_EVERY_S = 1.0
VERIFY_EVERY_S = 1.0
WAL_TRUNCATE_BYTES = 256 * 1024 * 1024  # a log this large is emptied as soon as no reader needs it
FAILURE_WAIT_S = 1.0
SMALL_RUN = (
    65_536  # entries; runs below are merged four at a time: 1.3 MB is rewritten in milliseconds
)
SMALL_FAN_IN = 4
# Of a core: what compaction and verification take while nothing piles up. Beside it 50,000 loads a
# second on that core had a 99th percentile of 6 ms for a minute (`feedcore bench hot`).
UPKEEP_SHARE = 0.25
# A reader looks into each run of a day: with four times as many as compaction leaves it is slower
# for everybody than compaction without pauses.
RUNS_OF_DAY_MAX = 64
# Niceness of the thread: a third of the share of a thread that calls wait for, but never nothing.
NICENESS = 5
FAN_IN = 8
QUIET_S = 30.0  # without deliveries for so long, days are compacted to one run each
ENTRIES_PER_RUN_MAX = 2**32 - 1  # offsets are u32
_REWRITE_REMOVED = 4  # a run is rewritten when a quarter of it is removed

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    seq: int
    items: int
    remove_author: int
    entries: bytes
    recipients: bytes

    def is_whole(self) -> bool:
        """Whether it is made of whole entries and ids."""
        parts = (self.entries, ENTRY_BYTES), (self.recipients, ID_BYTES)
        return all(isinstance(part, bytes) and len(part) % size == 0 for part, size in parts)


class Merger:
    """`run_once` and `compact_once` may be called by hand, or by the thread that `start` makes."""

    def __init__(
        self, data_dir: Path, store_id: bytes, clock: Clock, epochs: native.Epochs | None = None
    ) -> None:
        self._data_dir = data_dir
        self._feeds_dir = data_dir / "feeds"
        self._store_id = store_id
        self._clock = clock
        self._pace = SystemClock()
        self._conn = connect(data_dir / "store.db", read_only=False, epochs=epochs)
        self._write_lock = FileLock(data_dir / "write.lock")
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._verifying: Iterator[int] = iter(())
        self._slice_began_s = 0.0
        self._hurried = True  # without pauses: called by hand, or runs have piled up
        self.last_error = ""
        self.set_aside = 0  # damaged runs so far
        self._sweep()

    def start(self) -> None:
        """Merges in a thread until `close`."""
        self._thread = threading.Thread(target=self._serve, name="feedcore-merger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after what it is doing. Blocks."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._conn.close()
        self._write_lock.close()

    def run_once(self, max_deliveries: int = MERGE_DELIVERIES_MAX) -> int:
        """Merges rows with about `max_deliveries` items; how many items, 0 if nothing waits."""
        with self._turn:
            rows = self._read(max_deliveries)
            if not rows:
                return 0
            unreadable = [row for row in rows if not row.is_whole()]
            if unreadable:
                self._drop_unreadable(unreadable)
                return sum(row.items for row in unreadable)
            additions, removals = separate(rows)
            files = self._write_files(native.build_runs(additions))
            removed = self._mark_removed(removals)
            self._commit(rows, files, removed, removals)
            return sum(row.items for row in rows)

    def compact_once(self, *, quiet: bool = False) -> bool:
        """Merges one group of runs if there is one to merge; `quiet`: all runs of a day, if more
        than one.
        """
        with self._turn:
            for rows in self._days().values():
                group = choose_group(rows, quiet=quiet)
                if group:
                    self._hurried = self._thread is None or len(rows) > RUNS_OF_DAY_MAX
                    self._slice_began_s = time.thread_time()
                    self._merge_group(group)
                    return True
            return False

    def verify_some(self, max_bytes: int) -> bool:
        """Verifies runs from where it stopped last, about so many bytes; False after the last."""
        with self._turn:
            for checked in self._verifying:
                max_bytes -= checked
                if max_bytes <= 0:
                    return True
            self._verifying = self._verify_all()
            return False

    def checkpoint(self) -> None:
        """Takes the log into the database, as far as readers allow; a long log is emptied."""
        wal = self._data_dir / "store.db-wal"
        long = wal.exists() and wal.stat().st_size > WAL_TRUNCATE_BYTES
        self._conn.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if long else 'PASSIVE'})").fetchall()

    # --- a merge ---------------------------------------------------------------------------------

    def _read(self, max_deliveries: int) -> list[_Row]:
        sql = "SELECT seq, items, remove_author, entries, recipients FROM deliveries ORDER BY seq"
        rows: list[_Row] = []
        items = 0
        cursor = self._conn.execute(sql)
        for row in cursor:
            rows.append(_Row(*row))
            items += row[1]
            if items >= max_deliveries:
                break
        cursor.close()
        return rows

    def _write_files(self, built: list[tuple[int, bytes, bytes, bytes]]) -> list[RunRow]:
        oldest_ms = self._clock.now_ms() - RETENTION_MS
        next_id = self._next_run_id()
        files: list[RunRow] = []
        for day, users, offsets, entries in built:
            if (day + 1) * DAY_MS <= oldest_ms or not users:
                continue  # expired while it waited
            files.append(self._write(next_id + len(files), day, (users, offsets, entries)))
        return files

    def _write(self, run_id: int, day: int, run: tuple[bytes, bytes, bytes]) -> RunRow:
        users, offsets, entries = run

        def produce(sink: object) -> tuple[bytes, bytes]:
            sink(entries)  # type: ignore[operator]
            return users, offsets

        path = run_path(self._feeds_dir, day, run_id)
        return RunRow(run_id, day, *write_run(path, self._store_id, day, produce), 0)

    def _next_run_id(self) -> int:
        row = self._conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchone()
        return row[0] + 1 if row else 1

    def _mark_removed(self, removals: list[tuple[int, bytes]]) -> dict[int, int]:
        """Sets bits in the files; how many are set there now, by run."""
        marked: dict[int, int] = {}
        if not removals:
            return marked
        for rows in self._days().values():
            for row in rows:
                try:
                    file = self._open(row)
                    places = [
                        place
                        for author_id, recipients in removals
                        for user_id in memoryview(recipients).cast("Q")
                        for place in _places(file, user_id, author_id)
                    ]
                except (DamagedRun, FileNotFoundError) as error:
                    self._put_aside(row, error)
                    continue
                if places:
                    fresh = [place for place in places if not place[1] & REMOVED_BIT]
                    self._set_bits(row, fresh)
                    marked[row.run_id] = row.removed + len(fresh)
                    if len(fresh) < len(places):  # also by a merge that was killed
                        marked[row.run_id] = file.count_removed()
        return marked

    def _set_bits(self, row: RunRow, places: list[tuple[int, int]]) -> None:
        fd = os.open(run_path(self._feeds_dir, row.day, row.run_id), os.O_RDWR)
        try:
            for at, byte in places:
                os.pwrite(fd, bytes([byte | REMOVED_BIT]), at)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _commit(
        self,
        rows: list[_Row],
        files: list[RunRow],
        removed: dict[int, int],
        removals: list[tuple[int, bytes]],
    ) -> None:
        last, items = rows[-1].seq, sum(row.items for row in rows)
        with transaction(self._conn, self._write_lock) as conn:
            conn.changes.replicated = True
            for _, recipients in removals:
                conn.changes.viewers.extend(native.unpack_ids(recipients))
            conn.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", files)
            conn.executemany(
                "UPDATE runs SET removed = ? WHERE run_id = ?",
                [(count, run_id) for run_id, count in removed.items()],
            )
            conn.execute("DELETE FROM deliveries WHERE seq <= ?", (last,))
            conn.execute(
                "UPDATE versions SET merged_seq = ?, backlog = backlog - ?, runs = runs + 1",
                (last, items),
            )
            drop_merged_jobs(conn, last)

    # --- compaction ------------------------------------------------------------------------------

    def _days(self) -> dict[int, list[RunRow]]:
        days: dict[int, list[RunRow]] = {}
        for row in self._conn.execute("SELECT run_id, day, users, entries, removed FROM runs"):
            days.setdefault(row[1], []).append(RunRow(*row))
        return days

    def _merge_group(self, group: list[RunRow]) -> None:
        day = group[0].day
        files = [file for row in group if (file := self._verified(row)) is not None]
        if len(files) < len(group):
            return  # what is left is looked at again
        run_id = self._next_run_id()
        users, entries = write_run(
            run_path(self._feeds_dir, day, run_id),
            self._store_id,
            day,
            lambda sink: native.merge_runs([file.parts() for file in files], self._paced(sink)),
        )
        with transaction(self._conn, self._write_lock) as conn:
            conn.changes.replicated = True
            gone = [(row.run_id,) for row in group]
            conn.executemany("DELETE FROM runs WHERE run_id = ?", gone)
            if entries:
                row = RunRow(run_id, day, users, entries, 0)
                conn.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
            conn.execute("UPDATE versions SET runs = runs + 1")
        for row in group:
            run_path(self._feeds_dir, day, row.run_id).unlink(missing_ok=True)

    def _paced(self, sink: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def write(piece: bytes) -> None:
            sink(piece)
            self._pause()

        return write

    def _pause(self) -> None:
        """Between two slices: leaves the core to others, unless deliveries pile up."""
        took_s = time.thread_time() - self._slice_began_s
        if not self._hurried and self._backlog() < MERGE_EAGER:
            self._stop.wait(took_s * (1 / UPKEEP_SHARE - 1))
        self._slice_began_s = time.thread_time()

    # --- damage ----------------------------------------------------------------------------------

    def _open(self, row: RunRow) -> RunFile:
        return RunFile(run_path(self._feeds_dir, row.day, row.run_id), self._store_id, row)

    def _verified(self, row: RunRow) -> RunFile | None:
        """The run, whole; None if it was damaged and is set aside."""
        try:
            file = self._open(row)
            for _ in self._verify(file):
                self._pause()
            return file
        except (DamagedRun, FileNotFoundError) as error:
            self._put_aside(row, error)
            return None

    def _verify_all(self) -> Iterator[int]:
        """All runs there are now, one after the other; those that go meanwhile are passed over."""
        for (run_id,) in self._conn.execute("SELECT run_id FROM runs ORDER BY run_id").fetchall():
            row = self._row(run_id)
            if row is None:
                continue
            try:
                yield from self._verify(self._open(row))
            except (DamagedRun, FileNotFoundError) as error:
                self._put_aside(row, error)

    def _verify(self, file: RunFile) -> Iterator[int]:
        marked = yield from file.verify()
        if self._row(file.row.run_id) == file.row:  # nothing was removed while it was read
            file.check_removed(marked)

    def _row(self, run_id: int) -> RunRow | None:
        sql = "SELECT run_id, day, users, entries, removed FROM runs WHERE run_id = ?"
        found = self._conn.execute(sql, (run_id,)).fetchone()
        return RunRow(*found) if found else None

    def _put_aside(self, row: RunRow, error: Exception) -> None:
        """Takes a run out of those that count, unless it is gone already."""
        reason = f"{error.filename} is missing" if isinstance(error, OSError) else str(error)
        with transaction(self._conn, self._write_lock) as conn:
            if not conn.execute("DELETE FROM runs WHERE run_id = ?", (row.run_id,)).rowcount:
                return
            note_damage(conn, [row.day], reason)
        self._forget_feeds()
        self.set_aside += 1
        log.error("run %d is set aside, day %d is derived again: %s", row.run_id, row.day, reason)
        path = run_path(self._feeds_dir, row.day, row.run_id)
        if path.exists():
            path.replace(path.with_suffix(".damaged"))  # goes with its day

    def _drop_unreadable(self, rows: list[_Row]) -> None:
        with transaction(self._conn, self._write_lock) as conn:
            conn.executemany("DELETE FROM deliveries WHERE seq = ?", [(row.seq,) for row in rows])
            items = sum(row.items for row in rows)
            conn.execute("UPDATE versions SET backlog = backlog - ?", (items,))
            days = all_days(self._clock.now_ms())
            note_damage(conn, days, "a delivery could not be read")
        self._forget_feeds()
        log.error("%d deliveries cannot be read: all feeds are derived again", len(rows))

    def _forget_feeds(self) -> None:
        """What a process has in memory of feeds may come from what is damaged."""
        epochs = self._conn.changes.epochs
        if epochs is not None:
            epochs.begin_era()

    def _sweep(self) -> None:
        """Removes files that no row speaks of: leftovers of a merge without its commit."""
        known = {(row.day, row.run_id) for rows in self._days().values() for row in rows}
        for path in self._feeds_dir.glob("*/*.run"):
            if (int(path.parent.name), int(path.stem)) not in known:
                path.unlink()

    # --- the thread ------------------------------------------------------------------------------

    def _backlog(self) -> int:
        """Items of deliveries that wait."""
        backlog: int = self._conn.execute("SELECT backlog FROM versions").fetchone()[0]
        return backlog

    def _serve(self) -> None:
        thread = threading.get_native_id()  # niceness is of a thread on Linux
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
        waiting_since = last_merge = last_checkpoint = last_verify = self._pace.monotonic()
        while not self._stop.is_set():
            try:
                now = self._pace.monotonic()
                backlog = self._backlog()
                if backlog <= 0:
                    waiting_since = now
                elif backlog >= MERGE_EAGER or now - waiting_since >= MERGE_WAIT_S:
                    self.run_once()
                    waiting_since = last_merge = self._pace.monotonic()
                worked = self.compact_once(quiet=now - last_merge >= QUIET_S)
                if now - last_checkpoint >= CHECKPOINT_EVERY_S:
                    self.checkpoint()
                    last_checkpoint = self._pace.monotonic()
                if now - last_verify >= VERIFY_EVERY_S:
                    self.verify_some(RUN_CHECK_BYTES_PER_S)
                    last_verify = self._pace.monotonic()
                self.last_error = ""
                if not worked and backlog < MERGE_EAGER:
                    self._stop.wait(POLL_S)
            except Exception as error:  # whatever it was, the rows are still there: try again
                self.last_error = f"{type(error).__name__}: {error}"
                log.exception("merge failed; next try in %.0f s", FAILURE_WAIT_S)
                self._stop.wait(FAILURE_WAIT_S)


def _places(file: RunFile, user_id: int, author_id: int) -> list[tuple[int, int]]:
    """(position in the file, byte there) of the author's flags in the user's feed; also where the
    REMOVED bit is set already.
    """
    start, end = file.slice_of(user_id)
    entries = file.bytes_at(start, end)
    author = author_id.to_bytes(8, "big")
    return [
        (start + at + REMOVED_BYTE, entries[at + REMOVED_BYTE])
        for at in range(0, len(entries), ENTRY_BYTES)
        if entries[at + 8 : at + 16] == author
    ]


def separate(rows: list[_Row]) -> tuple[list[tuple[bytes, bytes]], list[tuple[int, bytes]]]:
    """(additions, removals); additions that a later removal takes back are left out of them."""
    additions: list[tuple[bytes, bytes]] = []
    removals: list[tuple[int, bytes]] = []
    taken: dict[int, native.U64Set] = {}  # author -> users, of removals that come later
    for row in reversed(rows):
        if row.remove_author:
            removals.append((row.remove_author, row.recipients))
            taken.setdefault(row.remove_author, native.U64Set()).update(row.recipients)
        elif taken:
            additions.extend(_without(row, taken))
        else:
            additions.append((row.entries, row.recipients))
    return additions, removals


def _without(row: _Row, taken: dict[int, native.U64Set]) -> list[tuple[bytes, bytes]]:
    kept: list[tuple[bytes, bytes]] = []
    untouched = b""
    for at in range(0, len(row.entries), ENTRY_BYTES):
        entry = row.entries[at : at + ENTRY_BYTES]
        users = taken.get(int.from_bytes(entry[8:16], "big"))
        gone = native.ids_intersect(row.recipients, users) if users is not None else []
        if not gone:
            untouched += entry
            continue
        left = native.U64Set(native.unpack_ids(row.recipients))
        for user_id in gone:
            left.discard(user_id)
        if len(left):
            kept.append((entry, native.pack_ids(left)))
    if untouched:
        kept.append((untouched, row.recipients))
    return kept


def choose_group(rows: list[RunRow], *, quiet: bool) -> list[RunRow]:
    """Runs of one day that should become one; empty if it is well as it is."""
    classes: dict[int, list[RunRow]] = {}
    for row in rows:
        classes.setdefault(_size_class(row.entries), []).append(row)
    for size_class in sorted(classes):
        group = classes[size_class]
        if len(group) >= (FAN_IN if size_class else SMALL_FAN_IN):
            return _fitting(group)
    if quiet and len(rows) > 1:
        group = _fitting(sorted(rows, key=lambda row: row.entries))
        if len(group) > 1:
            return group
    for row in rows:
        if row.removed * _REWRITE_REMOVED > row.entries:
            return [row]
    return []


def _fitting(group: list[RunRow]) -> list[RunRow]:
    """As many as fit into one run."""
    kept, total = [], 0
    for row in group:
        if total + row.entries <= ENTRIES_PER_RUN_MAX:
            kept.append(row)
            total += row.entries
    return kept


def _size_class(entries: int) -> int:
    """0 below SMALL_RUN, then one more for each factor of FAN_IN."""
    size_class, bound = 0, SMALL_RUN
    while entries >= bound:
        size_class += 1
        bound *= FAN_IN
    return size_class
