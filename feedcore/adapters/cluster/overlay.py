"""Overlay: posts that were announced in the last OVERLAY_MS, shown whatever the fan-out lags.

    state of a post    its position      leads to
    announced here     none yet: newer   logged, when the node log brings it back
                       than any
    logged             of its entry in   expired, after OVERLAY_MS or above OVERLAY_POSTS_MAX
                       the node log
    expired            gone; `floor` is  nothing older than the floor can be vouched for
                       at least there

Invariants: adding a post again changes nothing that is seen; everything is bounded; the log from
`floor` on has been applied. Pulled posts are noted, but not shown: readers find them in the
author's timeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from feedcore import native
from feedcore.adapters.common.posted_authors import PostedAuthors
from feedcore.adapters.contracts.announcements import Posted
from feedcore.domain.entry import key_at
from feedcore.limits import MINUTE_MS, SECOND_MS

# Fan-out of a post ends long before; a window is kept for half of it at most.
OVERLAY_MS = 10 * MINUTE_MS
OVERLAY_MARGIN_MS = 30 * SECOND_MS  # clocks of nodes differ by less
# 10 minutes at 500 posts a second: 60 MB; above, the overlay is shorter
OVERLAY_POSTS_MAX = 300_000


class _Arrival(NamedTuple):
    """When a post came: in the order in which posts expire."""

    at_ms: int
    position: int
    author_id: int
    content_id: int


class Overlay:
    """Of one node."""

    def __init__(self) -> None:
        self.posted = PostedAuthors()
        self.authors = native.U64Set()  # of posts that are shown
        self.floor = 0
        self._shown: dict[int, dict[int, bytes]] = {}  # author -> content id -> entry
        self._arrivals: deque[_Arrival] = deque()
        self._posters = native.U64Set()  # authors of all posts here, pulled ones, too
        self._newest: dict[int, int] = {}  # author -> position of the newest logged post
        self._announced: dict[int, set[int]] = {}  # author -> content ids that are not logged yet

    def add(self, event: Posted, position: int | None, read_to: int, now_ms: int) -> None:
        """`position`: of the log's entry, None for what this node announces; `read_to`: how far the
        log has been applied.
        """
        author_id, content_id = event.author_id, key_at(event.entry, 0)[0]
        if position is None:
            self._announced.setdefault(author_id, set()).add(content_id)
        else:
            self._newest[author_id] = max(self._newest.get(author_id, 0), position)
            self._note_logged(author_id, content_id)
        self._posters.add(author_id)
        self._arrivals.append(_Arrival(now_ms, position or read_to, author_id, content_id))
        if not event.pulled:
            entries = self._shown.setdefault(author_id, {})
            if content_id not in entries:
                entries[content_id] = event.entry
                self.authors.add(author_id)
                self.posted.add(author_id)

    def posts_of(self, authors: Sequence[int]) -> bytes:
        """Entries of the pushed posts by these authors, newest first."""
        found = [e for author in authors for e in self._shown.get(author, {}).values()]
        return native.sort_entries(b"".join(found)) if found else b""

    def has_newer(self, followees: bytes, user_id: int, position: int) -> bool:
        """Whether one of the followees, or the user, has posted since that position."""
        suspects = native.ids_intersect(followees, self._posters)
        return any(
            self._newest.get(author, 0) > position or author in self._announced
            for author in (*suspects, user_id)
        )

    def expire(self, now_ms: int) -> bool:
        """Lets go what is over; whether there was something."""
        arrivals, over_ms = self._arrivals, now_ms - OVERLAY_MS - OVERLAY_MARGIN_MS
        before = len(arrivals)
        while arrivals and (arrivals[0].at_ms < over_ms or len(arrivals) > OVERLAY_POSTS_MAX):
            self._forget(arrivals.popleft())
        return len(arrivals) < before

    def _forget(self, post: _Arrival) -> None:
        author_id = post.author_id
        self.floor = max(self.floor, post.position)
        self._note_logged(author_id, post.content_id)
        entries = self._shown.get(author_id)
        if entries is not None and entries.pop(post.content_id, None) is not None and not entries:
            del self._shown[author_id]
            self.authors.discard(author_id)
        if self._newest.get(author_id, 0) <= post.position and author_id not in self._announced:
            self._newest.pop(author_id, None)
            self._posters.discard(author_id)

    def _note_logged(self, author_id: int, content_id: int) -> None:
        waiting = self._announced.get(author_id)
        if waiting is not None:
            waiting.discard(content_id)
            if not waiting:
                del self._announced[author_id]
