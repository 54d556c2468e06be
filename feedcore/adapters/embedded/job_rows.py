"""Rows of `fanout_jobs` as jobs: what can be read, and what cannot and why.

Invariant: nothing but Unreadable is raised for a row, whatever is in it. Not for what becomes of
one that cannot be read: `queue` makes it a dead letter, `replica` leaves it out.
"""

from __future__ import annotations

from typing import Any

from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import FeedcoreError
from feedcore.ports import FanoutJob, JobKind, Lane

LANES = ",".join(str(int(lane)) for lane in Lane)  # for an IN list


class Unreadable(FeedcoreError):
    """A row of `fanout_jobs` that is no job: `field: what was seen; what is allowed`."""


def check_job(kind: Any, author_id: Any, user_id: Any, entry: Any) -> None:
    """Raises Unreadable unless there may be such a job."""
    if not (isinstance(author_id, int) and isinstance(user_id, int)):
        raise Unreadable(f"author and user: {author_id!r:.40}, {user_id!r:.40}; integers")
    wanted = ENTRY_BYTES if kind == JobKind.POST else 0
    if not isinstance(entry, bytes) or len(entry) != wanted:
        size = len(entry) if isinstance(entry, bytes | str) else 0
        raise Unreadable(f"entry: {size} bytes of {type(entry).__name__}; {wanted} bytes")


def job_of(row: tuple) -> FanoutJob:
    """Raises Unreadable."""
    job_id, kind, lane, content_id, author, user, entry, after, delivered, attempts, created = row
    if kind not in list(JobKind):
        raise Unreadable(f"kind: {kind!r:.40}; {', '.join(JobKind)}")
    if lane not in list(Lane):
        raise Unreadable(f"lane: {lane!r:.40}; {LANES}")
    numbers = content_id, after, delivered, attempts, created
    if not all(isinstance(number, int) for number in numbers):
        raise Unreadable(f"ids and counts: {numbers!r:.80}; integers")
    check_job(kind, author, user, entry)
    return FanoutJob(
        job_id=job_id,
        kind=JobKind(kind),
        lane=Lane(lane),
        content_id=content_id,
        author_id=author,
        user_id=user,
        entry=entry,
        after=after,
        delivered=delivered,
        attempts=attempts,
        created_ms=created,
    )
