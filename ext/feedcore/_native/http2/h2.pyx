"""A gRPC server's side of one HTTP/2 connection, sans I/O: bytes in, events and bytes out.

`receive` takes what a socket gave and returns events for the calls it concerns; `pull` returns what
must be sent. No socket, no event loop, no clock: `now` (monotonic seconds) comes with each call.
One turn is: receive everything that was read, then handle events, then pull everything. Fast
handlers run inside `receive`, after the last byte is parsed.

A session is *open* until `verdict` says why it must end: GOAWAY is queued then, what comes in is
dropped, what is queued goes out, and the owner closes the socket. `close` ends every call at once.

Not for: sockets, TLS, timers of the connection, drain (server/transports/native).
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.guarded cimport GLITCH_COST, Guarded
from feedcore._native.http2.guards cimport (
    FRAME_HEAD_BYTES, LAST_KNOWN_TYPE, PREFACE_BYTES, fill_bucket, next_head, spend, stream_of)
from feedcore._native.http2.grpcframe cimport (
    STATUS_CANCELLED, STATUS_DEADLINE_EXCEEDED, STATUS_RESOURCE_EXHAUSTED)
from feedcore._native.http2.h2head cimport RequestHead
from feedcore._native.http2.h2stream cimport (
    CALL, CLOSED, FAST_FAILED, FAULT, MESSAGE, ROOM, Account, Row, Rules, Stream,
)
from feedcore._native.http2.nghttp2 cimport nghttp2_frame, nghttp2_frame_hd, ssize_t
from feedcore._native.http2.nghttp2 cimport nghttp2_session

EVENT_FAULT, EVENT_CALL, EVENT_MESSAGE = FAULT, CALL, MESSAGE
EVENT_ROOM, EVENT_CLOSED, EVENT_FAST_FAILED = ROOM, CLOSED, FAST_FAILED
GOAWAY_NO_ERROR, GOAWAY_CALM = h2.NGHTTP2_NO_ERROR, h2.NGHTTP2_ENHANCE_YOUR_CALM
GOAWAY_INTERNAL = h2.NGHTTP2_INTERNAL_ERROR
GOAWAY_SETTINGS_TIMEOUT = h2.NGHTTP2_SETTINGS_TIMEOUT
RESET_CANCEL = h2.NGHTTP2_CANCEL

cdef enum:
    PULL_BYTES = 131072  # most that one pull gives out: the socket's share of one turn
    STREAMS_UNBOUND = 0x7FFFFFFF  # what the library is told; the peer is told the limit (pull)
    STALL_CHECK_S = 1  # how often stalls are looked for while calls are open
    QUIET_CHECK_S = 15  # the same while all of them only wait to be told something

# One buffer for all sessions of the process: pull runs to its end before anything else does.
cdef uint8_t OUT[PULL_BYTES + 32768]
cdef h2.nghttp2_session_callbacks *CALLBACKS = NULL
cdef h2.nghttp2_option *OPTIONS = NULL


def library_version():
    """(version of libnghttp2 at run time, the one this module was built with) as numbers
    0xMMNNPP."""
    return h2.nghttp2_version(0).version_num, h2.NGHTTP2_VERSION_NUM


cdef class Session(Guarded):
    """One connection. `methods`: path as bytes -> Row. `received`, `sent`: accounts of the
    connection, whose parents are those of the process."""

    def __init__(
        self, Rules rules not None, dict methods not None, Account received not None,
        Account sent not None, double now
    ):
        cdef h2.nghttp2_settings_entry settings[4]
        self.rules, self.methods = rules, methods
        self.received = received
        self.sent = sent
        self.now = self.last_read = self.idle_since = now
        self.events, self.ready, self.streams = [], [], {}
        self.head = RequestHead(rules.header_bytes_max)
        self.last_ping = -1e18
        self.next_due = float("inf")
        self.heads.skip = PREFACE_BYTES
        fill_bucket(&self.resets, rules.reset_burst, now)
        fill_bucket(&self.glitches, rules.glitch_burst, now)
        fill_bucket(&self.useless, rules.useless_burst, now)
        if h2.nghttp2_session_server_new2(&self.h2, CALLBACKS, <void *>self, OPTIONS) != 0:
            raise MemoryError
        settings[0].settings_id = h2.NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        settings[0].value = STREAMS_UNBOUND
        settings[1].settings_id = h2.NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = rules.stream_window
        settings[2].settings_id = h2.NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[2].value = <uint32_t>rules.header_bytes_max
        settings[3].settings_id = h2.NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES
        settings[3].value = 1
        h2.nghttp2_submit_settings(self.h2, h2.NGHTTP2_FLAG_NONE, settings, 4)
        h2.nghttp2_session_set_local_window_size(
            self.h2, h2.NGHTTP2_FLAG_NONE, 0, <int32_t>rules.connection_window)

    def __dealloc__(self):
        if self.h2 != NULL:
            h2.nghttp2_session_del(self.h2)
            self.h2 = NULL

    # --- bytes ----------------------------------------------------------------------------------
    def receive(self, data, Py_ssize_t count, double now):
        """Takes the first `count` bytes of a buffer; a list of (kind, stream), None if empty."""
        cdef Py_buffer view
        self.now = self.last_read = now
        if self.h2 == NULL or self.verdict is not None:
            return None
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= count <= view.len:
                raise ValueError(f"count: {count}; the buffer has {view.len} bytes")
            self.begin(<const uint8_t *>view.buf, count)
        finally:
            PyBuffer_Release(&view)
        return self.take_events()

    cdef int begin(self, const uint8_t *data, size_t length) except -1:
        cdef size_t part
        cdef ssize_t got = 0
        while length and got >= 0:
            part = self.look_ahead(data, length)
            got = h2.nghttp2_session_mem_recv(self.h2, data, part)
            data += part
            length -= part
        if got < 0 and self.verdict is None:
            self.finished = True
            self.verdict = h2.nghttp2_strerror(<int>got).decode()
        elif self.rules.outbound_frames_max < h2.nghttp2_session_get_outbound_queue_size(self.h2):
            self.condemn(h2.NGHTTP2_ENHANCE_YOUR_CALM, "too_many_frames_to_answer")
        self.say_goodbye()
        if self.headers_since and self.headers_since + self.rules.headers_s < self.next_due:
            self.next_due = self.headers_since + self.rules.headers_s
        if self.ready:
            self.dispatch()
        return 0

    cdef size_t look_ahead(self, const uint8_t *data, size_t length) except 0:
        """Sees what the library passes over without a word: frames of unknown types, and DATA of
        calls that are over. How many bytes it may have: up to a reset, which may end one."""
        cdef size_t part, at = 0
        while True:
            at += next_head(&self.heads, data + at, length - at)
            if self.heads.have < FRAME_HEAD_BYTES:
                return at
            if self.heads.head[3] == h2.NGHTTP2_DATA:
                self.look_for_closed(stream_of(&self.heads))
            elif self.heads.head[3] > LAST_KNOWN_TYPE:
                self.useless_frame()
            elif self.heads.head[3] == h2.NGHTTP2_RST_STREAM:
                part = min(self.heads.skip, length - at)
                self.heads.skip -= part
                return at + part
            if at == length:
                return at

    cdef int look_for_closed(self, int32_t stream_id) except -1:
        """A frame of a call: if that is over, it may be an error (module guarded)."""
        if stream_id <= self.newest and (
            h2.nghttp2_session_get_stream_user_data(self.h2, stream_id) == NULL
        ) and self.is_error(stream_id):
            h2.nghttp2_submit_rst_stream(
                self.h2, h2.NGHTTP2_FLAG_NONE, stream_id, h2.NGHTTP2_STREAM_CLOSED)
        return 0

    def pull(self, double now):
        """What must be sent, at most about 128 KiB at a time; None if nothing is due."""
        cdef const uint8_t *data
        cdef ssize_t got
        cdef size_t length = 0
        self.now = now
        if self.h2 == NULL:
            return None
        while length < PULL_BYTES:
            got = h2.nghttp2_session_mem_send(self.h2, &data)
            if got < 0:
                self.finished = True
                self.verdict = h2.nghttp2_strerror(<int>got).decode()
                break
            if got == 0 and not self.say_goodbye():
                break
            if length + got > sizeof(OUT):
                raise MemoryError(f"a frame of {got} bytes; frames are at most 16 KiB")
            memcpy(OUT + length, data, got)
            if not self.limit_told:
                self.tell_limit(OUT + length)
            length += got
        return PyBytes_FromStringAndSize(<const char *>OUT, length) if length else None

    cdef int tell_limit(self, uint8_t *settings) except -1:
        """Writes the limit of streams into the first frame, our SETTINGS. The library, which would
        end the connection of a peer that passes it, does not know it: see end_of_headers."""
        cdef uint8_t *entry = settings + FRAME_HEAD_BYTES
        if settings[3] != h2.NGHTTP2_SETTINGS or (
            entry[1] != h2.NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        ):
            raise AssertionError("the first frame is not SETTINGS as they were submitted")
        for place in range(4):
            entry[2 + place] = (self.rules.streams_max >> (24 - 8 * place)) & 0xFF
        self.limit_told = True
        return 0

    def take_events(self):
        """Events since the last time: streams also close and find room while bytes are pulled."""
        if not self.events:
            return None
        events, self.events = self.events, []
        return events

    def is_over(self):
        """Whether nothing more can come of this connection: the owner closes the socket."""
        if self.h2 == NULL or self.finished:
            return True
        wants = h2.nghttp2_session_want_read(self.h2) or h2.nghttp2_session_want_write(self.h2)
        return wants == 0

    cdef int dispatch(self) except -1:
        """Unary requests that came whole: fast handlers now, all others as events."""
        cdef Stream stream
        ready, self.ready = self.ready, []
        for item in ready:
            stream = <Stream>item
            if stream.ended or stream.closed:
                continue
            if stream.row.fast is not None:
                if self.shed and stream.row.fast.sheddable:
                    stream.refuse(b"200", STATUS_RESOURCE_EXHAUSTED, self.shed, self.shed_pairs)
                    stream.row.shed_calls += 1
                    continue
                if self.answered_fast(stream):
                    continue
            self.events.append((CALL, stream))
        return 0

    cdef bint answered_fast(self, Stream stream) except -1:
        """Asks the fast handler; one that fails has declined, and the owner is told."""
        cdef bytes request = stream.whole_request()
        if request is None:
            return True
        try:
            reply = stream.row.fast.answer(request, stream)
            if reply is None:
                return False
            stream.answer(<bytes?>reply)
        except Exception as error:
            self.events.append((FAST_FAILED, error))
            return False
        stream.row.fast_calls += 1
        return True

    # --- what the owner asks for --------------------------------------------------------------
    def sweep(self, double now):
        """Ends calls whose deadline has passed or whose peer has stalled; sets `next_due`, when to
        sweep again (infinity: not before there are calls). Events, or None."""
        cdef Stream stream
        self.now = now
        due, quiet = float("inf"), True
        for stream in list(self.streams.values()):
            if stream.deadline and stream.deadline <= now:
                if not stream.ended:
                    stream.abort(STATUS_DEADLINE_EXCEEDED,
                                 "the deadline passed before the answer was ready")
                elif stream.queued:  # the answer is ready, and nobody reads it
                    stream.reset(h2.NGHTTP2_CANCEL)
            elif stream.deadline and stream.deadline < due:
                due = stream.deadline
            if stream.queued or not stream.standing:
                quiet = False
            if stream.stalled(now):
                if stream.queued:
                    stream.reset(h2.NGHTTP2_CANCEL)
                else:
                    stream.abort(STATUS_CANCELLED, "request: its next bytes did not come in time")
        if self.streams:
            due = min(due, now + (QUIET_CHECK_S if quiet else STALL_CHECK_S))
        self.next_due = due
        return self.take_events()

    def started(self):
        """A handler has begun; `ended` says when it is done."""
        self.running += 1

    def ended(self):
        """A handler is done."""
        self.running -= 1

    def open_calls(self):
        """Streams that are open."""
        return len(self.streams)

    def cancel_calls(self, str why not None):
        """Ends every open call with CANCELLED. Events, or None."""
        cdef Stream stream
        for stream in list(self.streams.values()):
            stream.abort(STATUS_CANCELLED, why, "SERVER_STOPPING")
        return self.take_events()

    def ping(self):
        """Queues a PING; `pings_acked` counts the answers."""
        if self.h2 != NULL:
            self.pings_sent += 1
            h2.nghttp2_submit_ping(self.h2, h2.NGHTTP2_FLAG_NONE, NULL)

    def notice(self):
        """GOAWAY(2^31 - 1): new calls should go elsewhere; those that come are served. A PING
        follows it, queued when it has gone out (the library sends PINGs first): who answers has
        seen it."""
        if self.h2 != NULL and not self.noticing:
            self.noticing = True
            h2.nghttp2_submit_shutdown_notice(self.h2)

    def goaway(self, uint32_t code, str debug not None):
        """GOAWAY with the last call that is served, and ASCII debug data."""
        cdef bytes raw = debug.encode("ascii", "replace")
        if self.h2 != NULL:
            last = h2.nghttp2_session_get_last_proc_stream_id(self.h2)
            h2.nghttp2_submit_goaway(
                self.h2, h2.NGHTTP2_FLAG_NONE, last, code, <const uint8_t *><const char *>raw,
                len(raw))

    def terminate(self, uint32_t code, str debug not None):
        """GOAWAY, and nothing more is read."""
        self.condemn(code, debug)
        self.say_goodbye()

    def close(self):
        """The socket is gone: ends every call. Events, or None."""
        cdef Stream stream
        if self.h2 == NULL:
            return None
        for stream in list(self.streams.values()):
            stream.forget()
        self.streams.clear()
        self.incoming, self.ready = None, []
        h2.nghttp2_session_del(self.h2)
        self.h2 = NULL
        return self.take_events()

    cdef bint say_goodbye(self) except -1:
        """Queues the GOAWAY of a verdict, once; whether it did."""
        if not self.goodbye_due or self.finished:
            return False
        self.goodbye_due = False
        self.goaway(self.verdict_code, self.verdict)
        return True

    # --- frames that came in ------------------------------------------------------------------
    cdef int new_stream(self, int32_t stream_id) except -1:
        cdef Stream stream = Stream.__new__(Stream)
        stream.link = self
        stream.stream_id = stream_id
        stream.touched = self.now
        self.streams[stream_id] = stream
        self.newest = stream_id
        self.incoming = stream
        self.head.clear()
        self.headers_since = self.now
        h2.nghttp2_session_set_stream_user_data(self.h2, stream_id, <void *>stream)
        return 0

    cdef int end_of_headers(self, bint end_stream) except -1:
        """The header block of a request is whole."""
        cdef Stream stream = self.incoming
        self.incoming = None
        self.headers_since = 0
        self.calls += 1
        if self.head.size > self.rules.header_bytes_max:
            self.glitch(1 + self.head.size // self.rules.header_bytes_max)
        if not stream.accept(self.head, self.methods):
            stream.request_done = end_stream
            return 0
        if <int>self.rules.streams_max < len(self.streams) or (
            self.running >= <int>self.rules.streams_max
        ):
            # Handlers of calls that were reset may still run. The caller may try again.
            self.resets_paid += 1
            self.glitch(1)
            stream.cut(h2.NGHTTP2_REFUSED_STREAM)
            return 0
        if stream.deadline and stream.deadline < self.next_due:
            self.next_due = stream.deadline
        if self.now + STALL_CHECK_S < self.next_due:
            self.next_due = self.now + STALL_CHECK_S
        if not stream.row.one_request:
            self.events.append((CALL, stream))
        if end_stream:
            self.end_of_request(stream)
        return 0

    cdef int end_of_request(self, Stream stream) except -1:
        if stream.end_of_request():
            self.ready.append(stream)
        return 0


# --- callbacks of the library: one shape ---------------------------------------------------------
cdef int fault(Session session, object error) noexcept:
    """Routes an exception out of C: the owner gets it as an event, the connection ends."""
    session.events.append((FAULT, error))
    return h2.NGHTTP2_ERR_CALLBACK_FAILURE


cdef int on_begin_frame(
    nghttp2_session *session, const nghttp2_frame_hd *hd, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    try:
        if self.verdict is not None:
            return 0
        if hd.type == h2.NGHTTP2_HEADERS:
            self.look_for_closed(hd.stream_id)
        if hd.type <= h2.NGHTTP2_HEADERS:
            return 0  # they carry calls; empty ones are seen when they end
        if hd.type == h2.NGHTTP2_PRIORITY and hd.stream_id == 0:
            self.condemn(h2.NGHTTP2_PROTOCOL_ERROR, "priority_of_no_stream")
        elif hd.type == h2.NGHTTP2_SETTINGS or hd.type == h2.NGHTTP2_PING:
            if not hd.flags & h2.NGHTTP2_FLAG_ACK or self.pings_acked >= self.pings_sent:
                self.useless_frame()
        elif hd.type == h2.NGHTTP2_RST_STREAM:
            if h2.nghttp2_session_get_stream_user_data(session, hd.stream_id) == NULL:
                self.useless_frame()  # of a call that is over; others are counted as resets
        elif hd.type != h2.NGHTTP2_CONTINUATION:  # which the library counts
            self.useless_frame()
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_begin_headers(
    nghttp2_session *session, const nghttp2_frame *frame, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    try:
        if frame.headers.cat == h2.NGHTTP2_HCAT_REQUEST and self.verdict is None:
            self.new_stream(frame.hd.stream_id)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_header(
    nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
    const uint8_t *value, size_t value_length, uint8_t flags, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    try:
        # Trailers of a request carry nothing that gRPC defines: dropped.
        if (
            self.incoming is not None and self.verdict is None
            and frame.headers.cat == h2.NGHTTP2_HCAT_REQUEST
        ):
            self.head.add(name, name_length, value, value_length)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_data_chunk(
    nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
    void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef void *found = h2.nghttp2_session_get_stream_user_data(session, stream_id)
    try:
        # The connection's window is never a stream's fault: it is credited at once.
        h2.nghttp2_session_consume_connection(session, length)
        if found != NULL and self.verdict is None:
            (<Stream>found).data(data, length)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_frame_recv(
    nghttp2_session *session, const nghttp2_frame *frame, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef void *found
    try:
        if self.verdict is not None:
            return 0
        if frame.hd.type == h2.NGHTTP2_HEADERS and frame.headers.cat == h2.NGHTTP2_HCAT_REQUEST:
            if self.incoming is not None:
                self.end_of_headers((frame.hd.flags & h2.NGHTTP2_FLAG_END_STREAM) != 0)
        elif frame.hd.type == h2.NGHTTP2_DATA or frame.hd.type == h2.NGHTTP2_HEADERS:
            found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if frame.hd.flags & h2.NGHTTP2_FLAG_END_STREAM:
                if found != NULL:
                    self.end_of_request(<Stream>found)
            elif frame.hd.type == h2.NGHTTP2_DATA and frame.hd.length == frame.data.padlen:
                self.useless_frame()
        elif frame.hd.type == h2.NGHTTP2_RST_STREAM:
            found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if found != NULL and not (<Stream>found).ended and not spend(
                &self.resets, 1, self.rules.reset_burst, self.rules.reset_rate, self.now
            ):
                self.condemn(h2.NGHTTP2_ENHANCE_YOUR_CALM, "too_many_resets")
        elif frame.hd.type == h2.NGHTTP2_SETTINGS:
            if frame.hd.flags & h2.NGHTTP2_FLAG_ACK:
                self.settings_acked = True
        elif frame.hd.type == h2.NGHTTP2_PING:
            if frame.hd.flags & h2.NGHTTP2_FLAG_ACK:
                self.pings_acked += 1
            else:
                self.ping_received()
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_invalid_frame(
    nghttp2_session *session, const nghttp2_frame *frame, int error_code, void *user_data
) noexcept:
    """An error that is answered with a reset, before that goes out: a peer may read no answers."""
    cdef Session self = <Session>user_data
    try:
        self.resets_paid += 1
        self.glitch(1 if error_code == h2.NGHTTP2_ERR_REFUSED_STREAM else GLITCH_COST)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_frame_send(
    nghttp2_session *session, const nghttp2_frame *frame, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef void *found
    try:
        if frame.hd.type == h2.NGHTTP2_RST_STREAM:
            self.reset_sent(frame.hd.stream_id, frame.rst_stream.error_code)
        elif frame.hd.type == h2.NGHTTP2_GOAWAY and self.noticing:
            self.noticing = False
            self.ping()
        elif frame.hd.type == h2.NGHTTP2_GOAWAY:
            if self.verdict is None and frame.goaway.error_code != h2.NGHTTP2_NO_ERROR:
                self.verdict = "protocol_error"  # the library's own: it reads no more
    except BaseException as error:
        return fault(self, error)
    if frame.hd.type != h2.NGHTTP2_HEADERS and frame.hd.type != h2.NGHTTP2_DATA:
        return 0
    self.frames_sent += 1
    self.strikes = 0
    self.last_ping = -1e18
    if frame.hd.flags & h2.NGHTTP2_FLAG_END_STREAM:
        found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if found != NULL and not (<Stream>found).request_done:
            # The reply is whole and the request is not: the caller may stop sending it.
            h2.nghttp2_submit_rst_stream(
                session, h2.NGHTTP2_FLAG_NONE, frame.hd.stream_id, h2.NGHTTP2_NO_ERROR)
    return 0


cdef int on_frame_not_send(
    nghttp2_session *session, const nghttp2_frame *frame, int error_code, void *user_data
) noexcept:
    """Headers that cannot be sent would leave the caller waiting: it gets a reset."""
    if frame.hd.type == h2.NGHTTP2_HEADERS and error_code != h2.NGHTTP2_ERR_STREAM_CLOSED:
        h2.nghttp2_submit_rst_stream(
            session, h2.NGHTTP2_FLAG_NONE, frame.hd.stream_id, h2.NGHTTP2_INTERNAL_ERROR)
    return 0


cdef int on_stream_close(
    nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef Stream stream
    try:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            h2.nghttp2_session_set_stream_user_data(session, stream_id, NULL)
            if stream is self.incoming:  # refused by the library in the middle of its headers
                self.incoming = None
                self.headers_since = 0
            stream.forget()
            self.idle_since = self.now
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int set_up() except -1:
    """Callbacks and options, the same for every session."""
    if h2.nghttp2_session_callbacks_new(&CALLBACKS) or h2.nghttp2_option_new(&OPTIONS):
        raise MemoryError
    h2.nghttp2_session_callbacks_set_on_begin_frame_callback(CALLBACKS, on_begin_frame)
    h2.nghttp2_session_callbacks_set_on_begin_headers_callback(CALLBACKS, on_begin_headers)
    h2.nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, on_header)
    h2.nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, on_data_chunk)
    h2.nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, on_frame_recv)
    h2.nghttp2_session_callbacks_set_on_frame_send_callback(CALLBACKS, on_frame_send)
    h2.nghttp2_session_callbacks_set_on_frame_not_send_callback(CALLBACKS, on_frame_not_send)
    h2.nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(CALLBACKS, on_invalid_frame)
    h2.nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, on_stream_close)
    h2.nghttp2_option_set_no_auto_window_update(OPTIONS, 1)
    h2.nghttp2_option_set_no_closed_streams(OPTIONS, 1)
    # Acks that wait to be sent: one read holds at most some thousand pings, an honest one a few.
    h2.nghttp2_option_set_max_outbound_ack(OPTIONS, 256)
    # The library counts every reset, also of calls that ended well, and would end honest
    # connections; the guard above counts those that cost something.
    h2.nghttp2_option_set_stream_reset_rate_limit(OPTIONS, 1 << 40, 1 << 40)
    return 0


set_up()
