"""What other compiled modules use of feedwire: requests read where they lie, without Python."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

# Texts are borrowed from the message; NULL where size is 0.
cdef struct feed_request_t:
    uint64_t user_id
    uint32_t page_size
    int32_t view
    const uint8_t* cursor
    size_t cursor_size
    const uint8_t* etag
    size_t etag_size

cdef struct check_request_t:
    uint64_t user_id
    const uint8_t* head
    size_t head_size

cdef int decode_feed_request(
    const uint8_t* data, size_t size, feed_request_t* out
) noexcept nogil
cdef int decode_check_request(
    const uint8_t* data, size_t size, check_request_t* out
) noexcept nogil
