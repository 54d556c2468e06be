"""What other compiled modules use of grpcframe: the message reader and the request's headers."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

# gRPC status codes that the transport itself answers with.
cdef enum:
    STATUS_CANCELLED = 1
    STATUS_INVALID_ARGUMENT = 3
    STATUS_DEADLINE_EXCEEDED = 4
    STATUS_RESOURCE_EXHAUSTED = 8
    STATUS_UNIMPLEMENTED = 12
    STATUS_INTERNAL = 13
    STATUS_UNAVAILABLE = 14

cdef enum:
    PREFIX_BYTES = 5  # flag, then the length as big-endian u32 (gRPC over HTTP/2)

cdef enum:
    READ_MORE = 0
    READ_MESSAGE = 1
    READ_BAD_FLAG = -1
    READ_TOO_LARGE = -2
    READ_NO_MEMORY = -3

# Assembles length-prefixed messages from DATA of any split. Zeroed memory is a fresh reader.
ctypedef struct reader_t:
    uint8_t prefix[5]
    uint8_t have  # bytes of the prefix that are here
    uint32_t length  # of the message, once the prefix is whole
    uint8_t *body  # the part of the message that came so far, if it was cut
    size_t used
    size_t capacity

cdef int reader_feed(
    reader_t *reader, const uint8_t **data, size_t *left, size_t limit,
    const uint8_t **message, size_t *length
) noexcept
cdef void reader_clear(reader_t *reader) noexcept
cdef inline bint reader_within(const reader_t *reader) noexcept:
    """Whether a message has begun and is not whole."""
    return reader.have > 0

cdef enum:
    NO_TIMEOUT = -1
    BAD_TIMEOUT = -2

cdef int64_t timeout_ns(const uint8_t *value, size_t length) noexcept
cdef bint is_grpc_type(const uint8_t *value, size_t length) noexcept
cdef bint is_base64(const uint8_t *value, size_t length) noexcept
cdef bint lists_gzip(const uint8_t *value, size_t length) noexcept
