"""The replica: what a process keeps in memory of the store, made current before each read.

Holds posts with a job row (the overlay over the stored feeds), authors being backfilled, pulled
authors, tombstones, newest settings, and which runs count. `refresh` asks SQLite whether anybody
committed since (PRAGMA data_version); if so it reads what changed, all in one snapshot. Hence a job
row that is gone and the run that took its deliveries over are seen together, never one without the
other.

Belongs to one thread: the one that owns the connection.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from feedcore import native
from feedcore.adapters.common.machine import RESTORE
from feedcore.adapters.common.posted_authors import PostedAuthors, PublishedAuthors
from feedcore.adapters.embedded.author_timelines import TimelineCache
from feedcore.adapters.embedded.damage import read_damage
from feedcore.adapters.embedded.job_rows import Unreadable, check_job
from feedcore.adapters.embedded.runfile import RunRow, RunSet
from feedcore.errors import StoreDamaged
from feedcore.ports.settings import JsonObject

_JOBS = "SELECT job_id, kind, author_id, user_id, entry FROM fanout_jobs WHERE job_id > ?"
_RUNS = "SELECT run_id, day, users, entries, removed FROM runs"


# each means that a merge replaced a file within the moment since the refresh
_REOPENS_MAX = 5

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    kind: str
    author_id: int
    user_id: int


class _Versions(NamedTuple):
    """The row of the table `versions`: writers raise the number of what they change."""

    jobs_dropped: int
    modes: int
    tombstones: int
    settings: int
    runs: int
    trending: int
    backlog: int  # deliveries not yet merged


_NOT_READ = _Versions(*[-1] * len(_Versions._fields))
_VERSIONS = f"SELECT {', '.join(_Versions._fields)} FROM versions"


class Replica:
    """The replica. Every attribute is current as of the last `refresh`."""

    def __init__(self, conn: sqlite3.Connection, runs: RunSet) -> None:
        self._conn = conn
        self.runs = runs
        self._data_version = -1
        self._last_job = 0
        self._last_drop = 0
        self._last_tombstone = 0
        self._tombstone_floor = 0
        self._versions = _NOT_READ
        self._jobs: dict[int, _Job] = {}
        self._posts: dict[int, dict[int, bytes]] = {}
        self.overlay_authors = native.U64Set()
        self.backfills: dict[int, dict[int, int]] = {}
        self.pulled = native.U64Set()
        self.tombstones = native.U64Set()
        self.settings: dict[str, tuple[int, JsonObject]] = {}
        self.trending = b""
        self.timelines = TimelineCache(conn)
        self._last_timeline = -1
        self._held = False
        self.published = PublishedAuthors()  # for who loads ahead
        self.posted = PostedAuthors()
        self.damaged_days: dict[int, str] = {}  # set aside, and not derived again yet
        self._left_out: set[int] = set()  # runs, since when `reads` has changed
        self.reads = 0  # changes that were read so far

    @property
    def pulled_version(self) -> int:
        """Changes with the set of pulled authors."""
        return self._versions.modes

    @property
    def backlog(self) -> int:
        """Deliveries not yet merged."""
        return max(self._versions.backlog, 0)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment: the replica is refreshed once, at the
        beginning.
        """
        if self._held:
            yield
            return
        self._conn.execute("BEGIN")
        try:
            self.refresh()
            self._held = True
            yield
        finally:
            self._held = False
            self._conn.execute("COMMIT")

    def refresh(self) -> None:
        """Makes everything current; a few microseconds if nothing was committed."""
        if self._held:
            return
        version = self._conn.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self._read_changes()
            # a commit between the two statements is read now and once more: harmless
            self._data_version = version

    def run_index(self) -> native.RunIndex:
        """Lookups in the runs that count and are whole; `damage` names the others."""
        for _ in range(_REOPENS_MAX):
            try:
                return self._noted(self.runs.index())
            except FileNotFoundError:
                self._reload_runs()
        return self._noted(self.runs.index(leave_out_missing=True))

    def damage(self, first_day: int, last_day: int) -> str:
        """Why nothing can be promised of the stored entries of these days; "" if it can."""
        for days in (self.damaged_days, self.runs.damaged_days()):
            for day, reason in days.items():
                if first_day <= day <= last_day:
                    return reason
        return ""

    def _noted(self, index: native.RunIndex) -> native.RunIndex:
        """The log hears what is left out; a page machine that has an older index takes this."""
        if set(self.runs.damaged) - self._left_out:
            self.reads += 1
            for run_id, reason in self.runs.damaged.items():
                if run_id not in self._left_out:
                    log.error("run %d is left out: %s; followees are read instead", run_id, reason)
        self._left_out = set(self.runs.damaged)
        return index

    def _reload_runs(self) -> None:
        """Reads the runs anew after a file was gone: another process has merged or expired it."""
        if self._held:
            # the snapshot names files that are gone: take a later one
            self._conn.execute("COMMIT")
            self._conn.execute("BEGIN")
            self._held = False
            self._reread_runs()
            self._held = True
        else:
            self._reread_runs()

    def _reread_runs(self) -> None:
        self._data_version = -1
        self._versions = self._versions._replace(runs=_NOT_READ.runs)
        self.refresh()

    def posts_of(self, authors: list[int]) -> bytes:
        """Entries of the posts with a job row by these authors, newest first."""
        found = [entry for author in authors for entry in self._posts[author].values()]
        return native.sort_entries(b"".join(found)) if found else b""

    def _read_changes(self) -> None:
        """Reads what has changed since the last time, all of one moment: drops come before new
        jobs, and the runs that took a job's deliveries over come with its drop.
        """
        with self._one_moment() as conn:
            before, now = self._versions, _Versions(*conn.execute(_VERSIONS).fetchone())
            if before.jobs_dropped != now.jobs_dropped:
                self._read_drops()
            self._forget_timelines()
            self._add_jobs(conn.execute(_JOBS, (self._last_job,)))
            if before.modes != now.modes:
                self._read_modes()
            if before.tombstones != now.tombstones:
                self._read_tombstones(reload=before.tombstones == _NOT_READ.tombstones)
            if before.settings != now.settings:
                self._read_settings()
            if before.runs != now.runs:
                self.runs.replace([RunRow(*row) for row in conn.execute(_RUNS)])
                self.damaged_days = read_damage(conn)
            if before.trending != now.trending:
                self._read_trending()
            self._versions = now
            self.reads += 1

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[sqlite3.Connection]:
        """Inside the caller's transaction if there is one."""
        conn = self._conn
        if conn.in_transaction:
            yield conn
            return
        conn.execute("BEGIN")
        try:
            yield conn
        finally:
            conn.execute("COMMIT")

    def _read_modes(self) -> None:
        rows = self._conn.execute("SELECT author_id FROM authors WHERE mode IN (1, 2)")
        self.pulled = native.U64Set([row[0] for row in rows])

    def _read_trending(self) -> None:
        row = self._conn.execute("SELECT value FROM blobs WHERE name = 'trending'").fetchone()
        self.trending = row[0] if row else b""

    def _forget_timelines(self) -> None:
        # two queries: SQLite finds one end of an index at once, and reads all of it for both
        sql = (
            "SELECT coalesce((SELECT min(seq) FROM outbox_changes), 0),"
            " coalesce((SELECT max(seq) FROM outbox_changes), 0)"
        )
        oldest, newest = self._conn.execute(sql).fetchone()
        if newest == self._last_timeline:
            return
        if self._last_timeline < oldest - 1:
            self.timelines.clear()
        else:
            sql = "SELECT author_id FROM outbox_changes WHERE seq > ?"
            changed = self._conn.execute(sql, (self._last_timeline,)).fetchall()
            authors = [row[0] for row in changed]
            self.timelines.forget(authors)
            self._note_published(authors)
        self._last_timeline = newest

    def _note_published(self, authors: list[int]) -> None:
        for author_id in authors:
            if author_id in self.pulled:
                self.published.add(author_id)

    def _add_jobs(self, rows: sqlite3.Cursor) -> None:
        for job_id, kind, author_id, user_id, entry in rows:
            self._last_job = max(self._last_job, job_id)
            try:
                check_job(kind, author_id, user_id, entry)
            except Unreadable:
                continue  # a dead letter, when it is claimed
            self._jobs[job_id] = _Job(kind, author_id, user_id)
            if kind == "post":
                if author_id not in self._posts:
                    self._posts[author_id] = {}
                    self.overlay_authors.add(author_id)
                self._posts[author_id][job_id] = entry
                self.posted.add(author_id)
            elif kind == "backfill":
                self.backfills.setdefault(user_id, {})[job_id] = author_id

    def _read_drops(self) -> None:
        row = self._conn.execute("SELECT min(seq) FROM job_drops").fetchone()
        if row[0] is None or row[0] > self._last_drop + 1:
            # older drops were forgotten already: compare with what is there
            alive = {row[0] for row in self._conn.execute("SELECT job_id FROM fanout_jobs")}
            self._drop([job_id for job_id in self._jobs if job_id not in alive])
            newest = "SELECT coalesce(max(seq), 0) FROM job_drops"
            self._last_drop = self._conn.execute(newest).fetchone()[0]
            return
        sql = "SELECT seq, job_id FROM job_drops WHERE seq > ? ORDER BY seq"
        rows = self._conn.execute(sql, (self._last_drop,)).fetchall()
        if rows:
            self._last_drop = rows[-1][0]
            self._drop([job_id for _, job_id in rows])

    def _drop(self, job_ids: list[int]) -> None:
        for job_id in job_ids:
            job = self._jobs.pop(job_id, None)
            # a job that was made and dropped since the last refresh was never added, and will not
            # be
            if job is None:
                continue
            kind, author_id, user_id = job
            if kind == "post":
                posts = self._posts[author_id]
                del posts[job_id]
                if not posts:
                    del self._posts[author_id]
                    self.overlay_authors.discard(author_id)
            elif kind == "backfill":
                mine = self.backfills[user_id]
                del mine[job_id]
                if not mine:
                    del self.backfills[user_id]

    def _read_tombstones(self, *, reload: bool) -> None:
        oldest = self._conn.execute(
            "SELECT value FROM blobs WHERE name = 'tombstone_floor'"
        ).fetchone()
        floor = int.from_bytes(oldest[0], "big") if oldest else 0
        if reload or floor != self._tombstone_floor:
            self.tombstones = native.U64Set()
            self._last_tombstone = 0
        self._tombstone_floor = floor
        sql = "SELECT seq, content_id FROM tombstones WHERE seq > ? ORDER BY seq"
        for seq, content_id in self._conn.execute(sql, (self._last_tombstone,)):
            self.tombstones.add(content_id)
            self._last_tombstone = seq

    def _read_settings(self) -> None:
        sql = "SELECT name, max(version), document FROM settings GROUP BY name"
        self.settings = {
            name: (version, _document(name, document))
            for name, version, document in self._conn.execute(sql)
        }


def _document(name: str, text: str) -> JsonObject:
    try:
        found: JsonObject = json.loads(text)
    except ValueError as error:
        raise StoreDamaged(f"store.db is corrupt (setting {name}: {error}); {RESTORE}") from error
    return found
