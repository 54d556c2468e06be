"""What guards a session against its peer."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

from feedcore._native.http2.guards cimport bucket_t
from feedcore._native.http2.h2stream cimport Link

cdef enum:
    GLITCH_COST = 20  # of a protocol error; a refused stream, or a frame that comes late, costs 1
    RESETS_KEPT = 64


cdef class Guarded(Link):
    cdef bucket_t resets, glitches, useless
    cdef double last_ping
    cdef int strikes
    cdef unsigned long frames_sent_mark, resets_paid
    cdef readonly unsigned long frames_sent
    cdef readonly str verdict  # why the connection must end; None while all is well
    cdef uint32_t verdict_code
    cdef bint goodbye_due
    cdef int32_t reset_by_us[RESETS_KEPT]  # the newest streams, in a ring
    cdef uint8_t reset_at

    cdef int condemn(self, uint32_t code, str why) except -1
    cdef int reset_sent(self, int32_t stream_id, uint32_t error_code) except -1
    cdef bint is_error(self, int32_t stream_id) except -1
    cdef void keep(self, int32_t stream_id) noexcept
    cdef int ping_received(self) except -1
    cdef int glitch(self, double cost) except -1
    cdef int useless_frame(self, double cost=*) except -1
