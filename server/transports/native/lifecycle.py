"""When a connection must do something without being asked: sans I/O, `now` is an argument.

    state      meaning                                  leaves it when
    OPENING    preface and SETTINGS are awaited         the peer has acknowledged our SETTINGS
    SERVING    calls come and go                        age, idleness or a stop asks for a drain
    NOTICED    GOAWAY(2^31 - 1) and a PING are sent     the PING comes back, or goaway_ack_s passes
    DRAINING   GOAWAY(last call) is sent                no call is open, or the grace is over
    OVER       nothing more is read                     (the connection flushes and closes)

A state is never entered twice. Keepalive runs in all but OVER: after keepalive_s without a byte a
PING is sent, and after keepalive_timeout_s more without one the peer is taken for dead. Sources:
gRFC A8 (keepalive), A9 (connection age and idleness), and doc/connection-backoff of gRPC for the
two GOAWAYs. Not for: calls (the session ends those whose deadline passed), sockets.
"""

from __future__ import annotations

import math
from enum import Enum

from feedcore._native.http2.h2 import GOAWAY_CALM, GOAWAY_NO_ERROR, GOAWAY_SETTINGS_TIMEOUT, Session
from feedcore_server.transports.native.bounds import Bounds

MAX_AGE, MAX_IDLE = "max_age", "max_idle"  # debug data of GOAWAY; gRPC's other servers send these
GRACE_OVER = "the server is stopping, and the grace for calls under way is over"


class State(Enum):
    """See the module."""

    OPENING = "opening"
    SERVING = "serving"
    NOTICED = "noticed"
    DRAINING = "draining"
    OVER = "over"


class Lifecycle:
    """Of one connection. `spread` is from 0 to 1: where in the jitter its age ends."""

    def __init__(self, session: Session, bounds: Bounds, now: float, spread: float) -> None:
        self.state = State.OPENING
        self._session = session
        self._bounds = bounds
        self._opening_until = now + bounds.opening_s
        self._age_until = now + bounds.age_s * (1 + bounds.age_jitter * (2 * spread - 1))
        self._reason = ""
        self._grace_until = math.inf
        self._notice_until = math.inf
        self._acks_awaited = 0
        self._pinged_at = math.inf  # of a keepalive PING that is not answered yet
        self.due = self._next(now)

    def drain(self, now: float, grace_s: float, reason: str = "") -> None:
        """New calls elsewhere, those under way to their end, `grace_s` at most from now on. A
        second drain can only shorten the grace."""
        self._grace_until = min(self._grace_until, now + grace_s)
        if self.state in (State.OPENING, State.SERVING):
            self.state = State.NOTICED
            self._reason = reason
            self._session.notice()
            self._acks_awaited = self._session.pings_acked + 1
            self._notice_until = min(now + self._bounds.goaway_ack_s, self._grace_until)
        self.tick(now)

    def is_over(self) -> bool:
        """Nothing more is due."""
        return self.state is State.OVER

    def tick(self, now: float) -> None:
        """Does what is due, and sets `due`: when to look again, if no byte arrives before."""
        session = self._session
        if self.state is State.OPENING:
            self._open(now)
        if self.state is State.SERVING:
            self._serve(now)
        if self.state is State.NOTICED and (
            session.pings_acked >= self._acks_awaited or now >= self._notice_until
        ):
            session.goaway(GOAWAY_NO_ERROR, self._reason)
            self.state = State.DRAINING
        if self.state is State.DRAINING and not session.open_calls():
            self.state = State.OVER
        if now >= self._grace_until and self.state is not State.OVER:
            session.goaway(GOAWAY_NO_ERROR, self._reason)
            self.state = State.OVER
        if self.state is not State.OVER:
            self._keep_alive(now)
        if session.headers_since and now - session.headers_since >= self._bounds.headers_s:
            session.terminate(GOAWAY_CALM, "header_timeout")
        if session.verdict is not None:
            self.state = State.OVER
        self.due = self._next(now)

    @property
    def grace_is_over(self) -> bool:
        """Whether calls that are still open must be cancelled."""
        return self.state is State.OVER and self._session.verdict is None

    def _open(self, now: float) -> None:
        if self._session.settings_acked:
            self.state = State.SERVING
        elif now >= self._opening_until:
            self._session.terminate(GOAWAY_SETTINGS_TIMEOUT, "settings_timeout")

    def _serve(self, now: float) -> None:
        idle = not self._session.open_calls()
        if now >= self._age_until:
            self.drain(now, self._bounds.age_grace_s, MAX_AGE)
        elif idle and now >= self._session.idle_since + self._bounds.idle_s:
            self.drain(now, self._bounds.age_grace_s, MAX_IDLE)

    def _keep_alive(self, now: float) -> None:
        if self._session.last_read > self._pinged_at:
            self._pinged_at = math.inf
        if now - self._pinged_at >= self._bounds.keepalive_timeout_s:
            self._session.terminate(GOAWAY_NO_ERROR, "keepalive_timeout")
        elif (
            self._pinged_at == math.inf
            and now - self._session.last_read >= self._bounds.keepalive_s
        ):
            self._session.ping()
            self._pinged_at = now

    def _next(self, now: float) -> float:
        """The earliest moment at which `tick` could do something."""
        if self.state is State.OVER:
            return math.inf
        bounds, session = self._bounds, self._session
        times = [self._grace_until]
        if self._pinged_at < math.inf:
            # Looked at once before: the answer may have come, and silence begins anew.
            look, give_up = (
                self._pinged_at + bounds.keepalive_s,
                self._pinged_at + bounds.keepalive_timeout_s,
            )
            times.append(look if now < look < give_up else give_up)
        else:
            times.append(session.last_read + bounds.keepalive_s)
        if session.headers_since:
            times.append(session.headers_since + bounds.headers_s)
        if self.state is State.OPENING:
            times.append(self._opening_until)
        elif self.state is State.SERVING:
            times.append(self._age_until)
            if not session.open_calls():
                times.append(session.idle_since + bounds.idle_s)
            elif bounds.idle_s < math.inf:
                times.append(now + bounds.idle_s)
        elif self.state is State.NOTICED:
            times.append(self._notice_until)
        return max(min(times), now)
