"""The hash table of U64Set, for modules that look ids up without the interpreter."""

from libc.stdint cimport uint64_t

cdef struct Table:
    uint64_t* slots  # 0 marks a free slot; the id 0 itself is in has_zero
    uint64_t mask
    int shift
    Py_ssize_t used  # slots taken, at most half of them
    bint has_zero

cdef inline bint table_has(const Table* table, uint64_t value) noexcept nogil:
    cdef uint64_t at
    if value == 0:
        return table.has_zero
    if table.used == 0:
        return False
    at = (value * <uint64_t>0x9E3779B97F4A7C15ULL) >> table.shift
    while table.slots[at] != 0:
        if table.slots[at] == value:
            return True
        at = (at + 1) & table.mask
    return False

cdef class U64Set:
    cdef Table table
