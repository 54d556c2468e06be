"""What the client session uses of loadstats: where answers are counted, the queue of arrivals."""
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    STATUSES = 17  # gRPC's status codes are 0 to 16; anything else is counted as 2, UNKNOWN


cdef class Histogram:
    cdef uint64_t *counts
    cdef readonly uint64_t count
    cdef readonly int64_t max
    cdef readonly int64_t min
    cdef double total
    cdef void add(self, int64_t value) noexcept


cdef class Recorder:
    cdef readonly list histograms
    cdef readonly Histogram failed
    cdef readonly list seconds
    cdef readonly uint64_t answered
    cdef readonly uint64_t body_bytes
    cdef readonly uint64_t started
    cdef Histogram second
    cdef uint64_t *statuses
    cdef int64_t from_ns
    cdef int64_t until_ns
    cdef bint by_start
    cdef int methods
    cdef uint64_t second_ok
    cdef uint64_t second_failed
    cdef int note(
        self, int method, int status, int64_t start_ns, int64_t now_ns, size_t size
    ) except -1


cdef class Schedule:
    cdef int64_t *ring
    cdef uint64_t head
    cdef uint64_t tail
    cdef uint64_t mask
    cdef uint64_t state
    cdef list steps
    cdef int step
    cdef double next_at
    cdef double step_end
    cdef double gap
    cdef bint poisson
    cdef readonly bint over
    cdef readonly uint64_t arrivals
    cdef readonly uint64_t dropped
    cdef readonly uint64_t waiting_max
    cdef readonly Histogram lateness
    cdef int64_t take(self) noexcept
    cdef void draw(self) noexcept
