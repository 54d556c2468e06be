"""What a publish writes, and in which order: key, batch, announcement, jobs (see posts.py).

What is written of a post is `domain.publish_plan`'s decision. Author modes are the replica's as of
the call, so that a mode that was set before the publish counts. An importer claims each id, as
several importers give out ids of one node number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feedcore.adapters.contracts.announcements import Posted
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.publish_plan import check_replay, plan_publish
from feedcore.errors import IdempotencyConflict, StoreError
from feedcore.limits import (
    HOUR_MS,
    MINUTE_MS,
    POST_AGE_MAX_MS,
    TOMBSTONE_AGE_MAX_MS,
)
from feedcore.ports import FanoutJob, JobKind, NewPost, Published
from feedcore.resilience.gather import gather_all, gather_bounded

# Public posts of a process and minute that a cold start may show: its page needs 500 of an hour.
RECENT_A_MINUTE = 30
# A post is reannounced when its publish is repeated, until its fan-out has long made it visible.
REANNOUNCED_FOR_MS = HOUR_MS
FREE_IDS_LOOKED_AT = 16  # ids after one that is taken, looked at in one go

_CLAIM_KEY = Statement(
    "INSERT INTO idempotency (author_id, key, digest, content_id) VALUES (?, ?, ?, ?) IF NOT EXISTS"
)
_KEY = Statement("SELECT digest, content_id FROM idempotency WHERE author_id = ? AND key = ?")
_KNOWN = Statement("SELECT entry, deleted_ms, pulled FROM posts WHERE content_id = ?")
_CLAIM_ID = Statement(
    "INSERT INTO posts (content_id, author_id) VALUES (?, ?) IF NOT EXISTS USING TTL ?"
)
_POST = Statement(
    "INSERT INTO posts (content_id, author_id, content, entry, visibility, pulled, lanes, reach)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_TIMELINE = Statement(
    "INSERT INTO outbox (author_id, day, content_id, entry) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_RECENT = Statement("INSERT INTO recent (hour, content_id, entry) VALUES (?, ?, ?)")


class _Stored(NamedTuple):
    """What is to be announced once the batch is durable."""

    posted: Posted | None  # None: older than any feed holds
    jobs: list[FanoutJob]


class Publisher:
    """One a process."""

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
        self._recent_minute = 0
        self._recent = 0

    async def publish(self, post: NewPost) -> Published:
        """See the port."""
        _, published = await gather_all(
            self._replica.observe_node(), self._claim_key(post, post.content_id)
        )
        await self._announce([await self._stored((post, published))])
        return published

    async def import_posts(self, posts: Sequence[NewPost]) -> list[Published | None]:
        """Of posts with one idempotency key the first is published, and the others are its replays,
        or refused (None). Ids of one millisecond are given in the order of the posts.
        """
        first_of: dict[tuple[int, str], int] = {}
        firsts = [at for at, post in enumerate(posts) if _is_first(post, at, first_of)]
        await self._replica.observe_node()
        published = await self._publish_all([posts[at] for at in firsts])
        answers = dict(zip(firsts, published, strict=True))
        for at, post in enumerate(posts):
            if at not in answers:
                first = first_of[post.author_id, post.idempotency_key]
                answer = answers[first]
                same = posts[first].digest == post.digest
                answers[at] = Published(answer.content_id, True) if answer and same else None
        return [answers[at] for at in range(len(posts))]

    async def _publish_all(self, posts: list[NewPost]) -> list[Published | None]:
        """Publishes posts whose keys differ; None for one whose key was used by another request."""
        answers = await self._replays(posts)
        fresh = [at for at in range(len(posts)) if at not in answers]
        content_ids = await self._claim_ids([posts[at] for at in fresh])

        async def claim(one: tuple[int, int]) -> Published | None:
            at, content_id = one
            try:
                return await self._claim_key(posts[at], content_id)
            except IdempotencyConflict:
                return None

        claimed = await gather_bounded(list(zip(fresh, content_ids, strict=True)), claim)
        answers.update(zip(fresh, claimed, strict=True))
        published = [answers[at] for at in range(len(posts))]
        accepted = [(post, one) for post, one in zip(posts, published, strict=True) if one]
        await self._announce(await gather_bounded(accepted, self._stored))
        return published

    async def _replays(self, posts: list[NewPost]) -> dict[int, Published | None]:
        """Answers, by index, to the posts whose keys are used already."""
        keyed = [at for at, post in enumerate(posts) if post.idempotency_key]
        keys = [(posts[at].author_id, posts[at].idempotency_key) for at in keyed]
        rows = await self._session.read_many(_KEY, keys)
        answers: dict[int, Published | None] = {}
        for at, row in zip(keyed, rows, strict=True):
            if row:
                digest, content_id = row[0]
                answers[at] = Published(content_id, True) if digest == posts[at].digest else None
        return answers

    async def _stored(self, one: tuple[NewPost, Published]) -> _Stored:
        """Stores the post, unless it is a replay of one that is stored."""
        post, published = one
        if published.replayed:
            known = await self._known(post.author_id, published.content_id)
            if known is not None:
                return known
        return await self._store(post, published.content_id)

    async def _claim_key(self, post: NewPost, content_id: int) -> Published:
        """Raises IdempotencyConflict."""
        if not post.idempotency_key:
            return Published(content_id, False)
        row = await self._session.insert_if_absent(
            _CLAIM_KEY, (post.author_id, post.idempotency_key, post.digest, content_id)
        )
        if row is None:
            return Published(content_id, False)
        check_replay(post, row["digest"])
        # a driver that repeated the claim finds its own claim
        return Published(row["content_id"], row["content_id"] != content_id)

    async def _known(self, author_id: int, content_id: int) -> _Stored | None:
        """What was stored, even if it was deleted since; None if nothing was. The caller
        reannounces it: its writer may have crashed before the announcement, or given up while the
        batch was under way. Its jobs are rows already.
        """
        rows = await self._session.read(_KNOWN, (content_id,))
        if not rows or (rows[0][0] is None and rows[0][1] is None):
            return None
        entry, deleted_ms, pulled = rows[0]
        reannounced_from_ms = self._clock.now_ms() - REANNOUNCED_FOR_MS
        if deleted_ms is not None or entry is None or ids.time_ms(content_id) < reannounced_from_ms:
            return _Stored(None, [])
        return _Stored(Posted(author_id, entry, bool(pulled)), [])

    async def _claim_ids(self, posts: list[NewPost]) -> list[int]:
        groups: dict[int, list[int]] = {}
        for at, post in enumerate(posts):
            groups.setdefault(post.content_id | ids.SEQUENCE_MAX, []).append(at)
        places = [0] * len(posts)

        async def claim(group: list[int]) -> None:
            last = 0
            for at in group:
                wanted = max(posts[at].content_id, last + 1)
                places[at] = last = await self._claim_id(posts[at], wanted)

        await gather_bounded(list(groups.values()), claim)
        return places

    async def _claim_id(self, post: NewPost, wanted: int) -> int:
        last = post.content_id | ids.SEQUENCE_MAX
        if wanted <= last and await self._is_claimed(post, wanted):
            return wanted
        for at in range(wanted + 1, last + 1, FREE_IDS_LOOKED_AT):
            part = range(at, min(at + FREE_IDS_LOOKED_AT, last + 1))
            rows = await self._session.read_many(_KNOWN, [(one,) for one in part])
            for content_id, row in zip(part, rows, strict=True):
                if not row and await self._is_claimed(post, content_id):
                    return content_id
        raise StoreError(f"content ids from {wanted} to {last} are taken: import fewer a time")

    async def _is_claimed(self, post: NewPost, content_id: int) -> bool:
        ttl_s = _ttl_s(content_id, POST_AGE_MAX_MS, self._clock.now_ms())
        key = (content_id, post.author_id, ttl_s)
        return await self._session.insert_if_absent(_CLAIM_ID, key) is None

    async def _store(self, post: NewPost, content_id: int) -> _Stored:
        """One logged batch."""
        now_ms = self._clock.now_ms()
        mode = self._replica.state.mode_of(post.author_id).mode
        plan = plan_publish(post, content_id, mode, now_ms)
        jobs = [
            FanoutJob(
                job_id=self._outbox.next_job_id(),
                kind=JobKind.POST,
                lane=lane,
                content_id=content_id,
                author_id=post.author_id,
                entry=plan.entry,
                created_ms=now_ms,
            )
            for lane in plan.lanes
        ]
        stamp = ids.time_ms(content_id) * 1_000
        row = (
            *(content_id, post.author_id, post.content, plan.entry, post.visibility, plan.pulled),
            *(len(jobs), plan.reach, stamp, _ttl_s(content_id, POST_AGE_MAX_MS, now_ms)),
        )
        writes = [Write(_POST, row)]
        if plan.kept:
            ttl_s = _ttl_s(content_id, TOMBSTONE_AGE_MAX_MS, now_ms)
            kept = (post.author_id, ids.day(content_id), content_id, plan.entry, stamp, ttl_s)
            writes.append(Write(_TIMELINE, kept))
        if plan.discoverable and self._is_sample(content_id):
            hour = ids.time_ms(content_id) // HOUR_MS
            writes.append(Write(_RECENT, (hour, content_id, plan.entry)))
        writes += [self._outbox.write_of(job) for job in jobs]
        await self._session.batch(writes, logged=True)
        posted = Posted(post.author_id, plan.entry, plan.mode.pulled) if plan.kept else None
        return _Stored(posted, jobs)

    def _is_sample(self, content_id: int) -> bool:
        minute = ids.time_ms(content_id) // MINUTE_MS
        if minute != self._recent_minute:
            self._recent_minute, self._recent = minute, 0
        self._recent += 1
        return self._recent <= RECENT_A_MINUTE

    async def _announce(self, stored: list[_Stored]) -> None:
        posted = [one.posted for one in stored if one.posted is not None]
        if posted:
            await self._replica.announce(events=posted)
            self._outbox.relay([job for one in stored for job in one.jobs])


def _ttl_s(content_id: int, age_max_ms: int, now_ms: int) -> int:
    """What is left of it: never 0, which would mean for ever."""
    return max((ids.time_ms(content_id) + age_max_ms - now_ms) // 1_000, 1)


def _is_first(post: NewPost, at: int, first_of: dict[tuple[int, str], int]) -> bool:
    """Whether no post before this one has its key."""
    if not post.idempotency_key:
        return True
    return first_of.setdefault((post.author_id, post.idempotency_key), at) == at
