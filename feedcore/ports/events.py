"""EventSink: what happened, for other systems. Fire and forget: an event may be lost, a call never
waits for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from feedcore.domain.receipt import Origin
from feedcore.ports.signals import Interaction


class EventSink(Protocol):
    """Cheap, bounded, never raises; what it has no room for is counted and dropped."""

    def published(self, content_id: int, author_id: int, visibility: int, at_ms: int) -> None:
        """A post was acknowledged."""

    def deleted(self, content_id: int, author_id: int, at_ms: int) -> None:
        """A deletion was acknowledged."""

    def page_served(
        self,
        user_id: int,
        content_ids: Sequence[int],
        origin: Origin,
        ranking_version: int,
        scrolled: bool,
        at_ms: int,
    ) -> None:
        """A page was sent, with these items in this order; `scrolled`: a later page of a scroll."""

    def interacted(self, interaction: Interaction) -> None:
        """An interaction that changed something was acknowledged."""
