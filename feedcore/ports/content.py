"""ContentSource: contents by id. In production another team's service; the embedded profile has it
built in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Content(NamedTuple):
    """`content`: wire bytes of feedcore.v1.Content. Counters are eventual."""

    content: bytes
    likes: int
    comments: int
    shares: int


class ContentSource(Protocol):
    """Reads only."""

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """In the order asked for; None where the item is deleted or unknown. Raises Unavailable."""
