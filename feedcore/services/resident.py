"""Feeds from resident data: the same answers as `services.feed`, made by compiled code from what
this worker keeps in memory.

    asked for      what happens
    kept page      served if its epochs are current (compiled; from a local store inside the
                   transport's read turn)
    shared page    where the store is not local: made by another load, and current
    resident data  a page is made from it (compiled)
    something else it is loaded, in one batch with what other calls lack, and the page is made
    the rest       `FeedService` answers: trending, rebuilds, requests to be refused
    nothing        the store does not answer: a stale page of the shared cache, if there is one

Invariants: whatever path answers, the bytes are those of `FeedService` at the moment the page was
made; a kept page is current or younger than PAGE_AGE_MAX_MS, a stale one says so; nothing kept is
needed for an answer.
Only with the compiled modules: without them `FeedService` answers everything.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from feedcore import native
from feedcore.clock import Clock
from feedcore.codecs.epochs import AUTHOR, CONTENT, VIEWER
from feedcore.codecs.receipt import BYPASS_NOTE, stale_note
from feedcore.domain.entry import key_at
from feedcore.errors import Overloaded, Unavailable
from feedcore.limits import LOAD_BATCH_MAX, LOADS_WAITING_MAX, PULLED_SOURCES_MAX, USER_ID_MAX
from feedcore.native import NEEDS, Content, Draft, PageMaker, Resident, Timeline, Viewer
from feedcore.ports import CacheValidation, PageCache, PreferenceStore, SignalStore
from feedcore.ports.resident import ResidentSource, ViewerRow
from feedcore.resilience import deadline, tasks
from feedcore.resilience.coalescing import Coalescer
from feedcore.services.batched_reads import BatchedReads
from feedcore.services.feed import FeedPage, FeedService, NewContent
from feedcore.services.resident_budget import CacheBudget

log = logging.getLogger(__name__)

# A draft needs each of four things once; more means that what it reads changes under its hands.
ROUNDS_MAX = 12
SHOWN_PER_SLICE = 200  # pages whose impressions are counted at once: well below a millisecond
UPKEEP_S = 0.05  # between slices; at most 4,000 different pages a second
TICK_TURNS = 20  # a second
# Of the time that a caller waits, for the store; what is left is enough to ask the page cache.
STORE_PART = 0.8

_DONE, _VIEWER, _DEPTH = NEEDS["done"], NEEDS["viewer"], NEEDS["depth"]
_TIMELINES, _CONTENTS = NEEDS["timelines"], NEEDS["contents"]

# How the bytes of one worker are shared out. A window of 500 takes 5 KB, a post 0.5 KB, a timeline
# of a busy author 1 KB: of people who load a few times a day, windows are most.
VIEWERS_PART, TIMELINES_PART, CONTENTS_PART = 0.55, 0.15, 0.30


class Reader(NamedTuple):
    """A loaded viewer, and timelines that were loaded with it (and with others of the batch)."""

    viewer: Viewer
    timelines: dict[int, Timeline]

    def give(self, draft: Draft) -> None:
        """What the draft asked for."""
        draft.give_viewer(self.viewer)
        if self.timelines:
            draft.give_timelines(self.timelines)


class _Loads:
    """What drafts need, loaded in batches and kept. Epochs are taken before the store is read."""

    def __init__(self, resident: Resident, source: ResidentSource, clock: Clock) -> None:
        self._resident = resident
        self._epochs = resident.epochs
        self._source = source
        self._clock = clock
        bounds = {"batch_max": LOAD_BATCH_MAX, "waiting_max": LOADS_WAITING_MAX}
        self.viewers = Coalescer("viewers", self._load_viewers, **bounds)
        self.timelines = Coalescer("timelines", self._load_timelines, **bounds)
        self.contents = Coalescer("contents", self._load_contents, **bounds)

    async def close(self) -> None:
        """Waits for loads under way."""
        for one in (self.viewers, self.timelines, self.contents):
            await one.close()

    def load_now(self, draft: Draft, need: int) -> bool:
        """Loads what the draft needs at once, from a local source; False if the feed is not
        resident's to make.
        """
        if need in (_VIEWER, _DEPTH):
            key = (draft.user_id, draft.depth)
            reader = self.viewers.fetch_now([key])[key]
            if reader is None:
                return False
            reader.give(draft)
        elif need == _TIMELINES:
            draft.give_timelines(self.timelines.fetch_now(draft.missing))
        else:
            draft.give_contents(self.contents.fetch_now(draft.missing))
        return True

    async def _load_viewers(self, keys: list[tuple[int, int]]) -> list[Reader | None]:
        """(user_id, depth) -> the viewer, with the timelines that the caches lack; None if the
        stored feed is not to be relied on.
        """
        epochs = [self._epochs.read(VIEWER, user_id) for user_id, _ in keys]
        deepest = max(depth for _, depth in keys)
        users = [user_id for user_id, _ in keys]
        rows = await self._source.viewers(users, deepest, self._clock.now_ms())
        timelines = await self._timelines_of(users, rows)
        readers: list[Reader | None] = []
        for (user_id, depth), epoch, row in zip(keys, epochs, rows, strict=True):
            if not row.built:
                readers.append(None)
                continue
            viewer = Viewer(user_id, epoch, row, depth)
            own = timelines.get(user_id)
            if own is not None and not own.entries:
                viewer.has_published_nothing(own.epoch)
                self._resident.timelines.drop(user_id)
            self._resident.keep_viewer(viewer)
            readers.append(Reader(viewer, timelines))
        return readers

    async def _timelines_of(
        self, users: list[int], rows: Sequence[ViewerRow]
    ) -> dict[int, Timeline]:
        """What the viewers' pages will ask for next: one turn of the loop less for each."""
        pulled = self._source.replica().pulled
        wanted: dict[int, None] = {}
        for user_id, row in zip(users, rows, strict=True):
            authors = native.ids_intersect(row.followees, pulled)
            if row.built and len(authors) <= PULLED_SOURCES_MAX:
                wanted.update(dict.fromkeys(self._resident.lacking_timelines([*authors, user_id])))
        lacking = list(wanted)
        if not lacking:
            return {}
        if self._source.local:
            return self.timelines.fetch_now(lacking)
        found = await self.timelines.get_all(lacking)
        return dict(zip(lacking, found, strict=True))

    async def _load_timelines(self, author_ids: list[int]) -> list[Timeline]:
        epochs = [self._epochs.read(AUTHOR, author_id) for author_id in author_ids]
        found = await self._source.timelines(author_ids, self._clock.now_ms())
        timelines = [Timeline(*one) for one in zip(epochs, found, strict=True)]
        for author_id, timeline in zip(author_ids, timelines, strict=True):
            self._resident.keep_timeline(author_id, timeline)
        return timelines

    async def _load_contents(self, content_ids: list[int]) -> list[Content]:
        epochs = [self._epochs.read(CONTENT, content_id) for content_id in content_ids]
        found = await self._source.contents(content_ids)
        contents = [Content(*one) for one in zip(epochs, found, strict=True)]
        for content_id, content in zip(content_ids, contents, strict=True):
            self._resident.keep_content(content_id, content)
        return contents


class ResidentFeed:
    """One a worker; safe for concurrent calls on one event loop."""

    def __init__(
        self,
        plain: FeedService,
        source: ResidentSource,
        validation: CacheValidation,
        pages: PageCache,
        epochs: Any,
        preferences: PreferenceStore,
        signals: SignalStore,
        secret: bytes,
        clock: Clock,
        budget: CacheBudget,
    ) -> None:
        self._plain = plain
        self._validation = validation
        self._signals = signals
        share = budget.resident_bytes
        self.resident = Resident(
            epochs,
            int(share * VIEWERS_PART),
            int(share * TIMELINES_PART),
            int(share * CONTENTS_PART),
            budget.pages_bytes,
        )
        ranking = plain.viewers.ranking
        self.maker = PageMaker(self.resident, source, ranking, clock, preferences.seen, secret)
        self.loads = _Loads(self.resident, source, clock)
        self._source = source
        self.local = source.local  # what a page needs is on this machine
        self.batched: BatchedReads | None = None  # None for a local store
        if not source.local:
            caches = budget.pages_bytes > 0
            self.batched = BatchedReads(self.maker, pages, preferences.seen, caches=caches)
        if source.local and budget.resident_bytes:
            self.maker.load_now = self.loads.load_now
        self.prewarmed = 0
        self.plain_pages = 0
        self.plain_checks = 0
        self.stale_pages = 0
        self.on_tick: Callable[[], None] = _nothing  # once a second, and at the end
        self._upkeep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to count impressions and to renew kept pages, until `close`."""
        self._upkeep = tasks.start(self._serve(), "page upkeep")

    async def close(self) -> None:
        """Ends what is under way, hands over what is counted, lets everything go."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        await self.loads.close()
        while self.count_shown():
            pass
        self.on_tick()
        self.maker.close()

    async def get_feed(
        self, user_id: int, page_size: int, cursor: str, view: int, if_none_match: str
    ) -> FeedPage:
        """See `FeedService.get_feed`."""
        draft = self.maker.begin(user_id, page_size, view, cursor, if_none_match)
        reads = self.batched
        if draft is None or reads is None:
            page = await self._local_page(draft) if draft is not None else None
            return page or await self._plain_page(user_id, page_size, cursor, view, if_none_match)
        limit = asyncio.timeout_at(_store_deadline())
        try:
            async with limit:
                page = await self._shared_page(draft, reads, asked=not if_none_match)
                return page or await self._plain_page(
                    user_id, page_size, cursor, view, if_none_match
                )
        except (Unavailable, Overloaded) as error:
            failed: Exception = error
        except TimeoutError:
            if not limit.expired():
                raise
            failed = Unavailable("the store did not answer in time")
        stale = await self._stale_page(draft, reads)
        if stale is None:
            raise failed
        return stale

    async def _local_page(self, draft: Draft) -> FeedPage | None:
        body = await self._body_of(draft)
        return None if body is None else _compiled_page(draft, body)

    async def _shared_page(
        self, draft: Draft, reads: BatchedReads, *, asked: bool
    ) -> FeedPage | None:
        """`asked`: the caller has no page yet."""
        shares = asked and not reads.validates_only(draft)
        if not shares:
            await self._validation.observe_viewer(draft.user_id)
        elif found := await reads.pages.page(draft.user_id, draft.shape):
            if (items := reads.count_shared(draft, found)) is not None:
                return FeedPage(found, items, "stored", False, False, 0, 0, True)
        body = None
        try:
            body = await self._body_of(draft)
        finally:
            reads.on_generated(draft, body, shares=shares)
        if body is None:
            return None
        if self._validation.is_bypassed(draft.user_id):
            return _compiled_page(draft, body + BYPASS_NOTE, degraded=True)
        return _compiled_page(draft, body)

    async def _stale_page(self, draft: Draft, reads: BatchedReads) -> FeedPage | None:
        """What is left when nothing can be made."""
        stale = await reads.pages.stale_page(draft.user_id, draft.shape)
        items = reads.count_shared(draft, stale.body) if stale is not None else None
        if stale is None or items is None:
            return None
        self.stale_pages += 1
        body = stale.body + stale_note(stale.age_ms, items)
        return FeedPage(body, items, "stored", True, False, 0, 0, True)

    async def _plain_page(
        self, user_id: int, page_size: int, cursor: str, view: int, if_none_match: str
    ) -> FeedPage:
        self.plain_pages += 1
        return await self._plain.get_feed(user_id, page_size, cursor, view, if_none_match)

    async def _body_of(self, draft: Draft) -> bytes | None:
        """Kept, or made; None if `FeedService` must answer."""
        body = self.maker.kept(draft)
        if body is None and await self._fill(draft):
            body = draft.body
        return body

    async def check_new(self, user_id: int, head: str) -> NewContent | bytes:
        """See `FeedService.check_new`; as wire bytes of feedcore.v1.CheckNewResponse if they were
        made compiled.
        """
        if self.batched is not None and 0 < user_id <= USER_ID_MAX:
            await self._validation.observe_viewer(user_id)
        draft = self.maker.begin_check(user_id, head)
        if draft is not None:
            kept = self.maker.kept(draft)
            if kept is not None:
                return kept
            if await self._fill(draft):
                return draft.body
        self.plain_checks += 1
        return await self._plain.check_new(user_id, head)

    async def prewarm(self, author_ids: Sequence[int]) -> None:
        """Loads the timelines of pulled authors who have just published, and the newest post of
        each: many are about to ask for them.
        """
        timelines = await self.loads.timelines.get_all(author_ids)
        newest = [key_at(one.entries, 0)[0] for one in timelines if one.entries]
        await self.loads.contents.get_all(newest)
        self.prewarmed += len(newest)

    async def _fill(self, draft: Draft) -> bool:
        """Loads what the draft needs until it is done; False if `FeedService` must answer."""
        loads = self.loads
        for _ in range(ROUNDS_MAX):
            need = self.maker.go_on(draft)
            if need == _DONE:
                return True
            if need in (_VIEWER, _DEPTH):
                reader = await loads.viewers.get((draft.user_id, draft.depth))
                if reader is None:
                    return False
                reader.give(draft)
            elif need == _TIMELINES:
                missing = draft.missing
                found = await loads.timelines.get_all(missing)
                draft.give_timelines(dict(zip(missing, found, strict=True)))
            elif need == _CONTENTS:
                missing = draft.missing
                contents = await loads.contents.get_all(missing)
                draft.give_contents(dict(zip(missing, contents, strict=True)))
            else:
                return False
        return False

    # --- behind the calls -----------------------------------------------------------------------

    async def _serve(self) -> None:
        for turn in itertools.count():
            await asyncio.sleep(UPKEEP_S)
            try:
                await self._keep_up()
                if turn % TICK_TURNS == 0:
                    self.on_tick()
            except Exception:  # nothing here is needed for an answer: the next turn tries again
                log.exception("page upkeep failed")

    async def _keep_up(self) -> None:
        """One turn: impressions, what many are about to ask for, pages past their soft age."""
        self.count_shown()
        self.maker.look()
        if published := self._source.take_published():
            await self.prewarm(published)
        for user_id, page_size, view, cursor in self.maker.take_due():
            draft = self.maker.begin(user_id, page_size, view, cursor.decode(), "")
            if draft is not None:
                draft.silent = True
                await self._fill(draft)

    def count_shown(self) -> int:
        """Hands a slice of the impressions over; how many pages are left."""
        taken, left = self.maker.take_shown(SHOWN_PER_SLICE)
        if self.batched is not None:
            shared, more = self.batched.take_shown(SHOWN_PER_SLICE)
            taken, left = [*taken, *shared], left + more
        if taken:
            self._signals.impressions_of(taken)
        return left


def _compiled_page(draft: Draft, body: bytes, *, degraded: bool = False) -> FeedPage:
    return FeedPage(
        body, draft.item_count, "stored", degraded, draft.not_modified, 0, 0, compiled=True
    )


def _store_deadline() -> float | None:
    """On the loop's clock, as the caller's."""
    wanted = deadline.current()
    if wanted is None:
        return None
    now = deadline.loop_now()
    return now + STORE_PART * (wanted - now)


def _nothing() -> None:
    """Nobody wants to know."""
