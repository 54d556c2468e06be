"""One answer on its way, for the modules that make it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from feedcore._native.feed.resident cimport Page, Viewer
from feedcore._native.codecs.wire cimport page_item_t

# What a draft needs next.
cdef enum:
    DONE = 0
    NEEDS_VIEWER = 1
    NEEDS_DEPTH = 2
    NEEDS_TIMELINES = 3
    NEEDS_CONTENTS = 4
    PLAIN = 5

cdef class Draft:
    cdef readonly uint64_t user_id
    cdef readonly int view
    cdef Py_ssize_t page_size
    cdef bytes cursor, etag, served
    cdef object key
    cdef readonly int64_t now_ms
    cdef int64_t ranked_at_ms
    cdef uint64_t head, low_water, newer_than
    cdef bint checking  # a check for new content, not a page
    cdef bint scrolling
    cdef uint64_t config_version
    cdef readonly Viewer viewer
    cdef readonly Py_ssize_t depth  # of the window that is needed
    cdef dict timelines, contents  # what was loaded for it, whether the caches keep it or not
    cdef readonly list missing
    cdef page_item_t* items
    cdef Py_ssize_t chosen
    cdef bint end
    cdef bytes judged, merged
    cdef bytes counted  # ids that a check counted, None if they are too many to be kept
    cdef Py_ssize_t stored_count, timelines_count, pull_total
    cdef uint32_t viewer_epoch, feed_epoch
    cdef uint64_t pulled_sum, pulled_version, posted
    cdef bytes pulled
    cdef readonly bytes body
    cdef Page made  # the answer with what says whether it is current, kept or not
    cdef readonly Py_ssize_t item_count
    cdef readonly bint not_modified
    cdef public bint silent  # nobody sees the page: it is made to be kept
