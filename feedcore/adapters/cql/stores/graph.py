"""GraphSource: follows as rows on both sides, blocks as rows on both sides.

An edge is in the viewer partition of the follower and in the followers of the followee, by one
logged batch, and in that batch are the job about it and, for a backfill, the row that says that it
is waited for. What is written is `domain.follow_plan`'s decision. Follow writes, then looks for a
block; block writes, then looks for follows: whoever comes second sees the other.

Two jobs of one pair may be done in any order: a removal takes away only what was delivered before
its follow ended (`feeds`), a backfill looks whether the follow is still there.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Awaitable, Sequence

from feedcore import native
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.ids import TOKEN_MAX, TOKEN_MIN, id_array
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import Activity
from feedcore.adapters.cql.stores.dirty import DirtyMarks
from feedcore.adapters.cql.stores.dirty import Kind as Dirty
from feedcore.adapters.cql.stores.edges import (
    follow_writes,
    job_of,
    published,
    unfollow_writes,
)
from feedcore.adapters.cql.stores.graph_import import GraphImport
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.domain.follow_plan import (
    EdgeFacts,
    blocked_error,
    check_pair,
    check_room,
    late_backfill,
    plan_follow,
    plan_unfollow,
)
from feedcore.errors import Unavailable
from feedcore.limits import LANE_SPLIT_FOLLOWERS, USER_ID_MAX
from feedcore.ports import FanoutJob, Followees, GraphPage, JobKind
from feedcore.resilience.gather import gather_all

SAMPLE_PAGE = 500  # partitions of one step of a sample's walk
SAMPLE_STEPS_SPARE = 20  # steps beyond what the sample needs, over users who follow nobody

_PAIR = Statement(
    "SELECT kind FROM viewer WHERE user_id = ? AND kind IN (10, 11, 12) AND target_id = ?"
)
_FOLLOWEE_COUNT = Statement("SELECT count(*) FROM viewer WHERE user_id = ? AND kind = 10")
_FOLLOWEE_RANGE = Statement(
    "SELECT target_id FROM viewer WHERE user_id = ? AND kind = 10 AND target_id > ? LIMIT ?"
)
_FOLLOWER_COUNT = Statement("SELECT count(*) FROM followers WHERE author_id = ?")
_SIZE = Statement("SELECT followers FROM author_sizes WHERE author_id = ?")
_FOLLOWER_RANGE = Statement(
    "SELECT follower_id FROM followers WHERE author_id = ? AND follower_id > ? LIMIT ?"
)
_USERS = Statement(
    "SELECT DISTINCT user_id, token(user_id) FROM viewer WHERE token(user_id) > ? LIMIT ?"
)


class CqlGraphSource:
    """See `ports.graph.GraphSource`."""

    def __init__(self, session: Session, outbox: JobOutbox, replica: Replica) -> None:
        self._session = session
        self._outbox = outbox
        self._replica = replica
        self._activity = Activity(session, outbox, replica)
        self._marks = DirtyMarks(session, Stamps())
        self._import = GraphImport(session, outbox, replica, self._activity, self._marks)

    async def followees(self, user_id: int) -> Followees:
        """One packed column."""
        packed = await self._session.read_packed(viewer.FOLLOWEES, (user_id,))
        return Followees(id_array(packed))

    async def follower_count(self, user_id: int) -> int:
        """Counted by the replicas: a second for some millions."""
        return (await self._session.read(_FOLLOWER_COUNT, (user_id,)))[0][0]

    async def audience(self, author_id: int) -> int:
        """An author who was never counted is looked at, up to where it matters."""
        rows = await self._session.read(_SIZE, (author_id,))
        if rows and rows[0][0] is not None:
            return rows[0][0]
        look = (author_id, 0, LANE_SPLIT_FOLLOWERS + 1)
        return len(await self._session.read_packed(_FOLLOWER_RANGE, look)) // 8

    async def followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A range of the partition."""
        key = (user_id, after, limit)
        return _page(await self._session.read_packed(_FOLLOWER_RANGE, key), limit)

    async def followee_page(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A range of the viewer partition."""
        key = (user_id, after, limit)
        return _page(await self._session.read_packed(_FOLLOWEE_RANGE, key), limit)

    async def push_recipients(
        self,
        author_id: int,
        after: int,
        limit: int,
        lane: int,
        recent_since_ms: int,
        recent_until_ms: int = USER_ID_MAX,
    ) -> GraphPage:
        """A page of followers, and of each bucket of activity the rows of those in it."""
        page = await self.followers(author_id, after, limit)
        if not page.ids:
            return page
        followers = native.unpack_ids(page.ids)
        skip = await self._activity.left_out(followers, lane, recent_since_ms, recent_until_ms)
        if not skip:
            return page
        kept = array("q", [one for one in followers if one not in skip])
        return GraphPage(kept.tobytes(), page.next_after)

    async def follow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """One round of reads, the batch, and a look whether a block or a post came between."""
        check_pair(follower_id, followee_id)
        pair, has_posts, count, known = await gather_all(
            *self._edge(follower_id, followee_id, now_ms),
            self._session.read(_FOLLOWEE_COUNT, (follower_id,)),
            self._activity.known(follower_id),
        )
        facts = EdgeFacts(
            followed=Kind.FOLLOWEE in pair,
            blocked=bool(pair - {Kind.FOLLOWEE}),
            followees=count[0][0],
            mode=self._replica.state.mode_of(followee_id).mode,
            has_posts=has_posts,
        )
        plan = plan_follow(facts)
        if not plan.changes:
            await self._reannounce(follower_id)
            return False
        await self._write_edge(follower_id, followee_id, now_ms, plan.job)
        seen = [] if known else self._activity.seen_writes([(follower_id, now_ms)])
        pair, has_posts, _, _ = await gather_all(
            *self._edge(follower_id, followee_id, now_ms),
            self._session.write_many(seen),
            self._marks.mark([(Dirty.FOLLOWERS, followee_id)]),
        )
        if pair - {Kind.FOLLOWEE}:
            await self._end(follower_id, followee_id, now_ms)
            raise blocked_error()
        if not pair:
            # unfollowed at the same time; or just before, by a node whose clock is ahead of ours
            raise Unavailable("followee_id: the follow was ended meanwhile; follow again")
        if job := late_backfill(plan, facts._replace(has_posts=has_posts)):
            await self._write_edge(follower_id, followee_id, now_ms, job)
        return True

    def _edge(
        self, follower_id: int, followee_id: int, now_ms: int
    ) -> tuple[Awaitable[set[int]], Awaitable[bool]]:
        """Reads of what may change beside a follow: (kinds of rows of the pair, has posts)."""

        async def pair() -> set[int]:
            rows = await self._session.read(_PAIR, (follower_id, followee_id))
            return {row[0] for row in rows}

        return pair(), published(self._session, followee_id, now_ms)

    async def _write_edge(
        self, follower_id: int, followee_id: int, now_ms: int, kind: JobKind | None
    ) -> None:
        job = self._job(JobKind.BACKFILL, follower_id, followee_id, now_ms)
        writes = follow_writes(self._outbox, job, now_ms, backfill=kind is not None)
        await self._commit(writes, [follower_id], [job] if kind else [])

    async def unfollow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """In force with the next read; the stored feed follows."""
        return await self._end(follower_id, followee_id, now_ms)

    async def _end(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        key = (follower_id, int(Kind.FOLLOWEE), followee_id)
        row, has_posts = await gather_all(
            self._session.read(viewer.ROW_AT, key), published(self._session, followee_id, now_ms)
        )
        plan = plan_unfollow(followed=bool(row), has_posts=has_posts)
        if not plan.changes:
            await self._reannounce(follower_id)
            return False
        job = self._job(JobKind.REMOVE, follower_id, followee_id, now_ms)
        jobs = [job] if plan.job else []
        writes = unfollow_writes(self._outbox, job, row[0][1], remove=bool(jobs))
        await self._commit(writes, [follower_id], jobs)
        await self._marks.mark([(Dirty.FOLLOWERS, followee_id)])
        return True

    async def block(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """A row on either side, so that each one's filters are in one partition."""
        check_pair(blocker_id, blocked_id)
        key = (blocker_id, int(Kind.BLOCKS), blocked_id)
        row, room = await gather_all(
            self._session.read(viewer.ROW, key),
            self._session.read(viewer.ROOM, (blocker_id,)),
        )
        if not row:
            check_room(room[0][0])
            at_us = viewer.stamp(self._outbox)
            rows = [
                viewer.put(blocker_id, Kind.BLOCKS, blocked_id, now_ms, at_us),
                viewer.put(blocked_id, Kind.BLOCKED_BY, blocker_id, now_ms, at_us),
            ]
            await self._commit(rows, [blocker_id, blocked_id])
        else:
            await self._reannounce(blocker_id, blocked_id)
        # also if it was there: who blocked may have died between the two
        await gather_all(
            self._end(blocker_id, blocked_id, now_ms),
            self._end(blocked_id, blocker_id, now_ms),
        )
        return not row

    async def unblock(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Ends this direction only."""
        key = (blocker_id, int(Kind.BLOCKS), blocked_id)
        row = await self._session.read(viewer.ROW_AT, key)
        if not row:
            await self._reannounce(blocker_id, blocked_id)
            return False
        at_us = max(viewer.stamp(self._outbox), row[0][1] + 1)
        rows = [
            viewer.drop(blocker_id, Kind.BLOCKS, blocked_id, at_us),
            viewer.drop(blocked_id, Kind.BLOCKED_BY, blocker_id, at_us),
        ]
        await self._commit(rows, [blocker_id, blocked_id])
        return True

    async def import_follows(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """See `graph_import`."""
        return await self._import.run(edges, now_ms)

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """See `activity`."""
        return await self._activity.mark_inactive(now_ms, limit)

    async def sample_users(self, count: int, seed: int) -> list[int]:
        """Users whose tokens come next after one drawn by the seed: a walk over the ring, bounded,
        around its end. Hashes know nothing of users, so neighbours are as good as any.
        """
        start = random.Random(seed).randint(TOKEN_MIN, TOKEN_MAX)
        found: dict[int, None] = {}
        after, wrapped = start, False
        for _ in range(count // SAMPLE_PAGE + SAMPLE_STEPS_SPARE):
            rows = await self._session.read(_USERS, (after, SAMPLE_PAGE))
            if wrapped:
                rows = [row for row in rows if row[1] <= start]
            users = [row[0] for row in rows]
            firsts = await self._session.read_many(
                _FOLLOWEE_RANGE, [(user, 0, 1) for user in users]
            )
            found.update((u, None) for u, f in zip(users, firsts, strict=True) if f)
            if len(found) >= count or (wrapped and len(rows) < SAMPLE_PAGE):
                break
            if len(rows) == SAMPLE_PAGE:
                after = rows[-1][1]
            else:
                after, wrapped = TOKEN_MIN, True
        return sorted(list(found)[:count])

    def _job(self, kind: JobKind, user_id: int, author_id: int, now_ms: int) -> FanoutJob:
        return job_of(kind, self._outbox.next_job_id(), user_id, author_id, now_ms)

    async def _reannounce(self, *users: int) -> None:
        """The writer of what is there may have crashed between commit and announcement, or
        announced before the commit was visible.
        """
        await self._replica.announce(users)

    async def _commit(
        self, writes: list[Write], users: list[int], jobs: Sequence[FanoutJob] = ()
    ) -> None:
        try:
            await self._session.batch(writes, logged=True)
        finally:
            # also where the outcome is not known: what is kept of the users may be outdated
            await self._replica.announce(users)
        if jobs:
            self._outbox.relay(jobs)


def _page(column: bytes, limit: int) -> GraphPage:
    ids = id_array(column)
    full = len(ids) // 8 == limit
    return GraphPage(ids, int.from_bytes(ids[-8:], "little") if full else 0)
