"""Every answer is judged while the load runs: what is wrong is kept with what reproduces it.

What must be in force is decided by order, not by clocks: each acknowledgement (a mute, a hide, a
delete) takes the next number, a request notes the number when it is sent, and its page must honour
all that were acknowledged before that. Invariant: nothing that a right server may answer is called
wrong. Not for the content of posts: the engine's tests hold that.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import DecodeError

from feedcore.limits import CHECK_NEW_COUNT_MAX
from feedcore_bench import methods
from feedcore_pb.v1 import feed_pb2

KEPT = 20  # wrong answers that are kept whole; all are counted
BODY_KEPT = 2_048  # bytes of an answer that could not be read


class Page(NamedTuple):
    """A GetFeedResponse as far as it is looked at."""

    ids: list[int]
    authors: list[int]
    scores: list[float]
    cursor: str
    head: str
    etag: str
    not_modified: bool
    degraded: bool


def _parse(body: bytes) -> Page:
    """By the protobuf library: where there is no compiled scanner. Raises ValueError."""
    try:
        page = feed_pb2.GetFeedResponse.FromString(body)
    except DecodeError as error:
        raise ValueError(f"no GetFeedResponse: {error}") from error
    return Page(
        [item.content_id for item in page.items],
        [item.author_id for item in page.items],
        [item.score for item in page.items],
        page.next_cursor,
        page.head,
        page.etag,
        page.not_modified,
        page.receipt.degraded,
    )


def _scanner() -> Callable[[bytes], Page]:
    try:
        from feedcore_bench._native.pagescan import scan_page
    except ImportError:
        return _parse

    def scan(body: bytes) -> Page:
        ids, authors, scores, cursor, head, etag, not_modified, degraded = scan_page(body)
        count = len(ids) // 8
        return Page(
            list(struct.unpack(f"<{count}Q", ids)),
            list(struct.unpack(f"<{count}Q", authors)),
            list(struct.unpack(f"<{count}d", scores)),
            cursor,
            head,
            etag,
            not_modified,
            degraded,
        )

    return scan


scan = _scanner()


@dataclass(slots=True)
class UserState:
    """What a user's pages must honour: id -> number of its acknowledgement."""

    muted: dict[int, int] = field(default_factory=dict)
    hidden: dict[int, int] = field(default_factory=dict)
    ever_muted: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Wrong:
    """One wrong answer. `request` is hexadecimal: method and bytes can be sent again."""

    what: str
    detail: str
    user: int
    session: int
    method: str
    request: str
    body: str = ""


class Checker:
    """Judges answers. `order` numbers acknowledgements."""

    def __init__(self) -> None:
        self.order = 0
        self.deleted: dict[int, int] = {}
        self.deleting: set[int] = set()  # asked for, acknowledged or not
        self.users: dict[int, UserState] = {}
        self.wrong: list[Wrong] = []
        self.counts: Counter[str] = Counter()
        self.checked = 0

    def failed(self) -> int:
        """How many answers were wrong."""
        return sum(self.counts.values())

    def acknowledge(self) -> int:
        """The number of an acknowledgement that came now."""
        self.order += 1
        return self.order

    def state(self, user: int) -> UserState:
        """Of a user; made when first asked for."""
        found = self.users.get(user)
        if found is None:
            found = self.users[user] = UserState()
        return found

    def may_be_gone(self, call: tuple[int, bytes]) -> bool:
        """The call reacts to a post whose deletion was asked for: NOT_FOUND is right as well."""
        if call[0] != methods.INTERACT:
            return False
        reaction = feed_pb2.RecordInteractionRequest.FromString(call[1])
        return reaction.content_id in self.deleting

    def add(
        self, what: str, detail: str, user: int, session: int, call: tuple[int, bytes], body: bytes
    ) -> None:
        """Notes a wrong answer."""
        self.counts[what] += 1
        if len(self.wrong) < KEPT:
            name, request = methods.NAMES[call[0]], call[1].hex()
            shown = body[:BODY_KEPT].hex()
            self.wrong.append(Wrong(what, detail, user, session, name, request, shown))

    def page(
        self,
        body: bytes,
        order: int,
        user: int,
        session: int,
        call: tuple[int, bytes],
        *,
        size: int = 20,
        view: int = methods.FULL,
        seen: set[int] | None = None,
        if_none_match: str = "",
        must_have_items: bool = False,
    ) -> Page | None:
        """Judges a page; `order` is the checker's when the request was sent, `seen` what the scroll
        showed before (the page's items are added). None if it cannot be read."""
        self.checked += 1
        try:
            page = scan(body)
        except ValueError as error:
            self.add("malformed", str(error), user, session, call, body)
            return None
        for what, detail in self._faults(
            page, order, user, size, view, seen, if_none_match, must_have_items
        ):
            self.add(what, detail, user, session, call, body)
        if seen is not None:
            seen.update(page.ids)
        return page

    def news(
        self, body: bytes, order: int, user: int, session: int, call: tuple[int, bytes]
    ) -> None:
        """Judges a CheckNewResponse."""
        self.checked += 1
        try:
            reply = feed_pb2.CheckNewResponse.FromString(body)
        except DecodeError as error:
            self.add("malformed", str(error), user, session, call, body)
            return
        newest = reply.newest_content_id
        if reply.count > CHECK_NEW_COUNT_MAX or bool(reply.count) != bool(newest):
            self.add("check new", str(reply), user, session, call, body)
        faults = _forbidden("deleted", self.deleted, [newest], order)
        state = self.users.get(user)
        if state is not None:
            faults += _forbidden("hidden", state.hidden, [newest], order)
        for what, detail in faults:
            self.add(what, detail, user, session, call, body)

    def _faults(
        self,
        page: Page,
        order: int,
        user: int,
        size: int,
        view: int,
        seen: set[int] | None,
        if_none_match: str,
        must_have_items: bool,
    ) -> list[tuple[str, str]]:
        ids, scores = page.ids, page.scores
        if page.not_modified:
            if ids or not if_none_match or page.etag != if_none_match:
                return [("not modified", f"etag {page.etag!r}, asked for {if_none_match!r}")]
            return []
        faults = []
        if len(ids) > size or 0 in ids:
            faults.append(("items", f"{len(ids)} items of {size} asked for, or an id of 0"))
        if must_have_items and not ids:
            faults.append(("empty", "a first page without items"))
        if not page.head or not page.etag:
            faults.append(("items", "no head or no etag"))
        if len(set(ids)) != len(ids):
            faults.append(("duplicate in a page", str([i for i in set(ids) if ids.count(i) > 1])))
        if seen and not seen.isdisjoint(ids):
            faults.append(("duplicate in a scroll", str(sorted(seen.intersection(ids)))))
        if view != methods.IDS and ids:
            if scores[-1] <= 0 or any(map(float.__lt__, scores, scores[1:])):
                faults.append(("order", f"scores {scores}"))
        if page.degraded:
            faults.append(("degraded", "the receipt says that something was left out"))
        faults += _forbidden("deleted", self.deleted, ids, order)
        state = self.users.get(user)
        if state is not None:
            faults += _forbidden("muted", state.muted, page.authors, order)
            faults += _forbidden("hidden", state.hidden, ids, order)
        return faults


def _forbidden(
    what: str, known: dict[int, int], shown: list[int], order: int
) -> list[tuple[str, str]]:
    """Shown although forbidden before the request was sent."""
    if not known or known.keys().isdisjoint(shown):
        return []
    bad = [one for one in shown if known.get(one, order + 1) <= order]
    return [(what, f"{bad}, acknowledged before the request")] if bad else []
