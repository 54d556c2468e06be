"""The only module that reads the clock. Everything else takes `now_ms` or a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Milliseconds since 1970 (wall clock), and seconds that never go back (for durations)."""

    def now_ms(self) -> int: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that a test or a replay moves by hand."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1_000

    def advance(self, ms: int) -> None:
        """Moves both clocks forward by `ms` >= 0 milliseconds."""
        self._now_ms += ms

    def move_to(self, now_ms: int) -> None:
        """Sets the wall clock; going back is allowed, that is what some tests are about."""
        self._now_ms = now_ms


def stamp_us() -> int:
    """Microseconds of the machine's clock: for timestamps that a server compares with others, which
    no test may move.
    """
    return time.time_ns() // 1_000
