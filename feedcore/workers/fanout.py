"""Fan-out: takes jobs from the queue and delivers bounded chunks until each is done.

One turn:

    claim      least recently served jobs first: an author with millions delays nobody
    expand     each job into at most FANOUT_QUOTA_FOLLOWERS recipients, or one bounded read; jobs
               concurrently, so that reads over a network overlap
    deliver    everything of the turn in one commit
    advance    the continuations, in another commit

Invariants: killed between deliver and advance, a chunk is delivered again, which changes nothing; a
job that raises is set back and tried again, at last a dead letter, and never stops the others. Not
for policy: what is pushed was decided when the post was published.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
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
    CacheValidation,
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
        validation: CacheValidation,
        hot: Hot,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._feeds = feeds
        self._graph = graph
        self._posts = posts
        self._validation = validation
        self._hot = hot
        self._clock = clock
        self.stats = FanoutStats()
        self._expand: dict[JobKind, Callable[[FanoutJob, int], Awaitable[Step]]] = {
            JobKind.POST: self._post,
            JobKind.BACKFILL: self._backfill,
            JobKind.REMOVE: self._remove,
            JobKind.REBUILD: self._rebuild,
        }

    async def turn(self) -> int:
        """Serves the jobs whose turn it is; how many moved on, 0 when idle, paused or
        backlogged.
        """
        await self._validation.observe_node()
        hot = self._hot.read()
        if hot.fanout_paused or self._feeds.backlog() > DELIVERY_BACKLOG_MAX:
            return 0
        lanes = (Lane.ALL, Lane.ACTIVE) if hot.rest_lane_paused else tuple(Lane)
        jobs = await self._queue.claim(lanes, FANOUT_JOBS_PER_TURN)
        now_ms = self._clock.now_ms()
        steps = await self._expand_all(jobs, now_ms)
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

    async def _expand_all(self, jobs: list[FanoutJob], now_ms: int) -> list[tuple[FanoutJob, Step]]:
        """Returns the jobs that succeeded. A poisoned job must not stop the others: it becomes a
        dead letter in the end.
        """
        waiting = deque(enumerate(jobs))
        outcomes: dict[int, Step | Exception] = {}

        async def take() -> None:
            while waiting:
                place, job = waiting.popleft()
                outcomes[place] = await self._expand_one(job, now_ms)

        async with asyncio.TaskGroup() as group:
            while waiting:  # one more while those before wait: none do in a local store
                group.create_task(take())
                await asyncio.sleep(0)
        steps: list[tuple[FanoutJob, Step]] = []
        for place, job in enumerate(jobs):
            outcome = outcomes[place]
            if isinstance(outcome, Step):
                steps.append((job, outcome))
                continue
            self.stats.failures += 1
            if getattr(outcome, "retriable", False):
                continue  # a dependency is away: the job keeps its place and its attempts
            log.warning("fan-out job %d failed", job.job_id, exc_info=outcome)
            await self._queue.fail(job, f"{type(outcome).__name__}: {outcome}", now_ms)
        return steps

    async def _expand_one(self, job: FanoutJob, now_ms: int) -> Step | Exception:
        """Returns errors as answers, so that the other jobs go on."""
        try:
            return await self._expand[job.kind](job, now_ms)
        except Exception as error:
            return error

    async def _post(self, job: FanoutJob, now_ms: int) -> Step:
        """One chunk of the followers."""
        if job.content_id in self._posts.tombstones():
            return Step([], FINISHED, 0)
        page = await self._graph.push_recipients(
            job.author_id,
            job.after,
            FANOUT_QUOTA_FOLLOWERS,
            job.lane,
            # as of when the job was made, whenever its lane has its turn
            job.created_ms - RECENTLY_ACTIVE_MS,
            job.created_ms,
        )
        deliveries = [Delivery(job.entry, page.ids)] if page.ids else []
        return Step(deliveries, page.next_after or FINISHED, len(page.ids) // 8)

    async def _backfill(self, job: FanoutJob, now_ms: int) -> Step:
        """The author's posts of the retention into a new follower's feed."""
        if not native.ids_contain((await self._graph.followees(job.user_id)).ids, job.author_id):
            return Step([], FINISHED, 0)
        return await self._timelines_to(job.user_id, [job.author_id], FINISHED, now_ms)

    async def _remove(self, job: FanoutJob, now_ms: int) -> Step:
        """Takes an unfollowed author out of the stored feed; not if followed again meanwhile."""
        if native.ids_contain((await self._graph.followees(job.user_id)).ids, job.author_id):
            return Step([], FINISHED, 0)
        feed = native.pack_ids([job.user_id])
        removal = Delivery(b"", feed, remove_author=job.author_id, job_id=job.job_id)
        return Step([removal], FINISHED, 0)

    async def _rebuild(self, job: FanoutJob, now_ms: int) -> Step:
        """The posts of the next followees into a returning user's feed."""
        page = await self._graph.followee_page(job.user_id, job.after, REBUILD_FOLLOWEES_PER_TURN)
        authors = native.unpack_ids(page.ids)
        after = page.next_after or FINISHED
        return await self._timelines_to(job.user_id, authors, after, now_ms)

    async def _timelines_to(
        self, user_id: int, authors: list[int], after: int, now_ms: int
    ) -> Step:
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        timelines = await self._posts.timelines(authors, USER_ID_MAX, oldest, BACKFILL_ENTRIES_MAX)
        entries = native.merge_newest(
            timelines.entries, USER_ID_MAX, oldest, BACKFILL_ENTRIES_MAX * max(1, len(authors))
        )
        if not entries:
            return Step([], after, 0)
        feed = native.pack_ids([user_id])
        return Step([Delivery(entries, feed)], after, len(entries) // ENTRY_BYTES)
