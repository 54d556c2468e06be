"""Rebuilds of stored feeds: the user is active again, and a job fills the feed.

Order: active first (posts published from now on are pushed), then in one logged batch the row that
says that it is being rebuilt, the end of the inactive one, and the job.
"""

from __future__ import annotations

from feedcore.adapters.contracts.announcements import Announcer
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Write
from feedcore.adapters.cql.stores.activity import Activity
from feedcore.adapters.cql.stores.edges import job_of
from feedcore.adapters.cql.stores.viewer_partition import Kind, drop, put
from feedcore.ports import FanoutJob, JobKind


async def queue_rebuild(
    session: Session,
    outbox: JobOutbox,
    announcer: Announcer,
    activity: Activity,
    user_id: int,
    now_ms: int,
) -> None:
    """A job of its own, whatever waits already: that may be at work, with what it read before."""
    job = job_of(JobKind.REBUILD, outbox.next_job_id(), user_id, 0, now_ms)
    await session.write_many(activity.back_writes(user_id, now_ms, timestamp_us(job.job_id)))
    try:
        await session.batch(rebuild_writes(outbox, job), logged=True)
    finally:
        # also where the outcome is not known: what is kept of the user may be outdated
        await announcer.announce([user_id])
    outbox.relay([job])


def rebuild_writes(outbox: JobOutbox, job: FanoutJob) -> list[Write]:
    """For one logged batch."""
    at_us = timestamp_us(job.job_id)
    return [
        put(job.user_id, Kind.REBUILDING, 0, job.job_id, at_us),
        drop(job.user_id, Kind.INACTIVE, 0, at_us),
        outbox.write_of(job),
    ]
