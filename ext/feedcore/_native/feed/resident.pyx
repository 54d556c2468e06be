"""The resident set: what a worker has in memory to generate pages: viewers with their packed
windows, timelines, contents as wire bytes; and cached pages. Each kind is bounded in bytes and
evicted by S3-FIFO.

Invariants: everything here was read after its epoch was taken, so that an unchanged epoch means
nothing acknowledged is missing; a lookup answers only with current data; a new era empties
everything. A window holds all that is stored of the user from `low` on (from the beginning
of the retention if it is `whole`) in the runs up to `seen_run`; newer runs are merged in when it is
next used.

Packed, a followee is the varint of its distance to the one before (ids are ascending), and an entry
is: varint of the milliseconds to the entry before it (which is newer), varint of the id's low 22
bits with the sequence above region and node (it is mostly 0, they are small), varint of 2 * (place
of the author among the followees + 1) + o, where place 0 is followed by the 8 bytes of an author
who is none, and o says that 4 bytes of quality and flags follow (instead of 1.000 and none). 6 or 7
bytes of 20.

Not for: loading (services.resident) and making pages (page).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from zlib import crc32

from feedcore._native.feed.cache cimport Cache, Cached
from feedcore._native.store.epochs cimport AUTHOR, CONTENT, VIEWER, Epochs, load32
from feedcore._native.codecs.packed cimport ENTRY_BYTES, TIME_SHIFT, be64, lower_bound

cdef enum:
    VARINT_MAX = 10
    PACKED_ENTRY_MAX = 3 * VARINT_MAX + 12
    SEQUENCE_BITS = 10
    NODE_BITS = 12  # with the region's
    SEQUENCE_MASK = 1023
    NODE_MASK = 4095

cdef uint64_t LOW_MASK = (1 << TIME_SHIFT) - 1
cdef int64_t NEVER = <int64_t>0x7FFFFFFFFFFFFFFF

cdef extern from *:
    """
    #include <string.h>
    static inline void fc_put64be(void *p, uint64_t v) {
        v = __builtin_bswap64(v);
        memcpy(p, &v, 8);
    }
    static inline uint32_t fc_get32(const void *p) {
        uint32_t v;
        memcpy(&v, p, 4);
        return v;
    }
    /* quality 1.000 and no flags, as an entry has them */
    #define FC_PLAIN 0x0000E803u
    """
    void put64be "fc_put64be"(void* p, uint64_t v) noexcept nogil
    uint32_t get32 "fc_get32"(const void* p) noexcept nogil
    const uint32_t PLAIN "FC_PLAIN"


cdef inline uint8_t* _put(uint8_t* to, uint64_t value) noexcept nogil:
    while value > 0x7F:
        to[0] = <uint8_t>(value | 0x80)
        value >>= 7
        to += 1
    to[0] = <uint8_t>value
    return to + 1


cdef inline const uint8_t* _get(const uint8_t* at, uint64_t* value) noexcept nogil:
    cdef int shift = 7
    value[0] = at[0] & 0x7F
    while at[0] & 0x80:
        at += 1
        value[0] |= <uint64_t>(at[0] & 0x7F) << shift
        shift += 7
    return at + 1


cdef bytes pack_followees(bytes ids):
    """Of an id array."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(ids) // 8, i
    cdef const uint64_t* at = <const uint64_t*>PyBytes_AS_STRING(ids)
    cdef uint64_t before = 0
    cdef uint8_t* buffer = <uint8_t*>malloc(n * VARINT_MAX + 1)
    cdef uint8_t* to = buffer
    if buffer == NULL:
        raise MemoryError()
    for i in range(n):
        to = _put(to, at[i] - before)
        before = at[i]
    packed = PyBytes_FromStringAndSize(<char*>buffer, to - buffer)
    free(buffer)
    return packed


cdef bytes unpack_followees(bytes packed, Py_ssize_t n):
    """The id array back."""
    cdef bytes ids = PyBytes_FromStringAndSize(NULL, n * 8)
    cdef uint64_t* to = <uint64_t*>PyBytes_AS_STRING(ids)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(packed)
    cdef uint64_t step, before = 0
    cdef Py_ssize_t i
    for i in range(n):
        at = _get(at, &step)
        before += step
        to[i] = before
    return ids


cdef bytes pack_window(bytes entries, bytes followees):
    """Of entries, newest first; `followees` is the id array that authors are looked up in."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(entries) // ENTRY_BYTES, i
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(entries)
    cdef const uint64_t* ids = <const uint64_t*>PyBytes_AS_STRING(followees)
    cdef size_t count = PyBytes_GET_SIZE(followees) // 8, place
    cdef uint64_t content_id, author, before_ms, ms, low
    cdef uint32_t rest
    cdef bint known
    cdef uint8_t* buffer = <uint8_t*>malloc(n * PACKED_ENTRY_MAX + 1)
    cdef uint8_t* to = buffer
    if buffer == NULL:
        raise MemoryError()
    before_ms = (<uint64_t>1 << 42) - 1
    for i in range(n):
        content_id, author = ~be64(at), be64(at + 8)
        rest = get32(at + 16)
        ms = content_id >> TIME_SHIFT
        to = _put(to, before_ms - ms)
        before_ms = ms
        low = content_id & LOW_MASK
        to = _put(to, (low & SEQUENCE_MASK) << NODE_BITS | low >> SEQUENCE_BITS)
        place = lower_bound(ids, count, author)
        known = place < count and ids[place] == author
        to = _put(to, ((place + 1 if known else 0) << 1) | (rest != PLAIN))
        if not known:
            memcpy(to, at + 8, 8)
            to += 8
        if rest != PLAIN:
            memcpy(to, at + 16, 4)
            to += 4
        at += ENTRY_BYTES
    packed = PyBytes_FromStringAndSize(<char*>buffer, to - buffer)
    free(buffer)
    return packed


cdef bytes unpack_window(bytes packed, Py_ssize_t n, bytes followees):
    """The entries back."""
    cdef bytes entries = PyBytes_FromStringAndSize(NULL, n * ENTRY_BYTES)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(entries)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(packed)
    cdef const uint64_t* ids = <const uint64_t*>PyBytes_AS_STRING(followees)
    cdef uint64_t ms = (<uint64_t>1 << 42) - 1, step, low, place
    cdef uint32_t plain = PLAIN
    cdef Py_ssize_t i
    for i in range(n):
        at = _get(at, &step)
        at = _get(at, &low)
        at = _get(at, &place)
        ms -= step
        low = (low & NODE_MASK) << SEQUENCE_BITS | low >> NODE_BITS
        put64be(to, ~((ms << TIME_SHIFT) | low))
        if place > 1:
            put64be(to + 8, ids[(place >> 1) - 1])
        else:
            memcpy(to + 8, at, 8)
            at += 8
        if place & 1:
            memcpy(to + 16, at, 4)
            at += 4
        else:
            memcpy(to + 16, &plain, 4)
        to += ENTRY_BYTES
    return entries


def packed_and_back(bytes followees not None, bytes entries not None):
    """(packed followees, packed window, both unpacked again): for tests."""
    cdef bytes ids = pack_followees(followees), window = pack_window(entries, followees)
    cdef bytes again = unpack_followees(ids, len(followees) // 8)
    return ids, window, again, unpack_window(window, len(entries) // ENTRY_BYTES, again)


cdef class Viewer(Cached):
    """One user as a reader, with the newest part of the stored feed."""

    def __init__(self, uint64_t user_id, uint32_t epoch, row, Py_ssize_t depth):
        """`row`: ports.resident.ViewerRow, read after `epoch`; its entries are merged, newest
        first, and were asked for to a depth of `depth`."""
        filters = row.filters
        self.user_id, self.epoch = user_id, epoch
        self.followees = pack_followees(row.followees)
        self.followee_count = len(row.followees) // 8
        self.muted, self.snoozed, self.see_less = filters.muted, filters.snoozed, filters.see_less
        self.hidden, self.blocked, self.affinity = filters.hidden, filters.blocked, filters.affinity
        self.snoozed_until_ms = row.snoozed_until_ms or NEVER
        self.seen_run = row.seen_run
        self.whole = True
        self.pulled_version = <uint64_t>-1
        self.arm = ""
        self.ranking_version = <uint64_t>-1
        self.set_window(row.entries, row.followees, depth)

    cdef size_t weight(self) noexcept:
        """Bytes beside the object itself; empty ones are shared."""
        cdef size_t total = sizeof(Viewer)
        for part in (self.followees, self.window, self.pulled, self.muted, self.snoozed,
                     self.see_less, self.hidden, self.blocked, self.affinity):
            if part:
                total += 33 + PyBytes_GET_SIZE(part)
        return total

    cdef bytes followee_ids(self):
        return unpack_followees(self.followees, self.followee_count)

    cdef bytes window_entries(self, bytes followees):
        return unpack_window(self.window, self.entries, followees)

    cdef int set_window(self, bytes entries, bytes followees, Py_ssize_t depth) except -1:
        """Keeps the newest `depth`."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(entries) // ENTRY_BYTES
        if n >= depth:
            self.whole = False
            n = depth
            entries = entries[: n * ENTRY_BYTES]
        self.entries = n
        self.window = pack_window(entries, followees)
        if not self.whole:
            self.low = ~be64(PyBytes_AS_STRING(entries) + (n - 1) * ENTRY_BYTES) if n else NEVER
        return 0

    def has_published_nothing(self, uint32_t own_epoch):
        """The viewer's own timeline was read after that epoch of AUTHOR, and is empty: most users
        need no timeline of their own in the cache."""
        self.no_posts, self.own_epoch = True, own_epoch

    def dump(self):
        """(followees, entries): for tests."""
        ids = self.followee_ids()
        return ids, self.window_entries(ids)


cdef class Timeline(Cached):
    """One author's posts, newest first."""

    def __init__(self, uint32_t epoch, bytes entries not None):
        self.epoch, self.entries = epoch, entries


cdef class Content(Cached):
    """One post as wire bytes, with its counts."""

    def __init__(self, uint32_t epoch, content):
        """`content`: ports.Content, or None if there is no such post."""
        self.epoch = epoch
        if content is not None:
            self.content, self.likes, self.comments, self.shares = content
            self.crc = crc32(self.content)


cdef class Page(Cached):
    """One answer, ready to be sent."""


cdef class Resident:
    """The caches of one worker over the epochs of its node."""

    def __init__(
        self,
        Epochs epochs not None,
        size_t viewers_bytes,
        size_t timelines_bytes,
        size_t contents_bytes,
        size_t pages_bytes,
    ):
        self.epochs = epochs
        self.era = epochs.era
        self.viewers = Cache(viewers_bytes)
        self.timelines = Cache(timelines_bytes)
        self.contents = Cache(contents_bytes)
        self.pages = Cache(pages_bytes)

    cdef int begin_turn(self) except -1:
        """Forgets everything if a process has opened the store: the one before may have died before
        its bumps."""
        cdef uint32_t era = load32(self.epochs.era_at)
        if era != self.era:
            for cache in (self.viewers, self.timelines, self.contents, self.pages):
                cache.clear()
            self.era = era
        return 0

    cdef Viewer viewer(self, uint64_t user_id, int64_t now_ms):
        """The viewer if it is resident and current, else None."""
        cdef Viewer found = <Viewer>self.viewers.get(user_id)
        if found is not None and not self.is_current(found, now_ms):
            return None
        return found

    cdef bint is_current(self, Viewer viewer, int64_t now_ms) noexcept:
        return (
            viewer.epoch == self.epochs.at(VIEWER, viewer.user_id)
            and now_ms < viewer.snoozed_until_ms
        )

    cdef Timeline timeline(self, uint64_t author_id):
        cdef Timeline found = <Timeline>self.timelines.get(author_id)
        if found is not None and found.epoch != self.epochs.at(AUTHOR, author_id):
            return None
        return found

    cdef Content content(self, uint64_t content_id):
        cdef Content found = <Content>self.contents.get(content_id)
        if found is not None and found.epoch != self.epochs.at(CONTENT, content_id):
            return None
        return found

    cdef uint64_t sum_of(self, bytes authors) noexcept:
        """Of the authors' counters. They only grow: an equal sum means that none has changed."""
        cdef const uint64_t* ids = <const uint64_t*>PyBytes_AS_STRING(authors)
        cdef Py_ssize_t i
        cdef uint64_t total = 0
        for i in range(PyBytes_GET_SIZE(authors) // 8):
            total += self.epochs.at(AUTHOR, ids[i])
        return total

    def keep_viewer(self, Viewer viewer not None):
        """Adds a viewer until it is evicted."""
        self.viewers.put(viewer.user_id, viewer, viewer.weight())

    def keep_timeline(self, uint64_t author_id, Timeline timeline not None):
        """Adds a timeline until it is evicted."""
        self.timelines.put(
            author_id, timeline, sizeof(Timeline) + 33 + PyBytes_GET_SIZE(timeline.entries)
        )

    def keep_content(self, uint64_t content_id, Content content not None):
        """Adds a content, or that there is none, until it is evicted."""
        cdef size_t size = 0 if content.content is None else 33 + PyBytes_GET_SIZE(content.content)
        self.contents.put(content_id, content, sizeof(Content) + size)

    def lacking_timelines(self, list author_ids not None):
        """Those whose timelines are not resident, or not current."""
        cdef list lacking = []
        cdef uint64_t author_id
        cdef Timeline found
        for author_id in author_ids:
            found = <Timeline>self.timelines.peek(author_id)
            if found is None or found.epoch != self.epochs.at(AUTHOR, author_id):
                lacking.append(author_id)
        return lacking

    def clear(self):
        """Forgets everything."""
        for cache in (self.viewers, self.timelines, self.contents, self.pages):
            cache.clear()
