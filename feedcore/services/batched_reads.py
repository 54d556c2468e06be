"""Batched reads: the first attempt at feed pages where the store is behind a network. All GetFeed
requests of one turn of the event loop ask the shared epochs and the shared page cache one question.

A request is answered here if its page, as of now, is

    cached by this worker, and current
    in the shared page cache, and current (`ports.page_cache`)
    made of the resident set, with nothing to be loaded

Every other request is declined: the ordinary handler begins anew, with its deadline, its log line
and its errors.

Invariant: an answer given here is the answer that `services.resident` would give in the same turn.
Not for loading, nor for requests that must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from feedcore.errors import Unavailable
from feedcore.limits import SHOWN_PAGES_MAX
from feedcore.native import NEEDS, decode_get_feed
from feedcore.ports.page_cache import SharedPage

if TYPE_CHECKING:
    from feedcore.native import Draft, PageMaker
    from feedcore.ports import PageCache

HAND_OVER_TURNS = 20  # of the upkeep: once a second, however often a page is read
ANSWERED_HERE_MAX = 100_000  # 20 MB
VALIDATE_ONLY = b""  # as a shape: asks whether the resident set is current, and for no page
_DONE = NEEDS["done"]


class BatchedReads:
    """One a worker."""

    def __init__(self, maker: PageMaker, pages: PageCache, seen: Any, *, caches: bool) -> None:
        """`seen(user_id, now_ms)` notes that a user was here; `caches`: this worker has a page
        cache of its own.
        """
        self._maker = maker
        self._caches = caches
        # (user_id, shape) of requests that this worker's own memory has answered last
        self._answered_here: dict[tuple[int, bytes], None] = {}
        self.pages = pages
        self._seen = seen
        self._impressions: dict[bytes, int] = {}  # id array of a shared page -> times served
        self._handing_over: dict[bytes, int] = {}  # impressions that the upkeep is taking
        self._turns = 0
        self.shared_pages = 0
        self.shared_items = 0
        self.shown_dropped = 0
        self.declined = 0
        # called with each page that was served here: the draft, and content ids in their order
        self.on_page: Callable[[Draft, Sequence[int]], None] | None = None

    async def answer(self, requests: Sequence[bytes]) -> list[bytes | None]:
        """Encoded replies to encoded GetFeedRequests; None for each request that is declined."""
        begun = [self._begin(request) for request in requests]
        questions = [(draft.user_id, shape) for draft, shape in begun if draft is not None]
        try:
            found = iter(await self.pages.pages_of(questions))
        except Unavailable:
            self.declined += len(requests)
            return [None] * len(requests)
        replies = [
            None if draft is None else self._reply(draft, shape, next(found))
            for draft, shape in begun
        ]
        self.declined += replies.count(None)
        return replies

    def _begin(self, request: bytes) -> tuple[Draft | None, bytes]:
        """A draft of the reply, None to decline, and the shape to ask the shared cache for."""
        fields = decode_get_feed(request)
        if fields is None:
            return None, VALIDATE_ONLY
        user_id, page_size, cursor, view, etag = fields
        draft = self._maker.begin(user_id, page_size, view, cursor, etag)
        if draft is None or etag:  # a caller with an etag has a page: it may be the current one
            return draft, VALIDATE_ONLY
        shape = draft.shape
        return draft, VALIDATE_ONLY if (user_id, shape) in self._answered_here else shape

    def _reply(self, draft: Draft, shape: bytes, found: SharedPage | None) -> bytes | None:
        """`found` is what the shared cache answered for the shape (see `PageCache.pages_of`)."""
        if found is None:
            return None
        if found.body:
            self.count_shared(draft, found)
            return found.body
        maker = self._maker
        body = maker.cached(draft)
        if body is None and maker.go_on(draft) == _DONE:
            body = draft.body
        self.on_generated(draft, body, shares=shape != VALIDATE_ONLY)
        return body

    def validates_only(self, draft: Draft) -> bool:
        """Whether this worker's own memory answered the same request last: then the shared cache is
        asked for validation only, not for the page.
        """
        return (draft.user_id, draft.shape) in self._answered_here

    def count_shared(self, draft: Draft, page: SharedPage) -> int:
        """Counts a page of the shared cache as served; how many items it has."""
        shown = page.shown
        self.shared_pages += 1
        count = len(shown) // 8
        self.shared_items += count
        times = self._impressions.get(shown)
        if times is not None:
            self._impressions[shown] = times + 1
        elif len(self._impressions) < SHOWN_PAGES_MAX:
            self._impressions[shown] = 1
        else:
            self.shown_dropped += count
        self._seen(draft.user_id, draft.now_ms)
        if self.on_page is not None:
            self.on_page(draft, memoryview(shown).cast("Q").tolist())
        return count

    def on_generated(self, draft: Draft, body: bytes | None, *, shares: bool) -> None:
        """The caller generated a page or found it in this worker's cache; None: it could not.

        `shares`: the shared cache was asked for the page, so that this one is left there for other
        nodes, if nothing that it shows changed while it was generated.
        """
        key = draft.user_id, draft.shape
        if body is not None and self.on_page is not None and not draft.not_modified:
            self.on_page(draft, memoryview(draft.shown).cast("Q").tolist())
        if shares and body is not None and self._maker.is_current(draft):
            assert draft.viewer is not None
            followees, _ = draft.viewer.dump()
            self.pages.keep_page(*key, SharedPage(body, draft.shown), followees)
        elif shares:
            self.pages.keep_none(*key)
        if self._caches and body is not None:
            if len(self._answered_here) >= ANSWERED_HERE_MAX:
                self._answered_here.clear()
            self._answered_here[key] = None
        else:
            self._answered_here.pop(key, None)

    def take_shown(self, most: int) -> tuple[list[tuple[bytes, int]], int]:
        """[(id array, times)] of at most `most` shared pages served since, and how many are
        left.
        """
        self._turns += 1
        if not self._handing_over and self._turns >= HAND_OVER_TURNS:
            self._handing_over, self._impressions, self._turns = self._impressions, {}, 0
        pages = self._handing_over
        taken = [pages.popitem() for _ in range(min(most, len(pages)))]
        return taken, len(pages) + len(self._impressions)
