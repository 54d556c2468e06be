"""The session, for compiled code that brings fast handlers of its own."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

from feedcore._native.http2.guarded cimport Guarded
from feedcore._native.http2.guards cimport heads_t
from feedcore._native.http2.h2head cimport RequestHead
from feedcore._native.http2.h2stream cimport Stream

cdef class Session(Guarded):
    cdef dict streams
    cdef dict methods
    cdef list ready
    cdef RequestHead head  # the header block that is coming in
    cdef Stream incoming  # whose it is
    cdef readonly unsigned long calls
    cdef readonly bint settings_acked
    cdef readonly unsigned long pings_acked
    cdef readonly double last_read, headers_since, next_due, idle_since
    cdef readonly int running  # handlers at work, those of calls that are over included
    cdef public str shed  # what sheddable calls are told while there is too much; else None
    cdef public list shed_pairs  # trailers of that, encoded
    cdef bint finished, noticing, limit_told
    cdef int32_t newest  # stream that has begun
    cdef heads_t heads
    cdef unsigned long pings_sent

    cdef size_t look_ahead(self, const uint8_t *data, size_t length) except 0
    cdef int look_for_closed(self, int32_t stream_id) except -1
    cdef int tell_limit(self, uint8_t *settings) except -1
    cdef int begin(self, const uint8_t *data, size_t length) except -1
    cdef int dispatch(self) except -1
    cdef bint answered_fast(self, Stream stream) except -1
    cdef int new_stream(self, int32_t stream_id) except -1
    cdef int end_of_headers(self, bint end_stream) except -1
    cdef int end_of_request(self, Stream stream) except -1
    cdef bint say_goodbye(self) except -1
