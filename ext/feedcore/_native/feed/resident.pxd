"""The resident set: viewers, timelines and contents from which pages are generated."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from feedcore._native.feed.cache cimport Cache, Cached
from feedcore._native.store.epochs cimport Epochs

cdef class Viewer(Cached):
    cdef readonly uint64_t user_id
    cdef readonly uint32_t epoch
    cdef bytes followees  # compact
    cdef readonly Py_ssize_t followee_count
    cdef bytes muted, snoozed, see_less, hidden, blocked, affinity
    cdef int64_t snoozed_until_ms  # when the first snooze ends
    cdef bytes window  # compact
    cdef readonly Py_ssize_t entries
    cdef readonly bint whole  # all that is stored is in the window
    cdef uint64_t low  # otherwise: all that is stored from here on
    cdef readonly uint64_t seen_run
    cdef bytes pulled  # whose timelines are merged, the viewer's own last
    cdef uint64_t pulled_version
    cdef object parameters
    cdef str arm
    cdef uint64_t ranking_version
    cdef int64_t seen_ms
    cdef bint no_posts  # has published nothing, as long as AUTHOR(user) is own_epoch
    cdef uint32_t own_epoch

    cdef size_t weight(self) noexcept
    cdef bytes followee_ids(self)
    cdef bytes window_entries(self, bytes followees)
    cdef int set_window(self, bytes entries, bytes followees, Py_ssize_t depth) except -1

cdef class Timeline(Cached):
    cdef readonly uint32_t epoch
    cdef readonly bytes entries

cdef class Content(Cached):
    cdef readonly uint32_t epoch
    cdef readonly bytes content  # None: there is no such post
    cdef uint32_t crc
    cdef uint64_t likes, comments, shares

# Epochs and versions of what an answer was generated from, taken before anything was read: the
# answer is current while they are unchanged.
cdef struct stamps_t:
    uint32_t viewer_epoch, feed_epoch
    uint64_t pulled_version  # of the set of pulled authors
    uint64_t pulled_sum  # of the AUTHOR epochs of those whom the viewer follows
    uint64_t posted  # posts that were looked at, in the numbers of the replica

cdef class Page(Cached):
    cdef readonly bytes body
    cdef readonly bytes etag, head, receipt
    cdef readonly bytes shown  # id array of the items
    cdef stamps_t stamps
    cdef bytes pulled
    cdef bytes followees  # compact: the viewer's
    cdef Py_ssize_t followee_count
    cdef int64_t generated_ms
    cdef bint refreshing  # a newer one is being generated

cdef bytes unpack_followees(bytes packed, Py_ssize_t n)

cdef class Resident:
    cdef readonly Cache viewers, timelines, contents, pages
    cdef readonly Epochs epochs
    cdef uint32_t era

    cdef int begin_turn(self) except -1
    cdef bint is_current(self, Viewer viewer, int64_t now_ms) noexcept
    cdef Viewer viewer(self, uint64_t user_id, int64_t now_ms)
    cdef Timeline timeline(self, uint64_t author_id)
    cdef Content content(self, uint64_t content_id)
    cdef uint64_t sum_of(self, bytes authors) noexcept
