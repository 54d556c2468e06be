"""SignalStore: interactions, the counters made from them, and the engagement used by ranking."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol


class InteractionKind(IntEnum):
    """Stored as they are: never renumber."""

    LIKE = 1
    COMMENT = 2
    SHARE = 3
    CLICK = 4
    HIDE = 5


class Interaction(NamedTuple):
    """Keyed (user_id, content_id, kind); `on` False takes it back (unlike, unhide)."""

    user_id: int
    content_id: int
    kind: InteractionKind
    on: bool
    at_ms: int
    idempotency_key: str = ""


class ImportedCounts(NamedTuple):
    """What a post had elsewhere."""

    content_id: int
    likes: int
    comments: int
    shares: int


class SignalStore(Protocol):
    """Counted eventually, exactly once."""

    async def record(self, interaction: Interaction) -> bool:
        """False if nothing changed. HIDE also sets or clears the user's HIDE preference, in the
        same commit.

        A used idempotency key of the same user answers as the first time and changes nothing.
        Raises NotFound if there is no such post.
        """

    async def import_counts(self, rows: Sequence[ImportedCounts]) -> None:
        """Adds to what is counted here. Setting again replaces what was imported before."""

    async def import_interactions(self, rows: Sequence[Interaction]) -> int:
        """Many in one commit; the number that were new; unknown posts are left out."""

    def impressions(self, content_ids: Sequence[int], times: int = 1) -> None:
        """The items were on a page that was served so often: buffered, bounded (a page counts as
        one), counted behind.
        """

    async def apply_counters(self, limit: int, now_ms: int) -> int:
        """Folds up to `limit` waiting interactions into counters, engagement and affinity; how
        many.
        """

    def engagement(self, entries: bytes) -> bytes:
        """One little-endian f32 an entry: ln(1 + likes + 2 comments + 3 shares + 0.1 clicks), 0 if
        none.
        """

    async def refresh_trending(self, now_ms: int) -> None:
        """Recomputes the trending posts."""
