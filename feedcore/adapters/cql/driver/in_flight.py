"""Flight: how many requests of a session are under way at once, and how many calls wait.

Invariants: at most `in_flight_max` places are taken; calls get places in the order they came; more
than `waiting_max` waiting calls are Overloaded; a call that is cancelled while it waits takes no
place. For one event loop. Not for the order of requests on the wire.
"""

from __future__ import annotations

import asyncio
from collections import deque

from feedcore.errors import Overloaded


class Flight:
    """`admit`, then one `land` for every place."""

    def __init__(self, name: str, in_flight_max: int, waiting_max: int) -> None:
        self._name = name
        self._free = in_flight_max
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._empty: asyncio.Future[None] | None = None

    @property
    def in_flight(self) -> int:
        return self._in_flight_max - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def try_admit(self) -> bool:
        """Takes a place if one is free and no caller waits for one."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        return False

    async def admit(self) -> None:
        """Takes a place, waiting for it if it must."""
        if self.try_admit():
            return
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(f"the queue of {self._name}", f"{self._waiting_max} calls wait")
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.land()  # the place came with the cancellation: to the next one
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def land(self) -> None:
        """Gives a place back: to who waits longest, if somebody does."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
        if self._empty is not None and self._free == self._in_flight_max:
            self._empty.set_result(None)
            self._empty = None

    async def landed(self) -> None:
        """Waits until nothing is under way."""
        if self._free < self._in_flight_max:
            if self._empty is None:
                self._empty = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._empty)
