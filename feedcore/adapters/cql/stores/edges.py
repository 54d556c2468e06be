"""The rows and jobs that an edge is made of. Shared by `graph` and `graph_import`."""

from __future__ import annotations

from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.stores.viewer_partition import Kind, drop, put
from feedcore.limits import DAY_MS, RETENTION_MS
from feedcore.ports import FanoutJob, JobKind

_PUBLISHED = Statement("SELECT content_id FROM outbox WHERE author_id = ? AND day IN ? LIMIT 1")
_ADD_FOLLOWER = Statement(
    "INSERT INTO followers (author_id, follower_id, since_ms) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
_DROP_FOLLOWER = Statement(
    "DELETE FROM followers USING TIMESTAMP ? WHERE author_id = ? AND follower_id = ?"
)


async def published(session: Session, author_id: int, now_ms: int) -> bool:
    """Whether the author has posts that feeds may hold."""
    # a publish time may be of tomorrow already: clocks differ by seconds
    days = list(range((now_ms - RETENTION_MS) // DAY_MS, now_ms // DAY_MS + 2))
    return bool(await session.read(_PUBLISHED, (author_id, days)))


def job_of(kind: JobKind, job_id: int, user_id: int, author_id: int, now_ms: int) -> FanoutJob:
    """A job about one user's feed."""
    return FanoutJob(job_id, kind, author_id=author_id, user_id=user_id, created_ms=now_ms)


def add_follower(author_id: int, follower_id: int, now_ms: int, at_us: int) -> Write:
    """The edge as the followee's fan-out sees it."""
    return Write(_ADD_FOLLOWER, (author_id, follower_id, now_ms, at_us))


def rebuild_rows(job: FanoutJob) -> list[Write]:
    """The feed is being rebuilt, and the user is not inactive: for one logged batch with the job.
    Active again comes before it (`Activity.back_writes`).
    """
    at_us = timestamp_us(job.job_id)
    return [
        put(job.user_id, Kind.REBUILDING, 0, job.job_id, at_us),
        drop(job.user_id, Kind.INACTIVE, 0, at_us),
    ]


def follow_writes(outbox: JobOutbox, job: FanoutJob, now_ms: int, *, backfill: bool) -> list[Write]:
    """The edge that the job is about, as of the job; with the job, if it is wanted."""
    user_id, author_id, at_us = job.user_id, job.author_id, timestamp_us(job.job_id)
    writes = [
        put(user_id, Kind.FOLLOWEE, author_id, now_ms, at_us),
        add_follower(author_id, user_id, now_ms, at_us),
    ]
    if backfill:
        writes.append(put(user_id, Kind.BACKFILL, author_id, job.job_id, at_us))
        writes.append(outbox.write_of(job))
    return writes


def unfollow_writes(
    outbox: JobOutbox, job: FanoutJob, written_us: int, *, remove: bool
) -> list[Write]:
    """The end of the edge that was written then, and of a backfill that is waited for."""
    user_id, author_id = job.user_id, job.author_id
    at_us = max(timestamp_us(job.job_id), written_us + 1)
    writes = [
        drop(user_id, Kind.FOLLOWEE, author_id, at_us),
        drop(user_id, Kind.BACKFILL, author_id, at_us),
        Write(_DROP_FOLLOWER, (at_us, author_id, user_id)),
    ]
    if remove:
        writes.append(outbox.write_of(job))
    return writes
