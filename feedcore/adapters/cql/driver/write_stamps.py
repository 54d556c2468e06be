"""Write timestamps of one process: microseconds of the machine's clock, each later than the one
before, also when the clock goes back.

Two stamps of one process order what it did. Stamps of two processes are as good as their clocks:
who writes over what it has read takes a stamp that is later than what it read. Not for times that
anybody is shown.
"""

from __future__ import annotations

from collections.abc import Callable

from feedcore import clock


class Stamps:
    """One a process, or more: order is kept within one."""

    def __init__(self, now_us: Callable[[], int] = clock.stamp_us) -> None:
        self._now_us = now_us
        self._last = 0

    def new_stamp(self, after: int | None = None) -> int:
        """Later than all before, and than `after` (None: nothing was read)."""
        self._last = max(self._now_us(), self._last + 1, (after or 0) + 1)
        return self._last

    def minute(self) -> int:
        """The unix minute now."""
        return self._now_us() // 60_000_000
