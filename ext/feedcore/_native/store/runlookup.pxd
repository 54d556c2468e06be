"""Lookups of one user in mapped runs."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef struct run_t:
    uint64_t run_id
    int64_t day
    const uint64_t* users
    size_t count
    const uint32_t* offsets
    const uint8_t* entries
    bint has_removed

cdef class RunIndex:
    cdef run_t* runs
    cdef size_t count
    cdef Py_buffer* held  # three a run, which keep the maps
    cdef readonly uint64_t newest_run
    cdef list slices_since(self, uint64_t user_id, uint64_t seen_run)
