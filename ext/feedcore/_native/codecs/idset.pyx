"""Compiled twin of feedcore.domain.idset: a hash set of u64, and id arrays.

The set is open addressing with linear probing, at most half full, hashed by multiplication with
2^64 / golden ratio (Knuth, TAOCP 3, 6.4). A removal shifts the rest of its cluster back, so there
are no grave markers and lookups never slow down. Not for iterating while it changes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport Ids, ID_BYTES, as_bytes, ids_have, ids_of, lower_bound

cdef enum:
    FIRST_BITS = 4  # 16 slots, 128 bytes


cdef inline uint64_t _home(const Table* table, uint64_t value) noexcept nogil:
    return (value * <uint64_t>0x9E3779B97F4A7C15ULL) >> table.shift


cdef int _resize(Table* table, int bits) except -1:
    cdef Table new
    cdef uint64_t old, value, at, slots = table.mask + 1 if table.slots != NULL else 0
    new.slots = <uint64_t*>calloc(<size_t>1 << bits, sizeof(uint64_t))
    if new.slots == NULL:
        raise MemoryError()
    new.mask = (<uint64_t>1 << bits) - 1
    new.shift = 64 - bits
    for old in range(slots):
        value = table.slots[old]
        if value != 0:
            at = _home(&new, value)
            while new.slots[at] != 0:
                at = (at + 1) & new.mask
            new.slots[at] = value
    free(table.slots)
    table.slots = new.slots
    table.mask = new.mask
    table.shift = new.shift
    return 0


cdef int _reserve(Table* table, size_t more) except -1:
    """Room for that many new ids."""
    cdef int bits = FIRST_BITS
    cdef uint64_t wanted = 2 * (<uint64_t>table.used + more)
    if table.slots != NULL and wanted <= table.mask + 1:
        return 0
    while (<uint64_t>1 << bits) < wanted:
        bits += 1
    return _resize(table, bits)


cdef inline void _put(Table* table, uint64_t value) noexcept nogil:
    """There must be room."""
    cdef uint64_t at
    if value == 0:
        table.has_zero = True
        return
    at = _home(table, value)
    while table.slots[at] != 0:
        if table.slots[at] == value:
            return
        at = (at + 1) & table.mask
    table.slots[at] = value
    table.used += 1


cdef void _take(Table* table, uint64_t value) noexcept nogil:
    cdef uint64_t hole, at, home
    if value == 0:
        table.has_zero = False
        return
    if table.used == 0:
        return
    hole = _home(table, value)
    while table.slots[hole] != value:
        if table.slots[hole] == 0:
            return
        hole = (hole + 1) & table.mask
    at = hole
    while True:
        at = (at + 1) & table.mask
        if table.slots[at] == 0:
            break
        home = _home(table, table.slots[at])
        # it may fill the hole unless its home lies after the hole, seen from where it is
        if ((at - home) & table.mask) >= ((at - hole) & table.mask):
            table.slots[hole] = table.slots[at]
            hole = at
    table.slots[hole] = 0
    table.used -= 1


cdef class U64Set:
    """See the twin."""

    def __init__(self, ids=()):
        self.update(ids)

    def __dealloc__(self):
        free(self.table.slots)

    def add(self, uint64_t value):
        _reserve(&self.table, 1)
        _put(&self.table, value)

    def discard(self, uint64_t value):
        _take(&self.table, value)

    def update(self, ids):
        cdef Ids array
        cdef size_t i
        cdef bytes data
        if isinstance(ids, (bytes, bytearray, memoryview)):
            data = as_bytes(ids)
            array = ids_of(data)
            _reserve(&self.table, array.count)
            for i in range(array.count):
                _put(&self.table, array.at[i])
            return
        for value in ids:
            self.add(value)

    def clear(self):
        free(self.table.slots)
        self.table.slots = NULL
        self.table.mask = 0
        self.table.used = 0
        self.table.has_zero = False

    def __contains__(self, uint64_t value):
        return table_has(&self.table, value)

    def __len__(self):
        return self.table.used + (1 if self.table.has_zero else 0)

    def __iter__(self):
        cdef uint64_t at
        cdef list found = [0] if self.table.has_zero else []
        if self.table.slots != NULL:
            for at in range(self.table.mask + 1):
                if self.table.slots[at] != 0:
                    found.append(self.table.slots[at])
        return iter(found)


cdef int _compare(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0], y = (<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef bytes _array(uint64_t* ids, size_t n):
    """Sorts in place, drops duplicates."""
    cdef size_t i, kept = 0
    cdef bint ordered = True
    for i in range(1, n):
        if ids[i] <= ids[i - 1]:
            ordered = False
            break
    if not ordered:
        qsort(ids, n, sizeof(uint64_t), _compare)
        for i in range(n):
            if i == 0 or ids[i] != ids[i - 1]:
                ids[kept] = ids[i]
                kept += 1
        n = kept
    return PyBytes_FromStringAndSize(<char*>ids, n * ID_BYTES)


def pack_ids(ids):
    """See the twin."""
    cdef size_t n = 0, room = 64
    cdef uint64_t* buffer = <uint64_t*>malloc(room * sizeof(uint64_t))
    cdef uint64_t* larger
    if buffer == NULL:
        raise MemoryError()
    try:
        for value in ids:
            if n == room:
                larger = <uint64_t*>realloc(buffer, 2 * room * sizeof(uint64_t))
                if larger == NULL:
                    raise MemoryError()
                buffer = larger
                room *= 2
            buffer[n] = value
            n += 1
        return _array(buffer, n)
    finally:
        free(buffer)


def unpack_ids(array):
    """See the twin."""
    cdef bytes data = as_bytes(array)
    cdef Ids ids = ids_of(data)
    cdef size_t i
    return [ids.at[i] for i in range(ids.count)]


def ids_contain(array, uint64_t value):
    """See the twin."""
    cdef bytes data = as_bytes(array)
    return ids_have(ids_of(data), value)


def ids_insert(array, uint64_t value):
    """See the twin."""
    cdef bytes data = as_bytes(array)
    cdef Ids ids = ids_of(data)
    cdef size_t place = lower_bound(ids.at, ids.count, value)
    cdef bytes out
    cdef uint64_t* to
    if place < ids.count and ids.at[place] == value:
        return data
    out = PyBytes_FromStringAndSize(NULL, (ids.count + 1) * ID_BYTES)
    to = <uint64_t*>PyBytes_AS_STRING(out)
    memcpy(to, ids.at, place * ID_BYTES)
    to[place] = value
    memcpy(to + place + 1, ids.at + place, (ids.count - place) * ID_BYTES)
    return out


def ids_remove(array, uint64_t value):
    """See the twin."""
    cdef bytes data = as_bytes(array)
    cdef Ids ids = ids_of(data)
    cdef size_t place = lower_bound(ids.at, ids.count, value)
    cdef bytes out
    cdef uint64_t* to
    if place == ids.count or ids.at[place] != value:
        return data
    out = PyBytes_FromStringAndSize(NULL, (ids.count - 1) * ID_BYTES)
    to = <uint64_t*>PyBytes_AS_STRING(out)
    memcpy(to, ids.at, place * ID_BYTES)
    memcpy(to + place, ids.at + place + 1, (ids.count - place - 1) * ID_BYTES)
    return out


def ids_union(a, b):
    """See the twin."""
    cdef bytes left = as_bytes(a), right = as_bytes(b)
    cdef Ids x = ids_of(left), y = ids_of(right)
    cdef size_t i = 0, j = 0, n = 0
    cdef uint64_t value
    cdef uint64_t* out = <uint64_t*>malloc((x.count + y.count + 1) * sizeof(uint64_t))
    if out == NULL:
        raise MemoryError()
    try:
        while i < x.count or j < y.count:
            if j == y.count or (i < x.count and x.at[i] <= y.at[j]):
                value = x.at[i]
                i += 1
            else:
                value = y.at[j]
                j += 1
            if n == 0 or out[n - 1] != value:
                out[n] = value
                n += 1
        return PyBytes_FromStringAndSize(<char*>out, n * ID_BYTES)
    finally:
        free(out)


def ids_intersect(array, U64Set s not None):
    """See the twin."""
    cdef bytes data = as_bytes(array)
    cdef Ids ids = ids_of(data)
    cdef size_t i
    cdef list found = []
    for i in range(ids.count):
        if table_has(&s.table, ids.at[i]):
            found.append(ids.at[i])
    return found
