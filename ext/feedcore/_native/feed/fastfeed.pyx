"""Fast handlers of FeedService: GetFeed and CheckNew, answered inside the transport's read turn.

A handler answers from a cached page or from the resident set, or declines: then the call goes
through the ordinary handler, with interceptors, loads and errors. Requests are read where they lie;
no Python code runs, except when the store has changed (the page maker then follows its replica).

Not for anything that waits, nor for refusals: the ordinary handler gives the reasons.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t fc_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    """
    uint64_t monotonic_ns "fc_monotonic_ns"() noexcept nogil

from feedcore._native.feed.draft cimport Draft
from feedcore._native.codecs.feedwire cimport (
    check_request_t,
    decode_check_request,
    decode_feed_request,
    feed_request_t,
)
from feedcore._native.http2.h2stream cimport FastHandler, Stream
from feedcore._native.feed.page cimport PageMaker
from feedcore.observe.metrics import CALL_BUCKETS_S


cdef class Gate:
    """Who may be answered fast; subclasses look at the caller and its rate. This one admits all."""

    cpdef bint admits(self, uint64_t user_id, Stream stream) except -1:
        """False: the call goes through the ordinary handler, whose interceptors decide."""
        return True


cdef enum:
    EDGES = 24

# Upper edges, in nanoseconds, of how long answers took: a cached page takes one microsecond, one
# from the resident set tens.
cdef uint64_t[EDGES] EDGES_NS
if len(CALL_BUCKETS_S) != EDGES:
    raise ImportError(f"CALL_BUCKETS_S: {len(CALL_BUCKETS_S)} edges; {EDGES}")
for _place, _edge_s in enumerate(CALL_BUCKETS_S):
    EDGES_NS[<int>_place] = round(_edge_s * 1e9)


cdef class FastFeed(FastHandler):
    """What the handlers of GetFeed and CheckNew have in common."""

    cdef PageMaker maker
    cdef Gate gate
    cdef readonly uint64_t declined
    cdef readonly uint64_t took_ns  # all answers together
    cdef uint64_t[EDGES + 1] took  # by bucket, the last one without an edge

    def __init__(self, PageMaker maker not None, Gate gate not None):
        self.maker, self.gate = maker, gate
        self.sheddable = True  # callers show what they have, and come again

    cdef object answer(self, bytes request, Stream stream):
        cdef uint64_t begun_ns = monotonic_ns(), took_ns
        cdef bytes body = self.local_answer(request, stream)
        cdef int edge = 0
        if body is None:
            self.declined += 1
            return None
        took_ns = monotonic_ns() - begun_ns
        while edge < EDGES and took_ns > EDGES_NS[edge]:
            edge += 1
        self.took[edge] += 1
        self.took_ns += took_ns
        return body

    cdef bytes local_answer(self, bytes request, Stream stream):
        """The answer from cached pages or the resident set, else None."""
        cdef Draft draft = self.read(request, stream)
        cdef bytes cached
        if draft is None:
            return None
        self.maker.refresh()
        cached = self.maker.cached_body(draft)
        if cached is not None:
            return cached
        return draft.body if self.maker.finish(draft) else None

    cdef Draft read(self, bytes request, Stream stream):
        """The draft that the request asks for; None to decline."""
        return None

    def times(self):
        """Answers by bucket of CALL_BUCKETS_S, the last bucket without an edge."""
        return [self.took[i] for i in range(EDGES + 1)]

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
