"""FanoutQueue: job rows. A row stays until all it delivered is merged: while it is there, readers
overlay it.

States: 0 to do -> 1 done, waits for the merge -> gone; 0 -> 2 dead letter -> 0 by replay. A row
that cannot be read as a job is a dead letter as soon as it is met: it never stops the others, nor
fails what lists, counts or overlays jobs.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable

from feedcore.adapters.embedded.database import Connection, Writer, bump, marks
from feedcore.adapters.embedded.feeds import last_delivery, merged_delivery
from feedcore.adapters.embedded.job_rows import LANES, Unreadable, job_of
from feedcore.limits import FANOUT_ATTEMPTS_MAX
from feedcore.ports import DeadLetter, FanoutJob, JobKind, Lane, QueueLag

_COLUMNS = (
    "job_id, kind, lane, content_id, author_id, user_id, entry, after, delivered, attempts,"
    " created_ms"
)
_ORDERED = "kind IN ('remove', 'backfill')"
DROPS_KEPT = 10_000  # a process that slept through more compares with the whole table instead

log = logging.getLogger(__name__)


class EmbeddedFanoutQueue:
    """See `ports.queue.FanoutQueue`."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer) -> None:
        self._conn = conn
        self._writer = writer

    async def claim(self, lanes: tuple[Lane, ...], limit: int) -> list[FanoutJob]:
        """Least recently served first; of one user and author, removals and backfills in their
        order.
        """
        sql = (
            f"SELECT {_COLUMNS} FROM fanout_jobs j"
            f" WHERE state = 0 AND (lane IN ({marks(len(lanes))}) OR lane NOT IN ({LANES}))"
            f" AND NOT (j.{_ORDERED} AND EXISTS (SELECT 1 FROM fanout_jobs o WHERE"
            " o.user_id = j.user_id AND o.user_id <> 0 AND o.author_id = j.author_id"
            f" AND o.{_ORDERED} AND o.state = 0 AND o.job_id < j.job_id))"
            " ORDER BY served, job_id LIMIT ?"
        )
        rows = self._conn.execute(sql, (*map(int, lanes), limit)).fetchall()
        jobs = []
        for row in rows:
            try:
                jobs.append(job_of(row))
            except Unreadable as error:
                await self._bury(row[0], error)
        return jobs

    async def _bury(self, job_id: int, error: Unreadable) -> None:
        log.error("fan-out job %d is a dead letter: %s", job_id, error)
        sql = (
            "UPDATE fanout_jobs SET state = 2, error = ?, failed_ms = CASE typeof(created_ms)"
            " WHEN 'integer' THEN created_ms ELSE 0 END WHERE job_id = ? AND state = 0"
        )
        await self._writer.run(
            lambda conn: conn.execute(sql, (f"Unreadable: {error}", job_id)), replicated=False
        )

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        """New continuations; finished jobs wait for the merge of all that is delivered by now."""
        await self._writer.run(lambda conn: _advance(conn, progress, now_ms), replicated=False)

    async def fail(self, job: FanoutJob, error: str, now_ms: int) -> None:
        """Counts the attempt and moves the job to the end of the line."""

        def work(conn: sqlite3.Connection) -> None:
            turn = _next_turn(conn)
            dead = job.attempts + 1 >= FANOUT_ATTEMPTS_MAX
            sql = (
                "UPDATE fanout_jobs SET attempts = ?, error = ?, failed_ms = ?, served = ?,"
                " state = ? WHERE job_id = ? AND state = 0"
            )
            state = 2 if dead else 0
            conn.execute(sql, (job.attempts + 1, error, now_ms, turn, state, job.job_id))

        await self._writer.run(work, replicated=False)

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """By job number, which is the order they were made in."""
        sql = (
            f"SELECT {_COLUMNS}, error, failed_ms FROM fanout_jobs WHERE state = 2"
            " ORDER BY job_id LIMIT ?"
        )
        rows = self._conn.execute(sql, (limit,))
        return [DeadLetter(_shown(row[:11]), str(row[11]), row[12]) for row in rows]

    async def replay(self, job_ids: list[int], now_ms: int) -> int:
        """Attempts begin again; the continuation stays."""

        def work(conn: sqlite3.Connection) -> int:
            turn = _next_turn(conn)
            sql = (
                "UPDATE fanout_jobs SET state = 0, attempts = 0, error = '', failed_ms = 0,"
                " served = ? WHERE state = 2"
            )
            if not job_ids:
                return conn.execute(sql, (turn,)).rowcount
            found = conn.executemany(f"{sql} AND job_id = ?", [(turn, one) for one in set(job_ids)])
            return found.rowcount

        return await self._writer.run(work, replicated=False)

    async def lag(self, now_ms: int) -> dict[Lane, QueueLag]:
        """Of jobs to do."""
        sql = (
            "SELECT lane, count(*), min(created_ms) FROM fanout_jobs WHERE state = 0"
            f" AND lane IN ({LANES}) AND typeof(created_ms) = 'integer' GROUP BY lane"
        )
        found = {Lane(lane): (count, oldest) for lane, count, oldest in self._conn.execute(sql)}
        return {
            lane: QueueLag(found[lane][0], max(now_ms - found[lane][1], 0))
            if lane in found
            else QueueLag(0, 0)
            for lane in Lane
        }


def _shown(row: tuple) -> FanoutJob:
    """For people: what of an unreadable job can be read."""
    try:
        return job_of(row)
    except Unreadable:
        return FanoutJob(row[0], JobKind.POST)


def _next_turn(conn: sqlite3.Connection) -> int:
    return conn.execute("UPDATE versions SET turn = turn + 1 RETURNING turn").fetchone()[0]


def _advance(conn: Connection, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
    turn = _next_turn(conn)
    going = [(after, new, turn, job.job_id) for job, after, new in progress if after >= 0]
    conn.executemany(
        "UPDATE fanout_jobs SET after = ?, delivered = delivered + ?, served = ?, attempts = 0"
        " WHERE job_id = ? AND state = 0",
        going,
    )
    finished = [(job, new) for job, after, new in progress if after < 0]
    posts = [(job.content_id, new) for job, new in finished if job.kind is JobKind.POST]
    posts += [(j.content_id, new) for j, a, new in progress if a >= 0 and j.kind is JobKind.POST]
    conn.executemany(
        "UPDATE posts SET reach = reach + ?2 WHERE content_id = ?1",
        [row for row in posts if row[1]],
    )
    if not finished:
        return
    last = last_delivery(conn)
    if last <= merged_delivery(conn):
        _finish_now(conn, [job for job, _ in finished])
    else:
        conn.executemany(
            "UPDATE fanout_jobs SET state = 1, done_seq = ?, delivered = delivered + ?"
            " WHERE job_id = ? AND state = 0",
            [(last, new, job.job_id) for job, new in finished],
        )
        rebuilt = [(last, job.user_id) for job, _ in finished if job.kind is JobKind.REBUILD]
        conn.executemany(
            "UPDATE rebuilding_users SET done_seq = ?1 WHERE user_id = ?2 AND NOT EXISTS (SELECT 1"
            " FROM fanout_jobs WHERE user_id = ?2 AND kind = 'rebuild' AND state = 0)",
            rebuilt,
        )
    conn.executemany(
        "UPDATE posts SET fanned_out_ms = ?1 WHERE content_id = ?2 AND NOT EXISTS"
        " (SELECT 1 FROM fanout_jobs WHERE content_id = ?2 AND content_id <> 0 AND state <> 1)",
        [(now_ms, job.content_id) for job, _ in finished if job.kind is JobKind.POST],
    )


def _finish_now(conn: Connection, jobs: list[FanoutJob]) -> None:
    rebuilt = [(job.user_id,) for job in jobs if job.kind is JobKind.REBUILD]
    drop_jobs(conn, [job.job_id for job in jobs])
    conn.executemany(
        "DELETE FROM rebuilding_users WHERE user_id = ?1 AND NOT EXISTS (SELECT 1 FROM fanout_jobs"
        " WHERE user_id = ?1 AND user_id <> 0 AND author_id = 0 AND kind = 'rebuild')",
        rebuilt,
    )


def drop_jobs(conn: Connection, job_ids: Iterable[int]) -> None:
    """Removes job rows, and notes that for the replicas."""
    rows = [(job_id,) for job_id in job_ids]
    if not rows:
        return
    conn.executemany("DELETE FROM fanout_jobs WHERE job_id = ?", rows)
    conn.executemany("INSERT INTO job_drops (job_id) VALUES (?)", rows)
    bump(conn, "jobs_dropped")


def drop_merged_jobs(conn: Connection, merged_seq: int) -> None:
    """After a merge up to `merged_seq`: jobs and rebuilds that have nothing left to wait for."""
    found = conn.execute(
        "SELECT job_id FROM fanout_jobs WHERE state = 1 AND done_seq <= ?", (merged_seq,)
    )
    drop_jobs(conn, [row[0] for row in found.fetchall()])
    conn.execute("DELETE FROM rebuilding_users WHERE done_seq <= ?", (merged_seq,))
    conn.execute(
        "DELETE FROM job_drops WHERE seq <= (SELECT max(seq) FROM job_drops) - ?", (DROPS_KEPT,)
    )


__all__ = ["EmbeddedFanoutQueue", "drop_jobs", "drop_merged_jobs"]
