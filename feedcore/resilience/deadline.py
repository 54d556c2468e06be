"""The caller's deadline, as everything below a call sees it: a context variable.

    value     moment on the loop's clock, or None: the caller set none
    begin     dispatch puts the caller's deadline in; a task that is started inherits it
    within    brings it nearer for what runs inside; never moves it away
    forget    a load that several callers share has no caller's deadline

Invariants: inside `within` the deadline is the nearer of two; after it, what it was. Not for
enforcing: `stack` ends a call at its deadline, the transport ends a handler at the caller's.
The loop's clock is that of `feedcore.clock` (CLOCK_MONOTONIC), or a simulation's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_DEADLINE: ContextVar[float | None] = ContextVar("feedcore_deadline", default=None)


def loop_now() -> float:
    """Seconds on the running loop's clock: the one that its timers go by."""
    return asyncio.get_running_loop().time()


def begin(deadline_s: float | None) -> None:
    """Sets the deadline of this task, and of tasks that it starts."""
    _DEADLINE.set(deadline_s)


def forget() -> None:
    """Removes the caller's deadline from this context, from here on."""
    _DEADLINE.set(None)


def current() -> float | None:
    """The deadline in force; None if there is none."""
    return _DEADLINE.get()


def remaining_s(default: float) -> float:
    """Seconds that a step may take: `default`, or what is left of the deadline if that is less;
    0 when it has passed.
    """
    deadline_s = _DEADLINE.get()
    if deadline_s is None:
        return default
    return max(0.0, min(default, deadline_s - loop_now()))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The body has at most so long, and never longer than the caller waits."""
    wanted = loop_now() + seconds
    before = _DEADLINE.get()
    token = _DEADLINE.set(wanted if before is None else min(before, wanted))
    try:
        yield
    finally:
        _DEADLINE.reset(token)
