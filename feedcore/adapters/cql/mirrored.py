"""Mirrored: what the stores ask of this node's mirror of what is the same for all users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from feedcore.adapters.cluster.shared import Document
from feedcore.ports.settings import AuthorMode


class Mirrored(Protocol):
    """Reads of memory; current as of the last `shared`, or later."""

    @property
    def pulled(self) -> Any:
        """Authors in mode PULL or DRAINING, a `native.U64Set`."""

    @property
    def tail_authors(self) -> Any:
        """Authors of `posts_of`, a `native.U64Set`."""

    @property
    def documents(self) -> Mapping[str, Sequence[Document]]:
        """Per name the kept versions, newest first."""

    @property
    def modes(self) -> Mapping[int, AuthorMode]:
        """Authors that are not PUSH."""

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing is known."""

    def posts_of(self, authors: list[int]) -> bytes:
        """Entries of posts that may not be in the stored feeds yet, newest first."""

    async def shared(self) -> None:
        """As current as this call, or later."""
