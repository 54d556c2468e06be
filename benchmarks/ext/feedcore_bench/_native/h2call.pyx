"""One unary call of the client session: its header block, its request on the way out, its reply,
and which status it ends with.

Invariants: a call has exactly one status once it is settled; a message is given only whole.

Not for: connections and which calls are open (h2client).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from feedcore._native.http2 import grpcframe
from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.grpcframe cimport (
    PREFIX_BYTES, STATUS_CANCELLED, STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED, STATUS_UNAVAILABLE,
)
from feedcore._native.http2.nghttp2 cimport nghttp2_session, ssize_t

cdef enum:
    STATUS_UNKNOWN = 2

# HTTP/2 error codes with a gRPC status of their own (PROTOCOL-HTTP2.md); all others are INTERNAL.
cdef dict RESET_STATUS = {
    h2.NGHTTP2_REFUSED_STREAM: STATUS_UNAVAILABLE,
    h2.NGHTTP2_CANCEL: STATUS_CANCELLED,
    h2.NGHTTP2_ENHANCE_YOUR_CALM: STATUS_RESOURCE_EXHAUSTED,
}


cdef class Template:
    """The header block of a method, made once: `path` as "/package.Service/Method", `metadata` as
    pairs of ASCII text, `timeout_ms` for a grpc-timeout."""

    def __cinit__(
        self, str path not None, str authority not None="localhost", timeout_ms=None, metadata=(),
        str user_agent not None="feedcore-bench",
    ):
        cdef bytes name, value
        cdef size_t at
        self.path = path
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", user_agent),
        ]
        if timeout_ms is not None:
            if not 1 <= timeout_ms <= 99_999_999:
                raise ValueError(f"timeout_ms: {timeout_ms}; 1 to 99999999")
            fields.append(("grpc-timeout", f"{timeout_ms}m"))
        fields += metadata
        self.held = [(key.encode("ascii"), text.encode("ascii")) for key, text in fields]
        self.count = len(self.held)
        self.pairs = <h2.nghttp2_nv *>calloc(self.count, sizeof(h2.nghttp2_nv))
        if self.pairs == NULL:
            raise MemoryError
        for at in range(self.count):
            name, value = self.held[at]
            self.pairs[at].name = <uint8_t *>PyBytes_AS_STRING(name)
            self.pairs[at].namelen = PyBytes_GET_SIZE(name)
            self.pairs[at].value = <uint8_t *>PyBytes_AS_STRING(value)
            self.pairs[at].valuelen = PyBytes_GET_SIZE(value)
            self.pairs[at].flags = (
                h2.NGHTTP2_NV_FLAG_NO_COPY_NAME | h2.NGHTTP2_NV_FLAG_NO_COPY_VALUE)

    def __dealloc__(self):
        free(self.pairs)


cdef class Call:
    """One call, from `submit` until it is handed back; then it is used again."""
    cdef int blame(self, int status, object why) except -1:
        """Sets the status of a call that has none worth keeping."""
        self.status = status
        self.why = why
        return 0

    cdef int data(self, const uint8_t *data, size_t length) except -1:
        cdef size_t take
        self.received += length
        if self.have < PREFIX_BYTES:
            take = min(PREFIX_BYTES - self.have, length)
            memcpy(&self.prefix[self.have], data, take)
            self.have += take
            data += take
            length -= take
            if self.have < PREFIX_BYTES:
                return 0
            self.length = (
                (<size_t>self.prefix[1] << 24) | (<size_t>self.prefix[2] << 16)
                | (<size_t>self.prefix[3] << 8) | self.prefix[4]
            )
            if self.prefix[0] or self.length > MESSAGE_MAX:
                self.why = f"reply: flag {self.prefix[0]}, length {self.length}"
            elif self.keep:
                self.body = PyBytes_FromStringAndSize(NULL, self.length)
        if self.why is not None or not length:
            return 0
        if length > self.length - (self.have - PREFIX_BYTES):
            self.why = "reply: more than one message"
            return 0
        if self.keep:
            memcpy(PyBytes_AS_STRING(self.body) + self.have - PREFIX_BYTES, data, length)
        self.have += length
        return 0

    cdef int settle(self, uint32_t error_code, bint plain) except -1:
        """The stream is closed: decides the status."""
        if self.why is not None and self.status <= 0:
            self.status = STATUS_INTERNAL
        elif self.status < 0:
            if not self.complete:
                self.status = RESET_STATUS.get(error_code, STATUS_INTERNAL)
                self.why = f"the stream was reset with HTTP/2 error {error_code}"
            elif plain:
                self.status = 0
            else:
                self.blame(STATUS_UNKNOWN, "the reply has no grpc-status")
        if self.status == 0 and self.have != PREFIX_BYTES + self.length:
            self.blame(STATUS_INTERNAL, "status OK without a whole message")
        return 0

    cdef str detail(self):
        if self.why is not None:
            return self.why
        if self.message is None and self.pushback is None:
            return ""
        text = grpcframe.decode_message(self.message) if self.message is not None else ""
        if self.pushback is not None:
            text = f"{text} [retry after {self.pushback.decode('latin-1')} ms]".lstrip()
        return text


cdef ssize_t read_request(
    nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
    h2.nghttp2_data_source *source, void *user_data
) noexcept:
    """The request's prefix and message, in as many frames as it takes."""
    cdef Call call = <Call>source.ptr
    cdef size_t size = PyBytes_GET_SIZE(call.request)
    cdef size_t used = 0
    cdef size_t take
    if call.sent == 0:  # a frame has room for the prefix: windows begin at 64 KiB
        if length < PREFIX_BYTES:
            return h2.NGHTTP2_ERR_CALLBACK_FAILURE
        buf[0] = 0
        buf[1] = <uint8_t>(size >> 24)
        buf[2] = <uint8_t>(size >> 16)
        buf[3] = <uint8_t>(size >> 8)
        buf[4] = <uint8_t>size
        used = call.sent = PREFIX_BYTES
    take = min(length - used, size + PREFIX_BYTES - call.sent)
    memcpy(buf + used, PyBytes_AS_STRING(call.request) + call.sent - PREFIX_BYTES, take)
    call.sent += take
    if call.sent == size + PREFIX_BYTES:
        flags[0] |= h2.NGHTTP2_DATA_FLAG_EOF
    return used + take


cdef int status_of(const uint8_t *value, size_t length) noexcept:
    """A grpc-status: 0 to 16, UNKNOWN for anything else."""
    cdef int number = STATUS_UNKNOWN
    if length == 1 and c"0" <= value[0] <= c"9":
        number = value[0] - c"0"
    elif length == 2 and value[0] == c"1" and c"0" <= value[1] <= c"6":
        number = 10 + value[1] - c"0"
    return number
