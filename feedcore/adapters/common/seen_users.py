"""When users loaded a feed last, written behind: at most once an hour a user, in bounded memory.

Invariants: whoever could not be noted for want of room is noted at their next load; what could not
be written waits for the next time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from feedcore.limits import HOUR_MS

SEEN_EVERY_MS = HOUR_MS  # precise enough for "active in the last day"
SEEN_KEPT_MAX = 200_000  # users whose last note is remembered: about 20 MB; then all are forgotten
# users that wait to be written: a second of loads at our peak; more are left for their next load
SEEN_WAITING_MAX = 50_000


class SeenUsers:
    """`write` stores (user_id, seen_ms) pairs; `touch` has `flush` called soon."""

    def __init__(
        self,
        write: Callable[[Iterable[tuple[int, int]]], Awaitable[None]],
        touch: Callable[[], None],
    ) -> None:
        self._write = write
        self._touch = touch
        self._noted: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self.dropped = 0

    def note(self, user_id: int, now_ms: int) -> None:
        """Cheap, and never awaited by a load."""
        last = self._noted.get(user_id)
        if last is not None and 0 <= now_ms - last < SEEN_EVERY_MS:
            return
        if len(self._waiting) >= SEEN_WAITING_MAX and user_id not in self._waiting:
            self.dropped += 1
            return
        if len(self._noted) >= SEEN_KEPT_MAX:
            self._noted.clear()
        self._noted[user_id] = self._waiting[user_id] = now_ms
        self._touch()

    async def flush(self) -> int:
        """Writes what waits; how many users."""
        if not self._waiting:
            return 0
        waiting, self._waiting = self._waiting, {}
        try:
            await self._write(waiting.items())
        except BaseException:
            self._waiting = waiting | self._waiting
            raise
        return len(waiting)
