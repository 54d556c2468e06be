"""Rebuilds of stored feeds: the user is active again, and a job fills the feed.

Order: active first (posts published from now on are pushed), then in one logged batch the row that
says that it is being rebuilt, the end of the inactive one, and the job.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cluster.announce import Announcer
from feedcore.adapters.cluster.jobids import timestamp_us
from feedcore.adapters.cluster.outbox import JobOutbox
from feedcore.adapters.cql.activity import Activity, in_parts
from feedcore.adapters.cql.bounded import together
from feedcore.adapters.cql.pairs import job_of
from feedcore.adapters.cql.session import Session
from feedcore.adapters.cql.viewer import Kind, drop, put
from feedcore.ports import FanoutJob, JobKind

BATCHES_AT_ONCE = 32  # logged batches cost the servers two writes more each


async def queue_rebuilds(
    session: Session,
    outbox: JobOutbox,
    announcer: Announcer,
    activity: Activity,
    user_ids: Sequence[int],
    now_ms: int,
) -> None:
    """One job a user, whatever waits already: it may be at work, with what it read before this."""
    jobs = [
        job_of(JobKind.REBUILD, outbox.next_job_id(), user_id, 0, now_ms) for user_id in user_ids
    ]
    back = [
        write
        for job in jobs
        for write in activity.back_writes(job.user_id, now_ms, timestamp_us(job.job_id))
    ]
    await in_parts(session, back)
    for first in range(0, len(jobs), BATCHES_AT_ONCE):
        part = jobs[first : first + BATCHES_AT_ONCE]
        try:
            await together(*(_queue(session, outbox, job) for job in part))
        finally:
            await announcer.announce([job.user_id for job in part])
        outbox.relay(part)


async def _queue(session: Session, outbox: JobOutbox, job: FanoutJob) -> None:
    at_us = timestamp_us(job.job_id)
    writes = [
        put(job.user_id, Kind.REBUILDING, 0, job.job_id, at_us),
        drop(job.user_id, Kind.INACTIVE, 0, at_us),
        outbox.write_of(job),
    ]
    await session.batch(writes, logged=True)
