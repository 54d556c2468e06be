"""Epoch counters, read without the interpreter."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    static inline size_t fc_epoch_slot(uint64_t kind, uint64_t ident) {
        return (size_t)(((ident + kind * 0xD1B54A32D192ED03ULL) * 0x9E3779B97F4A7C15ULL) >> 43);
    }
    static inline uint32_t fc_load32(const uint32_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    static inline uint64_t fc_load64(const uint64_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    static inline void fc_add32(uint32_t *p) { __atomic_fetch_add(p, 1, __ATOMIC_RELEASE); }
    static inline void fc_add64(uint64_t *p) { __atomic_fetch_add(p, 1, __ATOMIC_RELEASE); }
    """
    size_t epoch_slot "fc_epoch_slot"(uint64_t kind, uint64_t ident) noexcept nogil
    uint32_t load32 "fc_load32"(const uint32_t* p) noexcept nogil
    uint64_t load64 "fc_load64"(const uint64_t* p) noexcept nogil
    void add32 "fc_add32"(uint32_t* p) noexcept nogil
    void add64 "fc_add64"(uint64_t* p) noexcept nogil

cdef enum:
    VIEWER = 1
    FEED = 2
    AUTHOR = 3
    CONTENT = 4

cdef class Epochs:
    cdef Py_buffer view
    cdef bint held
    cdef uint32_t* slots
    cdef uint64_t* generation_at
    cdef uint32_t* era_at

    cdef inline uint32_t at(self, int kind, uint64_t ident) noexcept nogil:
        return load32(self.slots + epoch_slot(kind, ident))
