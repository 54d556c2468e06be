"""LocalCacheValidation: nothing to ask. Every read of the embedded store looks at its version
first.

Invariant: nothing here suspends. Not for a store over a network.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.ports.cache_validation import StalePage


class LocalCacheValidation:
    """See `ports.validation.CacheValidation`."""

    async def observe_node(self) -> None:
        """Reads see the newest commit."""

    async def observe_viewer(self, user_id: int) -> None:
        """Epochs of the node are bumped by whoever commits."""

    def is_bypassed(self, user_id: int) -> bool:
        """Nothing is shared that could be away."""
        return False

    async def page(self, user_id: int, shape: bytes) -> bytes | None:
        """No page cache is shared beyond the process."""
        return None

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """None either."""
        return [b""] * len(asked)

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """No page cache."""
        return None

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """There is nothing to be kept."""

    def keep_page(
        self, user_id: int, shape: bytes, body: bytes, content_ids: bytes, followees: bytes
    ) -> None:
        """Nobody else could use it."""
