"""Truth: the tables behind what each node mirrors, as one SharedSource."""

from __future__ import annotations

from feedcore.adapters.cluster.shared import Document
from feedcore.adapters.cql.session import Session
from feedcore.adapters.cql.settings_store import CqlSharedSettings
from feedcore.adapters.cql.sharedposts import CqlSharedPosts
from feedcore.ports.settings import AuthorMode


class Truth:
    """See `adapters.cluster.shared.SharedSource`."""

    def __init__(self, session: Session) -> None:
        self._posts = CqlSharedPosts(session)
        self._settings = CqlSharedSettings(session)

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """Content ids deleted since then."""
        return await self._posts.tombstones_since(since_ms, now_ms)

    async def author_modes(self) -> list[AuthorMode]:
        """Authors that are not PUSH."""
        return await self._settings.author_modes()

    async def documents(self) -> dict[str, list[Document]]:
        """Per name the kept versions, newest first."""
        return await self._settings.documents()

    async def trending(self) -> bytes:
        """Entries, newest first."""
        return await self._posts.trending()

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        """Packed (u64 content_id, f32 value) of posts published since then."""
        return await self._posts.engagement_since(since_ms, now_ms)
