"""Compiled twin of feedcore.codecs.runs.RunIndex: a binary search a run, in the maps themselves.

Invariants: no byte outside a map is read, whatever the file says, also if it changes while it is
mapped: an offset is taken once and compared with the map's length before it is used. No entry
leaves a lookup unless its user's slice has the sum that it was written with.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport ENTRY_BYTES, be64, lower_bound

cdef enum:
    PARTS = 6
    BLOCK = 64
    DAMAGED = -2
    ABSENT = -1
    REMOVED_BYTE = 18
    REMOVED_BIT = 0x80

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>
    /* one chain of a multiplication and a shift an entry: about two nanoseconds */
    static inline uint32_t fc_slice_sum(uint64_t user, const uint8_t *at, size_t count) {
        uint64_t sum = user;
        for (; count; count--, at += 20) {
            uint64_t key, author;
            uint32_t rest;
            memcpy(&key, at, 8);
            memcpy(&author, at + 8, 8);
            memcpy(&rest, at + 16, 4);
            rest &= 0xFF7FFFFFu; /* without the REMOVED bit, which is set later */
            sum ^= key * 0x9E3779B97F4A7C15ULL + author * 0xD1B54A32D192ED03ULL
                 + rest * 0xBF58476D1CE4E5B9ULL;
            sum *= 0x94D049BB133111EBULL;
            sum ^= sum >> 29;
        }
        return (uint32_t)(sum ^ (sum >> 32));
    }
    /* of up to 64 users: no step waits for the one before */
    static inline uint32_t fc_block_sum(const uint64_t *users, size_t count) {
        uint64_t sum = count, factor = 0x9E3779B97F4A7C15ULL;
        for (size_t at = 0; at < count; at++, factor += 2)
            sum += users[at] * factor;
        return (uint32_t)(sum ^ (sum >> 32));
    }
    """
    uint32_t block_sum "fc_block_sum"(const uint64_t* users, size_t count) noexcept nogil
    uint32_t slice_sum "fc_slice_sum"(uint64_t user, const uint8_t* at, size_t count) noexcept nogil


def run_sums(users, offsets, entries):
    """See the twin."""
    cdef Py_buffer[3] held
    cdef int taken = 0
    cdef size_t count, entry_count, at, first, end
    cdef const uint64_t* ids
    cdef const uint32_t* places
    cdef bytes out
    cdef uint32_t* to
    cdef bint outside = False
    try:
        for part in (users, offsets, entries):
            PyObject_GetBuffer(part, &held[taken], PyBUF_SIMPLE)
            taken += 1
        count = held[0].len // sizeof(uint64_t)
        entry_count = held[2].len // ENTRY_BYTES
        if held[1].len < <Py_ssize_t>((count + 1) * sizeof(uint32_t)):
            raise ValueError("a run's offsets are too few")
        ids = <const uint64_t*>held[0].buf
        places = <const uint32_t*>held[1].buf
        out = PyBytes_FromStringAndSize(NULL, count * sizeof(uint32_t))
        to = <uint32_t*>PyBytes_AS_STRING(out)
        with nogil:
            for at in range(count):
                first, end = places[at], places[at + 1]
                if first > end or end > entry_count:
                    outside = True
                    break
                to[at] = slice_sum(
                    ids[at], <const uint8_t*>held[2].buf + first * ENTRY_BYTES, end - first
                )
        if outside:
            raise ValueError("a run's offsets point outside it")
        return out
    finally:
        for i in range(taken):
            PyBuffer_Release(&held[i])


def run_blocks(users):
    """See the twin."""
    cdef Py_buffer held
    cdef size_t count, at
    cdef bytes out
    cdef uint32_t* to
    PyObject_GetBuffer(users, &held, PyBUF_SIMPLE)
    try:
        count = held.len // sizeof(uint64_t)
        out = PyBytes_FromStringAndSize(NULL, (count + BLOCK - 1) // BLOCK * sizeof(uint32_t))
        to = <uint32_t*>PyBytes_AS_STRING(out)
        for at in range(0, count, BLOCK):
            to[at // BLOCK] = block_sum(
                <const uint64_t*>held.buf + at, min(<size_t>BLOCK, count - at)
            )
        return out
    finally:
        PyBuffer_Release(&held)


cdef inline int64_t _place_of(const run_t* run, uint64_t user_id) noexcept nogil:
    """Where the user is in the run, ABSENT, or DAMAGED. Only one block of users is read, and it is
    compared with its sum; what leads to it is this process's own.
    """
    cdef size_t at, start, count
    if run.fences == NULL:
        at = lower_bound(run.users, run.count, user_id)
        return <int64_t>at if at < run.count and run.users[at] == user_id else ABSENT
    at = lower_bound(run.fences, run.fence_count, user_id)
    if at == run.fence_count or run.fences[at] != user_id:
        if at == 0:
            return ABSENT
        at -= 1
    start = at * BLOCK
    count = min(<size_t>BLOCK, run.count - start)
    if block_sum(run.users + start, count) != run.blocks[at]:
        return DAMAGED
    at = start + lower_bound(run.users + start, count, user_id)
    return <int64_t>at if at < start + count and run.users[at] == user_id else ABSENT


cdef inline bytes _slice(
    const run_t* run, uint64_t user_id, uint64_t at_or_below, size_t limit
):
    """At most `limit` of the user's entries at or below, newest first, without removed ones; None
    if the run's offsets point outside it, or users or entries are not those that were written.
    """
    cdef int64_t at = _place_of(run, user_id)
    cdef size_t first, n, i, half, made = 0
    cdef const uint8_t* start
    cdef uint64_t key = ~at_or_below
    cdef bytes out
    cdef uint8_t* to
    if at < 0:
        return b"" if at == ABSENT else None
    first = run.offsets[at]
    n = run.offsets[at + 1]
    if first > n or n > run.entry_count:
        return None
    start = run.entries + first * ENTRY_BYTES
    n -= first
    if run.sums != NULL and slice_sum(user_id, start, n) != run.sums[at]:
        return None
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

    def __cinit__(self, views, uint64_t damaged_run=0):
        cdef Py_buffer* parts
        cdef run_t* run
        self.damaged_run = damaged_run
        ordered = sorted(views, key=_order)
        self.runs = <run_t*>calloc(len(ordered) + 1, sizeof(run_t))
        self.held = <Py_buffer*>calloc(PARTS * len(ordered) + 1, sizeof(Py_buffer))
        if self.runs == NULL or self.held == NULL:
            raise MemoryError()
        for view in ordered:
            parts = self.held + PARTS * self.count
            run = &self.runs[self.count]
            self.count += 1
            PyObject_GetBuffer(view.users, parts, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.offsets, parts + 1, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.entries, parts + 2, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.sums, parts + 3, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.blocks, parts + 4, PyBUF_SIMPLE)
            PyObject_GetBuffer(view.fences, parts + 5, PyBUF_SIMPLE)
            run.run_id, run.day = view.run_id, view.day
            run.count = parts[0].len // sizeof(uint64_t)
            run.users = <const uint64_t*>parts[0].buf
            run.offsets = <const uint32_t*>parts[1].buf
            run.entries = <const uint8_t*>parts[2].buf
            run.entry_count = parts[2].len // ENTRY_BYTES
            if parts[1].len < <Py_ssize_t>((run.count + 1) * sizeof(uint32_t)):
                raise ValueError(f"run {view.run_id}: {parts[1].len} bytes of offsets")
            if parts[5].len:
                run.fence_count = (run.count + BLOCK - 1) // BLOCK
                if (
                    parts[3].len < <Py_ssize_t>(run.count * sizeof(uint32_t))
                    or parts[4].len < <Py_ssize_t>(run.fence_count * sizeof(uint32_t))
                    or parts[5].len < <Py_ssize_t>(run.fence_count * sizeof(uint64_t))
                ):
                    raise ValueError(f"run {view.run_id}: sums of other users")
                run.sums = <const uint32_t*>parts[3].buf
                run.blocks = <const uint32_t*>parts[4].buf
                run.fences = <const uint64_t*>parts[5].buf
            run.has_removed = view.has_removed
            self.newest_run = max(self.newest_run, run.run_id)

    def __dealloc__(self):
        cdef size_t i
        for i in range(PARTS * self.count):
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
            if entries is None:
                self.met_run = run.run_id
            elif entries:
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
                if entries is None:
                    self.met_run = self.runs[i].run_id
                elif entries:
                    found.append(entries)
        return found

    def since(self, uint64_t user_id, uint64_t seen_run):
        """See the twin."""
        return self.slices_since(user_id, seen_run)


def _order(view):
    return (-view.day, view.run_id)
