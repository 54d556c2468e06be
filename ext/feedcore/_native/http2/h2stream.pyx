"""One call: its request as it comes in, its reply as it goes out, on one HTTP/2 stream.

States, by three flags; a call moves down only:

    open      neither `ended` nor `closed`: requests may still be coming, replies may have begun
    ended     its status is decided (`ended`): replies still queued go out, then the trailers; bytes
              of the request are dropped
    closed    HTTP/2 has closed the stream (`closed`), with or without a status: all is released

Invariants: one status a call: whatever comes second (a reply, an error, a deadline, the peer's
reset) is ignored; nothing is submitted for a closed stream; bytes held for a call are on the
accounts of its connection and its process until they leave; a CLOSED event is handed out exactly
once, if the call had an owner (a running handler) when it closed or was cut off. Flow control:
bytes of a request are credited to the peer when the handler takes the message, or at once while
nothing is queued and a message is incomplete, so that a slow handler stops its caller after one
window. Not for: sockets, time (the session passes `now` in), what handlers do.
"""
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.grpcframe cimport (
    NO_TIMEOUT, READ_BAD_FLAG, READ_MESSAGE, READ_NO_MEMORY, READ_TOO_LARGE,
    STATUS_DEADLINE_EXCEEDED, STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED, STATUS_UNIMPLEMENTED,
    reader_clear, reader_feed, reader_within,
)
from feedcore._native.http2.grpcframe import (
    BadEncoding, BadMetadata, TooLarge, compress, decode_metadata, decompress, encode_metadata,
    status_pairs,
)
from feedcore._native.http2.h2head cimport RequestHead
from feedcore._native.http2.nghttp2 cimport nghttp2_nv, nghttp2_session, ssize_t
from feedcore._native.http2.pairs cimport array_of, constant

cdef list ACCEPT_ENCODING = [(b"grpc-accept-encoding", b"identity,gzip")]
cdef list NO_PAIRS = []
cdef str MALFORMED = "REQUEST_MALFORMED"
cdef str TOO_MANY_WAIT = "request: too many bytes of requests are waiting; retry later"
cdef enum:
    SHORTEST_TIMEOUT_NS = 1000  # what is shorter passed on the way here
    MESSAGE_BYTES = 64  # of an object and its place in a queue, beside the message's own bytes

# The headers of every reply and the trailers of every success are constants: no copy, and after the
# first reply of a connection one byte each.
cdef nghttp2_nv OK_HEADERS[2]
cdef nghttp2_nv OK_TRAILERS[1]

constant(&OK_HEADERS[0], b":status", 7, b"200", 3)
constant(&OK_HEADERS[1], b"content-type", 12, b"application/grpc", 16)
constant(&OK_TRAILERS[0], b"grpc-status", 11, b"0", 1)


cdef class Rules:
    """The bounds of a session, read once from an object with attributes of the same names.
    `details(code, message, reason)`: trailers beside a status that the session decides itself."""

    def __init__(self, bounds, details=None):
        self.details = details
        self.request_bytes_max = bounds.request_bytes_max
        self.header_bytes_max = bounds.header_bytes_max
        self.room_bytes = bounds.room_bytes
        self.streams_max = bounds.streams_max
        self.stream_window = bounds.stream_window
        self.connection_window = bounds.connection_window
        self.reset_burst = bounds.reset_burst
        self.reset_rate = bounds.reset_rate
        self.glitch_burst = bounds.glitch_burst
        self.glitch_rate = bounds.glitch_rate
        self.useless_burst = bounds.useless_burst
        self.useless_rate = bounds.useless_rate
        self.ping_interval_s = bounds.ping_interval_s
        self.outbound_frames_max = bounds.outbound_frames_max
        self.headers_s = bounds.headers_s
        self.request_stall_s = bounds.request_stall_s
        self.stream_idle_s = bounds.stream_idle_s
        self.send_stall_s = bounds.send_stall_s


cdef class Account:
    """Bytes held, bounded. What a connection holds beyond its `reserve` counts for its process
    (`parent`), too: others that hold much cannot take the reserve away."""

    def __init__(self, size_t bound, Account parent=None, size_t reserve=0):
        self.bound = bound
        self.parent = parent
        self.reserve = reserve

    cdef size_t beyond(self, size_t held) noexcept:
        return held - self.reserve if held > self.reserve else 0

    cdef bint take(self, size_t count) noexcept:
        """Books `count` bytes, or nothing and False where that would pass a bound."""
        cdef size_t held = self.held + count
        if held > self.bound:
            return False
        if self.parent is not None and held > self.reserve:
            if not self.parent.take(self.beyond(held) - self.beyond(self.held)):
                return False
        self.held = held
        return True

    cdef void give(self, size_t count) noexcept:
        if self.parent is not None and self.held > self.reserve:
            self.parent.give(self.beyond(self.held) - self.beyond(self.held - count))
        self.held -= count


cdef class FastHandler:
    """What answers a unary call inside the read turn. Subclasses in C override `answer`."""

    cdef object answer(self, bytes request, Stream stream):
        """The encoded reply, or None to decline: then the ordinary handler is asked."""
        return None


cdef class CallableFast(FastHandler):
    """A fast handler in Python: `function(request bytes) -> reply bytes or None`."""

    cdef object function

    def __init__(self, function):
        self.function = function

    cdef object answer(self, bytes request, Stream stream):
        return self.function(request)


cdef class Row:
    """One method as the transport sees it; `method` and `chain` are the glue's own. A request has
    at most `request_bytes_max` bytes, also when inflated; 0: as many as the session's rules say."""

    def __init__(
        self, method, chain, bint one_request, bint one_reply, FastHandler fast=None,
        size_t request_bytes_max=0
    ):
        self.method = method
        self.chain = chain
        self.one_request = one_request
        self.one_reply = one_reply
        self.fast = fast
        self.request_bytes_max = request_bytes_max


cdef class Link:
    """What the calls of a connection share: the part of a session that streams may touch."""


cdef class Stream:
    """See the module. Methods for handlers' side are the `def` ones; all are safe at any state."""

    # --- the request --------------------------------------------------------------------------
    cdef int accept(self, RequestHead head, dict methods) except -1:
        """After the last header: finds the call's row, or refuses it. 1 if the call goes on."""
        fault = head.fault()
        if fault is not None:
            http_status, code, message = fault
            self.reject(http_status, code, message, head.reason())
            return 0
        self.row = methods.get(head.path)
        if self.row is None:
            shown = head.path[:200].decode("latin-1")
            self.reject(b"200", STATUS_UNIMPLEMENTED,
                        f"{shown} is not served here; list the services with reflection")
        elif head.unknown_encoding:
            self.reject(b"200", STATUS_UNIMPLEMENTED, "grpc-encoding: must be identity or gzip",
                        "ENCODING_UNKNOWN", ACCEPT_ENCODING)
        elif 0 <= head.timeout < SHORTEST_TIMEOUT_NS:
            self.reject(b"200", STATUS_DEADLINE_EXCEEDED,
                        "the deadline had passed when the call came")
        if self.ended:
            return 0
        if head.timeout != NO_TIMEOUT:
            self.deadline = self.link.now + head.timeout / 1e9
        if head.packed:
            if not self.keep(len(head.packed)):
                self.reject(b"200", STATUS_RESOURCE_EXHAUSTED, TOO_MANY_WAIT, "REQUESTS_WAITING")
                return 0
            self.packed = bytes(head.packed)
        self.accepts_gzip = head.accepts_gzip
        self.gzip_requests = head.gzip_requests
        return 1

    cdef int data(self, const uint8_t *data, size_t length) except -1:
        """Takes a piece of the request's body."""
        cdef const uint8_t *message
        cdef size_t size
        cdef size_t kept
        cdef int got
        self.uncredited += length
        while length and not self.ended:
            kept = self.reader.capacity
            got = reader_feed(
                &self.reader, &data, &length, self.request_bytes_max(), &message, &size)
            if got == READ_BAD_FLAG:
                self.abort(STATUS_INTERNAL, "request: the compressed flag must be 0 or 1")
            elif got == READ_TOO_LARGE:
                self.abort(STATUS_RESOURCE_EXHAUSTED, (
                    f"request: {self.reader.length} bytes;"
                    f" at most {self.request_bytes_max()}"))
            elif got == READ_NO_MEMORY or not self.keep(self.reader.capacity - kept):
                self.abort(STATUS_RESOURCE_EXHAUSTED, TOO_MANY_WAIT, "REQUESTS_WAITING")
            elif got == READ_MESSAGE:
                self.push(message, size)
        self.touch()
        if not self.ended and reader_within(&self.reader) and not self.messages:
            self.credit(self.uncredited)
        return 0

    cdef size_t request_bytes_max(self) noexcept:
        cdef size_t most = self.link.rules.request_bytes_max
        if 0 < self.row.request_bytes_max < most:
            most = self.row.request_bytes_max
        return most

    cdef bint keep(self, size_t count):
        if not self.link.received.take(count):
            return False
        self.kept += count
        return True

    cdef int push(self, const uint8_t *message, size_t length) except -1:
        """Takes one whole message."""
        cdef bint compressed = self.reader.prefix[0] == 1
        if compressed and not self.gzip_requests:
            self.abort(STATUS_INTERNAL,
                       "request: a compressed message, but no grpc-encoding that compresses")
            return 0
        if self.row.one_request and self.request is not None:
            self.abort(STATUS_UNIMPLEMENTED, "request: a second message; this method takes one",
                       MALFORMED)
            return 0
        cdef bytes body = PyBytes_FromStringAndSize(<const char *>message, length)
        if self.reader.body != NULL:
            self.link.received.give(self.reader.capacity)
            self.kept -= self.reader.capacity
            reader_clear(&self.reader)
        if not self.keep(length + MESSAGE_BYTES):
            self.abort(STATUS_RESOURCE_EXHAUSTED, TOO_MANY_WAIT, "REQUESTS_WAITING")
            return 0
        if self.row.one_request:
            self.request = body
            self.request_compressed = compressed
            return 0
        self.any_message = True
        if self.messages is None:
            self.messages = deque()
        self.messages.append((body,) if compressed else body)
        if self.wants_message:
            self.wants_message = False
            self.link.events.append((MESSAGE, self))
        return 0

    cdef int end_of_request(self) except -1:
        """The peer has sent its last byte. 1 if a unary request is whole."""
        self.request_done = True
        if self.ended or self.row is None:
            return 0
        if reader_within(&self.reader):
            self.abort(STATUS_INTERNAL, "request: the stream ended within a message")
        elif not self.row.one_request:
            if self.wants_message:
                self.wants_message = False
                self.link.events.append((MESSAGE, self))
        elif self.request is None:
            self.abort(STATUS_UNIMPLEMENTED, "request: no message; this method takes one",
                       MALFORMED)
        else:
            return 1
        return 0

    cdef bytes whole_request(self):
        """The one request of the call, decompressed; None if that failed (the call has ended)."""
        cdef bytes body = self.request
        if self.request_compressed:
            body = self.plain(body)
        return body

    def take_request(self):
        """The request of a method that takes one; None if it does not decompress: the call has
        ended."""
        return self.whole_request()

    def take(self):
        """The next message of a stream of requests; None if there is none yet (`wants_message` asks
        for an event), if the stream has ended (`request_done`), or if the call has."""
        if not self.messages:
            return None
        item = self.messages.popleft()
        self.request_compressed = type(item) is tuple
        cdef bytes body = item[0] if self.request_compressed else item
        cdef size_t length = PyBytes_GET_SIZE(body)
        self.link.received.give(length + MESSAGE_BYTES)
        self.kept -= length + MESSAGE_BYTES
        self.touched = 0  # from now on the peer may send again; the next sweep knows the time
        self.credit(self.uncredited if not self.messages else min(length + 5, self.uncredited))
        return self.plain(body) if self.request_compressed else body

    def has_message(self):
        """Whether `take` has one."""
        return bool(self.messages)

    cdef bytes plain(self, bytes body):
        try:
            return decompress(body, self.request_bytes_max())
        except BadEncoding as error:
            self.abort(STATUS_INTERNAL, f"request: {error}")
        except TooLarge as error:
            self.abort(STATUS_RESOURCE_EXHAUSTED, f"request: {error}")
        return None

    cdef void credit(self, size_t count) noexcept:
        """Lets the peer send `count` more bytes on this stream."""
        self.uncredited -= count
        if count and not self.closed and self.link.h2 != NULL:
            h2.nghttp2_session_consume_stream(self.link.h2, self.stream_id, count)

    def metadata(self):
        """((name, text or bytes), ...) as the caller sent it."""
        return decode_metadata(self.packed) if self.packed is not None else ()

    cdef void touch(self) noexcept:
        self.touched = self.link.now

    cdef bint stalled(self, double now) noexcept:
        """Whether the peer owes bytes of a request, or room for a reply, for too long."""
        if self.touched == 0:
            self.touched = now
        if self.queued:
            return now - self.touched > self.link.rules.send_stall_s
        if self.ended or self.request_done or self.row is None:
            return False
        if self.messages:
            return False  # while messages wait for the handler, it is we who hold the peer back
        if self.any_message and not reader_within(&self.reader):
            return self.wants_message and now - self.touched > self.link.rules.stream_idle_s
        return now - self.touched > self.link.rules.request_stall_s

    # --- the reply ----------------------------------------------------------------------------
    cdef int answer(self, bytes reply) except -1:
        """A unary success with nothing but its message."""
        if not self.put(reply, False):
            return 0
        self.plain_end = self.ending = self.ended = True
        return self.submit_headers(NO_PAIRS, False)

    def reply(self, bytes message not None, bint gzip, list initial, list trailers):
        """The one reply of the call and its success. False if the call was over. Raises
        BadMetadata, with nothing sent."""
        if self.ended or self.closed:
            return False
        if not (gzip or initial or trailers or self.headers_sent):
            self.answer(message)
            return True
        self.pairs_of(trailers)
        return self.send(message, gzip, initial) and self.finish(0, "", trailers, initial)

    def send(self, bytes message not None, bint gzip, list initial):
        """Queues one message of the reply, after the headers if it is the first; `initial` is the
        metadata for them. False if the call is over: bytes for a bound that is full end it."""
        if self.ended or self.closed:
            return False
        pairs = self.pairs_of(initial) if initial and not self.headers_sent else NO_PAIRS
        if not self.headers_sent:
            self.submit_headers(pairs, gzip and self.accepts_gzip)
        compressed = gzip and self.gzip_replies
        return self.put(compress(message) if compressed else message, compressed)

    def finish(self, int code, str message not None, list trailers, list initial, bint gzip=False):
        """Decides the status: after what is queued, trailers. False if the call was over. Raises
        BadMetadata, with nothing sent, for pairs that may not travel."""
        if self.ended or self.closed:
            return False
        pairs = self.pairs_of(trailers) if trailers else []
        first = self.pairs_of(initial) if initial and not self.headers_sent else NO_PAIRS
        if code == 0 and not self.headers_sent:
            self.submit_headers(first, gzip and self.accepts_gzip)
        if not self.headers_sent:
            self.refuse(b"200", code, message, first + pairs)
            return True
        self.ended = self.ending = True
        self.plain_end = code == 0 and not pairs
        if not self.plain_end:
            self.trailer_pairs = status_pairs(code, message) + pairs
        if self.out is None:  # else after its last byte (fill)
            self.submit_trailers()  # now: DATA, even none of it, would wait for the peer's window
        return True

    cdef list pairs_of(self, list metadata):
        """Encoded for the wire, within what we would take ourselves: the library sends no more."""
        pairs = encode_metadata(metadata)
        size = sum([len(name) + len(value) + 32 for name, value in pairs])
        if size > self.link.rules.header_bytes_max:
            raise BadMetadata(
                f"metadata: {size} bytes; at most {self.link.rules.header_bytes_max}")
        return pairs

    def abort(self, int code, str message not None, str reason=""):
        """Ends the call from outside its handler: with a status if nothing of the reply is queued,
        else with RST_STREAM(CANCEL). Its owner hears of it. `reason`: not the usual one."""
        if self.ended or self.closed:
            return
        if self.queued:
            self.cut(h2.NGHTTP2_CANCEL)
        else:
            self.finish(code, message, self.details_of(code, message, reason), NO_PAIRS)
        self.tell_owner()

    def reset(self, uint32_t error_code):
        """RST_STREAM, whatever the state. An owner that has heard of its end hears of it once."""
        cdef bint over = self.ended
        if not self.closed:
            self.cut(error_code)
            if not over:
                self.tell_owner()

    cdef int cut(self, uint32_t error_code) except -1:
        self.ended = True
        if self.link.h2 != NULL:
            h2.nghttp2_submit_rst_stream(
                self.link.h2, h2.NGHTTP2_FLAG_NONE, self.stream_id, error_code)
        return 0

    cdef int tell_owner(self) except -1:
        if self.owner is not None:
            self.link.events.append((CLOSED, self))
            self.wants_message = self.wants_room = False
        return 0

    cdef bint put(self, bytes message, bint compressed) except -1:
        cdef size_t size = PyBytes_GET_SIZE(message) + 5
        if not self.link.sent.take(size):
            self.cut(h2.NGHTTP2_ENHANCE_YOUR_CALM)
            self.tell_owner()
            return False
        if self.queued == 0:
            self.touched = 0  # handlers have no clock: the next sweep sets it
        self.queued += size
        if self.out is None:
            self.load(message, compressed)
        else:
            if self.out_queue is None:
                self.out_queue = deque()
            self.out_queue.append((compressed, message))
        if self.deferred:
            self.deferred = False
            h2.nghttp2_session_resume_data(self.link.h2, self.stream_id)
        return True

    cdef void load(self, bytes message, bint compressed) noexcept:
        """Makes `message` the one that goes out now."""
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(message)
        self.out = message
        self.out_at = 0
        self.out_prefix[0] = compressed
        self.out_prefix[1] = (size >> 24) & 0xFF
        self.out_prefix[2] = (size >> 16) & 0xFF
        self.out_prefix[3] = (size >> 8) & 0xFF
        self.out_prefix[4] = size & 0xFF

    cdef int next_out(self) except -1:
        self.out = None
        if self.out_queue:
            compressed, message = self.out_queue.popleft()
            self.load(<bytes>message, compressed)
        return 0

    cdef ssize_t fill(self, uint8_t *buffer, size_t length, uint32_t *flags) except? -1:
        """Copies what goes out next into one DATA frame; small messages share it."""
        cdef size_t done = 0
        cdef size_t total, part, head
        while done < length and self.out is not None:
            total = PyBytes_GET_SIZE(self.out) + 5
            part = total - self.out_at
            if part > length - done:
                part = length - done
            head = 0
            if self.out_at < 5:
                head = 5 - self.out_at
                if head > part:
                    head = part
                memcpy(buffer + done, &self.out_prefix[self.out_at], head)
            if part > head:
                memcpy(buffer + done + head,
                       PyBytes_AS_STRING(self.out) + self.out_at + head - 5, part - head)
            self.out_at += part
            done += part
            if self.out_at == total:
                self.next_out()
        self.queued -= done
        self.link.sent.give(done)
        self.touch()
        if self.wants_room and self.queued <= self.link.rules.room_bytes // 2:
            self.wants_room = False
            self.link.events.append((ROOM, self))
        if done and self.out is None and self.ending:
            flags[0] = h2.NGHTTP2_DATA_FLAG_EOF | h2.NGHTTP2_DATA_FLAG_NO_END_STREAM
            self.submit_trailers()
        elif done == 0:
            self.deferred = True
            return h2.NGHTTP2_ERR_DEFERRED
        return done

    cdef int submit_headers(self, list initial, bint gzip) except -1:
        cdef h2.nghttp2_data_provider provider
        cdef nghttp2_nv *pairs = OK_HEADERS
        cdef size_t count = 2
        provider.source.ptr = <void *>self
        provider.read_callback = read_reply
        self.headers_sent = True
        self.gzip_replies = gzip
        if initial or gzip:
            if gzip:
                initial = [(b"grpc-encoding", b"gzip")] + initial
            pairs = array_of(OK_HEADERS, 2, initial)
            count = 2 + len(initial)
        got = h2.nghttp2_submit_response(self.link.h2, self.stream_id, pairs, count, &provider)
        if pairs != OK_HEADERS:
            free(pairs)
        return self.submitted(got)

    cdef int submit_trailers(self) except -1:
        cdef nghttp2_nv *pairs
        if self.plain_end:
            got = h2.nghttp2_submit_trailer(self.link.h2, self.stream_id, OK_TRAILERS, 1)
        else:
            pairs = array_of(NULL, 0, self.trailer_pairs)
            got = h2.nghttp2_submit_trailer(
                self.link.h2, self.stream_id, pairs, len(self.trailer_pairs))
            free(pairs)
        return self.submitted(got)

    cdef list details_of(self, int code, str message, str reason):
        details = self.link.rules.details
        return NO_PAIRS if details is None else details(code, message, reason)

    cdef int reject(
        self, bytes http_status, int code, str message, str reason="", list extra=NO_PAIRS
    ) except -1:
        """`refuse`, with details."""
        details = encode_metadata(self.details_of(code, message, reason))
        return self.refuse(http_status, code, message, extra + details)

    cdef int refuse(self, bytes http_status, int code, str message, list extra) except -1:
        """The whole reply as one HEADERS frame (Trailers-Only)."""
        cdef nghttp2_nv first[2]
        cdef nghttp2_nv *pairs
        self.ended = True
        self.headers_sent = True
        first[0] = OK_HEADERS[0]
        first[0].value = <uint8_t *>PyBytes_AS_STRING(http_status)
        first[0].flags = h2.NGHTTP2_NV_FLAG_NO_COPY_NAME
        first[1] = OK_HEADERS[1]
        rest = status_pairs(code, message) + extra
        pairs = array_of(first, 2, rest)
        got = h2.nghttp2_submit_response(
            self.link.h2, self.stream_id, pairs, 2 + len(rest), NULL)
        free(pairs)
        return self.submitted(got)

    cdef int submitted(self, int got) except -1:
        if got == h2.NGHTTP2_ERR_NOMEM:
            raise MemoryError
        if got != 0:
            self.cut(h2.NGHTTP2_INTERNAL_ERROR)
        return 0

    cdef int forget(self) except -1:
        """Releases everything: HTTP/2 has closed the stream, or the connection is gone."""
        self.closed = True
        if self.kept:
            self.link.received.give(self.kept)
            self.kept = 0
        if self.queued:
            self.link.sent.give(self.queued)
            self.queued = 0
        reader_clear(&self.reader)
        self.messages = self.out = self.out_queue = self.trailer_pairs = None
        if not self.ended:
            self.ended = True
            self.tell_owner()
        return 0

    def __dealloc__(self):
        reader_clear(&self.reader)


cdef ssize_t read_reply(
    nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t length, uint32_t *flags,
    h2.nghttp2_data_source *source, void *user_data
) noexcept:
    try:
        return (<Stream>source.ptr).fill(buffer, length, flags)
    except BaseException as error:
        (<Stream>source.ptr).link.events.append((FAULT, error))
        return h2.NGHTTP2_ERR_CALLBACK_FAILURE
