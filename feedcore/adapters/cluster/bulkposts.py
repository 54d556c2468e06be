"""Bulk reads of posts for ResidentSource, over the stores of posts."""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.domain import ids
from feedcore.limits import BACKFILL_ENTRIES_MAX, RETENTION_MS
from feedcore.ports import Content, ContentSource, PostStore


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
