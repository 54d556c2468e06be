"""One call on a connection, and what it shares with the session that carries it."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

from feedcore._native.http2.grpcframe cimport reader_t
from feedcore._native.http2.h2head cimport RequestHead
from feedcore._native.http2.nghttp2 cimport nghttp2_nv, nghttp2_session, ssize_t

# Kinds of events: a session hands out (kind, stream).
cdef enum:
    FAULT = 0  # (FAULT, exception): of ours, in a callback; the connection cannot go on
    CALL = 1  # a call to handle: its request, or for a stream of requests its headers, are here
    MESSAGE = 2  # a stream that waited for a message has one, or its requests have ended
    ROOM = 3  # a stream that waited for room has some
    CLOSED = 4  # the call is over; its handler must end
    FAST_FAILED = 5  # (FAST_FAILED, exception): a fast handler raised; the ordinary one is asked

cdef class Rules:
    cdef readonly size_t request_bytes_max, header_bytes_max, room_bytes
    cdef readonly uint32_t streams_max, stream_window, connection_window
    cdef readonly double reset_burst, reset_rate, glitch_burst, glitch_rate
    cdef readonly double useless_burst, useless_rate, ping_interval_s
    cdef readonly size_t outbound_frames_max
    cdef readonly double headers_s, request_stall_s, stream_idle_s, send_stall_s
    cdef object details


cdef class Account:
    cdef readonly size_t held, bound, reserve
    cdef Account parent
    cdef size_t beyond(self, size_t held) noexcept
    cdef bint take(self, size_t count) noexcept
    cdef void give(self, size_t count) noexcept


cdef class FastHandler:
    cdef readonly bint sheddable  # refused first when the worker has too much to do
    cdef object answer(self, bytes request, Stream stream)


cdef class Row:
    cdef readonly object method, chain
    cdef readonly bint one_request, one_reply
    cdef FastHandler fast
    cdef readonly unsigned long long fast_calls, shed_calls
    cdef readonly size_t request_bytes_max


cdef class Link:
    cdef nghttp2_session *h2  # NULL once the connection is gone
    cdef Rules rules
    cdef Account received, sent
    cdef list events
    cdef double now


cdef class Stream:
    cdef Link link
    cdef readonly int32_t stream_id
    cdef readonly Row row
    cdef public object owner
    cdef public bint wants_message, wants_room, begun
    cdef public bint standing  # waits without a task: it owes us nothing, nor we it
    cdef readonly bint closed, ended, request_done, request_compressed
    cdef readonly double deadline
    # the request's headers
    cdef bytes packed
    cdef bint accepts_gzip, gzip_requests
    cdef bint any_message  # of a stream of requests
    # the request's messages
    cdef reader_t reader
    cdef bytes request
    cdef object messages  # deque of bytes, or of (bytes,) if compressed; made when first needed
    cdef size_t uncredited, kept
    # the reply
    cdef bint headers_sent, gzip_replies, deferred, ending, plain_end
    cdef bytes out
    cdef uint8_t out_prefix[5]
    cdef size_t out_at
    cdef readonly size_t queued
    cdef object out_queue  # deque of (compressed, bytes), made when first needed
    cdef list trailer_pairs
    cdef double touched

    cdef int accept(self, RequestHead head, dict methods) except -1
    cdef int data(self, const uint8_t *data, size_t length) except -1
    cdef size_t request_bytes_max(self) noexcept
    cdef bint keep(self, size_t count)
    cdef int push(self, const uint8_t *message, size_t length) except -1
    cdef int end_of_request(self) except -1
    cdef bytes whole_request(self)
    cdef bytes plain(self, bytes body)
    cdef void credit(self, size_t count) noexcept
    cdef void touch(self) noexcept
    cdef bint stalled(self, double now) noexcept
    cdef int answer(self, bytes reply) except -1
    cdef int cut(self, uint32_t error_code) except -1
    cdef int tell_owner(self) except -1
    cdef bint put(self, bytes message, bint compressed) except -1
    cdef void load(self, bytes message, bint compressed) noexcept
    cdef int next_out(self) except -1
    cdef ssize_t fill(self, uint8_t *buffer, size_t length, uint32_t *flags) except? -1
    cdef list pairs_of(self, list metadata)
    cdef int submit_headers(self, list initial, bint gzip) except -1
    cdef int submit_trailers(self) except -1
    cdef int refuse(self, bytes http_status, int code, str message, list extra) except -1
    cdef int reject(
        self, bytes http_status, int code, str message, str reason=*, list extra=*
    ) except -1
    cdef list details_of(self, int code, str message, str reason)
    cdef int submitted(self, int got) except -1
    cdef int forget(self) except -1
