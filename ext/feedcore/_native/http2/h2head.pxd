"""The header block of a request, while it comes in."""
from libc.stdint cimport int64_t, uint8_t


cdef class RequestHead:
    cdef size_t bytes_max
    cdef readonly size_t size  # name, value and 32 for each header, as SETTINGS count them
    cdef bytes path
    cdef bytearray packed  # metadata, as grpcframe.decode_metadata reads it
    cdef int64_t timeout
    cdef bint is_post, is_grpc, bad_binary, accepts_gzip, gzip_requests, unknown_encoding

    cdef int clear(self) except -1
    cdef int add(self, const uint8_t *name, size_t name_length, const uint8_t *value,
                 size_t value_length) except -1
    cdef bint reserved(self, const uint8_t *name, size_t name_length, const uint8_t *value,
                       size_t value_length) noexcept
    cdef tuple fault(self)
    cdef str reason(self)
