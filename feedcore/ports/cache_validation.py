"""CacheValidation: the one step before a read that makes what this node keeps in memory as current
as the acknowledged writes of all nodes.

A local store needs none (its reads revalidate what they use): its `CacheValidation` does nothing,
and never suspends. In a cluster it asks the shared epochs, or forgets what cannot be vouched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StalePage(NamedTuple):
    """An encoded page from before."""

    body: bytes
    age_ms: int


class CacheValidation(Protocol):
    """Everybody who asks in the same turn of the loop is answered by one question to the engine."""

    async def observe_node(self) -> None:
        """What this node replicas for all users (tombstones, pulled authors and their newest posts,
        settings) is as of this call, or later. Settings may be older while the store that has them
        does not answer; no page made meanwhile is left to others.
        """

    async def observe_viewer(self, user_id: int) -> None:
        """As `shared`; and what this node keeps of the user is current, or forgotten."""

    def is_bypassed(self, user_id: int) -> bool:
        """Whether what nodes share about the user cannot be asked now: pages show nothing wrong,
        but may lack posts that are not fanned out yet, and cost more.
        """

    async def page(self, user_id: int, shape: bytes) -> bytes | None:
        """As `viewer`; and the encoded page of that request shape that another load has left in the
        shared page cache, if it is exactly what would be made now. None where there is no cache.
        """

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """As `page` for each (user_id, shape), all with one question. Empty bytes: what is kept of
        the user is current, and there is no page, or none was asked for (an empty shape); who gets
        that for a shape calls `keep_page` or `keep_none`. None: nothing can be said here, ask
        `page`.
        """

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """For when no page can be made: one that another load has left, which may lack what was
        posted since, but shows nothing deleted, and nothing that the user has not allowed since.
        None if there is none, or nobody can vouch for that. Needs no store.
        """

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """No page was made that could be left to others."""

    def keep_page(
        self, user_id: int, shape: bytes, body: bytes, content_ids: bytes, followees: bytes
    ) -> None:
        """Leaves a page that was made just now to the shared page cache: written behind, dropped
        when too much waits. `content_ids`: the items on it, `followees`: whom the user followed
        when it was made; id arrays.
        """
