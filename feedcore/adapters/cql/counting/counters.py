"""Counters: contents that are marked are counted anew from their interactions, and written whole.

The counts of a post have a version. It is read before the interactions are counted, and what was
counted is written only if the version is still that one (a lightweight transaction): so of two
workers who count at once one is refused, and looks again; a count never goes over a later one. The
version also is the timestamp of the post's engagement, for the same reason. A mark goes when what
was counted is durable: who dies on the way is followed by somebody who counts the same.

A post with many interactions is counted less often, as counting it reads all of them. Not for the
order of likes: only how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feedcore.adapters.common.engagement_table import PAIR
from feedcore.adapters.cql.driver.ids import bigints
from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.domain import ids
from feedcore.domain.engagement import engagement_of, weight_of_counts
from feedcore.errors import Unavailable
from feedcore.limits import POST_AGE_MAX_MS, TOMBSTONE_AGE_MAX_MS
from feedcore.resilience.gather import gather_all, gather_bounded

ENGAGEMENT_BUCKETS = 32  # partitions a day: at 1,200 posts a second 75 MB in each
COUNT_AT_ONCE_MAX = 20_000  # interactions that one query counts; more are counted in slices of it
COUNTED_A_MS = 10  # a post with 1 M likes is counted every 100 s
HELD_MAX = 10_000  # posts that wait for their next count; more are counted earlier
ATTEMPTS_MAX = 5  # of setting imported counts while others count

_KINDS = 5  # of InteractionKind, 1 and up
_POST = Statement("SELECT entry FROM posts WHERE content_id = ?")
_COUNTS = Statement(
    "SELECT version, likes, comments, shares, clicks, hides, base_likes, base_comments,"
    " base_shares FROM post_counts WHERE content_id = ?"
)
_COUNT = Statement(
    "SELECT kind, count(*) FROM interactions WHERE content_id = ? GROUP BY content_id, kind"
)
_SLICE = Statement(
    "SELECT user_id FROM interactions WHERE content_id = ? AND kind = ? AND user_id > ?"
    f" LIMIT {COUNT_AT_ONCE_MAX}"
)
_SET = Statement(
    "UPDATE post_counts USING TTL ? SET version = ?, likes = ?, comments = ?, shares = ?,"
    " clicks = ?, hides = ?, base_likes = ?, base_comments = ?, base_shares = ?"
    " WHERE content_id = ? IF version = ?"
)
_ENGAGEMENT = Statement(
    "INSERT INTO engagement (day, bucket, content_id, pair) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)


class Counts(NamedTuple):
    """One row: what is counted here and the base from elsewhere, together in the first three."""

    version: int | None
    likes: int = 0
    comments: int = 0
    shares: int = 0
    clicks: int = 0
    hides: int = 0
    base_likes: int = 0
    base_comments: int = 0
    base_shares: int = 0

    @property
    def total(self) -> int:
        """Interactions, and what was counted elsewhere."""
        return self.likes + self.comments + self.shares + self.clicks + self.hides

    @property
    def weight(self) -> float:
        """Of all interactions."""
        counted = (self.likes, self.comments, self.shares, self.clicks, self.hides)
        return weight_of_counts(counted)


class Counters:
    """One a process."""

    def __init__(self, session: Session, stamps: Stamps) -> None:
        self._session = session
        self._stamps = stamps
        self._held: dict[int, int] = {}  # content -> when it may be counted again

    def held(self, now_ms: int) -> set[int]:
        """Large posts that were counted a short while ago."""
        over = [content_id for content_id, until in self._held.items() if until <= now_ms]
        for content_id in over:
            del self._held[content_id]
        return set(self._held)

    async def recount(
        self, content_ids: Sequence[int], now_ms: int
    ) -> tuple[list[int], list[tuple[int, float]]]:
        """(contents that are done, their (content_id, engagement) where there is such a post).

        Those left out were counted by somebody else meanwhile: to be looked at again.
        """
        keys = [(content_id,) for content_id in content_ids]
        posts, rows = await gather_all(
            self._session.read_many(_POST, keys), self._session.read_many(_COUNTS, keys)
        )
        found = [
            (content_id, _counts(row))
            for content_id, post, row in zip(content_ids, posts, rows, strict=True)
            if post and post[0][0] is not None
        ]

        async def count(one: tuple[int, Counts]) -> tuple[int, float] | None:
            return await self._recount(*one, now_ms)

        pairs = [one for one in await gather_bounded(found, count) if one is not None]
        there = {content_id for content_id, _ in found}
        done = [content_id for content_id in content_ids if content_id not in there]
        return done + [content_id for content_id, _ in pairs], pairs

    async def set_base(
        self, content_id: int, base: tuple[int, int, int], now_ms: int
    ) -> tuple[int, float] | None:
        """Counts that a post had elsewhere, beside those counted here. None: no such post."""
        for _ in range(ATTEMPTS_MAX):
            posts, rows = await gather_all(
                self._session.read(_POST, (content_id,)), self._session.read(_COUNTS, (content_id,))
            )
            if not posts or posts[0][0] is None:
                return None
            old = _counts(rows)
            new = old._replace(
                likes=old.likes - old.base_likes + base[0],
                comments=old.comments - old.base_comments + base[1],
                shares=old.shares - old.base_shares + base[2],
                base_likes=base[0],
                base_comments=base[1],
                base_shares=base[2],
            )
            if (pair := await self._write(content_id, old, new, now_ms)) is not None:
                return pair
        raise Unavailable(f"counts of {content_id} changed {ATTEMPTS_MAX} times meanwhile")

    async def _recount(self, content_id: int, old: Counts, now_ms: int) -> tuple[int, float] | None:
        counted = await self._count(content_id, old)
        total = sum(counted)
        if total > COUNT_AT_ONCE_MAX and len(self._held) < HELD_MAX:
            self._held[content_id] = now_ms + total // COUNTED_A_MS
        likes, comments, shares, clicks, hides = counted
        new = old._replace(
            likes=likes + old.base_likes,
            comments=comments + old.base_comments,
            shares=shares + old.base_shares,
            clicks=clicks,
            hides=hides,
        )
        return await self._write(content_id, old, new, now_ms)

    async def _count(self, content_id: int, old: Counts) -> list[int]:
        counted = [0] * _KINDS
        if old.total <= COUNT_AT_ONCE_MAX:
            for kind, count in await self._session.read(_COUNT, (content_id,)):
                counted[kind - 1] = count
            return counted
        for kind in range(1, _KINDS + 1):
            after = -(1 << 63)
            while users := bigints(
                await self._session.read_packed(_SLICE, (content_id, kind, after))
            ):
                counted[kind - 1] += len(users)
                after = users[-1]
        return counted

    async def _write(
        self, content_id: int, old: Counts, new: Counts, now_ms: int
    ) -> tuple[int, float] | None:
        """None if the counts are not as `old` any more."""
        version = self._stamps.new_stamp(old.version)
        values = (version, *new[1:])
        ttl_s = _ttl_s(content_id, POST_AGE_MAX_MS, now_ms)
        key = (ttl_s, *values, content_id, old.version)
        if await self._session.insert_if_absent(_SET, key) is not None:
            return None
        pair = (content_id, engagement_of(new.weight))
        if ids.time_ms(content_id) > now_ms - TOMBSTONE_AGE_MAX_MS:
            ttl_s = _ttl_s(content_id, TOMBSTONE_AGE_MAX_MS, now_ms)
            place = (ids.day(content_id), content_id % ENGAGEMENT_BUCKETS, content_id)
            await self._session.write(_ENGAGEMENT, (*place, PAIR.pack(*pair), version, ttl_s))
        return pair


def _counts(rows: list[tuple]) -> Counts:
    return Counts(rows[0][0], *(count or 0 for count in rows[0][1:])) if rows else Counts(None)


def _ttl_s(content_id: int, age_max_ms: int, now_ms: int) -> int:
    return max((ids.time_ms(content_id) + age_max_ms - now_ms) // 1_000, 1)
