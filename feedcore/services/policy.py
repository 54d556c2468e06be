"""Moves authors between push and pull as followers come and go, or as an operator moves the
threshold.

The rules are `domain.policy`; this applies them to the authors concerned, in bounded commits.
"""

from __future__ import annotations

from feedcore.domain.policy import Mode, bounds, next_mode
from feedcore.limits import POLICY_BATCH
from feedcore.ports import CacheValidation, SettingsStore
from feedcore.ports.settings import AuthorMode
from feedcore.services.hot import Hot


class PolicyReview:
    """Run after bulk changes of the graph, and about once a second."""

    def __init__(self, settings: SettingsStore, validation: CacheValidation, hot: Hot) -> None:
        self._settings = settings
        self._validation = validation
        self._hot = hot

    async def review(self, now_ms: int) -> int:
        """Applies the policy to every author it would move; how many were moved."""
        moved = 0
        await self._validation.observe_node()
        hot = self._hot.read()
        promote_at, demote_below = bounds(hot.push_threshold, hot.hysteresis_percent)
        while True:
            authors = await self._settings.authors_to_review(
                promote_at, demote_below, now_ms, POLICY_BATCH
            )
            changed = []
            for author in authors:
                mode, until_ms = next_mode(
                    Mode(author.mode),
                    author.followers,
                    author.until_ms,
                    hot.push_threshold,
                    hot.hysteresis_percent,
                    now_ms,
                )
                if mode != author.mode:
                    changed.append(AuthorMode(author.author_id, mode, author.followers, until_ms))
            if changed:
                await self._settings.set_author_modes(changed)
                moved += len(changed)
            if len(authors) < POLICY_BATCH or not changed:
                return moved
