"""A gRPC client's side of one HTTP/2 connection for unary calls, sans I/O, made for offering load.

`submit` opens a call, `pull` returns what must be sent, `receive` takes what a socket gave and
returns the calls that are finished: each call that was submitted comes back exactly once, with the
server's status or with one that says why there is none. `lost` ends all that are open.

A driver with many calls uses the compiled way instead, which makes no object per call but the body:
`fill` and `fill_due` ask a function for the next request, `feed` parses, `deliver` records each
answer and hands it on. `fill_cycle` submits a fixed set of requests without entering Python.

Windows are so large (16 MiB a stream, 1 GiB a connection) that flow control never holds a reply
back; the library gives the connection's window back in one WINDOW_UPDATE every 512 MiB.

Not for: sockets, reconnecting, streaming calls, compression, requests above 16 MiB.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.grpcframe cimport STATUS_UNAVAILABLE
from feedcore_bench._native.h2call cimport (
    MESSAGE_MAX, STREAM_WINDOW, Call, Template, read_request, status_of,
)
from feedcore_bench._native.loadstats cimport Recorder, Schedule
from feedcore._native.http2.nghttp2 cimport nghttp2_frame, nghttp2_session, ssize_t

cdef enum:
    PULL_BYTES = 131072  # most that one pull gives out
    CONNECTION_WINDOW = 1073741824
    CALLS_MAX = 1 << 29  # of one connection: stream ids end at 2^31, and only odd ones are ours

cdef uint8_t OUT[PULL_BYTES + 32768]
cdef h2.nghttp2_session_callbacks *CALLBACKS = NULL
cdef h2.nghttp2_option *OPTIONS = NULL

cdef class Cycle:
    """A fixed set of requests that are sent in turn for ever: (method index, request) each. The
    body of every `every`-th reply is kept, and given to `check(method, body)`."""
    cdef list requests
    cdef Py_ssize_t at
    cdef uint64_t submitted
    cdef readonly uint64_t every
    cdef object check

    def __cinit__(self, requests, uint64_t every=64, check=None):
        self.requests = [(int(method), bytes(request)) for method, request in requests]
        if not self.requests or every < 1:
            raise ValueError("a cycle needs requests, and `every` of at least 1")
        self.every = every
        self.check = check


cdef class Client:
    """One connection. `templates`: by method index. `streams_max`: most calls at once, beside what
    the server allows. `plain`: a reply without grpc-status is OK, for a server of static files."""
    cdef h2.nghttp2_session *h2
    cdef list templates
    cdef list free
    cdef list done
    cdef dict open
    cdef uint32_t streams_max
    cdef uint32_t peer_max
    cdef uint64_t calls
    cdef bint plain
    cdef object fault
    cdef object away  # what the server's GOAWAY said
    cdef readonly bint going_away
    cdef readonly object verdict

    def __init__(self, templates, uint32_t streams_max=100, bint plain=False):
        cdef h2.nghttp2_settings_entry settings[2]
        self.templates = [<Template?>one for one in templates]
        self.streams_max = streams_max
        self.plain = plain
        self.free = []
        self.done = []
        self.open = {}
        if h2.nghttp2_session_client_new2(&self.h2, CALLBACKS, <void *>self, OPTIONS) != 0:
            raise MemoryError
        settings[0].settings_id = h2.NGHTTP2_SETTINGS_ENABLE_PUSH
        settings[0].value = 0
        settings[1].settings_id = h2.NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = STREAM_WINDOW
        h2.nghttp2_submit_settings(self.h2, h2.NGHTTP2_FLAG_NONE, settings, 2)
        h2.nghttp2_session_set_local_window_size(
            self.h2, h2.NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)

    def __dealloc__(self):
        if self.h2 != NULL:
            h2.nghttp2_session_del(self.h2)
            self.h2 = NULL

    # --- calls that begin -----------------------------------------------------------------------
    cdef Py_ssize_t space(self) noexcept:
        cdef Py_ssize_t most = min(self.streams_max, self.peer_max)
        if self.going_away or self.h2 == NULL or self.verdict is not None:
            return 0
        return most - <Py_ssize_t>len(self.open) if most > <Py_ssize_t>len(self.open) else 0

    def room(self):
        """Calls that may still be opened; 0 before the server's SETTINGS have come, and once it is
        going away."""
        return self.space()

    def open_calls(self):
        """Calls that are not finished."""
        return len(self.open)

    cdef Call start(self, int method, bytes request, object tag, int64_t now_ns):
        cdef Call call
        cdef Template template
        cdef h2.nghttp2_data_provider provider
        if not 0 <= method < len(self.templates):
            raise ValueError(f"method: {method}; 0 to {len(self.templates) - 1}")
        if request is None or PyBytes_GET_SIZE(request) > MESSAGE_MAX:
            raise ValueError(f"request: bytes, at most {MESSAGE_MAX}")
        call = self.free.pop() if self.free else Call.__new__(Call)
        template = <Template>self.templates[method]
        call.tag = tag
        call.request = request
        call.body = call.message = call.pushback = call.why = None
        call.start_ns = now_ns
        call.sent = call.have = call.length = call.received = 0
        call.method = method
        call.status = -1
        call.keep = True
        call.cycled = call.complete = False
        provider.source.ptr = <void *>call
        provider.read_callback = read_request
        call.stream_id = h2.nghttp2_submit_request(
            self.h2, NULL, template.pairs, template.count, &provider, <void *>call)
        if call.stream_id < 0:
            raise ConnectionError(h2.nghttp2_strerror(call.stream_id).decode())
        self.open[call.stream_id] = call
        self.calls += 1
        if self.calls >= CALLS_MAX:
            self.going_away = True
        return call

    def submit(self, int method, bytes request not None, object tag, int64_t now_ns=0):
        """Opens a call of that method (an index of `templates`); the request goes out with the next
        pull. Raises ConnectionError if there is no room."""
        if self.space() <= 0:
            raise ConnectionError(self.verdict or self.away or "no room for another call")
        self.start(method, request, tag, now_ns)

    def fill(self, ask, Recorder recorder not None, Py_ssize_t limit, int64_t now_ns):
        """Opens calls while there is room, at most `limit`: `ask()` gives (method, request, tag),
        or None. Returns how many; below 0, the complement of it: `ask` gave None."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t room = min(self.space(), limit)
        while count < room:
            item = ask()
            if item is None:
                return ~count
            method, request, tag = <tuple?>item
            self.start(method, <bytes?>request, tag, now_ns)
            recorder.started += 1
            count += 1
        return count

    def fill_due(
        self, ask, Recorder recorder not None, Schedule schedule not None, Py_ssize_t limit
    ):
        """The same for arrivals that wait in `schedule`: a call starts at its intended time."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t room = min(self.space(), limit)
        while count < room and schedule.tail != schedule.head:
            item = ask()
            if item is None:
                return ~count
            method, request, tag = <tuple?>item
            self.start(method, <bytes?>request, tag, schedule.take())
            recorder.started += 1
            count += 1
        return count

    def fill_cycle(
        self, Cycle cycle not None, Recorder recorder not None, Py_ssize_t limit, int64_t now_ns
    ):
        """The same from a cycle, without entering Python."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t room = min(self.space(), limit)
        cdef tuple item
        cdef Call call
        while count < room:
            item = <tuple>cycle.requests[cycle.at]
            cycle.at += 1
            if cycle.at == len(cycle.requests):
                cycle.at = 0
            call = self.start(item[0], <bytes>item[1], cycle, now_ns)
            call.cycled = True
            call.keep = cycle.submitted % cycle.every == 0
            cycle.submitted += 1
            recorder.started += 1
            count += 1
        return count

    # --- bytes ----------------------------------------------------------------------------------
    def feed(self, data, Py_ssize_t count):
        """Parses the first `count` bytes of a buffer; how many calls are finished and not yet
        delivered. Raises what a callback raised, MemoryError at most."""
        cdef Py_buffer view
        cdef ssize_t got
        if self.h2 == NULL:
            return len(self.done)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= count <= view.len:
                raise ValueError(f"count: {count}; the buffer has {view.len} bytes")
            got = h2.nghttp2_session_mem_recv(self.h2, <const uint8_t *>view.buf, count)
        finally:
            PyBuffer_Release(&view)
        if self.fault is not None:
            raise self.fault
        if got < 0:
            self.verdict = h2.nghttp2_strerror(<int>got).decode()
        return len(self.done)

    def receive(self, data):
        """Parses bytes; the calls that are finished, as `take` gives them."""
        self.feed(data, len(data))
        return self.take()

    def pull(self):
        """What must be sent, at most about 128 KiB at a time; None if nothing is due."""
        cdef const uint8_t *data
        cdef ssize_t got
        cdef size_t length = 0
        if self.h2 == NULL:
            return None
        while length < PULL_BYTES:
            got = h2.nghttp2_session_mem_send(self.h2, &data)
            if got < 0:
                self.verdict = h2.nghttp2_strerror(<int>got).decode()
            if got <= 0:
                break
            if length + got > sizeof(OUT):
                raise MemoryError(f"a frame of {got} bytes; frames are at most 16 KiB")
            memcpy(OUT + length, data, got)
            length += got
        if self.fault is not None:
            raise self.fault
        return PyBytes_FromStringAndSize(<const char *>OUT, length) if length else None

    def wants_write(self):
        """Whether `pull` would give anything."""
        return self.h2 != NULL and h2.nghttp2_session_want_write(self.h2) != 0

    def pending(self):
        """Calls that are finished and neither taken nor delivered. Also a pull may finish calls:
        those that cannot be sent any more."""
        return len(self.done)

    def is_over(self):
        """Whether nothing more can come of this connection: `lost` and close the socket."""
        if self.h2 == NULL or self.verdict is not None:
            return True
        if self.going_away and not self.open:
            return True
        return (
            h2.nghttp2_session_want_read(self.h2) == 0
            and h2.nghttp2_session_want_write(self.h2) == 0
        )

    def lost(self, str why not None, int status=STATUS_UNAVAILABLE):
        """The socket is gone, or nobody waits any more: every open call is finished with `status`,
        for `take` or `deliver`."""
        cdef Call call
        if self.verdict is None:
            self.verdict = why
        if self.away is not None:
            why = f"{why}; {self.away}"
        if self.h2 != NULL:
            h2.nghttp2_session_del(self.h2)
            self.h2 = NULL
        for call in self.open.values():
            call.blame(status, why)
            self.done.append(call)
        self.open.clear()

    # --- calls that are finished ----------------------------------------------------------------
    cdef int recycle(self, Call call) except -1:
        call.tag = call.request = call.body = call.message = call.pushback = call.why = None
        self.free.append(call)
        return 0

    def take(self):
        """[(tag, status, message or b"", bytes received, detail), ...] of finished calls."""
        cdef Call call
        done, self.done = self.done, []
        found = []
        for call in done:
            body = call.body if call.status == 0 and call.body is not None else b""
            found.append((call.tag, call.status, body, call.received, call.detail()))
            self.recycle(call)
        return found

    def deliver(self, tell, Recorder recorder not None, int64_t now_ns):
        """Records each finished call and hands it on: tell(tag, method, status, body, latency_ns,
        now_ns, detail). Returns how many."""
        cdef Call call
        cdef Cycle cycle
        cdef list done = self.done
        cdef bytes body
        if not done:
            return 0
        self.done = []
        for call in done:
            recorder.note(call.method, call.status, call.start_ns, now_ns, call.length)
            if call.cycled:
                cycle = <Cycle>call.tag
                if call.keep and call.status == 0 and cycle.check is not None:
                    cycle.check(call.method, call.body)
            else:
                body = call.body if call.status == 0 and call.body is not None else b""
                tell(
                    call.tag, call.method, call.status, body, now_ns - call.start_ns, now_ns,
                    call.detail(),
                )
            self.recycle(call)
        return len(done)

    cdef int finish(self, int32_t stream_id, uint32_t error_code) except -1:
        call = <Call>self.open.pop(stream_id, None)
        if call is not None:
            if self.away is not None and error_code == h2.NGHTTP2_REFUSED_STREAM:
                (<Call>call).why = self.away
                (<Call>call).status = STATUS_UNAVAILABLE
            (<Call>call).settle(error_code, self.plain)
            self.done.append(call)
        return 0

    cdef int goaway_received(self, const nghttp2_frame *frame) except -1:
        cdef size_t length = min(frame.goaway.opaque_data_len, <size_t>200)
        debug = (<const char *>frame.goaway.opaque_data)[:length]
        self.going_away = True
        self.away = (
            f"GOAWAY with error {frame.goaway.error_code} {debug.decode('latin-1')}".rstrip()
        )
        return 0


# --- callbacks of the library: one shape ---------------------------------------------------------
cdef int fault(Client client, object error) noexcept:
    client.fault = error
    return h2.NGHTTP2_ERR_CALLBACK_FAILURE


cdef int on_header(
    nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
    const uint8_t *value, size_t value_length, uint8_t flags, void *user_data
) noexcept:
    cdef Client self = <Client>user_data
    cdef void *found
    cdef Call call
    try:
        if name_length == 7:
            if memcmp(name, b":status", 7) or (
                value_length == 3 and memcmp(value, b"200", 3) == 0
            ):
                return 0
        elif name_length not in (11, 12, 22):
            return 0
        found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if found == NULL:
            return 0
        call = <Call>found
        if name_length == 7:
            if call.why is None:
                call.why = f"HTTP status {(<const char *>value)[:value_length].decode('latin-1')}"
        elif name_length == 11 and memcmp(name, b"grpc-status", 11) == 0:
            call.status = status_of(value, value_length)
        elif name_length == 12 and memcmp(name, b"grpc-message", 12) == 0:
            call.message = (<const char *>value)[:value_length]
        elif name_length == 22 and memcmp(name, b"grpc-retry-pushback-ms", 22) == 0:
            call.pushback = (<const char *>value)[:value_length]
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_data_chunk(
    nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
    void *user_data
) noexcept:
    cdef void *found = h2.nghttp2_session_get_stream_user_data(session, stream_id)
    try:
        if found != NULL:
            (<Call>found).data(data, length)
        return 0
    except BaseException as error:
        return fault(<Client>user_data, error)


cdef int on_frame_recv(
    nghttp2_session *session, const nghttp2_frame *frame, void *user_data
) noexcept:
    cdef Client self = <Client>user_data
    cdef void *found
    try:
        if frame.hd.type == h2.NGHTTP2_DATA or frame.hd.type == h2.NGHTTP2_HEADERS:
            if frame.hd.flags & h2.NGHTTP2_FLAG_END_STREAM:
                found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
                if found != NULL:
                    (<Call>found).complete = True
        elif frame.hd.type == h2.NGHTTP2_SETTINGS:
            self.peer_max = h2.nghttp2_session_get_remote_settings(
                session, h2.NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        elif frame.hd.type == h2.NGHTTP2_GOAWAY:
            self.goaway_received(frame)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_frame_not_send(
    nghttp2_session *session, const nghttp2_frame *frame, int error_code, void *user_data
) noexcept:
    """A request that could not go out, as after GOAWAY: the stream is closed right after."""
    cdef Client self = <Client>user_data
    cdef void *found
    try:
        if frame.hd.type == h2.NGHTTP2_HEADERS:
            found = h2.nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if found != NULL:
                (<Call>found).blame(
                    STATUS_UNAVAILABLE,
                    self.away or f"not sent: {h2.nghttp2_strerror(error_code).decode()}")
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int on_stream_close(
    nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data
) noexcept:
    cdef Client self = <Client>user_data
    try:
        self.finish(stream_id, error_code)
        return 0
    except BaseException as error:
        return fault(self, error)


cdef int set_up() except -1:
    """Callbacks and options, the same for every client."""
    if h2.nghttp2_session_callbacks_new(&CALLBACKS) or h2.nghttp2_option_new(&OPTIONS):
        raise MemoryError
    h2.nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, on_header)
    h2.nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, on_data_chunk)
    h2.nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, on_frame_recv)
    h2.nghttp2_session_callbacks_set_on_frame_not_send_callback(CALLBACKS, on_frame_not_send)
    h2.nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, on_stream_close)
    h2.nghttp2_option_set_no_closed_streams(OPTIONS, 1)
    return 0


set_up()
