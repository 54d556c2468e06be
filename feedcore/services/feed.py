"""GetFeed in five named steps: skeleton, filter, rank, hydrate, present; and the check for new
content.

State of a scroll (all of it is in the cursor; the service has no state between calls):

    head        nothing newer joins this scroll; fixed by the first page
    low_water   everything in (low_water, head] was served or filtered
    served      the ids at or below low_water that were served
    ranking     version and time, so that a scroll is ranked by one ruler

Invariants: a scroll never shows an item twice and never skips one that was there when it began and
is still visible; a page's items come in descending score; every page carries a receipt. Not for
writing: a load changes nothing but the note that the user was here and the impressions, both
written behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feedcore import native
from feedcore.clock import Clock
from feedcore.codecs.cursor import Cursor, decode_cursor, decode_head, encode_cursor, encode_head
from feedcore.codecs.receipt import encode_receipt
from feedcore.codecs.wire import PageItem
from feedcore.domain import ids
from feedcore.domain.entry import ENTRY_BYTES, content_ids, key_at
from feedcore.domain.receipt import Origin, Receipt
from feedcore.domain.visibility import Verdict
from feedcore.errors import InvalidField, Overloaded, StoreFull, StoreReadOnly, Unavailable
from feedcore.limits import (
    CHECK_NEW_COUNT_MAX,
    CLOCK_AHEAD_MAX_MS,
    PULLED_SOURCES_MAX,
    REFILL_WINDOWS_MAX,
    RETENTION_MS,
    USER_ID_MAX,
    WINDOW_ENTRIES,
)
from feedcore.ports import (
    CacheValidation,
    ContentSource,
    FeedStore,
    GraphSource,
    PostStore,
    PreferenceStore,
    Ranker,
    SettingsStore,
    SignalStore,
)
from feedcore.services.admission import check_id, check_page_size
from feedcore.services.scoring import Scorer
from feedcore.services.viewer import Viewer, Viewers, is_followed

NEWEST = USER_ID_MAX  # at or below this is every content id
REASON_FOLLOWED, REASON_OWN, REASON_TRENDING = 1, 2, 3
VIEW_FULL, VIEW_COMPACT, VIEW_IDS = 0, 1, 2
_FEED, _TRENDING = 0, 1  # Cursor.origin
_DAMAGED = "damaged: followees' posts are read instead until it is made anew"
_SCORE = struct.Struct("<d")


async def others_first() -> None:
    """Between two pages of a scroll: everything that is ready gets its turn."""
    await asyncio.sleep(0)


class FeedPage(NamedTuple):
    """`body` is a wire-encoded feedcore.v1.GetFeedResponse; the rest is for logs and metrics."""

    body: bytes
    items: int
    origin: str
    degraded: bool
    not_modified: bool
    timeline_hits: int
    timeline_misses: int
    compiled: bool = False  # generated or cached by compiled code, which counts for itself
    shown: Sequence[int] = ()  # content ids, in their order
    ranking_version: int = 0


class NewContent(NamedTuple):
    """Visible items newer than a head: `items` at most CHECK_NEW_COUNT_MAX, `capped` if there are
    more.
    """

    items: int
    capped: bool
    newest_published_at_ms: int
    newest_content_id: int


class Skeleton(NamedTuple):
    """`entries`: the merged window, newest first; `built` False if it was pulled while a rebuild is
    due.
    """

    entries: bytes
    built: bool


class Chosen(NamedTuple):
    """One entry on its way to the page."""

    score: float
    content_id: int
    author_id: int


@dataclass(slots=True)
class Scroll:
    """One call's progress through the feed; becomes the next cursor."""

    viewer: Viewer
    page_size: int
    now_ms: int
    ranked_at_ms: int
    head: int
    low_water: int
    served: bytes
    trending: bool
    receipt: Receipt
    chosen: list[Chosen] = field(default_factory=list)
    end: bool = False
    timeline_hits: int = 0
    timeline_misses: int = 0

    @property
    def not_below(self) -> int:
        """The oldest content id within retention."""
        return ids.first_id_at(self.now_ms - RETENTION_MS)


class FeedService:
    """Serves pages. One a worker; safe for concurrent calls on one event loop."""

    def __init__(
        self,
        feeds: FeedStore,
        posts: PostStore,
        contents: ContentSource,
        graph: GraphSource,
        preferences: PreferenceStore,
        signals: SignalStore,
        settings: SettingsStore,
        validation: CacheValidation,
        secret: bytes,
        clock: Clock,
        ranker: Ranker | None = None,
    ) -> None:
        self._feeds = feeds
        self._posts = posts
        self._contents = contents
        self._preferences = preferences
        self._signals = signals
        self._validation = validation
        self._secret = secret
        self._clock = clock
        self._scorer = Scorer(signals, ranker)
        self.viewers = Viewers(graph, preferences, settings)

    async def get_feed(
        self, user_id: int, page_size: int, cursor: str, view: int, if_none_match: str
    ) -> FeedPage:
        """One page as wire bytes. Raises InvalidField and InvalidCursor; see feed.proto for the
        bounds.
        """
        if view not in (VIEW_FULL, VIEW_COMPACT, VIEW_IDS):
            raise InvalidField("view", str(view), "must be 0 (full), 1 (compact) or 2 (ids)")
        check_id("user_id", user_id)
        size = check_page_size(page_size)
        await self._validation.observe_viewer(user_id)
        with self._feeds.snapshot():
            scroll = await self._begin(user_id, size, cursor)
            rebuild_due = await self.fill(scroll)
            items = await self._hydrate(scroll, view)
        if rebuild_due:
            # The page is whole without it; a store that takes no writes is asked again next time.
            with contextlib.suppress(StoreFull, StoreReadOnly):
                await self._feeds.request_rebuild(user_id, scroll.now_ms)
        self._preferences.seen(user_id, scroll.now_ms)
        if self._validation.is_bypassed(user_id):
            scroll.receipt.note_bypass()
        return self._present(scroll, items, view, if_none_match)

    async def fill(self, scroll: Scroll) -> bool:
        """Steps 1 to 3, window after window until the page is full; True if the stored feed must be
        rebuilt.
        """
        rebuild_due = False
        for _ in range(REFILL_WINDOWS_MAX):
            skeleton = await self._skeleton(scroll)
            rebuild_due = rebuild_due or not skeleton.built
            if not scroll.trending and not skeleton.entries and scroll.head == 0:
                scroll.trending = True
                skeleton = await self._skeleton(scroll)
            if scroll.head == 0 and skeleton.entries:
                scroll.head, _ = key_at(skeleton.entries, 0)
            verdicts = self._filter(scroll, skeleton.entries)
            await self._rank(scroll, skeleton.entries, verdicts)
            if scroll.end or len(scroll.chosen) >= scroll.page_size:
                break
        scroll.chosen.sort(reverse=True)
        return rebuild_due

    async def check_new(self, user_id: int, head: str) -> NewContent:
        """How many visible items are newer than `head`."""
        check_id("user_id", user_id)
        head_id = decode_head(head, self._secret, user_id)
        await self._validation.observe_viewer(user_id)
        with self._feeds.snapshot():
            scroll = await self._first_page(user_id, CHECK_NEW_COUNT_MAX)
            scroll.trending = False  # what trends is not news: only what is followed counts
            entries = (await self._skeleton(scroll, newer_than=head_id)).entries
            verdicts = self._filter(scroll, entries)
        kept = verdicts.count(Verdict.KEEP)
        if not kept:
            return NewContent(0, False, 0, 0)
        newest, _ = key_at(entries, verdicts.index(Verdict.KEEP))
        count = min(kept, CHECK_NEW_COUNT_MAX)
        return NewContent(count, kept > count, ids.time_ms(newest), newest)

    async def score_first_window(self, user_id: int) -> list[tuple[float, int]]:
        """(score, content_id) of every candidate of the first page; score 0 for what filters left
        out.
        """
        check_id("user_id", user_id)
        await self._validation.observe_viewer(user_id)
        scroll = await self._first_page(user_id, 1)
        entries = (await self._skeleton(scroll)).entries
        scores = await self._scores(scroll, entries, self._filter(scroll, entries))
        return [
            (score, content_id)
            for (score,), content_id in zip(
                _SCORE.iter_unpack(scores), content_ids(entries), strict=True
            )
        ]

    async def scroll_ids(
        self,
        user_id: int,
        page_size: int,
        between: Callable[[], Awaitable[None]] = others_first,
    ) -> list[int]:
        """Every content id of the user's feed, scrolled page by page to its end; for audits.
        `between` is awaited after each page.
        """
        await self._validation.observe_viewer(user_id)
        scroll = await self._first_page(user_id, page_size)
        found: list[int] = []
        while True:
            await self.fill(scroll)
            if scroll.trending:
                break
            found += [chosen.content_id for chosen in scroll.chosen]
            if scroll.end:
                break
            cursor = encode_cursor(_cursor(scroll), self._secret)
            await between()
            scroll = await self._begin(user_id, page_size, cursor)
        return found

    async def _begin(self, user_id: int, page_size: int, cursor_text: str) -> Scroll:
        if not cursor_text:
            return await self._first_page(user_id, page_size, without_graph=True)
        now_ms = self._clock.now_ms()
        cursor = decode_cursor(cursor_text, self._secret, user_id, now_ms)
        trending = cursor.origin == _TRENDING
        viewer = await self.viewers.read(
            user_id, now_ms, cursor.config_version, without_graph=trending
        )
        return Scroll(
            viewer=viewer,
            page_size=page_size,
            now_ms=now_ms,
            ranked_at_ms=cursor.ranked_at_ms,
            head=cursor.head,
            low_water=cursor.low_water,
            served=cursor.served,
            trending=trending,
            receipt=_receipt(viewer, now_ms),
        )

    async def _first_page(
        self, user_id: int, page_size: int, *, without_graph: bool = False
    ) -> Scroll:
        """`without_graph`: answers with what trends, if the graph cannot say whom the user follows.
        A scroll of a followed feed waits for the graph: without it, all that is left would be
        filtered.
        """
        now_ms = self._clock.now_ms()
        viewer = await self.viewers.read(user_id, now_ms, without_graph=without_graph)
        return Scroll(
            viewer=viewer,
            page_size=page_size,
            now_ms=now_ms,
            ranked_at_ms=now_ms,
            head=0,
            low_water=NEWEST,
            served=b"",
            trending=not viewer.followees,
            receipt=_receipt(viewer, now_ms),
        )

    # Step 1
    async def _skeleton(self, scroll: Scroll, newer_than: int = 0) -> Skeleton:
        """The newest WINDOW_ENTRIES candidates at or below the scroll's low water."""
        if scroll.trending:
            return await self._trending_skeleton(scroll)
        viewer, receipt = scroll.viewer, scroll.receipt
        at_or_below, not_below = scroll.low_water, max(scroll.not_below, newer_than + 1)
        try:
            window = await self._feeds.window(
                viewer.user_id, viewer.followees, at_or_below, not_below, WINDOW_ENTRIES
            )
        except Unavailable as error:
            receipt.report("stored", 0, str(error))
            scroll.trending = True
            return await self._trending_skeleton(scroll)
        whole = window.built and not window.damaged
        pulled, total = self._pull_sources(viewer, whole, window.pending_authors)
        bounds = at_or_below, not_below, WINDOW_ENTRIES
        timelines = await self._timelines(scroll, pulled, *bounds)
        stored = native.merge_newest(window.sources, *bounds)
        entries = native.merge_newest([stored, *timelines], *bounds)
        if not receipt.names("stored"):
            receipt.origin = Origin.STORED if whole else Origin.REBUILT
            self._report_sources(receipt, entries, stored, timelines, at_or_below, not_below)
            receipt.pull_total, receipt.pull_considered = total, len(pulled) - 1
        if window.damaged and not receipt.lacks("stored"):
            receipt.report("stored", 0, _DAMAGED)
        receipt.candidates += len(entries) // ENTRY_BYTES
        return Skeleton(entries, window.built)

    async def _timelines(
        self, scroll: Scroll, authors: list[int], at_or_below: int, not_below: int, limit: int
    ) -> list[bytes]:
        """Counts where they came from, too."""
        found = await self._posts.timelines(authors, at_or_below, not_below, limit)
        scroll.timeline_hits += found.kept
        scroll.timeline_misses += len(authors) - found.kept
        return found.entries

    def _report_sources(
        self,
        receipt: Receipt,
        entries: bytes,
        stored: bytes,
        timelines: list[bytes],
        at_or_below: int,
        not_below: int,
    ) -> None:
        """What each source has within the merged window, whatever else it may hold."""
        if len(entries) == WINDOW_ENTRIES * ENTRY_BYTES:
            not_below, _ = key_at(entries, WINDOW_ENTRIES - 1)
        within = [native.count_within(one, at_or_below, not_below) for one in (stored, *timelines)]
        receipt.report("stored", within[0])
        receipt.report("outboxes", sum(within[1:]))

    def _pull_sources(
        self, viewer: Viewer, built: bool, pending: tuple[int, ...]
    ) -> tuple[list[int], int]:
        """Whose timelines to merge (the viewer's own among them), and how many could have
        contributed.
        """
        if built:
            authors = self._feeds.pulled_authors(viewer.user_id, viewer.followees)
        else:
            authors = native.unpack_ids(viewer.followees)
        if pending:
            authors = sorted({*authors, *pending})
        considered = viewer.most_engaged(authors, PULLED_SOURCES_MAX)
        return [*considered, viewer.user_id], len(authors)

    async def _trending_skeleton(self, scroll: Scroll) -> Skeleton:
        """What has most engagement lately, and the viewer's own posts."""
        bounds = scroll.low_water, scroll.not_below, WINDOW_ENTRIES
        own = await self._timelines(scroll, [scroll.viewer.user_id], *bounds)
        entries = native.merge_newest([self._posts.trending(), *own], *bounds)
        scroll.receipt.origin = Origin.TRENDING
        scroll.receipt.report("trending", len(entries) // ENTRY_BYTES)
        scroll.receipt.candidates += len(entries) // ENTRY_BYTES
        return Skeleton(entries, True)

    # Step 2
    def _filter(self, scroll: Scroll, entries: bytes) -> bytes:
        """One verdict an entry; the receipt counts what was left out, by reason."""
        audience = scroll.viewer.audience(require_follow=not scroll.trending)
        verdicts = native.judge(entries, audience, self._posts.tombstones())
        if verdicts.count(Verdict.KEEP) < len(verdicts):
            filtered = scroll.receipt.filtered
            for verdict in Verdict:
                count = verdicts.count(verdict)
                if count and verdict is not Verdict.KEEP:
                    name = verdict.name.lower()
                    filtered[name] = filtered.get(name, 0) + count
        return verdicts

    # Step 3
    async def _rank(self, scroll: Scroll, entries: bytes, verdicts: bytes) -> None:
        """Scores the window, takes the best for the page, and moves the scroll on."""
        selection = native.select(
            entries,
            verdicts,
            await self._scores(scroll, entries, verdicts),
            scroll.served,
            scroll.page_size - len(scroll.chosen),
            scroll.viewer.parameters,
            WINDOW_ENTRIES,
        )
        for index, score in zip(selection.chosen, selection.scores, strict=True):
            scroll.chosen.append(Chosen(score, *key_at(entries, index)))
        scroll.low_water, scroll.served = selection.low_water, selection.served
        scroll.end = selection.end

    async def _scores(self, scroll: Scroll, entries: bytes, verdicts: bytes) -> bytes:
        return await self._scorer.scores(
            scroll.viewer, entries, verdicts, scroll.ranked_at_ms, scroll.receipt
        )

    # Step 4
    async def _hydrate(self, scroll: Scroll, view: int) -> list[PageItem]:
        """Contents and counts. Items deleted meanwhile are dropped; so are those whose content is
        not there although it should be, and the receipt says so. If the source fails, items come
        without content.
        """
        reasons = [_reason(scroll, chosen.author_id) for chosen in scroll.chosen]
        if view == VIEW_IDS or not scroll.chosen:
            return _bare_items(scroll, reasons)
        try:
            contents = await self._contents.contents([c.content_id for c in scroll.chosen])
        except (Unavailable, Overloaded) as error:
            scroll.receipt.report("content", 0, str(error))
            return _bare_items(scroll, reasons)
        deleted = self._posts.tombstones()
        lost = sum(
            content is None and chosen.content_id not in deleted
            for chosen, content in zip(scroll.chosen, contents, strict=True)
        )
        gone = f"{lost} contents are not there" if lost else ""
        scroll.receipt.report("content", len(contents) - lost, gone)
        return [
            PageItem(chosen.content_id, chosen.author_id, *content, chosen.score, reason)
            for chosen, content, reason in zip(scroll.chosen, contents, reasons, strict=True)
            if content is not None
        ]

    # Step 5
    def _present(
        self, scroll: Scroll, items: list[PageItem], view: int, if_none_match: str
    ) -> FeedPage:
        """The reply's bytes: items or not-modified, cursor, head, etag, receipt."""
        receipt = scroll.receipt
        head = encode_head(scroll.viewer.user_id, _head(scroll), self._secret)
        etag = native.page_etag(
            items, receipt.ranking_version, not scroll.end, view << 1 | receipt.degraded
        )
        if if_none_match and if_none_match == etag:
            body = native.encode_not_modified(head, etag, encode_receipt(receipt))
            return _page(scroll, body, not_modified=True)
        next_cursor = "" if scroll.end else encode_cursor(_cursor(scroll), self._secret)
        body = native.encode_page(items, next_cursor, head, etag, encode_receipt(receipt), view)
        shown = [item.content_id for item in items]
        self._signals.impressions(shown)
        return _page(scroll, body, shown=shown)


def _bare_items(scroll: Scroll, reasons: list[int]) -> list[PageItem]:
    return [
        PageItem(one.content_id, one.author_id, None, 0, 0, 0, one.score, reason)
        for one, reason in zip(scroll.chosen, reasons, strict=True)
    ]


def _page(
    scroll: Scroll, body: bytes, *, shown: Sequence[int] = (), not_modified: bool = False
) -> FeedPage:
    return FeedPage(
        body,
        len(shown),
        scroll.receipt.origin.name.lower(),
        scroll.receipt.degraded,
        not_modified,
        scroll.timeline_hits,
        scroll.timeline_misses,
        shown=shown,
        ranking_version=scroll.receipt.ranking_version,
    )


def _receipt(viewer: Viewer, now_ms: int) -> Receipt:
    receipt = Receipt(
        generated_at_ms=now_ms,
        followees=len(viewer.followees) // 8,
        ranking_version=viewer.ranking_version,
        experiment_arm=viewer.experiment_arm,
    )
    if viewer.graph_error or viewer.graph_stale_ms:
        receipt.report("graph", receipt.followees, viewer.graph_error, viewer.graph_stale_ms)
    return receipt


def _head(scroll: Scroll) -> int:
    """The newest id of the followed feed; of an empty one, a moment that nothing in it is newer
    than.
    """
    if scroll.trending or not scroll.head:
        return ids.last_id_at(scroll.now_ms - CLOCK_AHEAD_MAX_MS)
    return scroll.head


def _reason(scroll: Scroll, author_id: int) -> int:
    if author_id == scroll.viewer.user_id:
        return REASON_OWN
    if scroll.trending and not is_followed(scroll.viewer, author_id):
        return REASON_TRENDING
    return REASON_FOLLOWED


def _cursor(scroll: Scroll) -> Cursor:
    return Cursor(
        owner=scroll.viewer.user_id,
        head=scroll.head,
        low_water=scroll.low_water,
        ranked_at_ms=scroll.ranked_at_ms,
        config_version=scroll.viewer.ranking_version,
        origin=_TRENDING if scroll.trending else _FEED,
        issued_ms=scroll.now_ms,
        served=scroll.served,
    )
