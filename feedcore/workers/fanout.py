"""Fan-out: takes jobs from the queue and delivers bounded chunks until each is done.

One turn:

    claim      least recently served jobs first: an author with millions delays nobody
    expand     each job into at most FANOUT_QUOTA_FOLLOWERS recipients, or one bounded read
    deliver    everything of the turn in one commit
    advance    the continuations, in another commit

Invariants: killed between deliver and advance, a chunk is delivered again, which changes nothing; a
job that raises is set back and tried again, at last a dead letter, and never stops the others. Not
for policy: what is pushed was decided when the post was published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from feedcore import native
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.limits import (
    BACKFILL_ENTRIES_MAX,
    DELIVERY_BACKLOG_MAX,
    FANOUT_JOBS_PER_TURN,
    FANOUT_QUOTA_FOLLOWERS,
    REBUILD_FOLLOWEES_PER_TURN,
    RECENTLY_ACTIVE_MS,
    RETENTION_MS,
    USER_ID_MAX,
)
from feedcore.ports import (
    Delivery,
    FanoutJob,
    FanoutQueue,
    FeedStore,
    GraphSource,
    JobKind,
    Lane,
    PostStore,
)
from feedcore.services.hot import Hot

FINISHED = -1  # as `after`: the job has nothing left to deliver

log = logging.getLogger(__name__)


@dataclass(slots=True)
class FanoutStats:
    """Since the process started; read by the metrics exporter."""

    turns: int = 0
    jobs_finished: int = 0
    deliveries: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one job does in one turn: deliveries, the new continuation, how many feed items they
    make.
    """

    deliveries: list[Delivery]
    after: int
    items: int


class FanoutWorker:
    """One consumer of the queue."""

    def __init__(
        self,
        queue: FanoutQueue,
        feeds: FeedStore,
        graph: GraphSource,
        posts: PostStore,
        hot: Hot,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._feeds = feeds
        self._graph = graph
        self._posts = posts
        self._hot = hot
        self._clock = clock
        self.stats = FanoutStats()
        self._expand: dict[JobKind, Callable[[FanoutJob, int], Step]] = {
            JobKind.POST: self._post,
            JobKind.BACKFILL: self._backfill,
            JobKind.REMOVE: self._remove,
            JobKind.REBUILD: self._rebuild,
        }

    async def turn(self) -> int:
        """Serves the jobs whose turn it is; how many moved on, 0 when idle, paused or
        backlogged.
        """
        hot = self._hot.read()
        if hot.fanout_paused or self._feeds.backlog() > DELIVERY_BACKLOG_MAX:
            return 0
        lanes = (Lane.ALL, Lane.ACTIVE) if hot.rest_lane_paused else tuple(Lane)
        jobs = self._queue.claim(lanes, FANOUT_JOBS_PER_TURN)
        now_ms = self._clock.now_ms()
        steps: list[tuple[FanoutJob, Step]] = []
        for job in jobs:
            try:
                steps.append((job, self._expand[job.kind](job, now_ms)))
            except (
                Exception
            ) as error:  # a poisoned job must not stop the others; it is kept and listed
                self.stats.failures += 1
                if getattr(error, "retriable", False):
                    continue  # a dependency is away: the job keeps its place and its attempts
                log.warning("fan-out job %d failed", job.job_id, exc_info=True)
                await self._queue.fail(job, f"{type(error).__name__}: {error}", now_ms)
        deliveries = [delivery for _, step in steps for delivery in step.deliveries]
        if deliveries:
            await self._feeds.deliver(deliveries)
        if steps:
            await self._queue.advance(
                [(job, step.after, step.items) for job, step in steps], now_ms
            )
        self.stats.turns += bool(jobs)
        self.stats.jobs_finished += sum(step.after == FINISHED for _, step in steps)
        self.stats.deliveries += sum(step.items for _, step in steps)
        return len(steps)

    def _post(self, job: FanoutJob, now_ms: int) -> Step:
        """One chunk of the followers."""
        if job.content_id in self._posts.tombstones():
            return Step([], FINISHED, 0)
        page = self._graph.push_recipients(
            job.author_id, job.after, FANOUT_QUOTA_FOLLOWERS, job.lane, now_ms - RECENTLY_ACTIVE_MS
        )
        deliveries = [Delivery(job.entry, page.ids)] if page.ids else []
        return Step(deliveries, page.next_after or FINISHED, len(page.ids) // 8)

    def _backfill(self, job: FanoutJob, now_ms: int) -> Step:
        """The author's posts of the retention into a new follower's feed."""
        if not native.ids_contain(self._graph.followees(job.user_id), job.author_id):
            return Step([], FINISHED, 0)
        return Step(*self._outboxes_to(job.user_id, [job.author_id], FINISHED, now_ms))

    def _remove(self, job: FanoutJob, now_ms: int) -> Step:
        """Takes an unfollowed author out of the stored feed; not if followed again meanwhile."""
        if native.ids_contain(self._graph.followees(job.user_id), job.author_id):
            return Step([], FINISHED, 0)
        feed = native.pack_ids([job.user_id])
        removal = Delivery(b"", feed, remove_author=job.author_id, job_id=job.job_id)
        return Step([removal], FINISHED, 0)

    def _rebuild(self, job: FanoutJob, now_ms: int) -> Step:
        """The posts of the next followees into a returning user's feed."""
        page = self._graph.followee_page(job.user_id, job.after, REBUILD_FOLLOWEES_PER_TURN)
        authors = native.unpack_ids(page.ids)
        return Step(*self._outboxes_to(job.user_id, authors, page.next_after or FINISHED, now_ms))

    def _outboxes_to(
        self, user_id: int, authors: list[int], after: int, now_ms: int
    ) -> tuple[list[Delivery], int, int]:
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        outboxes = self._posts.outboxes(authors, USER_ID_MAX, oldest, BACKFILL_ENTRIES_MAX)
        entries = native.merge_newest(
            outboxes, USER_ID_MAX, oldest, BACKFILL_ENTRIES_MAX * max(1, len(authors))
        )
        if not entries:
            return [], after, 0
        feed = native.pack_ids([user_id])
        return [Delivery(entries, feed)], after, len(entries) // ENTRY_BYTES
