"""Fast handlers of FeedService: GetFeed and CheckNew, answered inside the transport's read turn.

A handler answers from a kept page or from resident data, or declines: then the call goes the
ordinary way, with interceptors, loads and errors. Requests are read where they lie; no Python code
runs, but for what the page maker does once a change of the store.

Not for: anything that waits, and nothing that refuses: what is wrong with a request is said by the
ordinary handler.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from feedcore._native.feedwire cimport (
    check_request_t,
    decode_check_request,
    decode_feed_request,
    feed_request_t,
)
from feedcore._native.h2stream cimport FastHandler, Stream
from feedcore._native.page cimport DONE, Draft, PageMaker


cdef class Gate:
    """Who may be answered fast; subclasses look at the caller and its rate. This one admits all."""

    cdef bint admits(self, uint64_t user_id, Stream stream) except -1:
        """False: the call goes the ordinary way, whose interceptors decide."""
        return True


cdef class FastFeed(FastHandler):
    """What both have in common."""

    cdef PageMaker maker
    cdef Gate gate
    cdef readonly uint64_t declined

    def __init__(self, PageMaker maker not None, Gate gate not None):
        self.maker, self.gate = maker, gate

    cdef object answer(self, bytes request, Stream stream):
        cdef Draft draft = self.read(request, stream)
        cdef bytes kept
        if draft is not None:
            self.maker.refresh()
            kept = self.maker.cached(draft)
            if kept is not None:
                return kept
            if self.maker.advance(draft) == DONE:
                return draft.body
        self.declined += 1
        return None

    cdef Draft read(self, bytes request, Stream stream):
        """The draft that the request asks for; None to decline."""
        return None

    def ask(self, bytes request not None):
        """The answer to an encoded request, or None: for tests and benchmarks, off the wire."""
        return self.answer(request, None)


cdef class FastGetFeed(FastFeed):
    """See the module."""

    cdef Draft read(self, bytes request, Stream stream):
        cdef feed_request_t asked
        if decode_feed_request(
            <const uint8_t*>PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request), &asked
        ) != 0 or not self.gate.admits(asked.user_id, stream):
            return None
        return self.maker.draft(
            asked.user_id,
            asked.page_size,
            asked.view,
            PyBytes_FromStringAndSize(<const char*>asked.cursor, asked.cursor_size),
            PyBytes_FromStringAndSize(<const char*>asked.etag, asked.etag_size),
        )


cdef class FastCheckNew(FastFeed):
    """See the module."""

    cdef Draft read(self, bytes request, Stream stream):
        cdef check_request_t asked
        if decode_check_request(
            <const uint8_t*>PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request), &asked
        ) != 0 or not self.gate.admits(asked.user_id, stream):
            return None
        return self.maker.check_draft(
            asked.user_id, PyBytes_FromStringAndSize(<const char*>asked.head, asked.head_size)
        )
