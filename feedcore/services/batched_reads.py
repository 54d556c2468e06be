"""First answers of feeds over a network: all pages that were asked for in one turn of the loop,
with one question to what is shared.

    a request        is answered here if the page, as of now, is
    of any shape     kept by this worker, and current
                     in the shared page cache, and current (ports.validation)
                     made of what this worker keeps, with nothing to be loaded
    else             not: the ordinary call begins anew, with its deadline, its log line and its
                     errors

Invariant: what answers here is what `services.resident` would answer in the same turn. Not for
loading, nor for anything that is wrong with a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from feedcore import native
from feedcore._native.codecs.feedwire import decode_get_feed
from feedcore._native.codecs.pagescan import scan_page
from feedcore._native.feed.draft import NEEDS
from feedcore.errors import Unavailable
from feedcore.limits import SHOWN_PAGES_MAX

if TYPE_CHECKING:
    from feedcore._native.feed.draft import Draft
    from feedcore._native.feed.page import PageMaker
    from feedcore.ports import CacheValidation

log = logging.getLogger(__name__)

HAND_TURNS = 20  # of the upkeep, a second: a page that is asked for all the time counts once
KNOWN_MAX = 100_000  # 20 MB
_DONE = NEEDS["done"]
ANYTHING = b""  # as a shape: no page is asked for, only whether what is kept counts


class Hits:
    """One a worker."""

    def __init__(
        self, maker: PageMaker, validation: CacheValidation, seen: Any, *, keeps: bool
    ) -> None:
        """`seen(user_id, now_ms)` notes that a user was here; `keeps`: this worker keeps pages."""
        self._maker = maker
        self._keeps = keeps
        self._known: dict[tuple[int, bytes], None] = {}  # answered from this worker's memory last
        self.validation = validation
        self._seen = seen
        self._shown: dict[bytes, int] = {}  # id array of a shared page -> times served
        self._handing: dict[bytes, int] = {}  # what is being handed over
        self._turns = 0
        self.shared_pages = 0
        self.shared_items = 0
        self.shown_dropped = 0
        self.declined = 0
        # told of each page that was served here: the draft, and content ids in their order
        self.on_page: Callable[[Draft, Sequence[int]], None] | None = None

    async def answer(self, requests: Sequence[bytes]) -> list[bytes | None]:
        """Encoded replies to encoded GetFeedRequests, None for those that are not answered here."""
        drafts: list[Draft | None] = []
        asked: list[tuple[int, bytes]] = []
        begin, known = self._maker.begin, self._known
        for request in requests:
            fields = decode_get_feed(request)
            draft = None
            if fields is not None:
                user_id, page_size, cursor, view, etag = fields
                draft = begin(user_id, page_size, view, cursor, etag)
            drafts.append(draft)
            if draft is not None:
                shape = draft.shape
                kept = etag or (user_id, shape) in known
                asked.append((user_id, ANYTHING if kept else shape))
        try:
            found = iter(await self.validation.pages_of(asked))
        except Unavailable:
            self.declined += len(requests)
            return [None] * len(requests)
        wanted = iter(asked)
        replies = [
            None if one is None else self._reply(one, next(found), asked=bool(next(wanted)[1]))
            for one in drafts
        ]
        self.declined += replies.count(None)
        return replies

    def _reply(self, draft: Draft, found: bytes | None, *, asked: bool) -> bytes | None:
        """`found`: None if nothing can be said, empty if there is no page, but what this worker
        keeps counts; `asked`: for the page.
        """
        if found is None:
            return None
        if found and self.served(draft, found) is not None:
            return found
        maker = self._maker
        body = maker.kept(draft)
        if body is None and maker.go_on(draft) == _DONE:
            body = draft.body
        self.made(draft, body, shares=asked)
        return body

    def knows(self, draft: Draft) -> bool:
        """Whether this worker has answered the same from its own memory last: then it is not worth
        asking for the page.
        """
        return (draft.user_id, draft.shape) in self._known

    def served(self, draft: Draft, body: bytes) -> int | None:
        """Counts a page that another load has left as served; how many items it has, None if it
        cannot be used.
        """
        try:
            shown = scan_page(body)[0]
        except ValueError as error:  # of another version, or damaged: the page is made anew
            log.warning("a page of the shared cache cannot be used: %s", error)
            return None
        self.shared_pages += 1
        count = len(shown) // 8
        self.shared_items += count
        times = self._shown.get(shown)
        if times is not None:
            self._shown[shown] = times + 1
        elif len(self._shown) < SHOWN_PAGES_MAX:
            self._shown[shown] = 1
        else:
            self.shown_dropped += count
        self._seen(draft.user_id, draft.now_ms)
        if self.on_page is not None:
            self.on_page(draft, memoryview(shown).cast("Q").tolist())
        return count

    def made(self, draft: Draft, body: bytes | None, *, shares: bool) -> None:
        """After a page was made or found here, or could not be (None). `shares`: it was asked for:
        it is left to others, if nothing that it shows changed while it was made.
        """
        what = draft.user_id, draft.shape
        if body is not None and self.on_page is not None and not draft.not_modified:
            self.on_page(draft, memoryview(scan_page(body)[0]).cast("Q").tolist())
        if shares and body is not None and self._maker.is_current(draft):
            content_ids = native.pack_ids(draft.content_ids())
            assert draft.viewer is not None
            followees, _ = draft.viewer.dump()
            self.validation.keep_page(*what, body, content_ids, followees)
        elif shares:
            self.validation.keep_none(*what)
        if self._keeps and body is not None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[what] = None
        else:
            self._known.pop(what, None)

    def take_shown(self, most: int) -> tuple[list[tuple[bytes, int]], int]:
        """[(id array, times)] of at most `most` shared pages served since, and how many are
        left.
        """
        self._turns += 1
        if not self._handing and self._turns >= HAND_TURNS:
            self._handing, self._shown, self._turns = self._shown, {}, 0
        handing = self._handing
        taken = [handing.popitem() for _ in range(min(most, len(handing)))]
        return taken, len(handing) + len(self._shown)
