"""One page of a feed, or one check for new content, from the resident set: the same request at the
same moment gives the same bytes as `services.feed`, the generic path.

A draft goes through these states. `advance` says what the draft needs next; the caller loads that,
gives it to the draft, and calls `advance` again:

    state           needs                                   advance returns
    begun           the viewer, current                     NEEDS_VIEWER
                    a deeper window than is resident        NEEDS_DEPTH
                    current timelines of pulled authors     NEEDS_TIMELINES
    ranked          contents of the chosen items            NEEDS_CONTENTS
    presented       nothing                                 DONE
    any             what only the generic path does         GENERIC

GENERIC: trending, a feed that is being rebuilt or backfilled, an older ranking version, filters
that leave a window short, and requests and cursors that the generic path refuses with a reason.

Invariants: merge, filter and rank read one moment (the replica is brought up to date first, and
nothing awaits in between); a ranked draft is presented as ranked, less what was deleted since; an
answer is cached with stamps (`resident.stamps_t`) that were taken before anything was read.

Not for: loading (services.resident), reading requests off the wire (fastfeed).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc

from feedcore._native.codecs.cursor cimport cursor_t, open_cursor, open_head, seal_cursor, seal_head
from feedcore._native.feed.draft cimport (
    DONE, NEEDS_CONTENTS, NEEDS_DEPTH, NEEDS_TIMELINES, NEEDS_VIEWER, GENERIC, Draft,
)
from feedcore._native.store.epochs cimport AUTHOR, FEED, VIEWER, load64
from feedcore._native.codecs.idset cimport U64Set, table_has
from feedcore._native.codecs.packed cimport ENTRY_BYTES, TIME_SHIFT, Ids, be64, ids_have, ids_of
from feedcore._native.feed.reply cimport (
    encode_check, kept_ids, encode_not_modified, encode_receipt, id_array, receipt_t, sort_items,
)
from feedcore._native.feed.resident cimport Content, Timeline, Page, Viewer, unpack_followees
from feedcore._native.store.runlookup cimport RunIndex
from feedcore._native.codecs.wire cimport (
    TAG_ETAG, TAG_HEAD, TAG_NEXT_CURSOR, TAG_RECEIPT, VIEW_FULL, VIEW_IDS, blob_size, etag_of,
    item_measure, item_write, page_item_t, published_at_ms, put_blob, put_text, text_size,
)

from feedcore import limits
from feedcore._native.store.engagement import engagement_lookup
from feedcore._native.codecs.idset import ids_intersect
from feedcore._native.algorithms.merge import count_within, merge_newest
from feedcore._native.algorithms.paging import select
from feedcore._native.algorithms.ranking import score
from feedcore._native.algorithms.visibility import judge
from feedcore.domain import ids

cdef Py_ssize_t WINDOW = limits.WINDOW_ENTRIES
cdef Py_ssize_t PAGE_DEFAULT = limits.PAGE_SIZE_DEFAULT, PAGE_MAX = limits.PAGE_SIZE_MAX
cdef Py_ssize_t PULLED_MAX = limits.PULLED_SOURCES_MAX, DEEPER_BY = limits.WINDOW_STEP_ENTRIES
cdef Py_ssize_t LOAD_NOW_MAX = limits.LOAD_NOW_MAX
cdef Py_ssize_t CHECK_MAX = limits.CHECK_NEW_COUNT_MAX
cdef Py_ssize_t SHOWN_MAX = limits.SHOWN_PAGES_MAX, REFRESHES_MAX = limits.REFRESH_QUEUE_MAX
cdef uint64_t USER_MAX = limits.USER_ID_MAX
cdef int64_t RETENTION_MS = limits.RETENTION_MS, SEEN_EVERY_MS = limits.HOUR_MS
cdef int64_t AGE_MAX_MS = limits.PAGE_AGE_MAX_MS, SOFT_AGE_MS = limits.PAGE_SOFT_AGE_MS
cdef uint64_t NEWEST = ids.ID_MAX
cdef enum:
    REASON_FOLLOWED = 1
    REASON_OWN = 2
    ORIGIN_TRENDING_CURSOR = 1
    ROUNDS_MAX = 6  # viewer, depth, timelines and contents once, and what changes meanwhile
    COUNTED_MAX = 128  # ids of a check that is kept; few news are what is asked for again
    POSTED_MAX = 1024  # posts since: looking at more costs as much as a new page
    KEY_BYTES = 200  # a tuple, two numbers and a bytes object

cdef int64_t EPOCH_MS = ids.EPOCH_MS


cdef class PageCounts:
    """What a page maker has served since it began; `shown_dropped`: impressions without room."""


cdef class PageMaker:
    """Makes pages for one worker. `source`: ports.resident.ResidentSource; `ranking()` gives the
    configuration in force; `seen(user_id, now_ms)` notes that a user was here."""

    def __init__(self, Resident resident not None, source, ranking, clock, seen, bytes secret):
        self.resident, self.source, self.ranking = resident, source, ranking
        self.clock_ms, self.seen, self.secret = clock.now_ms, seen, secret
        self.engagement = source.engagement_table()
        self.generation = <uint64_t>-1
        self.shown, self.refreshes, self.counts = {}, [], PageCounts()

    # --- the replica of node-wide state -------------------------------------------------------

    cdef int refresh(self) except -1:
        """Takes over the replica if it has changed: once a change of the store, not once a call."""
        cdef uint64_t generation = load64(self.resident.epochs.generation_at)
        self.resident.begin_turn()
        if generation == self.generation and self.replica_version == self.source.replica_version:
            return 0
        self.config = self.ranking()  # first: asking may bring what is replicated up to date
        replica = self.source.replica()
        self.replica, self.replica_version = replica, self.source.replica_version
        self.overlay_authors, self.pulled = replica.overlay_authors, replica.pulled
        self.tombstones, self.backfills = replica.tombstones, replica.backfills
        self.pulled_version, self.index = replica.pulled_version, replica.runs
        self.posted, self.posted_first = replica.posted.authors, replica.posted.first
        self.posted_end = self.posted_first + len(self.posted)
        self.ranking_version = self.config.version
        self.generation = generation
        return 0

    # --- requests -----------------------------------------------------------------------------

    cdef Draft draft(
        self, uint64_t user_id, uint32_t page_size, int view, bytes cursor, bytes etag
    ):
        """None if the generic path must answer."""
        cdef Draft draft
        if user_id == 0 or user_id > USER_MAX or page_size > <uint32_t>PAGE_MAX:
            return None
        if view < VIEW_FULL or view > VIEW_IDS:
            return None
        draft = Draft.__new__(Draft)
        draft.user_id, draft.view, draft.cursor, draft.etag = user_id, view, cursor, etag
        draft.page_size = page_size if page_size else PAGE_DEFAULT
        draft.key = (user_id, draft.page_size << 2 | view, cursor)
        draft.now_ms = draft.scroll.ranked_at_ms = self.clock_ms()
        draft.scroll.low_water, draft.served, draft.depth = NEWEST, b"", WINDOW
        return draft

    cdef Draft check_draft(self, uint64_t user_id, bytes head):
        """None if the generic path must answer."""
        cdef Draft draft = self.draft(user_id, 0, VIEW_IDS, head, b"")
        if draft is None:
            return None
        draft.checking = True
        draft.key = (user_id, -1, head)
        return draft

    cdef bint _open(self, Draft draft) except -1:
        """Reads the cursor or the head; False if the generic path must refuse it with a reason."""
        cdef cursor_t cursor
        cdef int64_t head
        cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(draft.cursor)
        cdef size_t size = PyBytes_GET_SIZE(draft.cursor)
        if draft.checking:
            head = open_head(text, size, self.secret, draft.user_id)
            draft.scroll.newer_than = <uint64_t>head
            return head >= 0
        if size == 0:
            return True
        served = open_cursor(text, size, self.secret, draft.user_id, draft.now_ms, &cursor)
        if served is None or cursor.origin == ORIGIN_TRENDING_CURSOR:
            return False
        draft.served = served
        draft.scroll.head, draft.scroll.low_water = cursor.head, cursor.low_water
        draft.scroll.ranked_at_ms, draft.scroll.goes_on = <int64_t>cursor.ranked_at_ms, True
        return cursor.config_version == self.ranking_version

    cdef bytes cached_body(self, Draft draft):
        """The cached answer if it is current, else None. Counted as served."""
        cdef Page page = <Page>self.resident.pages.get(draft.key)
        cdef int64_t age_ms
        if page is None:
            return None
        age_ms = draft.now_ms - page.generated_ms
        if not self._is_current(page, draft.user_id, age_ms):
            return None
        if draft.checking:
            self.counts.checks_cached += 1
            return page.body
        self.counts.pages_cached += 1
        if age_ms > SOFT_AGE_MS and not page.refreshing and len(self.refreshes) < REFRESHES_MAX:
            page.refreshing = True
            self.refreshes.append((draft.user_id, draft.page_size, draft.view, draft.cursor))
        if draft.etag and draft.etag == page.etag:
            self.counts.not_modified += 1
            draft.not_modified = True
            return encode_not_modified(page.head, page.etag, page.receipt)
        draft.shown, draft.item_count = page.shown, PyBytes_GET_SIZE(page.shown) // 8
        self.count_shown(page.shown)
        return page.body

    cdef bint _is_current(self, Page page, uint64_t user_id, int64_t age_ms) except -1:
        cdef const uint64_t* shown = <const uint64_t*>PyBytes_AS_STRING(page.shown)
        cdef Py_ssize_t i
        if age_ms < 0 or age_ms > AGE_MAX_MS:
            return False
        if page.stamps.viewer_epoch != self.resident.epochs.at(VIEWER, user_id):
            return False
        if page.stamps.feed_epoch != self.resident.epochs.at(FEED, user_id):
            return False
        if page.stamps.pulled_version != self.pulled_version:
            return False
        if page.stamps.pulled_sum != self.resident.sum_of(page.pulled):
            return False
        for i in range(PyBytes_GET_SIZE(page.shown) // 8):
            if table_has(&self.tombstones.table, shown[i]):
                return False
        return page.stamps.posted == self.posted_end or self._nobody_posted(page)

    cdef bint _nobody_posted(self, Page page) except -1:
        """Whether nobody the viewer follows has published a pushed post since the last look."""
        cdef bytes followees
        cdef Ids idents
        cdef uint64_t number
        cdef uint64_t seen = page.stamps.posted
        if seen < self.posted_first or self.posted_end - seen > POSTED_MAX:
            return False
        followees = unpack_followees(page.followees, page.followee_count)
        idents = ids_of(followees)
        for number in range(seen, self.posted_end):
            if ids_have(idents, self.posted[number - self.posted_first]):
                return False
        page.stamps.posted = self.posted_end
        return True

    cdef int count_shown(self, bytes shown) except -1:
        """Counts the impressions of a served page; the counts are bounded."""
        self.counts.items_served += PyBytes_GET_SIZE(shown) // 8
        known = self.shown.get(shown)
        if known is not None:
            self.shown[shown] = known + 1
        elif len(self.shown) < SHOWN_MAX:
            self.shown[shown] = 1
        else:
            self.counts.shown_dropped += PyBytes_GET_SIZE(shown) // 8
        return 0

    # --- the steps ----------------------------------------------------------------------------

    cdef int advance(self, Draft draft) except -1:
        """Takes the draft as far as it gets; returns what it needs next."""
        cdef int need
        self.refresh()
        if draft.items == NULL:
            need = self._merge(draft)
            if need != DONE or draft.checking:
                return need
        need = self._hydrate(draft)
        if need != DONE:
            return need
        return self._present(draft)

    cdef bint finish(self, Draft draft) except -1:
        """Advances to the end if little is missing and loads at once; whether it got there."""
        cdef int need, rounds
        for rounds in range(ROUNDS_MAX):
            need = self.advance(draft)
            if need == DONE:
                return True
            if need == GENERIC or self.load_now is None:
                return False
            if need >= NEEDS_TIMELINES and len(draft.missing) > LOAD_NOW_MAX:
                return False
            if not self.load_now(draft, need):
                return False
        return False

    cdef int _merge(self, Draft draft) except -1:
        """Skeleton, filter and rank."""
        cdef Viewer viewer
        cdef bytes followees, stored, merged
        cdef list sources
        cdef uint64_t not_below, last
        cdef Py_ssize_t count
        cdef int need
        draft.stamps.viewer_epoch = self.resident.epochs.at(VIEWER, draft.user_id)
        draft.stamps.feed_epoch = self.resident.epochs.at(FEED, draft.user_id)
        draft.stamps.posted = self.posted_end
        viewer = self._viewer_of(draft)
        if viewer is None:
            return NEEDS_VIEWER
        if not viewer.followee_count or not self._open(draft):
            return GENERIC
        if self.backfills and draft.user_id in self.backfills:
            return GENERIC
        followees = viewer.followee_ids()
        stored = self._stored(viewer, followees, draft.depth)
        if stored is None:
            return GENERIC
        not_below = <uint64_t>max(draft.now_ms - RETENTION_MS - EPOCH_MS, 0) << TIME_SHIFT
        if draft.scroll.newer_than >= not_below:
            not_below = draft.scroll.newer_than + 1
        if self.overlay_authors.table.used:
            authors = ids_intersect(followees, self.overlay_authors)
            if authors:
                overlay = self.replica.posts_of(authors)
                stored = merge_newest([stored, overlay], draft.scroll.low_water, not_below, WINDOW)
        sources = [stored]
        need = self._pull(draft, viewer, followees, sources)
        if need != DONE:
            return need
        merged = merge_newest(sources, draft.scroll.low_water, not_below, WINDOW)
        count = PyBytes_GET_SIZE(merged) // ENTRY_BYTES
        last = not_below
        if count == WINDOW:
            last = ~be64(PyBytes_AS_STRING(merged) + (count - 1) * ENTRY_BYTES)
        if not viewer.whole and last < viewer.low:
            if viewer.entries >= draft.depth:
                draft.depth = viewer.entries + DEEPER_BY
            return NEEDS_DEPTH
        if count == 0 and not draft.scroll.goes_on and not draft.checking:
            return GENERIC
        if count and draft.scroll.head == 0:
            draft.scroll.head = ~be64(PyBytes_AS_STRING(merged))
        draft.viewer, draft.merged = viewer, merged
        draft.found.stored = count_within(stored, draft.scroll.low_water, last)
        draft.found.timelines = 0
        for entries in sources[1:]:
            draft.found.timelines += count_within(entries, draft.scroll.low_water, last)
        return self._rank(draft, followees)

    cdef Viewer _viewer_of(self, Draft draft):
        """The viewer, given to this draft or resident, if current; else None."""
        cdef Viewer viewer = draft.viewer
        if viewer is None or not self.resident.is_current(viewer, draft.now_ms):
            viewer = self.resident.viewer(draft.user_id, draft.now_ms)
        if viewer is None:
            return None
        if viewer.ranking_version != self.ranking_version:
            viewer.parameters, viewer.arm = self.config.choose(draft.user_id)
            viewer.ranking_version = self.ranking_version
        return viewer

    cdef bytes _stored(self, Viewer viewer, bytes followees, Py_ssize_t depth):
        """The window, brought up to date with the newest runs; None if one of those is damaged."""
        cdef bytes entries = viewer.window_entries(followees)
        cdef list slices
        if self.index.met_run or self.index.damaged_run > viewer.seen_run:
            return None
        if self.index.newest_run <= viewer.seen_run:
            return entries
        slices = self.index.slices_since(viewer.user_id, viewer.seen_run)
        if self.index.met_run:
            return None
        if slices:
            if viewer.entries > depth:
                depth = viewer.entries
            floor = 0 if viewer.whole else viewer.low
            entries = merge_newest([entries, *slices], NEWEST, floor, depth)
            viewer.set_window(entries, followees, depth)
            if self.resident.viewers.peek(viewer.user_id) is viewer:
                self.resident.viewers.resize(viewer, viewer.weight())
        viewer.seen_run = self.index.newest_run
        return entries

    cdef int _pull(self, Draft draft, Viewer viewer, bytes followees, list sources) except -1:
        """Adds the timelines of pulled authors and of the viewer to the sources."""
        cdef const uint64_t* authors
        cdef Py_ssize_t n, i
        cdef Timeline timeline
        if viewer.pulled_version != self.pulled_version:
            pulled = ids_intersect(followees, self.pulled)
            viewer.pulled = id_array([*pulled, viewer.user_id])
            viewer.pulled_version = self.pulled_version
        draft.pulled, draft.stamps.pulled_version = viewer.pulled, self.pulled_version
        n = PyBytes_GET_SIZE(draft.pulled) // 8
        draft.found.pulled = n - 1
        if draft.found.pulled > PULLED_MAX:
            return GENERIC
        draft.stamps.pulled_sum = self.resident.sum_of(draft.pulled)
        authors = <const uint64_t*>PyBytes_AS_STRING(draft.pulled)
        draft.missing = []
        if viewer.no_posts and viewer.own_epoch == self.resident.epochs.at(AUTHOR, draft.user_id):
            n -= 1
        for i in range(n):
            timeline = self._timeline_of(draft, authors[i])
            if timeline is None:
                draft.missing.append(authors[i])
            elif PyBytes_GET_SIZE(timeline.entries):
                sources.append(timeline.entries)
        return NEEDS_TIMELINES if draft.missing else DONE

    cdef Timeline _timeline_of(self, Draft draft, uint64_t author_id):
        cdef Timeline found
        if draft.timelines is not None:
            found = <Timeline>draft.timelines.get(author_id)
            if found is not None and found.epoch == self.resident.epochs.at(AUTHOR, author_id):
                return found
        return self.resident.timeline(author_id)

    cdef int _rank(self, Draft draft, bytes followees) except -1:
        """Verdicts, scores, and the items of the page."""
        cdef Viewer viewer = draft.viewer
        cdef Py_ssize_t i, index
        cdef const char* entry
        cdef page_item_t* item
        audience = (draft.user_id, followees, viewer.muted, viewer.snoozed, viewer.blocked,
                    viewer.hidden, True)
        draft.judged = judge(draft.merged, audience, self.tombstones)
        if draft.checking:
            return self._answer_check(draft)
        rates = engagement_lookup(self.engagement, draft.merged)
        scores = score(draft.merged, draft.judged, rates, viewer.affinity, viewer.see_less,
                       viewer.parameters, draft.scroll.ranked_at_ms)
        selection = select(draft.merged, draft.judged, scores, draft.served, draft.page_size,
                           viewer.parameters, WINDOW)
        chosen = <list>selection.chosen
        draft.chosen = len(chosen)
        draft.end = selection.end
        if draft.chosen < draft.page_size and not draft.end:
            return GENERIC
        draft.scroll.low_water, draft.served = selection.low_water, selection.served
        draft.items = <page_item_t*>malloc((draft.chosen + 1) * sizeof(page_item_t))
        if draft.items == NULL:
            raise MemoryError()
        values = <list>selection.scores
        for i in range(draft.chosen):
            index = chosen[i]
            entry = PyBytes_AS_STRING(draft.merged) + index * ENTRY_BYTES
            item = draft.items + i
            item.content_id, item.author_id, item.score = ~be64(entry), be64(entry + 8), values[i]
            item.published_at_ms = published_at_ms(item.content_id)
            item.reason = REASON_OWN if item.author_id == draft.user_id else REASON_FOLLOWED
            item.likes = item.comments = item.shares = 0
            item.content, item.content_size, item.content_crc = NULL, -1, 0
        sort_items(draft.items, draft.chosen)
        return DONE

    cdef int _answer_check(self, Draft draft) except -1:
        draft.body = encode_check(draft.merged, draft.judged, CHECK_MAX, &draft.item_count)
        # a cached answer must know what it counted: one of the posts may be deleted
        draft.counted = kept_ids(draft.merged, draft.judged, COUNTED_MAX)
        self.counts.checks_generated += 1
        draft.chosen = 0
        if draft.counted is not None:
            self._cache(draft, b"", b"", b"")
        return DONE

    cdef int _hydrate(self, Draft draft) except -1:
        """Fills in contents and counts; GENERIC if one is not there, to say why."""
        cdef Py_ssize_t i
        cdef Content content
        cdef page_item_t* item
        cdef dict found
        draft.item_count = draft.chosen
        if draft.view == VIEW_IDS or draft.chosen == 0:
            return DONE
        found = {} if draft.contents is None else draft.contents
        draft.missing = []
        for i in range(draft.chosen):
            item = draft.items + i
            content = <Content>found.get(item.content_id)
            if content is None:
                content = self.resident.content(item.content_id)
                if content is None:
                    draft.missing.append(item.content_id)
                    continue
                found[item.content_id] = content
        draft.contents = found
        if draft.missing:
            return NEEDS_CONTENTS
        draft.item_count = 0
        for i in range(draft.chosen):
            content = <Content>found[draft.items[i].content_id]
            if content.content is None:
                return GENERIC
            item = draft.items + draft.item_count
            item[0] = draft.items[i]
            item.content = <const uint8_t*>PyBytes_AS_STRING(content.content)
            item.content_size = PyBytes_GET_SIZE(content.content)
            item.content_crc = content.crc
            item.likes, item.comments = content.likes, content.comments
            item.shares = content.shares
            draft.item_count += 1
        return DONE

    cdef int _present(self, Draft draft) except -1:
        """Writes the reply's bytes: items, cursor, head, etag, receipt; and caches the answer."""
        cdef Py_ssize_t n = draft.item_count, i
        cdef size_t size
        cdef cursor_t cursor
        cdef bytes head, etag, next_cursor = b"", receipt = self._receipt(draft), body
        cdef uint8_t* to
        head = seal_head(draft.user_id, draft.scroll.head, self.secret)
        etag = etag_of(draft.items, n, draft.viewer.ranking_version, not draft.end,
                       <uint64_t>draft.view << 1)
        if not draft.end:
            cursor.owner, cursor.issued_ms = draft.user_id, draft.now_ms
            cursor.head, cursor.low_water = draft.scroll.head, draft.scroll.low_water
            cursor.ranked_at_ms = draft.scroll.ranked_at_ms
            cursor.config_version, cursor.origin = draft.viewer.ranking_version, 0
            next_cursor = seal_cursor(&cursor, draft.served, self.secret)
        size = blob_size(PyBytes_GET_SIZE(receipt)) + text_size(next_cursor) + text_size(head)
        size += text_size(etag)
        for i in range(n):
            size += item_measure(draft.items + i, draft.view)
        body = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t*>PyBytes_AS_STRING(body)
        for i in range(n):
            to = item_write(draft.items + i, draft.view, to)
        to = put_text(to, TAG_NEXT_CURSOR, next_cursor)
        to = put_text(to, TAG_HEAD, head)
        to = put_text(to, TAG_ETAG, etag)
        put_blob(to, TAG_RECEIPT, <const uint8_t*>PyBytes_AS_STRING(receipt),
                 PyBytes_GET_SIZE(receipt))
        draft.body = body
        draft.shown = self._cache(draft, etag, head, receipt)
        if draft.background:
            return DONE
        self.counts.pages_generated += 1
        if draft.now_ms - draft.viewer.seen_ms >= SEEN_EVERY_MS:
            draft.viewer.seen_ms = draft.now_ms
            self.seen(draft.user_id, draft.now_ms)
        if draft.etag and draft.etag == etag:
            draft.not_modified, draft.item_count = True, 0
            draft.body = encode_not_modified(head, etag, receipt)
            self.counts.not_modified += 1
        else:
            self.count_shown(draft.shown)
        return DONE

    cdef bytes _receipt(self, Draft draft):
        """The encoded receipt of what was found on the way."""
        cdef receipt_t receipt
        receipt.stored, receipt.timelines = draft.found.stored, draft.found.timelines
        receipt.contents = draft.chosen if draft.view != VIEW_IDS else 0
        receipt.pulled, receipt.followees = draft.found.pulled, draft.viewer.followee_count
        receipt.ranking_version = draft.viewer.ranking_version
        receipt.generated_at_ms = <uint64_t>draft.now_ms
        return encode_receipt(&receipt, draft.judged, draft.viewer.arm)

    cdef bytes _cache(self, Draft draft, bytes etag, bytes head, bytes receipt):
        """Caches the answer for the next same request; returns the id array of its items."""
        cdef Page page
        cdef Py_ssize_t i
        cdef size_t size
        cdef bytes shown = draft.counted
        cdef uint64_t* to
        if not draft.checking:
            shown = PyBytes_FromStringAndSize(NULL, draft.item_count * 8)
            to = <uint64_t*>PyBytes_AS_STRING(shown)
            for i in range(draft.item_count):
                to[i] = draft.items[i].content_id
        page = draft.answer = Page.__new__(Page)
        page.body, page.etag, page.head, page.receipt = draft.body, etag, head, receipt
        page.shown, page.pulled, page.stamps = shown, draft.pulled, draft.stamps
        page.followees = draft.viewer.followees
        page.followee_count = draft.viewer.followee_count
        page.generated_ms = draft.now_ms
        if self.resident.pages.bytes_max == 0:
            return shown
        size = sizeof(Page) + KEY_BYTES + PyBytes_GET_SIZE(draft.cursor)
        for part in (page.body, etag, head, receipt, shown):
            size += 33 + PyBytes_GET_SIZE(part)
        self.resident.pages.put(draft.key, page, size)
        return shown

    # --- for services -------------------------------------------------------------------------

    def begin(self, uint64_t user_id, uint32_t page_size, int view, str cursor, str etag):
        """A draft of one page; None if the generic path must answer."""
        if not cursor.isascii():
            return None
        return self.draft(user_id, page_size, view, cursor.encode(), etag.encode())

    def begin_check(self, uint64_t user_id, str head):
        """A draft of one check for new content; None if the generic path must answer."""
        return self.check_draft(user_id, head.encode()) if head.isascii() else None

    def go_on(self, Draft draft not None):
        """See `advance`; one of NEEDS."""
        return self.advance(draft)

    def cached(self, Draft draft not None):
        """See `cached_body`."""
        self.refresh()
        return self.cached_body(draft)

    def is_current(self, Draft draft not None):
        """Whether what was made of the draft is what would be made now."""
        self.refresh()
        cdef Page page = draft.answer
        return page is not None and page.body is draft.body and self._is_current(
            page, draft.user_id, 0)

    def close(self):
        """Releases maps and sources; nothing can be asked afterwards."""
        self.replica = self.source = self.ranking = self.seen = self.index = None
        self.engagement = None
        self.resident.clear()

    def follow_replica(self):
        """Takes over the replica if it has changed, without a call."""
        self.refresh()

    def take_shown(self, Py_ssize_t most):
        """[(id array, times)] of at most `most` served pages, and how many are left."""
        cdef list taken = []
        while self.shown and len(taken) < most:
            taken.append(self.shown.popitem())
        return taken, len(self.shown)

    def take_refreshes(self):
        """[(user_id, page size, view, cursor)] of cached pages that are past their soft age."""
        refreshes, self.refreshes = self.refreshes, []
        return refreshes
