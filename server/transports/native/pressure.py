"""Pressure: whether more work lies in a worker than it can do in time.

Requests wait where nobody sees them, in the sockets' buffers. What bounds their wait is the work of
the loop since it read the socket before: all it did in the lap before and in this one so far (a lap
goes once over all sockets that have something, and then over all tasks that can go on). Work is
counted in the thread's processor time: a loop that slept has kept nobody waiting.

Invariant: `shedding` is true only while that work is above its bound, so that a worker that can
follow refuses nothing, and a request that is served has waited for about the bound at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Pressure:
    """Of one worker. `call_soon` runs a function when this lap has read all sockets."""

    def __init__(
        self,
        shed_after_s: float,
        call_soon: Callable[[Callable[[], None]], Any],
        worked_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._shed_after_s = shed_after_s
        self._call_soon = call_soon
        self._worked_s = worked_s
        self._open = False
        # (wall clock, work) when the lap before and this one began
        self._before = self._this = (0.0, 0.0)

    def shedding(self, now_s: float) -> bool:
        """To be asked once a turn, before its requests are looked at."""
        if not self._open:
            self._open = True
            self._before, self._this = self._this, (now_s, self._worked_s())
            self._call_soon(self._end_lap)
        begun_s, worked_s = self._before
        if now_s - begun_s <= self._shed_after_s:
            return False  # it cannot have worked longer than time went by
        return self._worked_s() - worked_s > self._shed_after_s

    def _end_lap(self) -> None:
        self._open = False
