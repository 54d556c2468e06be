"""The cache of resident data, for the modules that ask it on every load."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

@cython.no_gc
cdef class Cached:
    cdef readonly object key  # under which it is, or was last, kept
    cdef readonly size_t size  # bytes, as the caller gave them
    cdef readonly uint8_t frequency  # hits since it joined its queue, at most 3
    cdef uint8_t place  # OUT, SMALL or MAIN of cache.pyx
    cdef Py_hash_t hash
    cdef PyObject* chain  # the next of its bucket: up to here is what a lookup touches
    cdef void* owner  # the cache that holds it; NULL while none does
    cdef PyObject* newer  # neighbours in its queue. Links are borrowed: the cache owns one
    cdef PyObject* older  # reference to each entry; owned links would make cycles

cdef class CachedObject(Cached):
    cdef public object value

cdef struct Queue:
    PyObject* newest
    PyObject* oldest
    size_t bytes  # with ENTRY_BYTES for each entry
    size_t count

cdef struct Ghost:
    uint32_t mark  # of the key's hash; 0 marks a free slot
    uint32_t time  # of its eviction, counted in evictions

@cython.final
cdef class Cache:
    cdef Queue small
    cdef Queue main
    cdef PyObject** buckets
    cdef Ghost* ghosts  # as many slots as there are buckets
    cdef int bits  # 1 << bits buckets
    cdef uint32_t clock
    cdef uint64_t version  # changes with every entry that comes or goes
    cdef readonly size_t bytes_max
    cdef readonly size_t bytes_used
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t evicted
    cdef readonly uint64_t refused

    cpdef Cached get(self, object key)
    cpdef Cached peek(self, object key)
    cpdef bint put(self, object key, Cached value, size_t size) except -1
    cpdef bint drop(self, object key) except -1
    cpdef int resize(self, Cached value, size_t size) except -1

    cdef PyObject* _find(self, object key, Py_hash_t hashed) except? NULL
    cdef bint _fits(self, size_t size) noexcept
    cdef int _rebuild(self, int bits) except -1
    cdef int _scale(self) except -1
    cdef bint _returns(self, Py_hash_t hashed) noexcept
    cdef void _enter(self, Cached entry, uint8_t place) noexcept
    cdef void _leave(self, Cached entry) noexcept
    cdef void _exchange(self, Cached old, Cached entry) noexcept
    cdef int _evict(self, size_t room, list victims) except -1
