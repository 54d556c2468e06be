"""The header block of a request: what gRPC says of itself, and the caller's metadata.

HTTP/2 sends one header block at a time, so that a session needs one RequestHead and uses it again.
What is above the bound is counted and dropped: the call is refused at the end of the block, and the
connection lives. Metadata is only copied here; it is decoded when a handler asks for it. Not for:
rules of HTTP (libnghttp2 has checked pseudo headers, names and values), which methods there are.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from cpython.bytes cimport PyBytes_FromStringAndSize

from feedcore._native.http2.grpcframe cimport (
    BAD_TIMEOUT, NO_TIMEOUT, STATUS_INTERNAL, STATUS_INVALID_ARGUMENT, STATUS_RESOURCE_EXHAUSTED,
    is_base64, is_grpc_type, lists_gzip, timeout_ns,
)


cdef class RequestHead:
    """`bytes_max`: bound of the block, counted as SETTINGS_MAX_HEADER_LIST_SIZE is."""

    def __init__(self, size_t bytes_max):
        self.bytes_max = bytes_max
        self.packed = bytearray()
        self.clear()

    cdef int clear(self) except -1:
        """Ready for the next block."""
        self.size = 0
        self.path = b""
        self.packed.clear()
        self.timeout = NO_TIMEOUT
        self.is_post = self.is_grpc = self.bad_binary = False
        self.accepts_gzip = self.gzip_requests = self.unknown_encoding = False
        return 0

    cdef int add(
        self, const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length
    ) except -1:
        """One header."""
        cdef uint16_t short_length = <uint16_t>name_length
        cdef uint32_t long_length = <uint32_t>value_length
        self.size += name_length + value_length + 32
        if self.size > self.bytes_max:
            return 0
        if name[0] == c":":
            if name_length == 5 and memcmp(name, b":path", 5) == 0:
                self.path = PyBytes_FromStringAndSize(<const char *>value, value_length)
            elif name_length == 7 and memcmp(name, b":method", 7) == 0:
                self.is_post = value_length == 4 and memcmp(value, b"POST", 4) == 0
            return 0
        if self.reserved(name, name_length, value, value_length):
            return 0
        if name_length >= 4 and memcmp(name + name_length - 4, b"-bin", 4) == 0:
            if not is_base64(value, value_length):
                self.bad_binary = True
        self.packed += (<const char *>&short_length)[:2]
        self.packed += (<const char *>&long_length)[:4]
        self.packed += (<const char *>name)[:name_length]
        self.packed += (<const char *>value)[:value_length]
        return 0

    cdef bint reserved(
        self, const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length
    ) noexcept:
        """Whether it is gRPC's or HTTP's own, and so never metadata; gRPC's are read here."""
        if name_length == 2:
            return memcmp(name, b"te", 2) == 0
        if name_length == 4:
            return memcmp(name, b"host", 4) == 0
        if name_length == 12 and memcmp(name, b"content-type", 12) == 0:
            self.is_grpc = is_grpc_type(value, value_length)
            return True
        if name_length == 14 and memcmp(name, b"content-length", 14) == 0:
            return True
        if name_length < 5 or memcmp(name, b"grpc-", 5) != 0:
            return False
        if name_length == 12 and memcmp(name, b"grpc-timeout", 12) == 0:
            self.timeout = timeout_ns(value, value_length)
        elif name_length == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
            self.gzip_requests = value_length == 4 and memcmp(value, b"gzip", 4) == 0
            self.unknown_encoding = not self.gzip_requests and not (
                value_length == 8 and memcmp(value, b"identity", 8) == 0)
        elif name_length == 20 and memcmp(name, b"grpc-accept-encoding", 20) == 0:
            self.accepts_gzip = lists_gzip(value, value_length)
        return True

    cdef str reason(self):
        """Of the fault, for code."""
        return "METADATA_TOO_LARGE" if self.size > self.bytes_max else "HEADERS_INVALID"

    cdef tuple fault(self):
        """(HTTP status, gRPC status, message) if no method could take such a call; else None."""
        if self.size > self.bytes_max:
            return (b"200", STATUS_RESOURCE_EXHAUSTED, (
                f"metadata: {self.size} bytes; at most {self.bytes_max}"
                " (name, value and 32 for each header)"))
        if not self.is_post:
            return b"405", STATUS_INTERNAL, "method: must be POST"
        if not self.is_grpc:
            return b"415", STATUS_INVALID_ARGUMENT, "content-type: must be application/grpc"
        if self.timeout == BAD_TIMEOUT:
            return (b"400", STATUS_INTERNAL,
                    "grpc-timeout: must be 1 to 8 digits and one of H, M, S, m, u, n")
        if self.bad_binary:
            return b"400", STATUS_INTERNAL, "metadata: a -bin value is not base64"
        return None
