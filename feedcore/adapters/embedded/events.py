"""EventSink of an engine that nobody reads along with."""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.domain.receipt import Origin
from feedcore.ports import Interaction


class NoEvents:
    """See `ports.events.EventSink`: nothing is kept."""

    def published(self, content_id: int, author_id: int, visibility: int, at_ms: int) -> None:
        """Nobody listens."""

    def deleted(self, content_id: int, author_id: int, at_ms: int) -> None:
        """Nobody listens."""

    def page_served(
        self,
        user_id: int,
        content_ids: Sequence[int],
        origin: Origin,
        ranking_version: int,
        scrolled: bool,
        at_ms: int,
    ) -> None:
        """Nobody listens."""

    def interacted(self, interaction: Interaction) -> None:
        """Nobody listens."""
