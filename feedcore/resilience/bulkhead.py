"""Bulkhead: at most so many calls to one dependency at a time, and so many that wait for a place.

    a caller   enters at once       while fewer than active_max are inside and none waits
               waits, in order      else, while fewer than waiting_max wait
               is refused           else: Overloaded, at once

Invariants: never more than active_max inside, nor more than waiting_max waiting; a caller that
leaves gives its place to the one that has waited longest; a place given to a caller that was
cancelled in that very turn goes on to the next. For one event loop. Not for bounding how long
callers wait: the deadline does.
"""

from __future__ import annotations

import asyncio
from collections import deque

from feedcore.errors import Overloaded


class Bulkhead:
    """`async with bulkhead:` around each call; or `enter`, and one `leave` for every place."""

    def __init__(self, name: str, *, active_max: int, waiting_max: int) -> None:
        self.name = name
        self.active = 0
        self._active_max = active_max
        self._waiting_max = waiting_max
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._empty: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """Callers without a place."""
        return len(self._waiters)

    def try_enter(self) -> bool:
        """Takes a place if one is free and no caller waits for one."""
        if self.active < self._active_max and not self._waiters:
            self.active += 1
            return True
        return False

    async def enter(self) -> None:
        """Takes a place, waiting for it if it must. Raises Overloaded."""
        if self.try_enter():
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
                self.leave()  # it had been given the place already
            elif place in self._waiters:
                self._waiters.remove(place)
            raise

    def leave(self) -> None:
        """The place goes to the first who still waits, without being free in between."""
        while self._waiters:
            place = self._waiters.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.active -= 1
        if self._empty is not None and not self.active:
            self._empty.set_result(None)
            self._empty = None

    async def emptied(self) -> None:
        """Waits until nobody is inside."""
        if self.active:
            if self._empty is None:
                self._empty = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._empty)

    __aenter__ = enter

    async def __aexit__(self, *_: object) -> None:
        self.leave()
