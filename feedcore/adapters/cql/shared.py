"""What the stores ask of the node's mirror of data that is the same for all users."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from feedcore.ports.settings import AuthorMode


class Shared(Protocol):
    """Everything but `shared` is of memory."""

    async def shared(self) -> None:
        """What is mirrored is as of this call, or later."""

    def tombstones(self) -> Container[int]:
        """A `native.U64Set`: do not change it."""

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing else is known."""

    def trending(self) -> bytes:
        """Entries, newest first."""
