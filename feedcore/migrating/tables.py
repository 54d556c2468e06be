"""What each table of an embedded store becomes in the cluster: rows read, and rows written.

Every row is written as of one moment (`copied_ms`, that of the first attempt), posts and deletions
as of their own times, so that a row that is copied again is the same row, and what has happened in
the cluster since stays. Counters, keys and documents are lightweight transactions here as
everywhere: a row that is there already is kept. Left out is what the cluster derives again (stored
feeds, runs, deliveries, versions). Not for a cluster that serves: pages that its nodes keep are not
invalidated.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from feedcore import native
from feedcore.adapters.common.engagement_table import PAIR
from feedcore.adapters.cql.counting.counters import ENGAGEMENT_BUCKETS
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import BUCKETS
from feedcore.adapters.cql.stores.preferences import SNOOZE_KEPT_MS
from feedcore.adapters.cql.stores.publishing import RECENT_A_MINUTE
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.adapters.embedded.graph import BLOCK, BLOCKED_BY
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
    TOMBSTONE_AGE_MAX_MS,
)
from feedcore.ports import PreferenceKind
from feedcore_pb.v1 import types_pb2

COPIED_RUN = 0  # of impressions: processes count under random numbers of 63 bits
TIMELINES_KEPT = 4_096  # (author, day) timelines of the posts read lately
KINDS = {int(kind): Kind(int(kind)) for kind in PreferenceKind} | {
    BLOCK: Kind.BLOCKS,
    BLOCKED_BY: Kind.BLOCKED_BY,
}


class Row(NamedTuple):
    """One row for the cluster.

    `until_ms`: when it goes by itself, 0 for never; the seconds until then are added to the
    parameters, as the last one. Rows of a `table` with the same `partition` are written together.
    `ours`: (column, value) of a row that is written only where none is, which say whether the row
    that is there is this one.
    """

    table: str
    write: Write
    until_ms: int = 0
    partition: Any = None
    ours: tuple[str, Any] | None = None


class Into:
    """An INSERT into one table. `using`: what follows the values; the last parameters are its."""

    def __init__(self, table: str, columns: str, using: str = "USING TIMESTAMP ?") -> None:
        self._table = table
        marks = ", ".join("?" for _ in columns.split(","))
        self._statement = Statement(f"INSERT INTO {table} ({columns}) VALUES ({marks}) {using}")

    def row(
        self,
        *values: Any,
        until_ms: int = 0,
        partition: Any = None,
        ours: tuple[str, Any] | None = None,
    ) -> Row:
        """A row with these values, in the order of the columns."""
        return Row(self._table, Write(self._statement, values), until_ms, partition, ours)


_LASTS = "USING TIMESTAMP ? AND TTL ?"
_NEW = "IF NOT EXISTS"
_NEW_LASTS = "IF NOT EXISTS USING TTL ?"
_NAME = Into("setting_names", "bucket, name", "")
_DOCUMENT = Into("settings", "name, version, document, at_ms", _NEW)
_SIZE = Into("author_sizes", "author_id, followers")
_MODE = Into("author_modes", "bucket, author_id, mode, followers, until_ms")
_TOMBSTONE = Into("tombstones", "hour, at_ms, content_id", _LASTS)
_DELETED = Into("posts", "content_id, author_id, deleted_ms", _LASTS)
_POST = Into(
    "posts", "content_id, author_id, content, entry, visibility, pulled, lanes, reach", _LASTS
)
_TIMELINE = Into("outbox", "author_id, day, content_id, entry", _LASTS)
_RECENT = Into("recent", "hour, content_id, entry")
_FANOUT = Into("post_fanout", "content_id, lane, reach, finished_ms", _LASTS)
_KEY = Into("idempotency", "author_id, key, digest, content_id", _NEW_LASTS)
_COUNTS = Into(
    "post_counts",
    "content_id, version, likes, comments, shares, clicks, hides, base_likes, base_comments,"
    " base_shares",
    _NEW_LASTS,
)
_SHOWN = Into("impressions", "content_id, run, shown", _LASTS)
_ENGAGEMENT = Into("engagement", "day, bucket, content_id, pair", _LASTS)
_TRENDING = Into("trending", "bucket, packed")
_INTERACTION = Into("interactions", "content_id, kind, user_id, at_ms")
_USER_INTERACTION = Into("user_interactions", "user_id, content_id, kind, author_id, active")
_USE_KEY = Into("interaction_keys", "user_id, key, changed", _LASTS)
_FOLLOWER = Into("followers", "author_id, follower_id, since_ms")
_FEED = Into("feed", "user_id, content_id, entry", _LASTS)
_NODE = Into("node_ids", "one, node, content_id")
# updates, whose rows go when their columns do
_SEEN = Statement(
    "UPDATE activity USING TIMESTAMP ? SET seen_ms = ? WHERE bucket = ? AND user_id = ?"
)
_INACTIVE = Statement(
    "UPDATE activity USING TIMESTAMP ? SET inactive = true WHERE bucket = ? AND user_id = ?"
)

_POSTS_SQL = (
    "SELECT content_id, author_id, visibility, mode, reach, fanned_out_ms, content FROM posts"
    " ORDER BY content_id"
)
_TIMELINE_SQL = "SELECT entries FROM author_outbox WHERE author_id = ? AND day = ?"
_OPEN_LANES_SQL = (
    "SELECT content_id, lane, delivered FROM fanout_jobs"
    " WHERE kind = 'post' AND content_id <> 0 AND state IN (0, 2)"
)
_COUNTS_SQL = (
    "SELECT content_id, impressions, weight, likes, comments, shares, clicks, hides, base_likes,"
    " base_comments, base_shares FROM post_counts"
)
_INTERACTIONS_SQL = (
    "SELECT i.content_id, i.user_id, i.kind, i.at_ms, coalesce(p.author_id, t.author_id)"
    " FROM interactions i LEFT JOIN posts p ON p.content_id = i.content_id"
    " LEFT JOIN tombstones t ON t.content_id = i.content_id"
    " WHERE coalesce(p.author_id, t.author_id) IS NOT NULL"
)
_INACTIVE_SQL = (
    "SELECT user_id, EXISTS (SELECT 1 FROM viewers v WHERE v.user_id = i.user_id)"
    " FROM inactive_users i"
)
_NEWEST_SQL = (
    f"SELECT content_id >> {ids.SEQUENCE_BITS} & {(1 << ids.TIME_SHIFT - ids.SEQUENCE_BITS) - 1},"
    " max(content_id) FROM (SELECT content_id FROM posts"
    " UNION ALL SELECT content_id FROM tombstones) GROUP BY 1"
)


class Step(NamedTuple):
    """Rows of one kind: `sql` reads them, `rows_of(*row)` is what becomes of one."""

    name: str
    sql: str
    rows_of: Callable[..., Iterator[Row]]


class Translation:
    """One run over the store that `conn` reads."""

    def __init__(self, conn: sqlite3.Connection, copied_ms: int, now_ms: int) -> None:
        self._conn = conn
        self._copied_ms = copied_ms
        self._at_us = copied_ms * 1_000
        self._trending_since_ms = now_ms - TRENDING_WINDOW_MS
        self._recent_minute = self._recent = 0
        self._open_lanes: dict[int, dict[int, int]] = {}  # post -> lane -> delivered so far
        for content_id, lane, delivered in conn.execute(_OPEN_LANES_SQL):
            self._open_lanes.setdefault(content_id, {})[lane] = delivered
        self._timeline = lru_cache(maxsize=TIMELINES_KEPT)(self._read_timeline)

    def steps(self) -> list[Step]:
        """In the order of writing: what others lean on comes first."""
        return [
            Step(
                "settings",
                "SELECT name, version, document, at_ms FROM settings ORDER BY name, version",
                self._document,
            ),
            Step(
                "authors", "SELECT author_id, followers, mode, until_ms FROM authors", self._author
            ),
            Step(
                "deleted posts",
                "SELECT content_id, author_id, deleted_ms FROM tombstones",
                self._tombstone,
            ),
            Step("posts", _POSTS_SQL, self._post),
            Step(
                "publish keys",
                "SELECT author_id, key, digest, content_id FROM idempotency",
                self._publish_key,
            ),
            Step("counts", _COUNTS_SQL, self._counts),
            Step("interactions", _INTERACTIONS_SQL, self._interaction),
            Step(
                "interaction keys",
                "SELECT user_id, key, changed, at_ms FROM interaction_keys",
                self._interaction_key,
            ),
            Step("users who follow", "SELECT user_id, packed FROM followees", self._followees),
            Step(
                "followers",
                "SELECT followee_id, follower_id FROM followers ORDER BY followee_id",
                self._follower,
            ),
            Step(
                "preferences and blocks",
                "SELECT user_id, kind, target_id, until_ms, set_at_ms FROM relations"
                " ORDER BY user_id, kind, target_id",
                self._relation,
            ),
            Step("affinity", "SELECT user_id, shares FROM affinity", self._affinity),
            Step("users seen", "SELECT user_id, last_seen_ms FROM viewers", self._seen),
            Step("inactive users", _INACTIVE_SQL, self._inactive),
            Step("newest ids", _NEWEST_SQL, self._newest_id),
        ]

    def trending(self, entries: bytes) -> Row:
        """Trending posts, as they were computed last."""
        return _TRENDING.row(0, entries, self._at_us)

    def feed(self, user_id: int, entries: bytes) -> list[Row]:
        """One user's stored feed."""
        size = entries_of.ENTRY_BYTES
        return [
            _FEED.row(
                *(user_id, content_id, entries[number * size : (number + 1) * size], self._at_us),
                until_ms=ids.time_ms(content_id) + RETENTION_MS,
                partition=user_id,
            )
            for number, content_id in enumerate(entries_of.content_ids(entries))
        ]

    def _document(self, name: str, version: int, document: str, at_ms: int) -> Iterator[Row]:
        yield _NAME.row(0, name)
        yield _DOCUMENT.row(name, version, document, at_ms, ours=("document", document))

    def _author(self, author_id: int, followers: int, mode: int, until_ms: int) -> Iterator[Row]:
        if followers:
            yield _SIZE.row(author_id, followers, self._at_us)
        if mode != Mode.PUSH:
            yield _MODE.row(0, author_id, mode, followers, until_ms, self._at_us)

    def _tombstone(self, content_id: int, author_id: int, deleted_ms: int) -> Iterator[Row]:
        stamp = max(deleted_ms, ids.time_ms(content_id) + 1) * 1_000
        until_ms = deleted_ms + TOMBSTONE_AGE_MAX_MS
        place = (deleted_ms // HOUR_MS, deleted_ms, content_id)
        yield _TOMBSTONE.row(*place, stamp, until_ms=until_ms)
        until_ms = deleted_ms + POST_AGE_MAX_MS
        yield _DELETED.row(content_id, author_id, deleted_ms, stamp, until_ms=until_ms)

    def _post(
        self,
        content_id: int,
        author_id: int,
        visibility: int,
        mode: int,
        reach: int,
        fanned_out_ms: int,
        content: bytes,
    ) -> Iterator[Row]:
        """The post, its row in the author's timeline, and what fan-out has done for it."""
        published_ms, pulled = ids.time_ms(content_id), bool(mode)
        stamp, until_ms = published_ms * 1_000, published_ms + POST_AGE_MAX_MS
        kept = entry = _entry_in(self._timeline(author_id, ids.day(content_id)), content_id)
        if not kept:  # it has left the timeline: the quality of a post that old counts nowhere
            flags = visibility | (entries_of.FLAG_MEDIA if _has_media(content) else 0)
            entry = entries_of.pack(content_id, author_id, 1.0, flags)
        lanes, done = 0, None
        if not pulled:
            lanes, done = self._lanes(content_id, reach, fanned_out_ms)
        if done is not None:
            yield _FANOUT.row(content_id, *done, stamp, until_ms=until_ms)
        place = (content_id, author_id, content, entry, visibility, pulled)
        yield _POST.row(*place, lanes, reach if pulled else 0, stamp, until_ms=until_ms)
        if kept:
            until_ms = published_ms + TOMBSTONE_AGE_MAX_MS
            key = (author_id, ids.day(content_id), content_id)
            yield _TIMELINE.row(*key, entry, stamp, until_ms=until_ms)
            if visibility == entries_of.Visibility.PUBLIC and self._is_sample(published_ms):
                yield _RECENT.row(published_ms // HOUR_MS, content_id, entry, stamp)

    def _lanes(
        self, content_id: int, reach: int, fanned_out_ms: int
    ) -> tuple[int, tuple[int, int, int] | None]:
        """How many lanes the post has; (lane, reach, when) of one that is done, if anything was
        pushed.
        """
        delivered = self._open_lanes.get(content_id, {})
        reached = reach - sum(delivered.values())
        never = fanned_out_ms == ids.time_ms(content_id) and not reached
        if never or (delivered and reached <= 0):
            return len(delivered), None
        lane = next(one for one in range(3) if one not in delivered)
        return len(delivered) + 1, (lane, reached, fanned_out_ms or self._copied_ms)

    def _is_sample(self, published_ms: int) -> bool:
        """Whether trending is computed from the post. Posts come in the order of their times."""
        if published_ms < self._trending_since_ms:
            return False
        if published_ms // MINUTE_MS != self._recent_minute:
            self._recent_minute, self._recent = published_ms // MINUTE_MS, 0
        self._recent += 1
        return self._recent <= RECENT_A_MINUTE

    def _publish_key(
        self, author_id: int, key: str, digest: bytes, content_id: int
    ) -> Iterator[Row]:
        until_ms = ids.time_ms(content_id) + IDEMPOTENCY_AGE_MAX_MS
        row = (author_id, key, digest, content_id)
        yield _KEY.row(*row, until_ms=until_ms, ours=("content_id", content_id))

    def _counts(
        self, content_id: int, impressions: int, weight: float, *counts: int
    ) -> Iterator[Row]:
        published_ms = ids.time_ms(content_id)
        until_ms = published_ms + POST_AGE_MAX_MS
        row = (content_id, self._at_us, *counts)
        yield _COUNTS.row(*row, until_ms=until_ms, ours=("version", self._at_us))
        if impressions:
            yield _SHOWN.row(content_id, COPIED_RUN, impressions, self._at_us, until_ms=until_ms)
        if weight > 0:
            place = (ids.day(content_id), content_id % ENGAGEMENT_BUCKETS, content_id)
            pair = PAIR.pack(content_id, engagement_of(weight))
            until_ms = published_ms + TOMBSTONE_AGE_MAX_MS
            yield _ENGAGEMENT.row(*place, pair, self._at_us, until_ms=until_ms)

    def _interaction(
        self, content_id: int, user_id: int, kind: int, at_ms: int, author_id: int
    ) -> Iterator[Row]:
        yield _INTERACTION.row(content_id, kind, user_id, at_ms, self._at_us)
        yield _USER_INTERACTION.row(user_id, content_id, kind, author_id, True, self._at_us)

    def _interaction_key(self, user_id: int, key: str, changed: int, at_ms: int) -> Iterator[Row]:
        until_ms = at_ms + IDEMPOTENCY_AGE_MAX_MS
        yield _USE_KEY.row(user_id, key, bool(changed), self._at_us, until_ms=until_ms)

    def _followees(self, user_id: int, packed: bytes) -> Iterator[Row]:
        for author_id in native.unpack_ids(packed):
            yield self._viewer(user_id, Kind.FOLLOWEE, author_id, self._copied_ms)

    def _follower(self, author_id: int, follower_id: int) -> Iterator[Row]:
        row = (author_id, follower_id, self._copied_ms, self._at_us)
        yield _FOLLOWER.row(*row, partition=author_id)

    def _relation(
        self, user_id: int, number: int, target_id: int, until_ms: int, set_at_ms: int
    ) -> Iterator[Row]:
        """A block has no end, so that its second number is when it was set."""
        kind = KINDS[number]
        if kind in (Kind.BLOCKS, Kind.BLOCKED_BY):
            yield self._viewer(user_id, kind, target_id, set_at_ms)
            return
        row = self._viewer(user_id, kind, target_id, until_ms, viewer.set_at_value(set_at_ms))
        if kind == Kind.SNOOZE:
            write = Write(viewer.PUT_FOR, row.write.parameters)
            row = row._replace(write=write, until_ms=until_ms + SNOOZE_KEPT_MS)
        yield row

    def _affinity(self, user_id: int, shares: bytes) -> Iterator[Row]:
        if shares:
            yield self._viewer(user_id, Kind.AFFINITY, 0, 0, shares)

    def _seen(self, user_id: int, at_ms: int) -> Iterator[Row]:
        row = (self._at_us, at_ms, user_id % BUCKETS, user_id)
        yield Row("activity", Write(_SEEN, row))

    def _inactive(self, user_id: int, seen: int) -> Iterator[Row]:
        """Who was ever seen has a row in `activity` already."""
        yield self._viewer(user_id, Kind.INACTIVE, 0, 0)
        row = (self._at_us, user_id % BUCKETS, user_id)
        yield Row("" if seen else "activity", Write(_INACTIVE, row))

    def _newest_id(self, node: int, content_id: int) -> Iterator[Row]:
        """No process of that number gives out one of these ids again."""
        yield _NODE.row(0, node, content_id, ids.time_ms(content_id) * 1_000)

    def _viewer(
        self, user_id: int, kind: Kind, target_id: int, extra: int, value: bytes | None = None
    ) -> Row:
        write = viewer.put(user_id, kind, target_id, extra, self._at_us, value)
        return Row("viewer", write, partition=user_id)

    def _read_timeline(self, author_id: int, day: int) -> bytes:
        row = self._conn.execute(_TIMELINE_SQL, (author_id, day)).fetchone()
        return row[0] if row else b""


def _entry_in(entries: bytes, content_id: int) -> bytes:
    key, size = entries_of.order_key(content_id), entries_of.ENTRY_BYTES
    at = entries.find(key)
    while at >= 0 and at % size:  # the same bytes across two fields of others
        at = entries.find(key, at + 1)
    return entries[at : at + size] if at >= 0 else b""


def _has_media(content: bytes) -> bool:
    return bool(types_pb2.Content.FromString(content).media)
