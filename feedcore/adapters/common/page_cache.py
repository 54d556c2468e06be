"""NoPageCache: for profiles whose nodes leave each other no pages."""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.ports.cache_validation import CacheValidation
from feedcore.ports.page_cache import SharedPage, StalePage


class NoPageCache:
    """Implements `ports.page_cache.PageCache`: validates, and has nothing."""

    def __init__(self, validation: CacheValidation) -> None:
        self._validation = validation

    async def page(self, user_id: int, shape: bytes) -> SharedPage | None:
        """None, after the viewer was observed."""
        await self._validation.observe_viewer(user_id)
        return None

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[SharedPage | None]:
        """All are left to `page`."""
        return [None] * len(asked)

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """None."""
        return None

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """Nothing was begun."""

    def keep_page(self, user_id: int, shape: bytes, page: SharedPage, followees: bytes) -> None:
        """Nobody else could use it."""
