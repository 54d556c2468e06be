"""FeedStore: one partition a user, newest first, kept by TTL.

A delivery is written as of the moment it began; a removal deletes as of the moment the follow ended
(its job's id has it), so that what a later backfill has written stays, in whatever order the two
are done. What was delivered in between, by a fan-out that had read the followers before, stays too:
readers filter by whom the user follows now, and the TTL takes it.

Deliveries are derived and idempotent: not all or none, but repeated until all are done.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

from feedcore import native
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement, Write
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import Activity, in_partitions
from feedcore.adapters.cql.stores.edges import job_of, rebuild_rows
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.entry import ENTRY_BYTES, content_ids, rows
from feedcore.limits import RETENTION_MS, SECOND_MS
from feedcore.ports import Delivery, FanoutJob, JobKind, Window
from feedcore.resilience.gather import gather_all, gather_bounded

DELIVERIES_AT_ONCE = 8  # of one turn; each may fan out to thousands of partitions

WINDOW = Statement(
    "SELECT entry FROM feed WHERE user_id = ? AND content_id <= ? AND content_id >= ? LIMIT ?",
    Consistency.ONE,
    speculative=True,
)
_ALL = Statement("SELECT entry FROM feed WHERE user_id = ?")
_ONE = Statement("SELECT content_id FROM feed WHERE user_id = ? AND content_id = ?")
_PUT = Statement(
    "INSERT INTO feed (user_id, content_id, entry) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_DROP = Statement("DELETE FROM feed USING TIMESTAMP ? WHERE user_id = ? AND content_id = ?")


class CqlFeedStore:
    """See `ports.feeds.FeedStore`."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        replica: Replica,
        clock: Clock,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._replica = replica
        self._clock = clock
        self._activity = Activity(session, outbox, replica)

    def snapshot(self) -> AbstractContextManager[None]:
        """Nothing: a page is made of what each read has seen, none earlier than its beginning."""
        return contextlib.nullcontext()

    async def window(
        self, user_id: int, followees: bytes, at_or_below: int, not_below: int, limit: int
    ) -> Window:
        """One query of the feed, one of the user's state; and the followed authors' newest posts,
        as this node has heard of them.
        """
        tail = self._tail(followees)
        state, stored = await gather_all(
            self._session.read(viewer.STATE, (user_id,)),
            self._stored(user_id, at_or_below, not_below, limit),
        )
        pending = sorted(target for kind, target in state if kind == Kind.BACKFILL)
        built = all(kind == Kind.BACKFILL for kind, _ in state)
        return Window([one for one in (stored, tail) if one], built, tuple(pending))

    async def _stored(self, user: int, at_or_below: int, not_below: int, limit: int) -> bytes:
        if limit < 1:
            return b""
        bounds = (min(at_or_below, ids.ID_MAX), max(not_below, 0), limit)
        return await self._session.read_packed(WINDOW, (user, *bounds))

    def _tail(self, followees: bytes) -> bytes:
        if not followees or not len(self._replica.state.overlay_authors):
            return b""
        authors = native.ids_intersect(followees, self._replica.state.overlay_authors)
        return self._replica.state.posts_of(authors) if authors else b""

    def pulled_authors(self, user_id: int, followees: bytes) -> list[int]:
        """From the replica."""
        return native.ids_intersect(followees, self._replica.state.pulled)

    async def request_rebuild(self, user_id: int, now_ms: int) -> None:
        """A read only, while one waits. The user is active first: posts published from now on are
        pushed. The job is a new one, whatever waits already: that may be at work, with what it has
        read before.
        """
        state = {row[0] for row in await self._session.read(viewer.STATE, (user_id,))}
        if Kind.REBUILDING in state and Kind.INACTIVE not in state:
            return
        job = job_of(JobKind.REBUILD, self._outbox.next_job_id(), user_id, 0, now_ms)
        back = self._activity.back_writes(user_id, now_ms, timestamp_us(job.job_id))
        await self._session.write_many(back)
        await self._request(job, *rebuild_rows(job))

    async def request_backfill(self, user_id: int, author_id: int, now_ms: int) -> None:
        """The job, with the row that says that it is waited for."""
        job_id = self._outbox.next_job_id()
        waiting = viewer.put(user_id, Kind.BACKFILL, author_id, job_id, timestamp_us(job_id))
        job = job_of(JobKind.BACKFILL, job_id, user_id, author_id, now_ms)
        await self._request(job, waiting)

    async def request_removal(self, user_id: int, author_id: int, now_ms: int) -> None:
        """The job; a backfill that is waited for is not waited for any more."""
        job_id = self._outbox.next_job_id()
        done = viewer.drop(user_id, Kind.BACKFILL, author_id, timestamp_us(job_id))
        await self._request(job_of(JobKind.REMOVE, job_id, user_id, author_id, now_ms), done)

    async def _request(self, job: FanoutJob, *rows: Write) -> None:
        try:
            await self._session.batch([*rows, self._outbox.write_of(job)], logged=True)
        finally:
            # also where the outcome is not known: what is kept of the user may be outdated
            await self._replica.announce([job.user_id])
        self._outbox.relay([job])

    async def deliver(self, deliveries: list[Delivery]) -> None:
        """Side by side; the first error is raised when all have ended."""
        at_us = viewer.stamp(self._outbox)

        async def one(delivery: Delivery) -> None:
            if delivery.remove_author:
                await self._remove(delivery, at_us)
            elif len(delivery.entries) == ENTRY_BYTES:
                await self._one_to_many(delivery, at_us)
            else:
                users = native.unpack_ids(delivery.recipients)
                await gather_bounded(
                    users, lambda user: self._many_to_one(user, delivery, at_us), 4
                )

        await gather_bounded(deliveries, one, DELIVERIES_AT_ONCE)

    async def _one_to_many(self, delivery: Delivery, at_us: int) -> None:
        (content_id,) = content_ids(delivery.entries)
        ttl_s = self._ttl_s(content_id)
        if ttl_s and delivery.recipients:
            row = (content_id, delivery.entries, at_us, ttl_s)
            await self._session.write_packed(_PUT, delivery.recipients, row)

    async def _many_to_one(self, user: int, delivery: Delivery, at_us: int) -> None:
        writes = []
        for number, content_id in enumerate(content_ids(delivery.entries)):
            ttl_s = self._ttl_s(content_id)
            if ttl_s:
                entry = delivery.entries[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]
                writes.append(Write(_PUT, (user, content_id, entry, at_us, ttl_s)))
        await in_partitions(self._session, [writes])

    async def _remove(self, delivery: Delivery, at_us: int) -> None:
        if delivery.job_id:
            at_us = timestamp_us(delivery.job_id)

        async def of(user: int) -> None:
            stored = await self._session.read_packed(_ALL, (user,))
            writes = [
                Write(_DROP, (at_us, user, content_id))
                for content_id, author_id, _, _ in rows(stored)
                if author_id == delivery.remove_author
            ]
            await in_partitions(self._session, [writes])

        users = native.unpack_ids(delivery.recipients)
        try:
            await gather_bounded(users, of, 4)
        finally:
            await self._replica.announce(users)

    def _ttl_s(self, content_id: int) -> int:
        """Seconds that are left of the retention, rounded up; 0 beyond it."""
        left_ms = ids.time_ms(content_id) + RETENTION_MS - self._clock.now_ms()
        # a publish time ahead of the clock does not keep it longer
        return -(-min(left_ms, RETENTION_MS) // SECOND_MS) if left_ms > 0 else 0

    async def delivered(self, user_id: int, content_id: int) -> bool:
        """A point read."""
        return bool(await self._session.read(_ONE, (user_id, content_id)))

    def backlog(self) -> int:
        """None: what is durable is stored."""
        return 0
