"""Compiled twin of feedcore.codecs.runs.RunIndex: a binary search a run, in the maps themselves."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport ENTRY_BYTES, be64, lower_bound

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
        cdef Py_buffer* parts
        cdef run_t* run
        ordered = sorted(views, key=_order)
        self.runs = <run_t*>calloc(len(ordered) + 1, sizeof(run_t))
        self.held = <Py_buffer*>calloc(3 * len(ordered) + 1, sizeof(Py_buffer))
        if self.runs == NULL or self.held == NULL:
            raise MemoryError()
        for view in ordered:
            parts = self.held + 3 * self.count
            run = &self.runs[self.count]
            self.count += 1
            PyObject_GetBuffer(view.users, parts, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.offsets, parts + 1, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.entries, parts + 2, PyBUF_SIMPLE)
            run.run_id, run.day = view.run_id, view.day
            run.count = parts[0].len // sizeof(uint64_t)
            run.users = <const uint64_t*>parts[0].buf
            run.offsets = <const uint32_t*>parts[1].buf
            run.entries = <const uint8_t*>parts[2].buf
            run.has_removed = view.has_removed
            self.newest_run = max(self.newest_run, run.run_id)

    def __dealloc__(self):
        cdef size_t i
        for i in range(3 * self.count):
            PyBuffer_Release(&self.held[i])  # does nothing for one that was not taken
        free(self.held)
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
