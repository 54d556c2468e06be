"""PostStore: posts, author timelines, and the fan-out event that is committed with each post."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from feedcore.domain.idset import U64Set
from feedcore.domain.publish_plan import NewPost


class Published(NamedTuple):
    """`content_id` of the post; `replayed` if the idempotency key had been used for the same
    request.
    """

    content_id: int
    replayed: bool


class Post(NamedTuple):
    """A stored post, not deleted."""

    content_id: int
    author_id: int
    content: bytes
    visibility: int


class PostStats(NamedTuple):
    """Counters of one post, counted eventually.

    `reach`: users it was delivered to (push) or whose feeds pull it. `mode`: "push" or "pull" as
    decided when it was published. `fanned_out_ms`: when the last delivery was durable, 0 while
    under way or pulled.
    """

    content_id: int
    author_id: int
    likes: int
    comments: int
    shares: int
    clicks: int
    hides: int
    impressions: int
    reach: int
    mode: str
    fanned_out_ms: int


class Timelines(NamedTuple):
    """Of several authors, in the order asked for: entries each. `kept`: how many of them this
    process had in its memory.
    """

    entries: list[bytes]
    kept: int


class PostStore(Protocol):
    """Posts are partitioned by content_id, timelines by (author_id, day)."""

    async def publish(self, post: NewPost) -> Published:
        """Commits post, timeline row and fan-out jobs together, as `domain.publish_plan` says;
        durable on return.

        Raises IdempotencyConflict (same key, other digest), StoreFull, Overloaded. The push/pull
        mode of the author is read inside the same commit.
        """

    async def import_posts(self, posts: list[NewPost]) -> list[Published | None]:
        """Many posts in one commit, in order; None marks one whose idempotency key had another
        digest.

        A content_id that is taken moves on to the next free sequence number of the same
        millisecond.
        """

    async def delete(self, author_id: int, content_id: int, now_ms: int) -> None:
        """Tombstone and removal of the content, durable on return. Deleting again changes nothing.

        Raises NotFound (no such post, or no such author) and NotPermitted (somebody else's).
        """

    async def get(self, content_id: int) -> Post | None:
        """The post, or None if it never was or is deleted."""

    async def timelines(
        self, author_ids: Sequence[int], at_or_below: int, not_below: int, limit: int
    ) -> Timelines:
        """Per author the newest `limit` entries in bounds (a source may hold more; the merge
        cuts).
        """

    async def stats(self, content_id: int) -> PostStats | None:
        """Counters, or None if there is no such post."""

    def tombstones(self) -> U64Set:
        """Deleted content ids, current as of this call. The caller does not change the set."""

    def trending(self) -> bytes:
        """Entries (newest first) of the posts with the most engagement lately: at most
        TRENDING_ENTRIES.
        """

    async def content_id_of(self, author_id: int, idempotency_key: str) -> int:
        """The post that this key of this author made, 0 if none is known."""

    async def newest_content_id(self) -> int:
        """The largest content id stored, 0 if none: a new process checks its clock against it. A
        store may answer more, by less than CLOCK_AHEAD_MAX_MS: ids that it has reserved; and one
        that is opened for a node answers for the ids of that node.
        """
