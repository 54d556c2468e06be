"""Pressure: whether more work lies in a worker than it can do in time.

Requests wait unseen in the sockets' buffers. Two things bound how long: the time
since their socket was read before, and the work of the loop since the lap before began (a lap goes
once over all sockets that have something, and then over all tasks that can go on). Work is counted
in the thread's processor time: a loop that slept has delayed no request. The smaller one counts.

    state     leaves it                                        requests
    calm      every lap of `lasting_s` was above the bound     all are served
    pressed   none of `relief_s` was above PRESSED of it       refused while work is above that

Hence a pause, or a crowd that comes at once, is served late; only a rate above what the worker can
do is refused. Invariant: a request that is served while pressed has waited for about the bound.
(The idea of two times, one for how long to wait and one for how long to tolerate it, is CoDel's,
RFC 8289.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# So many bounds without work are sleep; less may be other processes on this core.
SLEPT_BOUNDS = 5
# While pressed a lap serves less and refuses more, so that it comes to an end: what waits in the
# callers' own queues, behind the calls a connection may have open, drains only then.
PRESSED = 2 / 3
# Laps shorter than this share of the bound count with those after them: asking for the processor
# time is a call into the kernel, which short laps should not pay for.
MARK_BOUNDS = 0.25


class Pressure:
    """Of one worker. `call_soon` runs a function when this lap has read all sockets."""

    def __init__(
        self,
        bound_s: float,
        lasting_s: float,
        relief_s: float,
        call_soon: Callable[[Callable[[], None]], Any],
        worked_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._bound_s = bound_s
        self._lasting_s = lasting_s
        self._relief_s = relief_s
        self._call_soon = call_soon
        self._worked_s = worked_s
        self._open = False
        # (wall clock, work) when the laps before and these began
        self._before = self._this = (0.0, 0.0)
        self._above = False  # this lap, at some moment
        self._above_since: float | None = None  # laps without exception, while calm
        self._last_above = 0.0
        self.pressed = False

    def shedding(self, now_s: float, read_s: float) -> bool:
        """To be asked once a turn, before its requests are looked at. `read_s`: when the socket was
        read before.
        """
        if not self._open:
            self._begin_lap(now_s)
        bound_s = self._bound_s * PRESSED if self.pressed else self._bound_s
        if now_s - read_s <= bound_s:
            return False
        begun_s, worked_s = self._before
        # it cannot have worked longer than time went by
        if now_s - begun_s <= bound_s or self._worked_s() - worked_s <= bound_s:
            return False
        self._above, self._last_above = True, now_s
        if self._above_since is None:
            self._above_since = now_s
        if now_s - self._above_since >= self._lasting_s:
            self.pressed = True
        return self.pressed

    def _begin_lap(self, now_s: float) -> None:
        self._open = True
        self._call_soon(self._end_lap)
        if now_s - self._this[0] >= self._bound_s * MARK_BOUNDS:
            self._mark(now_s)

    def _mark(self, now_s: float) -> None:
        worked_s = self._worked_s()
        idle_s = (now_s - self._this[0]) - (worked_s - self._this[1])
        if idle_s > SLEPT_BOUNDS * self._bound_s:
            self._this = (now_s, worked_s)  # what was before has delayed no request
            self._above = False
        if not self._above:
            self._above_since = None
        if self.pressed and now_s - self._last_above >= self._relief_s:
            self.pressed = False
        self._above = False
        self._before, self._this = self._this, (now_s, worked_s)

    def _end_lap(self) -> None:
        self._open = False
