"""Compiled twin of feedcore.domain.merge: a binary heap of sources, keyed by their next entry.

The key is the complement of the content id, as it lies in the entry, so smaller is newer. Not for
sources that are out of order: `sort_entries` mends those first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport ENTRY_BYTES, as_bytes, be64, data_of, entries_count

cdef struct Source:
    uint64_t key
    const uint8_t* at
    const uint8_t* end
    size_t order

cdef struct Keyed:
    uint64_t key
    size_t place


cdef inline bint _before(const Source* a, const Source* b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.order < b.order)


cdef inline void _sink(Source* heap, size_t n, size_t at) noexcept nogil:
    cdef Source moving = heap[at]
    cdef size_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and _before(&heap[child + 1], &heap[child]):
            child += 1
        if not _before(&heap[child], &moving):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moving


cdef const uint8_t* _start(const uint8_t* at, size_t n, uint64_t first) noexcept nogil:
    """The first of n entries whose key is not below `first`."""
    cdef size_t half
    while n > 0:
        half = n >> 1
        if be64(at + half * ENTRY_BYTES) < first:
            at += (half + 1) * ENTRY_BYTES
            n -= half + 1
        else:
            n = half
    return at


cdef size_t _merge(
    Source* heap, size_t n, uint64_t last, size_t limit, uint8_t* out
) noexcept nogil:
    cdef size_t i, made = 0
    cdef uint64_t previous = 0
    i = n >> 1
    while i > 0:
        i -= 1
        _sink(heap, n, i)
    while n > 0 and made < limit and heap[0].key <= last:
        if made == 0 or heap[0].key != previous:
            previous = heap[0].key
            memcpy(out + made * ENTRY_BYTES, heap[0].at, ENTRY_BYTES)
            made += 1
        heap[0].at += ENTRY_BYTES
        if heap[0].at == heap[0].end:
            n -= 1
            heap[0] = heap[n]
        else:
            heap[0].key = be64(heap[0].at)
        if n > 1:
            _sink(heap, n, 0)
    return made


cdef uint64_t _key(object content_id):
    """The order key of an id, cut to 64 bits."""
    if content_id <= 0:
        return ~<uint64_t>0
    if content_id > 0xFFFFFFFFFFFFFFFF:
        return 0
    return ~<uint64_t>content_id


def merge_newest(sources, at_or_below, not_below, Py_ssize_t limit):
    """See the twin."""
    cdef list held = []
    cdef bytes data, out
    cdef size_t n = 0, made, order = 0
    cdef Py_ssize_t entries, total = 0
    cdef Source* heap
    cdef uint64_t first, last
    cdef const uint8_t* begin
    if at_or_below < 0 or limit <= 0:
        return b""
    first, last = _key(at_or_below), _key(not_below)
    heap = <Source*>malloc((len(sources) + 1) * sizeof(Source))
    if heap == NULL:
        raise MemoryError()
    try:
        for source in sources:
            data = as_bytes(source)
            entries = entries_count(data)
            if entries > 0:
                held.append(data)
                begin = data_of(data)
                heap[n].end = begin + entries * ENTRY_BYTES
                if be64(begin) < first:
                    begin = _start(begin, entries, first)
                if begin < heap[n].end:
                    heap[n].at = begin
                    heap[n].key = be64(begin)
                    heap[n].order = order
                    total += (heap[n].end - begin) // ENTRY_BYTES
                    n += 1
            order += 1
        if total > limit:
            total = limit
        out = PyBytes_FromStringAndSize(NULL, total * ENTRY_BYTES)
        made = _merge(heap, n, last, total, <uint8_t*>PyBytes_AS_STRING(out))
        return out if <Py_ssize_t>made == total else out[: made * ENTRY_BYTES]
    finally:
        free(heap)


cdef int _compare(const void* a, const void* b) noexcept nogil:
    cdef const Keyed* x = <const Keyed*>a
    cdef const Keyed* y = <const Keyed*>b
    if x.key != y.key:
        return 1 if x.key > y.key else -1
    return (x.place > y.place) - (x.place < y.place)


def sort_entries(entries):
    """See the twin."""
    cdef bytes data = as_bytes(entries), out
    cdef Py_ssize_t n = entries_count(data), i, made = 0
    cdef const uint8_t* raw = data_of(data)
    cdef uint8_t* to
    cdef Keyed* keys
    for i in range(1, n):
        if be64(raw + i * ENTRY_BYTES) <= be64(raw + (i - 1) * ENTRY_BYTES):
            break
    else:
        return data
    keys = <Keyed*>malloc(n * sizeof(Keyed))
    if keys == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            keys[i].key = be64(raw + i * ENTRY_BYTES)
            keys[i].place = i
        qsort(keys, n, sizeof(Keyed), _compare)
        out = PyBytes_FromStringAndSize(NULL, n * ENTRY_BYTES)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(n):
            if i == 0 or keys[i].key != keys[i - 1].key:
                memcpy(to + made * ENTRY_BYTES, raw + keys[i].place * ENTRY_BYTES, ENTRY_BYTES)
                made += 1
        return out if made == n else out[: made * ENTRY_BYTES]
    finally:
        free(keys)


def count_within(entries, at_or_below, not_below):
    """See the twin."""
    cdef bytes data = as_bytes(entries)
    cdef Py_ssize_t n = entries_count(data)
    cdef const uint8_t* at = data_of(data)
    cdef uint64_t last = _key(not_below)
    cdef const uint8_t* begin = _start(at, n, _key(at_or_below))
    cdef const uint8_t* end = at + n * ENTRY_BYTES
    if at_or_below < 0:
        return 0
    if last != <uint64_t>-1:
        end = _start(at, n, last + 1)
    return (end - begin) // ENTRY_BYTES if end > begin else 0
