"""Reading of packed data: big-endian entries, little-endian id arrays. Inline, for other modules.

Entries are read by bytes, so they may lie anywhere; id arrays are read as u64, so they must be
bytes objects, whose data is aligned. `as_bytes` makes both true of whatever a caller passes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef extern from *:
    """
    #ifndef FEEDCORE_PACKED
    #define FEEDCORE_PACKED
    #include <stdint.h>
    #include <string.h>
    #include <stddef.h>
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "id arrays are read as they lie in memory: a little-endian machine is needed"
    #endif
    static inline uint64_t fc_be64(const void *p) {
        uint64_t v;
        memcpy(&v, p, 8);
        return __builtin_bswap64(v);
    }
    static inline uint16_t fc_be16(const void *p) {
        uint16_t v;
        memcpy(&v, p, 2);
        return __builtin_bswap16(v);
    }
    /* no branch on the data: verdicts are as good as random to a branch predictor */
    static inline size_t fc_lower_bound(const uint64_t *a, size_t n, uint64_t x) {
        const uint64_t *base = a;
        while (n > 1) {
            size_t half = n >> 1;
            base += (base[half - 1] < x) * half;
            n -= half;
        }
        return (size_t)(base - a) + (n == 1 && base[0] < x);
    }
    #endif
    """
    uint64_t be64 "fc_be64"(const void* p) noexcept nogil
    uint16_t be16 "fc_be16"(const void* p) noexcept nogil
    size_t lower_bound "fc_lower_bound"(const uint64_t* a, size_t n, uint64_t x) noexcept nogil

cdef enum:
    ENTRY_BYTES = 20
    ID_BYTES = 8
    TIME_SHIFT = 22

cdef struct Ids:
    const uint64_t* at
    size_t count

cdef inline bint ids_have(Ids ids, uint64_t value) noexcept nogil:
    cdef size_t place
    if ids.count == 0:
        return False
    place = lower_bound(ids.at, ids.count, value)
    return place < ids.count and ids.at[place] == value

cdef inline bytes as_bytes(object data):
    """The same object if it is bytes already."""
    return <bytes>data if PyBytes_CheckExact(data) else bytes(data)

cdef inline Ids ids_of(bytes array) except *:
    """The ids of an array; valid while the array is."""
    cdef Ids ids
    cdef Py_ssize_t size = PyBytes_GET_SIZE(array)
    if size % ID_BYTES:
        raise ValueError(f"id array: {size} bytes; a multiple of {ID_BYTES}")
    ids.at = <const uint64_t*>PyBytes_AS_STRING(array)
    ids.count = size // ID_BYTES
    return ids

cdef inline Py_ssize_t entries_count(bytes entries) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(entries)
    if size % ENTRY_BYTES:
        raise ValueError(f"entries: {size} bytes; a multiple of {ENTRY_BYTES}")
    return size // ENTRY_BYTES

cdef inline const uint8_t* data_of(bytes data) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(data)
