"""NodeView: the node's mirror with the step that makes it current, as the stores ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feedcore.adapters.cluster.announce import Announcer, Event
from feedcore.adapters.cluster.freshness import SharedFreshness
from feedcore.adapters.cluster.mirror import Mirror
from feedcore.adapters.cluster.shared import Document
from feedcore.ports.settings import AuthorMode


class NodeView:
    """See `adapters.cql.shared` and `adapters.cql.mirrored`. Also the Announcer of the stores,
    which exist before the freshness that carries out both: `attach` comes before the first use.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._freshness: SharedFreshness | None = None

    def attach(self, freshness: SharedFreshness) -> None:
        """Once, at the start."""
        self._freshness = freshness

    async def shared(self) -> None:
        """As current as this call, or later."""
        assert self._freshness is not None
        await self._freshness.shared()

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """See `adapters.cluster.announce`."""
        announcer: Announcer | None = self._freshness
        assert announcer is not None
        await announcer.announce(viewers, events)

    @property
    def pulled(self) -> Any:
        """Authors in mode PULL or DRAINING."""
        return self._mirror.pulled

    @property
    def tail_authors(self) -> Any:
        """Authors of `posts_of`."""
        return self._mirror.tail_authors

    @property
    def documents(self) -> Mapping[str, Sequence[Document]]:
        """Per name the kept versions, newest first."""
        return self._mirror.documents

    @property
    def modes(self) -> Mapping[int, AuthorMode]:
        """Authors that are not PUSH."""
        return self._mirror.modes

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing is known."""
        return self._mirror.mode_of(author_id)

    def posts_of(self, authors: list[int]) -> bytes:
        """Entries of posts that may not be in the stored feeds yet, newest first."""
        return self._mirror.posts_of(authors)

    def tombstones(self) -> Any:
        """A `native.U64Set`."""
        return self._mirror.tombstones

    def trending(self) -> bytes:
        """Entries, newest first."""
        return self._mirror.trending
