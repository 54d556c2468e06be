"""What the client session uses of h2call."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.grpcframe cimport PREFIX_BYTES
from feedcore._native.http2.nghttp2 cimport nghttp2_session, ssize_t

cdef enum:
    STREAM_WINDOW = 16777216
    MESSAGE_MAX = 16777216 - 5  # of either direction: a reply must fit the stream's window


cdef class Template:
    cdef readonly str path
    cdef list held
    cdef h2.nghttp2_nv *pairs
    cdef size_t count


cdef class Call:
    cdef object tag
    cdef bytes request
    cdef bytes body
    cdef bytes message  # grpc-message as it came
    cdef bytes pushback
    cdef object why  # text, where the status is not the server's
    cdef int64_t start_ns
    cdef size_t sent
    cdef size_t have  # bytes of prefix and message that came
    cdef size_t length  # of the message, once the prefix is here
    cdef size_t received
    cdef int32_t stream_id
    cdef int method
    cdef int status
    cdef uint8_t prefix[PREFIX_BYTES]
    cdef bint keep  # the body is wanted
    cdef bint cycled
    cdef bint complete  # END_STREAM came
    cdef int blame(self, int status, object why) except -1
    cdef int data(self, const uint8_t *data, size_t length) except -1
    cdef int settle(self, uint32_t error_code, bint plain) except -1
    cdef str detail(self)


cdef ssize_t read_request(
    nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
    h2.nghttp2_data_source *source, void *user_data
) noexcept
cdef int status_of(const uint8_t *value, size_t length) noexcept
