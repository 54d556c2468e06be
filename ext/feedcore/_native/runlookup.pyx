"""Compiled twin of feedcore.domain.runs.RunIndex: a binary search a run, in the maps themselves."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from feedcore._native.packed cimport ENTRY_BYTES, be64, lower_bound

cdef enum:
    REMOVED_BYTE = 18
    REMOVED_BIT = 0x80


cdef inline bytes _slice(
    const run_t* run, uint64_t user_id, uint64_t at_or_below, size_t limit
):
    """At most `limit` of the user's entries at or below, newest first, without removed ones."""
    cdef size_t at = lower_bound(run.users, run.count, user_id), n, i, half, made = 0
    cdef const uint8_t* start
    cdef uint64_t key = ~at_or_below
    cdef bytes out
    cdef uint8_t* to
    if at == run.count or run.users[at] != user_id:
        return b""
    start = run.entries + <size_t>run.offsets[at] * ENTRY_BYTES
    n = run.offsets[at + 1] - run.offsets[at]
    if n and be64(start) < key:
        i = n
        while i > 0:
            half = i >> 1
            if be64(start + half * ENTRY_BYTES) < key:
                start += (half + 1) * ENTRY_BYTES
                n -= half + 1
                i -= half + 1
            else:
                i = half
    if not run.has_removed:
        n = min(n, limit)
        return PyBytes_FromStringAndSize(<const char*>start, n * ENTRY_BYTES)
    out = PyBytes_FromStringAndSize(NULL, min(n, limit) * ENTRY_BYTES)
    to = <uint8_t*>PyBytes_AS_STRING(out)
    for i in range(n):
        if made == limit:
            break
        if not (start[i * ENTRY_BYTES + REMOVED_BYTE] & REMOVED_BIT):
            memcpy(to + made * ENTRY_BYTES, start + i * ENTRY_BYTES, ENTRY_BYTES)
            made += 1
    return out if made * ENTRY_BYTES == <size_t>len(out) else out[: made * ENTRY_BYTES]


cdef class RunIndex:
    """See the twin."""

    def __cinit__(self, views):
        cdef const uint64_t[::1] users
        cdef const uint32_t[::1] offsets
        cdef const uint8_t[::1] entries
        cdef run_t* run
        ordered = sorted(views, key=_order)
        self.runs = <run_t*>calloc(len(ordered) + 1, sizeof(run_t))
        if self.runs == NULL:
            raise MemoryError()
        self.held = []
        for view in ordered:
            users, offsets, entries = view.users, view.offsets, view.entries
            run = &self.runs[self.count]
            run.run_id, run.day = view.run_id, view.day
            run.count = users.shape[0]
            run.users = &users[0] if run.count else NULL
            run.offsets = &offsets[0]
            run.entries = &entries[0] if entries.shape[0] else NULL
            run.has_removed = view.has_removed
            self.newest_run = max(self.newest_run, run.run_id)
            self.held.append((users, offsets, entries))
            self.count += 1

    def __dealloc__(self):
        free(self.runs)

    def window(
        self,
        uint64_t user_id,
        int64_t first_day,
        int64_t last_day,
        uint64_t at_or_below,
        Py_ssize_t limit,
    ):
        """See the twin."""
        cdef list found = []
        cdef Py_ssize_t have = 0, longest = 0
        cdef int64_t day = 0
        cdef size_t i
        cdef const run_t* run
        cdef bytes entries
        for i in range(self.count):
            run = &self.runs[i]
            if run.day > last_day:
                continue
            if run.day != day:
                have, longest, day = have + longest, 0, run.day
            if run.day < first_day or have >= limit:
                break
            entries = _slice(
                run, user_id, at_or_below if run.day == last_day else <uint64_t>-1, limit
            )
            if entries:
                found.append(entries)
                longest = max(longest, len(entries) // ENTRY_BYTES)
        return found

    cdef list slices_since(self, uint64_t user_id, uint64_t seen_run):
        cdef list found = []
        cdef size_t i
        cdef bytes entries
        for i in range(self.count):
            if self.runs[i].run_id > seen_run:
                entries = _slice(&self.runs[i], user_id, <uint64_t>-1, <size_t>1 << 40)
                if entries:
                    found.append(entries)
        return found

    def since(self, uint64_t user_id, uint64_t seen_run):
        """See the twin."""
        return self.slices_since(user_id, seen_run)


def _order(view):
    return (-view.day, view.run_id)
