"""All that an embedded store holds, as plain rows in bounded parts: for who carries it elsewhere.

Left out is what is derived from the rest (stored feeds,
runs, deliveries, versions) and what waits to be merged. Invariant: the store is nobody else's
meanwhile (`exclusive`), so that all parts are of one moment. Not for serving.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.ports import FanoutJob, JobKind, Lane

ROWS = 1_000  # of one part: at 10 KB a post 10 MB
OUTBOXES_KEPT = 4_096  # (author, day) outboxes of the posts read lately
_MEDIA_TAG = b"\x12"  # field 2 of a Content, which has the body, media, visibility in this order

_POSTS = (
    "SELECT content_id, author_id, visibility, mode, reach, fanned_out_ms, content FROM posts"
    " ORDER BY content_id"
)
_OUTBOX = "SELECT entries FROM author_outbox WHERE author_id = ? AND day = ?"
_OPEN_LANES = (
    "SELECT content_id, lane, delivered FROM fanout_jobs"
    " WHERE kind = 'post' AND content_id <> 0 AND state IN (0, 2)"
)
_COUNTS = (
    "SELECT content_id, likes, comments, shares, clicks, hides, base_likes, base_comments,"
    " base_shares, impressions, weight FROM post_counts"
)
_INTERACTIONS = (
    "SELECT i.content_id, i.user_id, i.kind, i.at_ms, coalesce(p.author_id, t.author_id)"
    " FROM interactions i LEFT JOIN posts p ON p.content_id = i.content_id"
    " LEFT JOIN tombstones t ON t.content_id = i.content_id"
    " WHERE coalesce(p.author_id, t.author_id) IS NOT NULL"
)
_JOBS = (
    "SELECT job_id, lane, content_id, author_id, entry, after, delivered, attempts, created_ms,"
    " state, error, failed_ms FROM fanout_jobs WHERE kind = 'post' AND state IN (0, 2)"
    " ORDER BY job_id"
)
_NEWEST = (
    f"SELECT content_id >> {ids.SEQUENCE_BITS} & {(1 << ids.TIME_SHIFT - ids.SEQUENCE_BITS) - 1},"
    " max(content_id) FROM (SELECT content_id FROM posts"
    " UNION ALL SELECT content_id FROM tombstones) GROUP BY 1"
)


class PostRow(NamedTuple):
    """`entry` is b"" where the post has left the outboxes, and nobody knows its quality any more.

    `open_lanes`: (lane, delivered so far) of jobs that are not done.
    """

    content_id: int
    author_id: int
    visibility: int
    pulled: bool
    reach: int
    fanned_out_ms: int
    content: bytes
    entry: bytes
    open_lanes: tuple[tuple[int, int], ...]

    @property
    def has_media(self) -> bool:
        """As its content says."""
        return _has_media(self.content)


class CountsRow(NamedTuple):
    """One post's."""

    content_id: int
    likes: int
    comments: int
    shares: int
    clicks: int
    hides: int
    base_likes: int
    base_comments: int
    base_shares: int
    impressions: int
    weight: float


class InteractionRow(NamedTuple):
    """What is set now."""

    content_id: int
    user_id: int
    kind: int
    at_ms: int
    author_id: int


class RelationRow(NamedTuple):
    """Kinds are the embedded store's: see `graph.BLOCK` and `PreferenceKind`."""

    user_id: int
    kind: int
    target_id: int
    until_ms: int
    set_at_ms: int


class AuthorRow(NamedTuple):
    """Followers, and how the author's posts are delivered."""

    author_id: int
    followers: int
    mode: int
    until_ms: int


class JobRow(NamedTuple):
    """A post that is not fanned out; `error` and `failed_ms` of a dead letter."""

    job: FanoutJob
    dead: bool
    error: str
    failed_ms: int


class Contents:
    """The tables of one store, read by a connection of its own."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def settings(self) -> Iterator[list[tuple[str, int, str, int]]]:
        """(name, version, document, at_ms), ascending."""
        sql = "SELECT name, version, document, at_ms FROM settings ORDER BY name, version"
        return self._parts(sql)

    def authors(self) -> Iterator[list[AuthorRow]]:
        """All that anything is known of."""
        sql = "SELECT author_id, followers, mode, until_ms FROM authors"
        for rows in self._parts(sql):
            yield [AuthorRow(*row) for row in rows]

    def tombstones(self) -> Iterator[list[tuple[int, int, int]]]:
        """(content_id, author_id, deleted_ms)."""
        return self._parts("SELECT content_id, author_id, deleted_ms FROM tombstones")

    def posts(self) -> Iterator[list[PostRow]]:
        """Ascending by id, with their entries as they were made."""
        lanes: dict[int, tuple[tuple[int, int], ...]] = {}
        for content_id, lane, delivered in self._conn.execute(_OPEN_LANES):
            lanes[content_id] = (*lanes.get(content_id, ()), (lane, delivered))

        @lru_cache(maxsize=OUTBOXES_KEPT)
        def outbox(author: int, day: int) -> bytes:
            row = self._conn.execute(_OUTBOX, (author, day)).fetchone()
            return row[0] if row else b""

        for rows in self._parts(_POSTS):
            yield [
                PostRow(
                    content_id,
                    author,
                    visibility,
                    bool(mode),
                    reach,
                    fanned_out_ms,
                    content,
                    _entry_in(outbox(author, ids.day(content_id)), content_id),
                    lanes.get(content_id, ()),
                )
                for content_id, author, visibility, mode, reach, fanned_out_ms, content in rows
            ]

    def newest_ids(self) -> list[tuple[int, int]]:
        """(node with its region, newest content id) of all that gave out ids."""
        return self._conn.execute(_NEWEST).fetchall()

    def idempotency(self) -> Iterator[list[tuple[int, str, bytes, int]]]:
        """(author_id, key, digest, content_id)."""
        sql = "SELECT author_id, key, digest, content_id FROM idempotency"
        return self._parts(sql)

    def counts(self) -> Iterator[list[CountsRow]]:
        """As they are folded."""
        for rows in self._parts(_COUNTS):
            yield [CountsRow(*row) for row in rows]

    def interactions(self) -> Iterator[list[InteractionRow]]:
        """Of posts that are known, deleted ones included; grouped by content."""
        for rows in self._parts(_INTERACTIONS):
            yield [InteractionRow(*row) for row in rows]

    def interaction_keys(self) -> Iterator[list[tuple[int, str, bool, int]]]:
        """(user_id, key, changed, at_ms)."""
        for rows in self._parts("SELECT user_id, key, changed, at_ms FROM interaction_keys"):
            yield [(user, key, bool(changed), at) for user, key, changed, at in rows]

    def uncounted(self) -> Iterator[list[tuple[int, int]]]:
        """(content_id, user_id) of changes that are not folded into counters yet."""
        return self._parts("SELECT DISTINCT content_id, user_id FROM counter_log")

    def followees(self) -> Iterator[list[tuple[int, bytes]]]:
        """(user_id, id array)."""
        return self._parts("SELECT user_id, packed FROM followees")

    def active_followees(self) -> Iterator[list[tuple[int, bytes]]]:
        """The same of users who are pushed to."""
        sql = (
            "SELECT user_id, packed FROM followees f WHERE NOT EXISTS"
            " (SELECT 1 FROM inactive_users i WHERE i.user_id = f.user_id)"
        )
        return self._parts(sql)

    def followers(self) -> Iterator[list[tuple[int, int]]]:
        """(author_id, follower_id), grouped by author."""
        sql = "SELECT followee_id, follower_id FROM followers ORDER BY followee_id"
        return self._parts(sql)

    def relations(self) -> Iterator[list[RelationRow]]:
        """Grouped by user."""
        sql = (
            "SELECT user_id, kind, target_id, until_ms, set_at_ms FROM relations"
            " ORDER BY user_id, kind, target_id"
        )
        for rows in self._parts(sql):
            yield [RelationRow(*row) for row in rows]

    def affinity(self) -> Iterator[list[tuple[int, bytes]]]:
        """(user_id, packed shares)."""
        return self._parts("SELECT user_id, shares FROM affinity")

    def seen(self) -> Iterator[list[tuple[int, int]]]:
        """(user_id, last_seen_ms)."""
        return self._parts("SELECT user_id, last_seen_ms FROM viewers")

    def inactive(self) -> Iterator[list[tuple[int, bool]]]:
        """(user_id, whether it was ever seen)."""
        sql = (
            "SELECT user_id, EXISTS (SELECT 1 FROM viewers v WHERE v.user_id = i.user_id)"
            " FROM inactive_users i"
        )
        for rows in self._parts(sql):
            yield [(user, bool(seen)) for user, seen in rows]

    def jobs(self) -> Iterator[list[JobRow]]:
        """Posts that wait, and dead letters of posts. What other jobs would do to stored feeds is
        done where those are derived again.
        """
        for rows in self._parts(_JOBS):
            yield [_job_row(row) for row in rows]

    def _parts(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._conn.execute(sql)
        while rows := cursor.fetchmany(ROWS):
            yield rows


def _entry_in(entries: bytes, content_id: int) -> bytes:
    key, size = entries_of.order_key(content_id), entries_of.ENTRY_BYTES
    at = entries.find(key)
    while at >= 0 and at % size:  # the same bytes across two fields of others
        at = entries.find(key, at + 1)
    return entries[at : at + size] if at >= 0 else b""


def _has_media(content: bytes) -> bool:
    """Whether field 2 comes after field 1, whose length is a varint."""
    at = shift = length = 0
    if content[:1] == b"\x0a":
        at = 1
        while True:
            length |= (content[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if content[at - 1] < 0x80:
                break
    return content[at + length : at + length + 1] == _MEDIA_TAG


def _job_row(row: tuple[Any, ...]) -> JobRow:
    job_id, lane, content_id, author, entry, after, delivered, attempts, created_ms = row[:9]
    job = FanoutJob(
        job_id=job_id,
        kind=JobKind.POST,
        lane=Lane(lane),
        content_id=content_id,
        author_id=author,
        entry=entry,
        after=after,
        delivered=delivered,
        attempts=attempts,
        created_ms=created_ms,
    )
    return JobRow(job, row[9] == 2, row[10], row[11])
