"""Making a page from resident data, for the fast handlers."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from feedcore._native.codecs.idset cimport U64Set
from feedcore._native.feed.draft cimport Draft
from feedcore._native.feed.resident cimport Timeline, Page, Resident, Viewer
from feedcore._native.store.runlookup cimport RunIndex

cdef class PageCounts:
    cdef readonly uint64_t pages_cached, pages_generated, checks_cached, checks_generated
    cdef readonly uint64_t items_served, shown_dropped, not_modified

cdef class PageMaker:
    cdef readonly Resident resident
    cdef object source, replica, ranking, config, clock_ms, seen
    cdef public object load_now  # (draft, need) -> loaded it, or None if loads must wait
    cdef object engagement
    cdef bytes secret
    cdef uint64_t generation
    cdef object replica_version
    cdef U64Set overlay_authors, pulled, tombstones
    cdef dict backfills
    cdef uint64_t pulled_version, ranking_version
    cdef RunIndex index
    cdef list posted  # authors of posts that are acknowledged, from number posted_first on
    cdef uint64_t posted_first, posted_end
    cdef dict shown  # id array -> pages with these items served and not counted yet
    cdef list refreshes  # (user_id, page size, view, cursor) of pages past their soft age
    cdef readonly PageCounts counts

    cdef int refresh(self) except -1
    cdef Draft draft(
        self, uint64_t user_id, uint32_t page_size, int view, bytes cursor, bytes etag
    )
    cdef Draft check_draft(self, uint64_t user_id, bytes head)
    cdef int advance(self, Draft draft) except -1
    cdef bytes cached_body(self, Draft draft)
    cdef bint finish(self, Draft draft) except -1
    cdef bint _open(self, Draft draft) except -1
    cdef bint _is_current(self, Page page, uint64_t user_id, int64_t age_ms) except -1
    cdef bint _nobody_posted(self, Page page) except -1
    cdef Viewer _viewer_of(self, Draft draft)
    cdef Timeline _timeline_of(self, Draft draft, uint64_t author_id)
    cdef int _merge(self, Draft draft) except -1
    cdef bytes _stored(self, Viewer viewer, bytes followees, Py_ssize_t depth)
    cdef int _pull(self, Draft draft, Viewer viewer, bytes followees, list sources) except -1
    cdef int _rank(self, Draft draft, bytes followees) except -1
    cdef int _answer_check(self, Draft draft) except -1
    cdef int _hydrate(self, Draft draft) except -1
    cdef int _present(self, Draft draft) except -1
    cdef bytes _receipt(self, Draft draft)
    cdef bytes _cache(self, Draft draft, bytes etag, bytes head, bytes receipt)
    cdef int count_shown(self, bytes shown) except -1
