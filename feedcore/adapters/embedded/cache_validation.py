"""LocalCacheValidation: nothing to observe. Every read of the embedded store looks at its version
first.

Invariant: nothing here suspends. Not for a store over a network.
"""

from __future__ import annotations


class LocalCacheValidation:
    """Implements `ports.cache_validation.CacheValidation`."""

    async def observe_node(self) -> None:
        """Reads see the newest commit."""

    async def observe_viewer(self, user_id: int) -> None:
        """Epochs of the node are bumped by whoever commits."""

    def is_bypassed(self, user_id: int) -> bool:
        """Nothing is shared that could be away."""
        return False
