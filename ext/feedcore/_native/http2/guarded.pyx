"""What guards a session against its peer: the part that every frame may touch.

Guards, each a token bucket on the caller's clock (bounds in Rules, reasons in server/limits.py):
resets of unfinished calls; glitches (frames that HTTP/2 makes us answer with a reset, and refused
streams); frames that do nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown
types), earned back by each frame we send, so that an honest peer's acknowledgements are free.

A frame of a call that is over (`is_error`): after our reset the peer may not have seen it yet, and
what it has sent meanwhile is dropped (RFC 9113, 5.1). After its own end, or its own reset, it is an
error of the stream. We remember the newest RESETS_KEPT streams that we have reset: a peer that has
sent for an older one is told once more that it is closed, which costs an honest one nothing.

Not for: frames, calls (the session).
"""
from libc.stdint cimport int32_t, uint32_t

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.guards cimport spend
from feedcore._native.http2.h2stream cimport Link

cdef enum:
    FRAME_EARNS = 2  # useless frames that one frame of ours pays for: two WINDOW_UPDATEs
    PING_STRIKES_MAX = 2  # the third ping that comes too soon ends the connection (gRFC A8)


cdef class Guarded(Link):
    """See the module. A session is one."""

    cdef int condemn(self, uint32_t code, str why) except -1:
        """The connection must end. Callbacks do nothing from here on."""
        if self.verdict is None:
            self.verdict = why
            self.verdict_code = code
            self.goodbye_due = True
        return 0

    cdef int reset_sent(self, int32_t stream_id, uint32_t error_code) except -1:
        """What the peer makes us answer with a reset, by an error of its own or beyond a bound, is
        a glitch. The library tells of most when they come (`resets_paid`), of others never."""
        self.keep(stream_id)
        if self.resets_paid:
            self.resets_paid -= 1
        elif error_code == h2.NGHTTP2_REFUSED_STREAM:
            self.glitch(1)
        elif error_code not in (
            h2.NGHTTP2_NO_ERROR, h2.NGHTTP2_CANCEL, h2.NGHTTP2_INTERNAL_ERROR,
            h2.NGHTTP2_ENHANCE_YOUR_CALM,
        ):
            self.glitch(GLITCH_COST)
        return 0

    cdef bint is_error(self, int32_t stream_id) except -1:
        """Whether a frame of that stream, which is closed, must be answered with a reset; it is
        counted."""
        for kept in range(RESETS_KEPT):
            if self.reset_by_us[kept] == stream_id:
                return False
        self.keep(stream_id)  # what comes before our reset goes out is dropped, too
        self.resets_paid += 1
        self.glitch(1)
        return True

    cdef void keep(self, int32_t stream_id) noexcept:
        self.reset_by_us[self.reset_at] = stream_id
        self.reset_at = (self.reset_at + 1) % RESETS_KEPT

    cdef int ping_received(self) except -1:
        """Counts pings that come too soon after each other with nothing sent in between."""
        if self.now - self.last_ping < self.rules.ping_interval_s:
            self.strikes += 1
            if self.strikes > PING_STRIKES_MAX:
                self.condemn(h2.NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings")
        self.last_ping = self.now
        return 0

    cdef int glitch(self, double cost) except -1:
        if not spend(
            &self.glitches, cost, self.rules.glitch_burst, self.rules.glitch_rate, self.now
        ):
            self.condemn(h2.NGHTTP2_ENHANCE_YOUR_CALM, "too_many_protocol_errors")
        return 0

    cdef int useless_frame(self, double cost=1) except -1:
        earned = FRAME_EARNS * <double>(self.frames_sent - self.frames_sent_mark)
        self.frames_sent_mark = self.frames_sent
        self.useless.tokens += earned
        if not spend(
            &self.useless, cost, self.rules.useless_burst, self.rules.useless_rate, self.now
        ):
            self.condemn(h2.NGHTTP2_ENHANCE_YOUR_CALM, "too_many_frames_that_do_nothing")
        return 0
