"""Dead letters: jobs given up after FANOUT_ATTEMPTS_MAX, and messages that are no job.

Rows by job id, which is the order they were made in, over a few partitions. What could not be read
is kept as it came, under an id made from where it came from, so that reading it again is the same
row; a newer program may be able to replay it. Rows go after 30 days (the table's TTL).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.job_wire import Unreadable
from feedcore.domain import ids
from feedcore.ports import DeadLetter, FanoutJob, JobKind, Lane

BUCKETS = 8
PAGE = 200  # rows of one bucket read at once
ERROR_CHARS_MAX = 1_000  # an operator reads the first lines of it

_INSERT = Statement(
    "INSERT INTO dead_letters (bucket, job_id, job, error, failed_ms) VALUES (?, ?, ?, ?, ?)"
)
_SELECT = Statement(
    "SELECT job_id, job, error, failed_ms FROM dead_letters"
    " WHERE bucket = ? AND job_id > ? ORDER BY job_id LIMIT ?"
)
_ONE = Statement(
    "SELECT job_id, job, error, failed_ms FROM dead_letters WHERE bucket = ? AND job_id = ?"
)
_DELETE = Statement("DELETE FROM dead_letters WHERE bucket = ? AND job_id = ?")


class Letter(NamedTuple):
    """One row; `blob` is what decodes to a job, if anything knows how."""

    job_id: int
    blob: bytes
    error: str
    failed_ms: int

    def job(self) -> FanoutJob:
        """Raises Unreadable."""
        return jobwire.decode(self.blob)


class DeadLetters:
    """The table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def bury(self, job_id: int, blob: bytes, error: str, now_ms: int) -> None:
        """Keeps it until somebody replays it."""
        row = (job_id % BUCKETS, job_id, blob, error[:ERROR_CHARS_MAX], now_ms)
        await self._session.write(_INSERT, row)

    async def oldest(self, limit: int) -> list[DeadLetter]:
        """Oldest first."""
        keys = [(bucket, 0, limit) for bucket in range(BUCKETS)]
        found = await self._session.read_many(_SELECT, keys)
        rows = sorted(Letter(*row) for part in found for row in part)
        return [DeadLetter(_shown(row), row.error, row.failed_ms) for row in rows[:limit]]

    async def each(self, job_ids: list[int]) -> AsyncIterator[Letter]:
        """Those that are there; an empty list means all."""
        if job_ids:
            keys = [(one % BUCKETS, one) for one in sorted(set(job_ids))]
            for start in range(0, len(keys), PAGE):
                for rows in await self._session.read_many(_ONE, keys[start : start + PAGE]):
                    for row in rows:
                        yield Letter(*row)
            return
        for bucket in range(BUCKETS):
            last = 0
            while rows := await self._session.read(_SELECT, (bucket, last, PAGE)):
                for row in rows:
                    yield Letter(*row)
                last = rows[-1][0]

    @staticmethod
    def delete_of(letter: Letter) -> Write:
        """For the batch that puts the job back."""
        return Write(_DELETE, (letter.job_id % BUCKETS, letter.job_id))


def id_of_unreadable(where: str, at_ms: int) -> int:
    """An id for bytes that have none: of that time, and always the same for the same place."""
    ms = min(max(at_ms, ids.EPOCH_MS), ids.TIME_MAX_MS)
    digest = hashlib.blake2b(where.encode(), digest_size=8).digest()
    low = int.from_bytes(digest, "big") & ((1 << ids.TIME_SHIFT) - 1)
    return ids.first_id_at(ms) | low


def _shown(letter: Letter) -> FanoutJob:
    try:
        return letter.job()
    except Unreadable:
        kind, lane = JobKind.POST, Lane.ALL
        return FanoutJob(letter.job_id, kind, lane, 0, 0, 0, b"", 0, 0, 0, letter.failed_ms)
