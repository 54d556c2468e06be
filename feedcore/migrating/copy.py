"""One copy of an embedded store into a cluster, kind by kind.

Invariants: all writes are idempotent, so that a copy that was killed is simply run again; the store
is read only and nobody else's meanwhile (`exclusive`), so that all parts are of one moment; in
memory there is one part of one kind at a time. Stored feeds are derived again, from the timelines
of whoever each active user follows: that is what jobs, merges and rebuilds that wait would have
made of them. Posts that wait for fan-out become jobs of the cluster, for their figures and for who
follows meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any

from feedcore import native
from feedcore.adapters.contracts.job_ids import US_PER_MS, JobIds
from feedcore.adapters.cql.driver.session import Session, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.activity import in_partitions, in_parts
from feedcore.adapters.cql.stores.dirty import DirtyMarks
from feedcore.adapters.cql.stores.dirty import Kind as Dirty
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.dead_letters import DeadLetters
from feedcore.adapters.kafka.outbox import KafkaOutbox
from feedcore.adapters.kafka.outbox import Row as OutboxRow
from feedcore.clock import Clock
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.limits import BACKFILL_ENTRIES_MAX, MINUTE_MS, RETENTION_MS, SECOND_MS
from feedcore.migrating.tables import Row, Step, Translation
from feedcore.ports import FanoutJob, JobKind, Lane
from feedcore.resilience.gather import gather_bounded

READ_ROWS = 1_000  # of one part: at 10 KB a post 10 MB
WRITE_ROWS = 2_000  # concurrently, those of one partition together
FEEDS_AT_ONCE = 16  # users whose feeds are written concurrently
ECHO_EVERY_S = 2.0
DEAD = 2  # state of a job that failed for good

_ACTIVE_SQL = (
    "SELECT user_id, packed FROM followees f WHERE NOT EXISTS"
    " (SELECT 1 FROM inactive_users i WHERE i.user_id = f.user_id)"
)
_JOBS_SQL = (
    "SELECT state, error, failed_ms, job_id, lane, content_id, author_id, entry, after, delivered,"
    " attempts, created_ms FROM fanout_jobs WHERE kind = 'post' AND state IN (0, 2)"
    " ORDER BY job_id"
)

Echo = Callable[[str], Any]
Take = Callable[[list[tuple[Any, ...]]], Awaitable[None]]


class Tally:
    """Rows written per table, and when they go by themselves."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()  # another row was there, and stays
        self._ends: Counter[tuple[str, int]] = Counter()

    def add(self, table: str, ttl_ms: int = 0, now_ms: int = 0) -> None:
        """One row, which lasts for ever or so long."""
        self.written[table] += 1
        if ttl_ms:
            self._ends[table, (now_ms + ttl_ms) // MINUTE_MS] += 1

    def lasting(self, table: str, now_ms: int) -> int:
        """Of the rows written, those that are still there and will be for a minute."""
        last = now_ms // MINUTE_MS + 1
        gone = sum(n for (name, end), n in self._ends.items() if name == table and end <= last)
        return self.written[table] - gone


class Copy:
    """One run; `tally` says what was written. `conn` reads the database of `store`."""

    def __init__(
        self,
        store: EmbeddedStore,
        conn: sqlite3.Connection,
        session: Session,
        copied_ms: int,
        clock: Clock,
        echo: Echo,
    ) -> None:
        self._store = store
        self._conn = conn
        self._session = session
        self._clock = clock
        self._echo = echo
        self._translation = Translation(conn, copied_ms, clock.now_ms())
        self.tally = Tally()

    async def run(self, job_ids: JobIds | None) -> None:
        """`job_ids` None: jobs were copied before, and may be done by now."""
        for step in self._translation.steps():
            await self._read(step.name, step.sql, self._translated(step))
        await self._read("feeds", _ACTIVE_SQL, self._feeds())
        uncounted = "SELECT DISTINCT content_id, user_id FROM counter_log"
        await self._read("uncounted interactions", uncounted, self._mark)
        if trending := self._store.posts.trending():
            await self._write([self._translation.trending(trending)])
        if job_ids is not None:
            await self._read("posts to fan out", _JOBS_SQL, self._jobs(job_ids))

    async def _read(self, name: str, sql: str, take: Take) -> None:
        """Gives all rows to `take`, part by part."""
        done, echoed_s = 0, self._clock.monotonic()
        cursor = self._conn.execute(sql)
        while rows := cursor.fetchmany(READ_ROWS):
            await take(rows)
            done += len(rows)
            if self._clock.monotonic() - echoed_s >= ECHO_EVERY_S:
                echoed_s = self._clock.monotonic()
                self._echo(f"{name}: {done:,} ...")
        self._echo(f"{name}: {done:,}")

    def _translated(self, step: Step) -> Take:
        async def take(rows: list[tuple[Any, ...]]) -> None:
            made: list[Row] = []
            for row in rows:
                made += step.rows_of(*row)
                if len(made) >= WRITE_ROWS:
                    await self._write(made)
                    made = []
            await self._write(made)

        return take

    async def _write(self, rows: Iterable[Row]) -> None:
        """Counts and writes what is not over yet."""
        now_ms = self._clock.now_ms()
        groups: dict[Hashable, list[Write]] = {}
        decided: list[Row] = []
        for number, row in enumerate(rows):
            write, left_ms = row.write, 0
            if row.until_ms:
                left_ms = row.until_ms - now_ms
                if left_ms <= 0:
                    continue
                ttl_s = -(-left_ms // SECOND_MS)
                write = Write(write.statement, (*write.parameters, ttl_s))
            self.tally.add(row.table, left_ms, now_ms)
            if row.ours:
                decided.append(row._replace(write=write))
            else:
                alone = row.partition is None
                key = number if alone else (row.table, row.partition)
                groups.setdefault(key, []).append(write)
        await in_partitions(self._session, groups.values())
        await gather_bounded(decided, self._decide)

    async def _decide(self, row: Row) -> None:
        assert row.ours is not None
        column, value = row.ours
        there = await self._session.insert_if_absent(*row.write)
        if there is not None and there[column] != value:
            self.tally.kept[row.table] += 1

    def _feeds(self) -> Take:
        pulling = self._conn.execute("SELECT author_id FROM authors WHERE mode = ?", (Mode.PULL,))
        pulled = native.U64Set([author_id for (author_id,) in pulling])
        deleted = self._store.posts.tombstones()

        async def one(row: tuple[Any, ...]) -> None:
            user_id, packed = row
            authors = [
                author_id for author_id in native.unpack_ids(packed) if author_id not in pulled
            ]
            entries = await self._feed_of(authors, deleted)
            await self._write(self._translation.feed(user_id, entries))

        async def take(rows: list[tuple[Any, ...]]) -> None:
            await gather_bounded(rows, one, FEEDS_AT_ONCE)

        return take

    async def _feed_of(self, authors: list[int], deleted: Any) -> bytes:
        if not authors:
            return b""
        oldest = ids.first_id_at(self._clock.now_ms() - RETENTION_MS)
        timelines = await self._store.posts.timelines(authors, ids.ID_MAX, oldest, 0)
        limit = BACKFILL_ENTRIES_MAX * len(authors)
        merged = native.merge_newest(timelines.entries, ids.ID_MAX, oldest, limit)
        return b"".join(
            entries_of.ENTRY.pack(content_id ^ entries_of.U64_MAX, author_id, quality, flags)
            for content_id, author_id, quality, flags in entries_of.rows(merged)
            if flags & entries_of.VISIBILITY_MASK < entries_of.Visibility.PRIVATE
            and content_id not in deleted
        )

    async def _mark(self, rows: list[tuple[Any, ...]]) -> None:
        """The cluster's workers count anew what these changes, not counted yet, are about."""
        marks = [(Dirty.CONTENT, content_id) for content_id, _ in rows]
        marks += [(Dirty.AFFINITY, user_id) for _, user_id in rows]
        await DirtyMarks(self._session, Stamps()).mark(marks)

    def _jobs(self, job_ids: JobIds) -> Take:
        """Rows of the outbox, which whoever sweeps relays; dead letters stay dead letters. What
        jobs of other kinds would do to stored feeds is done where those are derived again.
        """
        dead = DeadLetters(self._session)

        async def take(rows: list[tuple[Any, ...]]) -> None:
            writes = []
            for state, error, failed_ms, *columns in rows:
                job = _job_of(*columns)
                if state == DEAD:
                    job = replace(job, job_id=_own_id(job.created_ms, job.job_id))
                    await dead.bury(job.job_id, jobwire.encode(job), error, failed_ms)
                else:
                    job = replace(job, job_id=job_ids.new_id())
                    writes.append(KafkaOutbox.row_of(OutboxRow(job.job_id, job)))
            await in_parts(self._session, writes)

        return take


def _job_of(job_id: int, lane: int, content_id: int, author_id: int, *rest: Any) -> FanoutJob:
    return FanoutJob(job_id, JobKind.POST, Lane(lane), content_id, author_id, 0, *rest)


def _own_id(created_ms: int, number: int) -> int:
    """A dead letter's: the same in each run, of the time that its job was made."""
    return ids.make(max(created_ms, ids.EPOCH_MS), 0, 0, number % US_PER_MS)
