"""Lookups of one user in mapped runs."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef struct run_t:
    uint64_t run_id
    int64_t day
    const uint64_t* users
    size_t count
    const uint32_t* offsets
    const uint8_t* entries
    size_t entry_count
    const uint32_t* sums  # these three are NULL in files of version 1
    const uint32_t* blocks
    const uint64_t* fences
    size_t fence_count
    bint has_removed

cdef class RunIndex:
    cdef run_t* runs
    cdef size_t count
    cdef Py_buffer* held  # six a run, which keep the maps
    cdef readonly uint64_t newest_run
    cdef readonly uint64_t damaged_run  # newest of those left out, 0 for none
    cdef readonly uint64_t met_run  # one that a lookup found damaged, 0 for none
    cdef list slices_since(self, uint64_t user_id, uint64_t seen_run)
