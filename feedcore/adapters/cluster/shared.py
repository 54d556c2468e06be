"""SharedSource: the truth behind what each node mirrors for all users, read at quorum."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from feedcore.ports.settings import AuthorMode


class Document(NamedTuple):
    """One version of a settings document."""

    version: int
    document: dict


class SharedSource(Protocol):
    """Read at a node's start, after a gap in the node log, and while there is none."""

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """Content ids deleted since then."""

    async def author_modes(self) -> list[AuthorMode]:
        """Authors that are not PUSH."""

    async def documents(self) -> dict[str, list[Document]]:
        """Per name the kept versions, newest first."""

    async def trending(self) -> bytes:
        """Entries, newest first."""

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        """Packed (u64 content_id, f32 value) of posts published since then."""
