"""CacheValidation: the one step before a read that makes what this node keeps in memory as current
as the acknowledged writes of all nodes.

A local store needs none (its reads revalidate what they use): its `CacheValidation` does nothing,
and never suspends. In a cluster it observes the shared epochs, and invalidates what nobody can
vouch for. Not for pages that nodes share (page_cache).
"""

from __future__ import annotations

from typing import Protocol


class CacheValidation(Protocol):
    """Everybody who asks in the same turn of the loop is answered by one question to the engine."""

    async def observe_node(self) -> None:
        """What this node replicates for all users (tombstones, pulled authors and their newest
        posts, settings) is as of this call, or later. Settings may be older while the store that
        has them does not answer; no page made meanwhile is left to others.
        """

    async def observe_viewer(self, user_id: int) -> None:
        """As `observe_node`; and what this node keeps of the user is current, or invalidated."""

    def is_bypassed(self, user_id: int) -> bool:
        """Whether what nodes share about the user cannot be asked now: pages show nothing wrong,
        but may lack posts that are not fanned out yet, and cost more.
        """
