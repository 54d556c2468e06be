"""Many follows at once, for loaders: idempotent, so that a loader that died begins again.

Followers rows are written first: an edge is new until its row in the viewer partition is there.
Where anybody has published, one rebuild a follower takes the place of a backfill an edge.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.contracts.announcements import Announcer
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.ids import id_array
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import (
    BATCH_ROWS,
    BATCHES_AT_ONCE,
    Activity,
    in_partitions,
    in_parts,
)
from feedcore.adapters.cql.stores.dirty import DirtyMarks
from feedcore.adapters.cql.stores.dirty import Kind as Dirty
from feedcore.adapters.cql.stores.edges import add_follower, job_of, rebuild_rows
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.domain.follow_plan import new_followees, wanted_followees
from feedcore.ports import FanoutJob, JobKind
from feedcore.resilience.gather import gather_all, gather_bounded

FOLLOWERS_AT_ONCE = 64  # whose partitions are read concurrently

_BLOCKS = Statement("SELECT target_id FROM viewer WHERE user_id = ? AND kind IN (11, 12)")
_ANY_POST = Statement("SELECT author_id FROM outbox LIMIT 1")


class GraphImport:
    """See `run`."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        announcer: Announcer,
        activity: Activity,
        marks: DirtyMarks,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._announcer = announcer
        self._activity = activity
        self._marks = marks

    async def run(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """Of (follower, followee); how many were new. Edges against a block are left out."""
        wanted = wanted_followees(edges)
        followers = list(wanted)
        found = await gather_bounded(
            followers, lambda one: self._new(one, wanted[one]), FOLLOWERS_AT_ONCE
        )
        new = {one: ids for one, ids in zip(followers, found, strict=True) if ids}
        if not new:
            return 0
        has_posts = bool(await self._session.read(_ANY_POST))
        await self._add_followers(new, now_ms)
        unknown = await self._activity.unknown(list(new))
        await in_parts(
            self._session, self._activity.seen_writes((user_id, now_ms) for user_id in unknown)
        )
        jobs = {
            user_id: job_of(JobKind.REBUILD, self._outbox.next_job_id(), user_id, 0, now_ms)
            for user_id in (new if has_posts else ())
        }
        back = [
            write
            for job in jobs.values()
            for write in self._activity.back_writes(job.user_id, now_ms, timestamp_us(job.job_id))
        ]
        await in_parts(self._session, back)

        async def add(user_id: int) -> None:
            await self._add_followees(user_id, list(new[user_id]), jobs.get(user_id), now_ms)

        try:
            await gather_bounded(list(new), add, BATCHES_AT_ONCE)
        finally:
            await self._announcer.announce(list(new))
        self._outbox.relay(list(jobs.values()))
        authors = {author for authors in new.values() for author in authors}
        await self._marks.mark((Dirty.FOLLOWERS, author) for author in authors)
        return sum(map(len, new.values()))

    async def _add_followers(self, new: dict[int, set[int]], now_ms: int) -> None:
        """The edges as fan-out sees them."""
        at_us = viewer.stamp(self._outbox)
        followers_of: dict[int, list[Write]] = {}
        for user_id, authors in new.items():
            for author in authors:
                row = add_follower(author, user_id, now_ms, at_us)
                followers_of.setdefault(author, []).append(row)
        await in_partitions(self._session, followers_of.values())

    async def _add_followees(
        self, user_id: int, authors: list[int], job: FanoutJob | None, now_ms: int
    ) -> None:
        """The last rows come with the job, all or none: who begins again finds edges that are new,
        or all is done.
        """
        at_us = viewer.stamp(self._outbox)
        rows = [viewer.put(user_id, Kind.FOLLOWEE, one, now_ms, at_us) for one in authors]
        *first, last = (rows[n : n + BATCH_ROWS] for n in range(0, len(rows), BATCH_ROWS))
        for part in first:
            await self._session.batch(part, logged=False)
        if job is None:
            await self._session.batch(last, logged=False)
        else:
            rows = [*last, *rebuild_rows(job), self._outbox.write_of(job)]
            await self._session.batch(rows, logged=True)

    async def _new(self, follower_id: int, wanted: set[int]) -> set[int]:
        user = (follower_id,)
        packed, blocks = await gather_all(
            self._session.read_packed(viewer.FOLLOWEES, user), self._session.read(_BLOCKS, user)
        )
        before = id_array(packed)
        followed = set(native.ids_intersect(before, native.U64Set(wanted)))
        return new_followees(wanted, followed, {row[0] for row in blocks}, len(before) // 8)
