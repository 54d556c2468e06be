"""PageCache: encoded pages that loads of any node leave to each other.

A page is served only if it is exactly what would be made now; a stale one, with its age, only where
no page can be made. Asking for a page makes what the node keeps of the user current, as
`CacheValidation.observe_viewer` does: an adapter asks its engine both in one question. Not for
pages that a worker keeps in its own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class SharedPage(NamedTuple):
    """An encoded page, and the content ids of its items in their order, as an array of u64."""

    body: bytes
    shown: bytes


class StalePage(NamedTuple):
    """A page from before."""

    page: SharedPage
    age_ms: int


NO_PAGE = SharedPage(b"", b"")


class PageCache(Protocol):
    """Everybody who asks in the same turn of the loop is answered by one question to the engine."""

    async def page(self, user_id: int, shape: bytes) -> SharedPage | None:
        """The encoded page of that request shape that another load has left, if it is exactly what
        would be made now. None if there is none: the caller makes one, and calls `keep_page` or
        `keep_none`.
        """

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[SharedPage | None]:
        """As `page` for each (user_id, shape), all with one question. NO_PAGE: what is kept of the
        user is current, and there is no page, or none was asked for (an empty shape); who gets that
        for a shape calls `keep_page` or `keep_none`. None: nothing can be said here, ask `page`.
        """

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """For when no page can be made: one that another load has left, which may lack what was
        posted since, but shows nothing deleted, and nothing that the user has not allowed since.
        None if there is none, or nobody can vouch for that. Needs no store.
        """

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """No page was made that could be left to others."""

    def keep_page(self, user_id: int, shape: bytes, page: SharedPage, followees: bytes) -> None:
        """Leaves a page that was made just now to others: written behind, dropped when too much
        waits. `followees`: whom the user followed when it was made; an id array.
        """
