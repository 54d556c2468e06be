"""One answer on its way, for the modules that make it. Its state table is in `page`."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from feedcore._native.feed.resident cimport Page, Viewer, stamps_t
from feedcore._native.codecs.wire cimport page_item_t

# What a draft needs next.
cdef enum:
    DONE = 0
    NEEDS_VIEWER = 1
    NEEDS_DEPTH = 2
    NEEDS_TIMELINES = 3
    NEEDS_CONTENTS = 4
    GENERIC = 5

# Where in the feed the answer begins: from the request's cursor or head, then moved on.
cdef struct scroll_t:
    uint64_t head, low_water, newer_than
    int64_t ranked_at_ms
    bint goes_on  # the request has a cursor

# What the receipt says of the sources.
cdef struct found_t:
    Py_ssize_t stored, timelines, pulled

cdef class Draft:
    # the request
    cdef readonly uint64_t user_id
    cdef readonly int view
    cdef Py_ssize_t page_size
    cdef bytes cursor, etag
    cdef object key  # in the page cache
    cdef readonly int64_t now_ms
    cdef bint checking  # a check for new content, not a page
    cdef public bint background  # no caller waits: the page refreshes the cache
    # what it needs, and what was given
    cdef readonly list missing
    cdef readonly Py_ssize_t depth  # of the window that is needed
    cdef readonly Viewer viewer
    cdef dict timelines, contents  # loaded for it, whether the caches have them or not
    # merged, filtered and ranked
    cdef stamps_t stamps
    cdef scroll_t scroll
    cdef bytes served  # id array: what earlier pages of this scroll showed
    cdef bytes pulled  # authors whose timelines are merged, the viewer last
    cdef bytes merged, judged
    cdef found_t found
    cdef page_item_t* items
    cdef Py_ssize_t chosen
    cdef bint end
    # the answer
    cdef readonly bytes body
    cdef readonly bytes shown  # ids of the items, in the page's order: u64
    cdef readonly Py_ssize_t item_count
    cdef readonly bint not_modified
    cdef bytes counted  # ids that a check counted, None if they are too many to be cached
    cdef Page answer  # with what says whether it is current; cached or not
