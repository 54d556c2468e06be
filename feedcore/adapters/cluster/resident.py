"""ResidentSource of a node: rows of viewers that other nodes have loaded lately come from the
shared cache; what it lacks comes from the tables, and is left there for others.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cluster.freshness import SharedFreshness
from feedcore.adapters.cql.resident import CqlResidentSource
from feedcore.domain import ids
from feedcore.limits import BACKFILL_ENTRIES_MAX, RETENTION_MS
from feedcore.ports import Content, ContentSource, PostStore
from feedcore.ports.resident import Mirror, ViewerRow


class BulkPosts:
    """The part of ResidentSource that is about posts, over the stores of posts."""

    def __init__(self, posts: PostStore, contents: ContentSource) -> None:
        self._posts = posts
        self._contents = contents

    async def outboxes(self, author_ids: Sequence[int], now_ms: int) -> list[bytes]:
        """Entries within retention, newest first."""
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        return await self._posts.outboxes(author_ids, ids.ID_MAX, oldest, BACKFILL_ENTRIES_MAX)

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """None where there is no such post (any more)."""
        return await self._contents.contents(content_ids)


class ClusterResidentSource:
    """See `ports.resident.ResidentSource`."""

    def __init__(self, tables: CqlResidentSource, freshness: SharedFreshness) -> None:
        self._tables = tables
        self._freshness = freshness

    @property
    def local(self) -> bool:
        """Its coroutines wait for the cluster."""
        return False

    @property
    def mirror_version(self) -> int:
        """Of the mirror."""
        return self._tables.mirror_version

    def mirror(self) -> Mirror:
        """As of the last event."""
        return self._tables.mirror()

    def engagement_table(self) -> memoryview:
        """Of this process."""
        return self._tables.engagement_table()

    def take_published(self) -> list[int]:
        """Noted by the mirror."""
        return self._tables.take_published()

    async def viewers(self, user_ids: Sequence[int], depth: int, now_ms: int) -> list[ViewerRow]:
        """One question to the shared cache, then the tables for those it lacks."""
        found = await self._freshness.viewer_rows(user_ids, depth)
        lacking = [user for user, row in zip(user_ids, found, strict=True) if row is None]
        if not lacking:
            return [row for row in found if row is not None]
        read = await self._tables.viewers(lacking, depth, now_ms)
        self._freshness.keep_viewer_rows(lacking, read, depth)
        rest = iter(read)
        return [next(rest) if row is None else row for row in found]

    async def outboxes(self, author_ids: Sequence[int], now_ms: int) -> list[bytes]:
        """From the tables: each node keeps its own."""
        return await self._tables.outboxes(author_ids, now_ms)

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """From the tables: each node keeps its own."""
        return await self._tables.contents(content_ids)
