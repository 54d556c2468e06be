"""The session, for compiled code that brings fast handlers of its own."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

from feedcore._native.http2.guards cimport bucket_t, heads_t
from feedcore._native.http2.h2head cimport RequestHead
from feedcore._native.http2.h2stream cimport Link, Stream

cdef class Session(Link):
    cdef dict streams
    cdef dict methods
    cdef list ready
    cdef RequestHead head  # the header block that is coming in
    cdef Stream incoming  # whose it is
    cdef bucket_t resets, glitches, useless
    cdef double last_ping
    cdef int strikes
    cdef unsigned long frames_sent_mark
    cdef readonly unsigned long frames_sent, calls
    cdef readonly bint settings_acked
    cdef readonly unsigned long pings_acked
    cdef readonly double last_read, headers_since, next_due, idle_since
    cdef readonly int running  # handlers at work, those of calls that are over included
    cdef readonly str verdict  # why the connection must end; None while all is well
    cdef uint32_t verdict_code
    cdef public str shed  # what sheddable calls are told while there is too much; else None
    cdef public list shed_pairs  # trailers of that, encoded
    cdef bint finished, noticing, goodbye_due
    cdef heads_t heads
    cdef unsigned long pings_sent, resets_paid

    cdef int begin(self, const uint8_t *data, size_t length) except -1
    cdef int condemn(self, uint32_t code, str why) except -1
    cdef int dispatch(self) except -1
    cdef bint answered_fast(self, Stream stream) except -1
    cdef int new_stream(self, int32_t stream_id) except -1
    cdef int end_of_headers(self, bint end_stream) except -1
    cdef int end_of_request(self, Stream stream) except -1
    cdef int ping_received(self) except -1
    cdef int useless_frame(self, double cost=*) except -1
    cdef int glitch(self, double cost) except -1
    cdef int reset_sent(self, uint32_t error_code) except -1
    cdef bint say_goodbye(self) except -1
