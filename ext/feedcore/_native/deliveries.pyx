"""Compiled twin of feedcore.domain.deliveries: a radix sort of (user, rank of entry).

Posts are put in entry order first, so a stable sort by user alone gives (user, entry) order. Rows
are made as they are read: a million of them as Python objects would take 100 MB.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from feedcore._native.packed cimport (
    ENTRY_BYTES,
    Ids,
    TIME_SHIFT,
    as_bytes,
    be64,
    data_of,
    entries_count,
    ids_of,
)

cdef extern from *:
    uint64_t bswap64 "__builtin_bswap64"(uint64_t v) noexcept nogil

cdef enum:
    DIGIT_BITS = 11  # 2,048 counters stay in the first-level cache; six passes at most
    DIGITS = 2048

cdef int64_t EPOCH_MS = 1704067200000
cdef int64_t DAY_MS = 86400000

cdef struct Pair:
    uint64_t user
    uint32_t rank


cdef Pair* _sort_by_user(Pair* a, Pair* b, size_t n) noexcept nogil:
    """Stable; the answer is whichever of the two buffers holds the result."""
    cdef uint64_t any_set = 0, all_set = ~<uint64_t>0
    cdef size_t[DIGITS] starts
    cdef size_t i, total, count, digit
    cdef int shift = 0
    cdef Pair* swap
    for i in range(n):
        any_set |= a[i].user
        all_set &= a[i].user
    while shift < 64:
        # a digit that is the same in all keys needs no pass
        if ((any_set ^ all_set) >> shift) & (DIGITS - 1):
            memset(starts, 0, sizeof(starts))
            for i in range(n):
                starts[(a[i].user >> shift) & (DIGITS - 1)] += 1
            total = 0
            for i in range(<size_t>DIGITS):
                count = starts[i]
                starts[i] = total
                total += count
            for i in range(n):
                digit = (a[i].user >> shift) & (DIGITS - 1)
                b[starts[digit]] = a[i]
                starts[digit] += 1
            swap = a
            a = b
            b = swap
        shift += DIGIT_BITS
    return a


cdef size_t _unique(Pair* pairs, size_t n) noexcept nogil:
    cdef size_t i, kept = 0
    for i in range(n):
        if kept and pairs[i].user == pairs[kept - 1].user and pairs[i].rank == pairs[kept - 1].rank:
            continue
        pairs[kept] = pairs[i]
        kept += 1
    return kept


cdef class Rows:
    """The sorted rows of one day, as a sequence of (user key, entry)."""

    cdef Pair* pairs
    cdef readonly Py_ssize_t count
    cdef list entries

    def __cinit__(self):
        self.pairs = NULL
        self.count = 0

    def __dealloc__(self):
        free(self.pairs)

    def __len__(self):
        return self.count

    def __iter__(self):
        return RowIterator(self)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self._row(at) for at in range(*place.indices(self.count))]
        at = place + self.count if place < 0 else place
        if not 0 <= at < self.count:
            raise IndexError(f"row: {place}; {self.count} rows")
        return self._row(at)

    cdef tuple _row(self, Py_ssize_t at):
        return (_key(self.pairs[at].user), self.entries[self.pairs[at].rank])


cdef inline bytes _key(uint64_t user):
    cdef uint64_t big = bswap64(user)
    return PyBytes_FromStringAndSize(<char*>&big, 8)


cdef class RowIterator:
    """One pass over Rows; rows of one user that follow each other share their key object."""

    cdef Rows rows
    cdef Py_ssize_t at
    cdef uint64_t user
    cdef bytes key

    def __cinit__(self, Rows rows not None):
        self.rows = rows
        self.at = 0
        self.key = None

    def __iter__(self):
        return self

    def __next__(self):
        cdef Pair pair
        if self.at >= self.rows.count:
            raise StopIteration
        pair = self.rows.pairs[self.at]
        self.at += 1
        if self.key is None or pair.user != self.user:
            self.user = pair.user
            self.key = _key(pair.user)
        return (self.key, self.rows.entries[pair.rank])


cdef Rows _sorted_rows(list posts):
    """`posts`: (entry, recipients) of one day in entry order."""
    cdef Rows rows = Rows()
    cdef bytes entry, recipients, last = None
    cdef Ids ids
    cdef size_t total = 0, at = 0, i
    cdef uint32_t rank
    cdef Pair* first
    cdef Pair* second
    cdef Pair* result
    for entry, recipients in posts:
        total += ids_of(recipients).count
    first = <Pair*>malloc((total + 1) * sizeof(Pair))
    second = <Pair*>malloc((total + 1) * sizeof(Pair))
    if first == NULL or second == NULL:
        free(first)
        free(second)
        raise MemoryError()
    rows.entries = []
    for entry, recipients in posts:
        if entry != last:
            rows.entries.append(entry)
            last = entry
        rank = <uint32_t>(len(rows.entries) - 1)
        ids = ids_of(recipients)
        for i in range(ids.count):
            first[at].user = ids.at[i]
            first[at].rank = rank
            at += 1
    with nogil:
        result = _sort_by_user(first, second, total)
        total = _unique(result, total)
    rows.pairs = result
    rows.count = total
    free(second if result == first else first)
    return rows


def sort_deliveries(rows):
    """See the twin."""
    cdef dict by_day = {}
    cdef bytes entries, recipients, entry
    cdef Py_ssize_t i
    cdef list made = []
    cdef int64_t day
    for packed, ids in rows:
        entries, recipients = as_bytes(packed), as_bytes(ids)
        ids_of(recipients)
        for i in range(entries_count(entries)):
            entry = entries[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES]
            day = (<int64_t>((~be64(data_of(entry))) >> TIME_SHIFT) + EPOCH_MS) // DAY_MS
            if PyBytes_GET_SIZE(recipients):
                by_day.setdefault(day, []).append((entry, recipients))
    for number in sorted(by_day):
        posts = by_day[number]
        posts.sort()
        made.append((number, _sorted_rows(posts)))
    return made
