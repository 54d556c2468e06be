"""Rows of another store, written as they are: with their own times, and nobody told.

All is written as of one moment (`copied_ms`, that of the first attempt), posts and deletions as of
their own times: so what is copied again is the same row, and whatever happened in the cluster since
stays. Counters, keys and documents are lightweight transactions here as everywhere: a row that is
there already is kept. Calls are bounded in flight; each may be repeated. Not for a cluster that
serves: pages that nodes keep are not forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from feedcore.adapters.common.engagement_table import PAIR
from feedcore.adapters.cql.counting.counters import ENGAGEMENT_BUCKETS
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import BUCKETS, in_partitions, in_parts
from feedcore.adapters.cql.stores.preferences import SNOOZE_KEPT_MS
from feedcore.adapters.cql.stores.publishing import RECENT_A_MINUTE
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.engagement import engagement_of
from feedcore.domain.policy import Mode
from feedcore.domain.trending import TRENDING_WINDOW_MS
from feedcore.limits import (
    HOUR_MS,
    IDEMPOTENCY_AGE_MAX_MS,
    MINUTE_MS,
    POST_AGE_MAX_MS,
    RETENTION_MS,
    SECOND_MS,
    TOMBSTONE_AGE_MAX_MS,
)
from feedcore.resilience.gather import gather_bounded

COPIED_RUN = 0  # of impressions: processes count under random numbers of 63 bits

_POST = Statement(
    "INSERT INTO posts (content_id, author_id, content, entry, visibility, pulled, lanes, reach)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_DELETED = Statement(
    "INSERT INTO posts (content_id, author_id, deleted_ms) VALUES (?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_TOMBSTONE = Statement(
    "INSERT INTO tombstones (hour, at_ms, content_id) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_OUTBOX = Statement(
    "INSERT INTO outbox (author_id, day, content_id, entry) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_RECENT = Statement(
    "INSERT INTO recent (hour, content_id, entry) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
_FANOUT = Statement(
    "INSERT INTO post_fanout (content_id, lane, reach, finished_ms) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_NODE = Statement("INSERT INTO node_ids (one, node, content_id) VALUES (0, ?, ?) USING TIMESTAMP ?")
_KEY = Statement(
    "INSERT INTO idempotency (author_id, key, digest, content_id) VALUES (?, ?, ?, ?)"
    " IF NOT EXISTS USING TTL ?"
)
_COUNTS = Statement(
    "UPDATE post_counts USING TTL ? SET version = ?, likes = ?, comments = ?, shares = ?,"
    " clicks = ?, hides = ?, base_likes = ?, base_comments = ?, base_shares = ?"
    " WHERE content_id = ? IF version = ?"
)
_SHOWN = Statement(
    "INSERT INTO impressions (content_id, run, shown) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_ENGAGEMENT = Statement(
    "INSERT INTO engagement (day, bucket, content_id, pair) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_TRENDING = Statement("INSERT INTO trending (bucket, packed) VALUES (0, ?) USING TIMESTAMP ?")
_INTERACTION = Statement(
    "INSERT INTO interactions (content_id, kind, user_id, at_ms) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ?"
)
_USER_INTERACTION = Statement(
    "INSERT INTO user_interactions (user_id, content_id, kind, author_id, active)"
    " VALUES (?, ?, ?, ?, true) USING TIMESTAMP ?"
)
_USE_KEY = Statement(
    "INSERT INTO interaction_keys (user_id, key, changed) VALUES (?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
_FOLLOWER = Statement(
    "INSERT INTO followers (author_id, follower_id, since_ms) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
_SEEN = Statement(
    "UPDATE activity USING TIMESTAMP ? SET seen_ms = ? WHERE bucket = ? AND user_id = ?"
)
_INACTIVE = Statement(
    "UPDATE activity USING TIMESTAMP ? SET inactive = true WHERE bucket = ? AND user_id = ?"
)
_FEED = Statement(
    "INSERT INTO feed (user_id, content_id, entry) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_MODE = Statement(
    "INSERT INTO author_modes (bucket, author_id, mode, followers, until_ms)"
    " VALUES (0, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_SIZE = Statement("INSERT INTO author_sizes (author_id, followers) VALUES (?, ?) USING TIMESTAMP ?")
_NAME = Statement("INSERT INTO setting_names (bucket, name) VALUES (0, ?)")
_DOCUMENT = Statement(
    "INSERT INTO settings (name, version, document, at_ms) VALUES (?, ?, ?, ?) IF NOT EXISTS"
)


class Tally:
    """Rows written per table, and when they go by themselves."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()  # another row was there, and stays
        self._ends: Counter[tuple[str, int]] = Counter()

    def add(self, table: str, ttl_ms: int = 0, now_ms: int = 0) -> None:
        """One row, which lasts for ever or so long."""
        self.written[table] += 1
        if ttl_ms:
            self._ends[table, (now_ms + ttl_ms) // MINUTE_MS] += 1

    def lasting(self, table: str, now_ms: int) -> int:
        """Of the rows written, those that are still there and will be for a minute."""
        last = now_ms // MINUTE_MS + 1
        gone = sum(n for (name, end), n in self._ends.items() if name == table and end <= last)
        return self.written[table] - gone


class Copier:
    """One run. `copied_ms` is the same in all runs of one copy."""

    def __init__(self, session: Session, copied_ms: int) -> None:
        self._session = session
        self._copied_ms = copied_ms
        self._at_us = copied_ms * 1_000
        self._recent_minute = self._recent = 0
        self.tally = Tally()

    async def documents(self, rows: Iterable[tuple[str, int, str, int]]) -> None:
        """(name, version, document, at_ms), ascending."""
        for name in dict.fromkeys(row[0] for row in rows):
            await self._session.write(_NAME, (name,))

        async def put(row: tuple[str, int, str, int]) -> None:
            there = await self._session.insert_if_absent(_DOCUMENT, row)
            self.tally.add("settings")
            if there is not None and there["document"] != row[2]:
                self.tally.kept["settings"] += 1

        await gather_bounded(list(rows), put)

    async def authors(self, rows: Iterable[Any]) -> None:
        """Of (author_id, followers, mode, until_ms)."""
        writes = []
        for author_id, followers, mode, until_ms in rows:
            if followers:
                writes.append(Write(_SIZE, (author_id, followers, self._at_us)))
                self.tally.add("author_sizes")
            if mode != Mode.PUSH:
                row = (author_id, int(mode), followers, until_ms, self._at_us)
                writes.append(Write(_MODE, row))
                self.tally.add("author_modes")
        await in_parts(self._session, writes)

    async def tombstones(self, rows: Iterable[tuple[int, int, int]], now_ms: int) -> None:
        """(content_id, author_id, deleted_ms)."""
        writes = []
        for content_id, author_id, deleted_ms in rows:
            stamp = max(deleted_ms, ids.time_ms(content_id) + 1) * 1_000
            if ttl_s := self._noted("tombstones", deleted_ms + TOMBSTONE_AGE_MAX_MS, now_ms):
                place = (deleted_ms // HOUR_MS, deleted_ms, content_id)
                writes.append(Write(_TOMBSTONE, (*place, stamp, ttl_s)))
            if ttl_s := self._noted("posts", deleted_ms + POST_AGE_MAX_MS, now_ms):
                row = (content_id, author_id, deleted_ms, stamp, ttl_s)
                writes.append(Write(_DELETED, row))
        await in_parts(self._session, writes)

    async def posts(self, rows: Sequence[Any], now_ms: int) -> None:
        """Rows of `adapters.embedded.copying.PostRow`: the post, its outbox row, what fan-out has
        said of it.
        """
        writes: list[Write] = []
        for row in rows:
            published_ms = ids.time_ms(row.content_id)
            ttl_s = self._noted("posts", published_ms + POST_AGE_MAX_MS, now_ms)
            if not ttl_s:
                continue
            entry, stamp, author = _entry_of(row), published_ms * 1_000, row.author_id
            lanes = self._lanes(row, stamp, ttl_s, writes)
            reach = row.reach if row.pulled else 0
            place = (row.content_id, author, row.content, entry, row.visibility, row.pulled)
            writes.append(Write(_POST, (*place, lanes, reach, stamp, ttl_s)))
            if not row.entry:
                continue
            if ttl_s := self._noted("outbox", published_ms + TOMBSTONE_AGE_MAX_MS, now_ms):
                key = (author, ids.day(row.content_id), row.content_id)
                writes.append(Write(_OUTBOX, (*key, entry, stamp, ttl_s)))
            if self._is_sample(row, published_ms, now_ms):
                hour = published_ms // HOUR_MS
                writes.append(Write(_RECENT, (hour, row.content_id, entry, stamp)))
        await in_parts(self._session, writes)

    def _lanes(self, row: Any, stamp: int, ttl_s: int, writes: list[Write]) -> int:
        """How many lanes the post has; adds a row for one that is done, if anything was pushed."""
        if row.pulled:
            return 0
        undelivered = len(row.open_lanes)
        reached = row.reach - sum(delivered for _, delivered in row.open_lanes)
        never = row.fanned_out_ms == ids.time_ms(row.content_id) and not reached
        if never or (undelivered and reached <= 0):
            return undelivered
        lane = next(one for one in range(3) if one not in dict(row.open_lanes))
        finished_ms = row.fanned_out_ms or self._copied_ms
        done = (row.content_id, lane, reached, finished_ms, stamp, ttl_s)
        writes.append(Write(_FANOUT, done))
        return undelivered + 1

    def _is_sample(self, row: Any, published_ms: int, now_ms: int) -> bool:
        if row.visibility != entries_of.Visibility.PUBLIC:
            return False
        if published_ms < now_ms - TRENDING_WINDOW_MS:
            return False
        if published_ms // MINUTE_MS != self._recent_minute:
            self._recent_minute, self._recent = published_ms // MINUTE_MS, 0
        self._recent += 1
        return self._recent <= RECENT_A_MINUTE

    async def newest_ids(self, rows: Iterable[tuple[int, int]]) -> None:
        """(node, newest content id): no process of that number gives out one of them again."""
        writes = [
            Write(_NODE, (node, content_id, ids.time_ms(content_id) * 1_000))
            for node, content_id in rows
        ]
        await in_parts(self._session, writes)

    async def idempotency(self, rows: Iterable[tuple[int, str, bytes, int]], now_ms: int) -> None:
        """(author_id, key, digest, content_id)."""

        async def claim(row: tuple[int, str, bytes, int]) -> None:
            author_id, key, digest, content_id = row
            until_ms = ids.time_ms(content_id) + IDEMPOTENCY_AGE_MAX_MS
            if ttl_s := self._noted("idempotency", until_ms, now_ms):
                values = (author_id, key, digest, content_id, ttl_s)
                there = await self._session.insert_if_absent(_KEY, values)
                if there is not None and there["content_id"] != content_id:
                    self.tally.kept["idempotency"] += 1

        await gather_bounded(list(rows), claim)

    async def counts(self, rows: Iterable[Any], now_ms: int) -> None:
        """Rows of `adapters.embedded.copying.CountsRow`."""

        async def put(row: Any) -> None:
            published_ms = ids.time_ms(row.content_id)
            ttl_s = self._noted("post_counts", published_ms + POST_AGE_MAX_MS, now_ms)
            if not ttl_s:
                return
            values = (ttl_s, self._at_us, *row[1:9], row.content_id, None)
            there = await self._session.insert_if_absent(_COUNTS, values)
            if there is not None and there["version"] != self._at_us:
                self.tally.kept["post_counts"] += 1
                return

        await gather_bounded(list(rows), put)
        writes = []
        for row in rows:
            published_ms = ids.time_ms(row.content_id)
            until_ms = published_ms + POST_AGE_MAX_MS
            if row.impressions and (ttl_s := self._noted("impressions", until_ms, now_ms)):
                shown = (row.content_id, COPIED_RUN, row.impressions, self._at_us, ttl_s)
                writes.append(Write(_SHOWN, shown))
            until_ms = published_ms + TOMBSTONE_AGE_MAX_MS
            if row.weight > 0 and (ttl_s := self._noted("engagement", until_ms, now_ms)):
                bucket = row.content_id % ENGAGEMENT_BUCKETS
                pair = PAIR.pack(row.content_id, engagement_of(row.weight))
                place = (ids.day(row.content_id), bucket, row.content_id)
                writes.append(Write(_ENGAGEMENT, (*place, pair, self._at_us, ttl_s)))
        await in_parts(self._session, writes)

    async def trending(self, entries: bytes) -> None:
        """As it was computed last."""
        await self._session.write(_TRENDING, (entries, self._at_us))

    async def interactions(self, rows: Iterable[Any]) -> None:
        """Rows of `adapters.embedded.copying.InteractionRow`."""
        writes = []
        for content_id, user_id, kind, at_ms, author_id in rows:
            row = (content_id, kind, user_id, at_ms, self._at_us)
            writes.append(Write(_INTERACTION, row))
            state = (user_id, content_id, kind, author_id, self._at_us)
            writes.append(Write(_USER_INTERACTION, state))
            self.tally.add("interactions")
            self.tally.add("user_interactions")
        await in_parts(self._session, writes)

    async def interaction_keys(
        self, rows: Iterable[tuple[int, str, bool, int]], now_ms: int
    ) -> None:
        """(user_id, key, changed, at_ms)."""
        writes = []
        for user_id, key, changed, at_ms in rows:
            until_ms = at_ms + IDEMPOTENCY_AGE_MAX_MS
            if ttl_s := self._noted("interaction_keys", until_ms, now_ms):
                row = (user_id, key, changed, self._at_us, ttl_s)
                writes.append(Write(_USE_KEY, row))
        await in_parts(self._session, writes)

    async def followees(self, user_id: int, author_ids: Sequence[int]) -> None:
        """Of one user, whole."""
        since_ms, at_us = self._copied_ms, self._at_us
        rows = [viewer.put(user_id, Kind.FOLLOWEE, one, since_ms, at_us) for one in author_ids]
        self.tally.written["viewer"] += len(rows)
        await in_partitions(self._session, [rows])

    async def followers(self, rows: Iterable[tuple[int, int]]) -> None:
        """(author_id, follower_id), grouped by author."""
        groups: dict[int, list[Write]] = {}
        for author_id, follower_id in rows:
            row = (author_id, follower_id, self._copied_ms, self._at_us)
            groups.setdefault(author_id, []).append(Write(_FOLLOWER, row))
            self.tally.add("followers")
        await in_partitions(self._session, groups.values())

    async def relations(self, rows: Iterable[Any], kinds: dict[int, Kind], now_ms: int) -> None:
        """(user_id, kind, target_id, until_ms, set_at_ms), their kinds as `kinds` translates them.
        A block has no end, so that its second number is when it was set.
        """
        groups: dict[int, list[Write]] = {}
        for user_id, number, target_id, until_ms, set_at_ms in rows:
            kind = kinds[number]
            if kind in (Kind.BLOCKS, Kind.BLOCKED_BY):
                write = viewer.put(user_id, kind, target_id, set_at_ms, self._at_us)
            else:
                value = viewer.set_at_value(set_at_ms)
                write = viewer.put(user_id, kind, target_id, until_ms, self._at_us, value)
            if kind == Kind.SNOOZE:
                if not (ttl_s := self._noted("viewer", until_ms + SNOOZE_KEPT_MS, now_ms)):
                    continue
                write = Write(viewer.PUT_FOR, (*write.parameters, ttl_s))
            else:
                self.tally.add("viewer")
            groups.setdefault(user_id, []).append(write)
        await in_partitions(self._session, groups.values())

    async def affinity(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """(user_id, packed shares)."""
        writes = [
            viewer.put(user_id, Kind.AFFINITY, 0, 0, self._at_us, shares)
            for user_id, shares in rows
            if shares
        ]
        self.tally.written["viewer"] += len(writes)
        await in_parts(self._session, writes)

    async def seen(self, rows: Iterable[tuple[int, int]]) -> None:
        """(user_id, when)."""
        writes = [
            Write(_SEEN, (self._at_us, at_ms, user_id % BUCKETS, user_id))
            for user_id, at_ms in rows
        ]
        self.tally.written["activity"] += len(writes)
        await in_parts(self._session, writes)

    async def inactive(self, rows: Sequence[tuple[int, bool]]) -> None:
        """(user_id, whether `seen` has a row). In the viewer partition first: who is not pushed to
        knows it.
        """
        users = [user_id for user_id, _ in rows]
        marks = [viewer.put(user_id, Kind.INACTIVE, 0, 0, self._at_us) for user_id in users]
        await in_parts(self._session, marks)
        writes = [Write(_INACTIVE, (self._at_us, user_id % BUCKETS, user_id)) for user_id in users]
        await in_parts(self._session, writes)
        self.tally.written["viewer"] += len(marks)
        self.tally.written["activity"] += sum(not seen for _, seen in rows)

    async def feed(self, user_id: int, entries: bytes, now_ms: int) -> None:
        """Entries of one user's stored feed."""
        size = entries_of.ENTRY_BYTES
        writes = []
        for number, content_id in enumerate(entries_of.content_ids(entries)):
            until_ms = ids.time_ms(content_id) + RETENTION_MS
            if ttl_s := self._noted("feed", until_ms, now_ms):
                entry = entries[number * size : (number + 1) * size]
                row = (user_id, content_id, entry, self._at_us, ttl_s)
                writes.append(Write(_FEED, row))
        await in_partitions(self._session, [writes])

    def _noted(self, table: str, until_ms: int, now_ms: int) -> int:
        """Seconds that a row of that end is kept, rounded up; 0: it is over, and not written."""
        left_ms = until_ms - now_ms
        if left_ms <= 0:
            return 0
        self.tally.add(table, left_ms, now_ms)
        return -(-left_ms // SECOND_MS)


def _entry_of(row: Any) -> bytes:
    """Without one in the outbox: the quality of a post that old counts nowhere."""
    if row.entry:
        return row.entry
    flags = row.visibility | (entries_of.FLAG_MEDIA if row.has_media else 0)
    return entries_of.pack(row.content_id, row.author_id, 1.0, flags)
