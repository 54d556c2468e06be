"""Bulkhead: at most so many calls to one dependency at a time, and so many that wait for a place.

    a caller   enters at once       while fewer than active_max are inside and none waits
               waits, in order      else, while fewer than waiting_max wait
               is refused           else: Overloaded, at once

Invariants: never more than active_max inside, nor more than waiting_max waiting; a caller that
leaves gives its place to the one that has waited longest; a place given to a caller that was
cancelled in that very turn goes on to the next. Not for bounding how long callers wait: the
deadline does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from feedcore.errors import Overloaded


class Bulkhead:
    """`async with bulkhead:` around each call."""

    def __init__(self, name: str, *, active_max: int, waiting_max: int) -> None:
        self.name = name
        self.active = 0
        self._active_max = active_max
        self._waiting_max = waiting_max
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Callers without a place."""
        return len(self._waiters)

    async def __aenter__(self) -> None:
        if self.active < self._active_max and not self._waiters:
            self.active += 1
            return
        if len(self._waiters) >= self._waiting_max:
            bound = f"{self._active_max} calls, {self._waiting_max} waiting"
            raise Overloaded(f"the bulkhead of {self.name}", bound)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._leave()  # it had been given the place already
            elif place in self._waiters:
                self._waiters.remove(place)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """The place goes to the first who still waits, without being free in between."""
        while self._waiters:
            place = self._waiters.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.active -= 1
